"""Checkpoints: bit for bit, on any mesh, and when the disk lets us down."""

import errno
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import orbax.checkpoint as ocp
import pytest

from grpo_jax import checkpoint_items, checkpoints, offload, optimizer
from grpo_jax.checkpoints import Checkpoints, restore_params
from grpo_jax.structs import TrainState
from grpo_jax.update import init_state

REPO = pathlib.Path(__file__).parents[1]


def transformation():
  return optimizer.adamw(
    learning_rate=1e-3,
    schedule='cosine',
    warmup_steps=2,
    total_steps=10,
    final_fraction=0.1,
    b1=0.9,
    b2=0.99,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=0.0,  # identity: an EmptyState among the optimizer's states
  )


def make_state(fill=0.0, *, reference=False, width=16):
  noise = np.random.default_rng(0).normal(size=(32, width))
  params = {
    'embed': jnp.asarray(noise + fill, jnp.float32),
    'layers': {'q': jnp.full((2, 4, 8), fill, jnp.bfloat16)},
  }
  return init_state(params, transformation(), reference=reference)


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )


def assert_same_bits(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def damage(file, how):
  content = bytearray(file.read_bytes())
  middle = len(content) // 2
  if how == 'truncated':
    file.write_bytes(content[:middle])
  elif how == 'missing':
    file.unlink()
  else:
    content[middle : middle + 8] = bytes(
      b ^ 0xFF for b in content[middle : middle + 8]
    )
    file.write_bytes(content)


def largest(folder):
  files = [p for p in folder.rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
  """A workdir with checkpoints 1 and 2, to be copied."""
  workdir = tmp_path_factory.mktemp('two')
  with Checkpoints(workdir, keep_last=5) as saver:
    for step in (1, 2):
      saver.save(step, make_state(float(step)), extra={'position': step})
  return workdir


@pytest.fixture
def workdir(two_steps, tmp_path):
  shutil.copytree(two_steps, tmp_path / 'run')
  return tmp_path / 'run'


def restore(workdir):
  with Checkpoints(workdir, keep_last=5) as saver:
    return saver.restore(abstract(make_state()))


def names(workdir):
  return sorted(os.listdir(workdir / 'checkpoints'))


@pytest.mark.parametrize('reference', [False, True])
def test_every_bit_and_every_type_comes_back(tmp_path, reference):
  state = make_state(0.5, reference=reference)
  odd = np.array([0x7FC12345, 0x80000000, 1, 0xFF800000], np.uint32)
  odd = np.resize(odd, (32, 16)).view(np.float32)  # NaN payload, -0.0, ...
  state = state.replace(
    step=jnp.asarray(7, jnp.int32), params=state.params | {'embed': odd}
  )
  extra = {'config': {'seed': 3, 'path': None}, 'position': [1, 2.5]}
  with Checkpoints(tmp_path, keep_last=1) as saver:
    saver.save(7, state, extra=extra)
  with Checkpoints(tmp_path, keep_last=1) as saver:
    step, found, found_extra = saver.restore(
      abstract(jax.tree.map(jnp.asarray, state))
    )
  assert (step, found_extra) == (7, extra)
  assert_same_bits(found, state)


def test_state_may_be_donated_while_it_is_being_written(tmp_path):
  advance = jax.jit(
    lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0
  )
  state = {'w': jnp.zeros((500_000,), jnp.float32)}
  with Checkpoints(tmp_path, keep_last=9) as saver:
    for step in range(3):
      saver.save(
        step,
        TrainState(step=jnp.int32(step), params=state, opt_state=()),
        extra={},
      )
      for _ in range(5):
        state = advance(state)
  for step in range(3):
    _, params = restore_params(tmp_path, step=step)
    assert (params['w'] == 5 * step).all()


def test_what_rests_in_host_memory_is_summed_on_the_devices(tmp_path):
  # TPUs refuse to compute in host memory; a CPU would leave the sums there.
  state = make_state(0.5, reference=True)
  resting = offload.rest(state, ('reference', 'moments'))
  items = checkpoint_items.split(resting)
  sums = checkpoint_items.checksums(items)
  assert {x.sharding.memory_kind for x in sums.values()} == {'device'}
  plain = checkpoint_items.checksums(checkpoint_items.split(state))
  assert sums == plain and len(sums) == len(jax.tree.leaves(items))
  with Checkpoints(tmp_path, keep_last=1) as saver:
    saver.save(7, resting, extra={})
    _, found, _ = saver.restore(abstract(resting))
  assert_same_bits(found, state)
  assert all(map(offload.is_resting, jax.tree.leaves(found.ref_params)))


@pytest.mark.parametrize('shape', [(8,), (2, 4), (1,)])
def test_a_checkpoint_restores_onto_another_mesh(tmp_path, shape):
  axes = ('a', 'b')[: len(shape)]

  def shard(tree, shape, axes):
    mesh = jax.make_mesh(
      shape, axes, devices=jax.devices()[: int(np.prod(shape))]
    )
    sharded = NamedSharding(mesh, PartitionSpec(*axes))
    whole = NamedSharding(mesh, PartitionSpec())
    place = lambda x: jax.device_put(x, sharded if x.ndim > 1 else whole)
    return jax.tree.map(place, tree)

  state = make_state(0.25)
  state = state.replace(
    params=state.params | {'layers': {'q': jnp.ones((8, 4))}}
  )
  state = init_state(state.params, transformation(), reference=True)
  with Checkpoints(tmp_path, keep_last=1) as saver:
    saver.save(1, shard(state, (4, 2), ('a', 'b')), extra={})
    target = abstract(shard(state, shape, axes))
    _, found, _ = saver.restore(target)
  assert_same_bits(found, state)
  wanted = jax.tree.leaves(jax.tree.map(lambda x: x.sharding, target))
  assert [x.sharding for x in jax.tree.leaves(found)] == wanted


def test_a_new_process_with_one_device_reads_what_eight_wrote(tmp_path):
  mesh = jax.make_mesh((8,), ('a',))
  rows = NamedSharding(mesh, PartitionSpec('a'))
  whole = NamedSharding(mesh, PartitionSpec())
  state = jax.tree.map(
    lambda x: jax.device_put(x, rows if x.shape[:1] == (32,) else whole),
    make_state(0.125),
  )
  with Checkpoints(tmp_path, keep_last=1) as saver:
    saver.save(3, state, extra={})
  code = (
    'import sys, jax\n'
    'from grpo_jax.checkpoints import restore_params\n'
    'assert len(jax.devices()) == 1\n'
    'step, params = restore_params(sys.argv[1])\n'
    'print(step, params["embed"].tobytes().hex())'
  )
  out = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)],
    env=os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(REPO)},
    capture_output=True,
    text=True,
    check=True,
  )
  embed = np.asarray(state.params['embed']).tobytes().hex()
  assert out.stdout.split() == ['3', embed]


