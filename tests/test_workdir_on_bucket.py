"""A run in a mounted bucket: a file is there once closed, a rename copies."""

import os
import pathlib
import shutil

import pytest
from tensorboardX.proto import event_pb2
from test_bad_input import refuse
from test_checkpoints import abstract, assert_same_bits, make_state, names
from test_metrics import scalars
import tiny

from configs import base
from grpo_jax import checkpoint_items, cli, loop, metrics
from grpo_jax.checkpoints import Checkpoints, restore_params
from launch import bucket


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  """A folder that the table of mounts calls a bucket."""
  folder = tmp_path / 'my bucket' / 'run'
  folder.mkdir(parents=True)
  table = tmp_path / 'mounts'
  at = str(folder.parent).replace(' ', r'\040')
  table.write_text(
    f'/dev/sda1 / ext4 rw 0 0\nproc {at}/run/other proc rw 0 0\n'
    f'my-bucket {at} fuse.gcsfuse rw,nosuid 0 0\n'
  )
  monkeypatch.setattr(checkpoint_items, '_MOUNTS', str(table))
  return folder


def saver(workdir):
  return Checkpoints(workdir, keep_last=5)


def save(workdir, *steps):
  with saver(workdir) as checkpoints:
    for step in steps:
      checkpoints.save(step, make_state(float(step)), extra={'position': step})


def restore(workdir):
  with saver(workdir) as checkpoints:
    return checkpoints.restore(abstract(make_state()))


def test_a_mounted_bucket_is_known_by_the_table_of_mounts(workdir):
  def known(folder):
    return checkpoint_items.is_mounted_bucket(pathlib.Path(folder))

  assert known(workdir) and known(workdir.parent)
  assert not known(workdir / 'other' / 'x')
  assert not known(workdir.parents[1])
  assert not known('/')


def test_a_save_there_renames_no_folder_and_comes_back(workdir, monkeypatch):
  def refuse_folders(source, *args, **kwargs):
    assert not os.path.isdir(source), source
    return rename(source, *args, **kwargs)

  rename = os.rename
  monkeypatch.setattr(os, 'rename', refuse_folders)
  monkeypatch.setattr(os, 'replace', refuse_folders)
  save(workdir, 1, 2)
  assert names(workdir) == ['1', '2']
  step, state, extra = restore(workdir)
  assert (step, extra) == (2, {'position': 2})
  assert_same_bits(state, make_state(2.0))
  assert restore_params(workdir, step=1)[0] == 1


def test_a_save_there_that_was_cut_short_is_moved_aside_once(workdir, caplog):
  save(workdir, 1, 2)
  folder = workdir / 'checkpoints'
  shutil.copytree(folder / '2', folder / '3')
  (folder / '3' / 'commit_success.txt').unlink()
  assert checkpoint_items.finished(folder) == [1, 2]
  with pytest.raises(FileNotFoundError, match='step 3; there are: 1, 2'):
    restore_params(workdir, step=3)
  for _ in range(2):
    assert restore(workdir)[0] == 2
    assert names(workdir) == ['1', '2', '3.corrupt']
  assert caplog.text.count('checkpoint 3 was not finished, moved to') == 1
  save(workdir, 3)
  assert restore(workdir)[0] == 3


def test_a_run_moves_between_a_disk_and_a_bucket(workdir, tmp_path):
  save(workdir, 1)
  shutil.copytree(workdir, tmp_path / 'disk')
  assert restore(tmp_path / 'disk')[0] == 1
  save(tmp_path / 'disk', 2)
  shutil.copytree(tmp_path / 'disk', workdir, dirs_exist_ok=True)
  assert restore(workdir)[0] == 2
  assert names(workdir) == ['1', '2']


@pytest.mark.parametrize('moved', [['params'], ['rest', 'info'], ['info']])
def test_a_folder_that_was_renamed_by_half_falls_back(tmp_path, moved):
  # As of a rename that copies, on a mount that is not known as such.
  save(tmp_path, 1, 2, 3)
  folder = tmp_path / 'checkpoints'
  (folder / '3').rename(folder / '3.orbax-checkpoint-tmp')
  (folder / '3').mkdir()
  for item in moved:
    (folder / '3.orbax-checkpoint-tmp' / item).rename(folder / '3' / item)
  assert restore(tmp_path)[0] == 2
  assert names(tmp_path) == ['1', '2', '3.corrupt', '3.corrupt2']