def test_parameters_are_read_without_the_moments(workdir):
  shutil.rmtree(workdir / 'checkpoints' / '2' / 'rest')
  step, params = restore_params(workdir)
  assert step == 2
  assert isinstance(params['embed'], np.ndarray)
  assert_same_bits(params, make_state(2.0).params)
  target = abstract(make_state().params)
  step, params = restore_params(workdir, target, step=1)
  assert step == 1
  assert isinstance(params['embed'], jax.Array)
  assert_same_bits(params, make_state(1.0).params)


def test_without_any_checkpoint_restore_gives_none(tmp_path):
  assert restore(tmp_path) is None
  with pytest.raises(FileNotFoundError, match='there are: none'):
    restore_params(tmp_path)


def test_an_absent_step_names_those_there_are(workdir):
  with pytest.raises(FileNotFoundError, match='step 7; there are: 1, 2'):
    restore_params(workdir, step=7)


@pytest.mark.parametrize('how', ['truncated', 'garbage', 'missing'])
@pytest.mark.parametrize('item', ['params', 'rest', 'info'])
def test_a_damaged_newest_step_falls_back_to_the_one_before(
  workdir, caplog, item, how
):
  damage(largest(workdir / 'checkpoints' / '2' / item), how)
  with caplog.at_level(logging.WARNING):
    step, state, extra = restore(workdir)
  assert (step, extra) == (1, {'position': 1})
  assert_same_bits(state, make_state(1.0))
  [message] = [r.getMessage() for r in caplog.records]
  assert 'checkpoint 2 is damaged' in message
  assert 'moved to 2.corrupt; resuming from step 1' in message
  assert '\n' not in message
  assert names(workdir) == ['1', '2.corrupt']


def test_no_damaged_file_of_a_step_goes_unnoticed(two_steps, tmp_path):
  # Orbax keeps files that it does not read back (commit marks, the first
  # level of its tree): then the values must be right.
  source = two_steps / 'checkpoints' / '2'
  files = [p.relative_to(source) for p in source.rglob('*') if p.is_file()]
  noticed = 0
  for i, file in enumerate(files):
    workdir = tmp_path / str(i)
    shutil.copytree(two_steps, workdir)
    damage(workdir / 'checkpoints' / '2' / file, 'garbage')
    step, state, _ = restore(workdir)
    assert_same_bits(state, make_state(float(step)))
    noticed += step == 1
  assert noticed >= 8  # of each item with arrays: manifest, tree, data, shapes


def test_an_unfinished_save_is_moved_aside_and_the_step_saved_again(
  workdir, caplog
):
  folder = workdir / 'checkpoints'
  shutil.copytree(folder / '2', folder / '3.orbax-checkpoint-tmp')
  shutil.rmtree(folder / '3.orbax-checkpoint-tmp' / 'params')
  (folder / '3.corrupt').mkdir()  # of an earlier time, not to be lost
  with Checkpoints(workdir, keep_last=5) as saver:
    step, state, _ = saver.restore(abstract(make_state()))
    assert step == 2
    assert 'checkpoint 3 was not finished, moved to 3.corrupt2' in caplog.text
    assert saver.save(3, state, extra={})
  assert names(workdir) == ['1', '2', '3', '3.corrupt', '3.corrupt2']
  assert restore(workdir)[0] == 3


def test_a_step_that_was_moved_aside_is_saved_again(workdir):
  damage(largest(workdir / 'checkpoints' / '2'), 'truncated')
  with Checkpoints(workdir, keep_last=5) as saver:
    _, state, _ = saver.restore(abstract(make_state()))
    assert saver.save(2, state, extra={'position': 20})
  assert restore(workdir)[::2] == (2, {'position': 20})
  assert names(workdir) == ['1', '2', '2.corrupt']


def test_a_first_save_that_was_cut_short_starts_from_scratch(tmp_path, caplog):
  (tmp_path / 'checkpoints' / '1.orbax-checkpoint-tmp').mkdir(parents=True)
  assert restore(tmp_path) is None
  assert 'starting from scratch' in caplog.text
  assert names(tmp_path) == ['1.corrupt']


def test_an_empty_step_folder_counts_as_damaged(workdir):
  (workdir / 'checkpoints' / '9').mkdir()
  assert restore(workdir)[0] == 2
  assert names(workdir) == ['1', '2', '9.corrupt']


def test_nothing_is_moved_when_no_checkpoint_can_be_read(workdir):
  for step in '12':
    damage(largest(workdir / 'checkpoints' / step), 'truncated')
  with pytest.raises(ValueError, match='no checkpoint can be read: 2 is dam'):
    restore(workdir)
  assert names(workdir) == ['1', '2']


def test_reading_parameters_falls_back_and_moves_nothing(workdir, caplog):
  damage(largest(workdir / 'checkpoints' / '2' / 'params'), 'garbage')
  step, params = restore_params(workdir)
  assert step == 1
  assert_same_bits(params, make_state(1.0).params)
  assert 'params/embed differs from what was saved' in caplog.text
  assert names(workdir) == ['1', '2']
  with pytest.raises(ValueError, match='2 is damaged .* there are: 1, 2'):
    restore_params(workdir, step=2)