class ArrivesWhenClosed:
  """A file opened to append, in a bucket: others see it once it is closed."""

  def __init__(self, path):
    self.name, self._data = path, b''

  def seek(self, *_):
    return 0

  def write(self, data):
    self._data += data
    return len(data)

  def close(self):
    with open(self.name, 'ab') as file:
      file.write(self._data)
    self._data = b''


def test_rows_are_in_the_bucket_once_they_are_committed(tmp_path, monkeypatch):
  monkeypatch.setattr(metrics, '_open', ArrivesWhenClosed)
  writer = metrics.Writer(tmp_path, tensorboard=False)
  path = tmp_path / metrics.METRICS
  writer.write(1, {'loss': 0.5})
  assert not path.exists()
  writer.commit()
  writer.write(2, {'loss': 0.25})
  writer.samples(2, [{'completion': 'a'}])
  writer.commit()
  writer.write(3, {'loss': 0.125})  # lost with the machine
  assert [row['step'] for row in metrics.read_rows(path)] == [1, 2]
  assert len(metrics.read_rows(tmp_path / metrics.SAMPLES)) == 1


def starts(path):
  """How many START events a file of TensorBoard has."""
  data, found = path.read_bytes(), 0
  while data:
    size = int.from_bytes(data[:8], 'little')
    event = event_pb2.Event.FromString(data[12 : 12 + size])
    data = data[12 + size + 4 :]
    found += event.session_log.status == event_pb2.SessionLog.START
  return found


def test_what_tensorboard_shows_is_complete_at_each_commit(tmp_path):
  folder = tmp_path / metrics.TENSORBOARD
  with metrics.Writer(tmp_path, resume_step=0) as writer:
    for step in (1, 2, 3):
      writer.write(step, {'loss': step / 2})
      writer.commit()
      assert len(list(folder.glob('events*'))) == step + 1
      assert {s for s, _, _ in scalars(folder)} == set(range(1, step + 1))
  # Only the first makes TensorBoard forget what a run before had written.
  assert [starts(path) for path in sorted(folder.iterdir())] == [1, 0, 0, 0]


def test_rows_are_committed_before_the_checkpoint_that_follows_them():
  done = []

  class Recorder:
    def commit(self):
      done.append('commit')

    def save(self, *_, **__):
      done.append('save')

  saving = loop.Loop.__new__(loop.Loop)
  saving.cfg, saving.state = base.get_config(), None
  saving.evaluation, saving.extra_of = None, dict
  saving.job, saving.timers = 'train', metrics.Timers()
  saving.writer = saving.checkpoints = Recorder()
  saving._save(3)
  assert done == ['commit', 'save']


@pytest.mark.parametrize(
  'job, flag',
  [
    ('train', 'workdir'), ('sft', 'workdir'), ('evaluate', 'workdir'),
    ('train', 'init_from'), ('train', 'config.init_from'), ('export', 'out'),
    ('generate', 'out'), ('train', 'compilation_cache'),
  ],
)  # fmt: skip
def test_an_address_is_refused_with_the_folder_to_give(tmp_path, job, flag):
  address = 'gs://my-bucket/a/run'
  flags = [f'--{flag}={address}']
  if flag != 'workdir':
    flags.append(f'--workdir={tmp_path / "run"}')
  refuse(
    job,
    *flags,
    saying=[
      f'{flag.removeprefix("config.")}={address} is an address',
      'launch/README.md',
      f'={bucket.ROOT}/my-bucket/a/run',
    ],
  )
  assert not (tiny.REPO / 'gs:').exists()
  assert list(tmp_path.iterdir()) == []


def test_other_addresses_are_refused_too():
  for address in ('s3://b/r', 'file:///r'):
    with pytest.raises(ValueError, match=f'--workdir={address} is an address'):
      cli.folder('workdir', address)
  assert cli.folder('workdir', None) is None
  assert cli.folder('workdir', 'runs/r') == 'runs/r'


def test_a_tilde_that_the_shell_left_is_the_home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  assert cli.folder('workdir', '~/runs/r') == '/home/me/runs/r'