def test_storage_that_refuses_is_not_taken_for_damage(workdir, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setattr(ocp.Checkpointer, 'restore', refuse)
  with pytest.raises(PermissionError):
    restore(workdir)
  assert names(workdir) == ['1', '2']


def test_another_width_is_told_with_both_shapes(workdir):
  with (
    Checkpoints(workdir, keep_last=5) as saver,
    pytest.raises(ValueError) as caught,
  ):
    saver.restore(abstract(make_state(width=24)))
  message = str(caught.value)
  assert 'params/embed is float32[32, 16] in the checkpoint' in message
  assert 'and float32[32, 24] in the config' in message
  assert '\n' not in message
  assert names(workdir) == ['1', '2']


def test_other_dtypes_and_absent_arrays_are_told(workdir):
  target = abstract(make_state().params)
  half = jax.ShapeDtypeStruct((32, 16), jnp.bfloat16)
  with pytest.raises(ValueError, match=r'float32\[32, 16\] .* bfloat16\['):
    restore_params(workdir, target | {'embed': half})
  with pytest.raises(ValueError, match='params/head is absent in the check'):
    restore_params(workdir, target | {'head': half})
  target.pop('embed')
  with pytest.raises(ValueError, match='and absent in the config'):
    restore_params(workdir, target)


def test_the_last_and_the_best_are_kept(tmp_path):
  options = {'keep_last': 2, 'keep_best': 1, 'best_metric': 'eval/pass@1'}
  values = [0.1, 0.9, float('nan'), 0.9, None, 0.3, 0.2, 0.4]
  with Checkpoints(tmp_path, **options) as saver:
    for step, value in enumerate(values[:6]):
      if value is not None:
        saver.measured[step] = {'eval/pass@1': value}
      saver.save(step, make_state(), extra={})
    saver.wait()
    measured = saver.measured
    # Of the two at 0.9 the newer; 4 and 5 are the last.
    assert names(tmp_path) == ['3', '4', '5']
  # What another process measured is told by the run's rows.
  with Checkpoints(tmp_path, **options, measured=measured) as saver:
    for step in (6, 7):
      saver.measured[step] = {'eval/pass@1': values[step]}
      saver.save(step, make_state(), extra={})
  assert names(tmp_path) == ['3', '6', '7']
  assert checkpoints.steps(tmp_path) == [3, 6, 7]


def test_a_step_measured_after_its_save_may_be_the_best(tmp_path):
  options = dict(keep_last=1, keep_best=1, best_metric='loss')
  with Checkpoints(tmp_path, **options) as saver:
    saver.save(1, make_state(), extra={})
    saver.measured[1] = {'loss': 2.0}
    saver.save(2, make_state(), extra={})
    saver.measured[2] = {'loss': 1.0}
    saver.save(3, make_state(), extra={})
  assert names(tmp_path) == ['1', '3']


def test_a_step_is_saved_once(tmp_path):
  with Checkpoints(tmp_path, keep_last=9) as saver:
    assert saver.save(7, make_state(), extra={})
    assert not saver.save(7, make_state(), extra={})
  assert checkpoints.steps(tmp_path) == [7]


@pytest.mark.parametrize('asynchronous', [True, False])
@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    OSError(errno.EFBIG, 'File too large'),
    ValueError('RESOURCE_EXHAUSTED: write failed: No space left on device'),
  ],
)
def test_a_full_disk_is_one_line_and_leaves_the_step_before(
  workdir, monkeypatch, asynchronous, error
):
  # Raised where orbax, having written the arrays, gives a step its name: in
  # its own thread if asynchronous. (Tensorstore's own error is the second.)
  with Checkpoints(workdir, keep_last=2, asynchronous=asynchronous) as saver:
    rename = os.rename

    def full(source, *args, **kwargs):
      if str(source).endswith('3.orbax-checkpoint-tmp'):
        raise error
      return rename(source, *args, **kwargs)

    with monkeypatch.context() as patch:
      patch.setattr(os, 'rename', full)
      patch.setattr(os, 'replace', full)
      with pytest.raises(OSError) as caught:
        saver.save(3, make_state(3.0), extra={})
        saver.wait()
    assert caught.value.errno == errno.ENOSPC
    message = str(caught.value)
    assert 'no space for checkpoint 3 in ' + str(workdir) in message
    assert 'free some' in message and 'step 2 is intact' in message
    assert '\n' not in message
    assert names(workdir) == ['1', '2']
    assert saver.restore(abstract(make_state()))[0] == 2
    # With space again, the same step is saved.
    assert saver.save(3, make_state(3.0), extra={})
  assert restore(workdir)[0] == 3


def test_bad_numbers_are_refused_with_their_field():
  with pytest.raises(ValueError, match='checkpoint.keep_last=0: must be >= 1'):
    Checkpoints('unused', keep_last=0)
  with pytest.raises(ValueError, match='keep_best=1 needs .*best_metric'):
    Checkpoints('unused', keep_last=1, keep_best=1)


def test_extra_that_json_cannot_hold_fails_at_once(tmp_path):
  with (
    Checkpoints(tmp_path, keep_last=1) as saver,
    pytest.raises(TypeError, match='not JSON serializable'),
  ):
    saver.save(1, make_state(), extra={'a': object()})
  assert names(tmp_path) == []
