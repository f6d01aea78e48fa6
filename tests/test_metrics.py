"""What a run writes down: complete, valid and mended after a kill."""

import errno
import io
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from grpo_jax import metrics
from grpo_jax.metrics import NonFinite, Progress, read_rows, Timers, Writer

REPO = pathlib.Path(__file__).parents[1]
SHOWN = {'reward': 'reward/mean', 'tok/s': 'tokens_per_second'}


def fail(constant):
  raise AssertionError(f'{constant} is not JSON')


def lines(path):
  text = path.read_text(encoding='utf-8')
  assert text.endswith('\n')
  return [json.loads(x, parse_constant=fail) for x in text[:-1].split('\n')]


def scalars(folder):
  """(step, name, value) of TensorBoard's event files, in order."""
  found = []
  for file in sorted(folder.glob('events*'), key=os.path.getmtime):
    data = file.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')  # then its CRC, 4 bytes
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[12 + size + 4 :]
      found += [
        (event.step, v.tag, v.simple_value) for v in event.summary.value
      ]
  return found


def test_a_row_a_step_is_on_disk_before_the_file_is_closed(tmp_path):
  writer = Writer(tmp_path, tensorboard=False)
  writer.write(1, {'loss': 0.5, 'reward/mean': np.float32(0.25)})
  writer.write(2, {'loss': jnp.float32(2.0), 'n': 3})
  assert lines(tmp_path / 'metrics.jsonl') == [
    {'step': 1, 'loss': 0.5, 'reward/mean': 0.25},
    {'step': 2, 'loss': 2.0, 'n': 3.0},
  ]
  writer.close()


def test_a_killed_process_loses_no_row(tmp_path):
  code = (
    'import os, signal, sys\n'
    'from grpo_jax.metrics import Writer\n'
    'writer = Writer(sys.argv[1], tensorboard=False)\n'
    'for step in range(5):\n'
    '  writer.write(step, {"loss": step / 2})\n'
    '  writer.samples(step, [{"prompt": "p" * 20000}])\n'
    'os.kill(os.getpid(), signal.SIGKILL)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)],
    env=os.environ | {'PYTHONPATH': str(REPO)},
  )
  assert done.returncode == -signal.SIGKILL
  assert [r['loss'] for r in lines(tmp_path / 'metrics.jsonl')] == [
    0.0, 0.5, 1.0, 1.5, 2.0,
  ]  # fmt: skip
  assert len(lines(tmp_path / 'samples.jsonl')) == 5


def test_non_finite_values_are_valid_json_and_read_back(tmp_path):
  with Writer(tmp_path, tensorboard=False) as writer:
    writer.write(
      1, {'a': math.nan, 'b': math.inf, 'c': np.float32(-np.inf), 'd': 1.0}
    )
    writer.samples(1, [{'advantage': math.nan, 'rewards': {'x': -math.inf}}])
  [row] = lines(tmp_path / 'metrics.jsonl')
  assert row == {'step': 1, 'a': 'nan', 'b': 'inf', 'c': '-inf', 'd': 1.0}
  assert math.isnan(float(row['a'])) and float(row['c']) == -math.inf
  [row] = lines(tmp_path / 'samples.jsonl')
  assert row == {'step': 1, 'advantage': 'nan', 'rewards': {'x': '-inf'}}


@pytest.mark.parametrize(
  'text',
  ['line\nline\r\n\u2028\x85', 'naïve 数学 ∑ 🙂', 'lone \udc80 byte', '"\\'],
)
def test_any_text_of_a_completion_comes_back(tmp_path, text):
  row = {
    'prompt': text,
    'completion': text,
    'answer': 7,
    'reward': np.float32(0.5),
    'rewards': {'exact': 1.0, 'format': 0.0},
    'advantage': jnp.float32(-0.5),
    'length': np.int32(12),
    'finished': np.bool_(True),
  }
  with Writer(tmp_path, tensorboard=False) as writer:
    writer.samples(4, [row, row])
  assert len(lines(tmp_path / 'samples.jsonl')) == 2
  found = read_rows(tmp_path / 'samples.jsonl')
  assert found == 2 * [
    {
      'step': 4,
      'prompt': text,
      'completion': text,
      'answer': 7,
      'reward': 0.5,
      'rewards': {'exact': 1.0, 'format': 0.0},
      'advantage': -0.5,
      'length': 12,
      'finished': True,
    }
  ]


def test_text_other_than_english_can_be_read_in_the_file(tmp_path):
  with Writer(tmp_path, tensorboard=False) as writer:
    writer.samples(1, [{'completion': '数学'}])
  assert '数学' in (tmp_path / 'samples.jsonl').read_text(encoding='utf-8')


def test_resuming_drops_later_rows_and_a_line_cut_off(tmp_path):
  with Writer(tmp_path, tensorboard=False) as writer:
    for step in range(1, 6):
      writer.write(step, {'loss': float(step)})
      writer.samples(step, [{'completion': 'a'}, {'completion': 'b'}])
  with open(tmp_path / 'metrics.jsonl', 'ab') as file:
    file.write('{"step": 6, "text": "é'.encode()[:-1])  # within a character
  with Writer(tmp_path, tensorboard=False, resume_step=3) as writer:
    writer.write(4, {'loss': 40.0})
  rows = lines(tmp_path / 'metrics.jsonl')
  assert [(r['step'], r['loss']) for r in rows] == [
    (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0),
  ]  # fmt: skip
  steps = [r['step'] for r in lines(tmp_path / 'samples.jsonl')]
  assert steps == [1, 1, 2, 2, 3, 3]
  assert sorted(os.listdir(tmp_path)) == ['metrics.jsonl', 'samples.jsonl']


def test_opening_again_without_a_step_keeps_whole_rows_only(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
  assert read_rows(path) == [{'step': 1, 'loss': 1.0}]
  with Writer(tmp_path, tensorboard=False) as writer:
    writer.write(2, {'loss': 2.0})
  assert [r['step'] for r in lines(path)] == [1, 2]


def test_a_kill_while_mending_leaves_the_file_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / 'metrics.jsonl'
  before = '{"step": 1}\n{"step": 2}\n'
  path.write_text(before)

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
      Writer(tmp_path, tensorboard=False, resume_step=1)
  assert path.read_text() == before
  Writer(tmp_path, tensorboard=False, resume_step=1).close()
  assert path.read_text() == '{"step": 1}\n'


def test_a_line_that_is_no_row_is_named(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\nhello\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics.jsonl:2 is no row of a run'):
    Writer(tmp_path, tensorboard=False, resume_step=5)
  assert path.read_text() == '{"step": 1}\nhello\n{"step": 2}\n'


def test_a_full_disk_names_the_file_and_leaves_no_part_of_a_row(tmp_path):
  class Full(io.FileIO):
    """Takes ten bytes, then none, as a disk does that fills up."""

    room = 10

    def write(self, data):
      if not self.room:
        raise OSError(errno.ENOSPC, 'No space left on device')
      written = super().write(data[: self.room])
      self.room -= written
      return written

  path = tmp_path / 'metrics.jsonl'
  with Writer(tmp_path, tensorboard=False) as writer:
    writer.write(1, {'loss': 1.0})
    before = path.read_bytes()
    with Full(path, 'a') as full:
      writer._files['metrics.jsonl'] = full
      with pytest.raises(OSError, match='cannot write .*metrics.jsonl: No sp'):
        writer.write(2, {'loss': 1.0})
  assert path.read_bytes() == before


def test_tensorboard_gets_finite_scalars_and_is_purged_on_resume(tmp_path):
  with Writer(tmp_path) as writer:
    writer.write(1, {'loss': 0.5, 'kl': math.nan})
    writer.write(2, {'loss': 0.25})
  folder = tmp_path / 'tensorboard'
  assert scalars(folder) == [(1, 'loss', 0.5), (2, 'loss', 0.25)]
  with Writer(tmp_path, resume_step=1) as writer:
    writer.write(2, {'loss': 0.75})
  assert scalars(folder)[-1] == (2, 'loss', 0.75)
  # TensorBoard drops what came before from the step of a START event on.
  last = max(folder.glob('events*'), key=os.path.getmtime)
  assert event_pb2.SessionLog.START == 1
  data, starts = last.read_bytes(), []
  while data:
    size = int.from_bytes(data[:8], 'little')
    event = event_pb2.Event.FromString(data[12 : 12 + size])
    data = data[12 + size + 4 :]
    if event.session_log.status == event_pb2.SessionLog.START:
      starts.append(event.step)
  assert starts == [2]


def test_timers_add_up_by_phase_and_start_again(monkeypatch):
  clock = iter([0.0, 1.5, 10.0, 12.0, 20.0, 20.25])
  monkeypatch.setattr(time, 'perf_counter', lambda: next(clock))
  timers = Timers()
  with timers('rollout'):
    pass
  with timers('rollout'):
    pass
  with pytest.raises(KeyError), timers('update'):
    raise KeyError
  assert timers.flush() == {'time/rollout': 3.5, 'time/update': 0.25}
  assert timers.flush() == {}


def test_only_updates_in_a_row_stop_a_run():
  guard = NonFinite(3)
  bad = {'loss': math.nan, 'grad_norm': 1.0, 'reward/mean': math.nan}
  good = {'loss': 1.0, 'grad_norm': 1.0, 'eval/unused': math.nan}
  assert [guard.check(s, m) for s, m in enumerate([bad, bad, good, bad])] == [
    1, 2, 0, 1,
  ]  # fmt: skip
  assert guard.check(4, {'loss': 1.0, 'nonfinite': 0.5}) == 2
  with pytest.raises(
    FloatingPointError, match=r'step 5: loss=nan, grad_norm=inf, for 3 updates'
  ):
    guard.check(5, {'loss': jnp.nan, 'grad_norm': jnp.float32(jnp.inf)})
  with pytest.raises(ValueError, match='limit=0'):
    NonFinite(0)


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  stream = io.StringIO()
  progress = Progress(100, start=20, shown=SHOWN, every=30.0, stream=stream)
  for step in range(21, 101):
    now[0] += 2.0
    progress.update(
      step, {'reward/mean': step / 100, 'tokens_per_second': 12_345.6}
    )
  progress.close()
  told = stream.getvalue().splitlines()
  # At the first update, every 15 steps of 2 seconds, and at the end.
  assert [int(x.split('/')[0].removeprefix('step ')) for x in told] == [
    21, 36, 51, 66, 81, 96, 100,
  ]  # fmt: skip
  assert told[0] == 'step 21/100  reward 0.21  tok/s 12.3k'
  assert told[1] == (
    'step 36/100  reward 0.36  tok/s 12.3k  2.00 s/step, 02:08 left'
  )


def test_on_a_terminal_progress_is_a_bar():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  progress = Progress(4, start=1, shown=SHOWN, stream=stream)
  for step in (2, 3, 4):
    progress.update(step, {'reward/mean': 0.5})
  progress.close()
  last = re.split('[\r\n]+', stream.getvalue().strip())[-1]
  assert '4/4' in last and 'reward 0.5' in last and '100%' in last


def test_peak_memory_is_in_bytes_and_does_not_shrink():
  before = metrics.memory()['memory/host_peak_bytes']
  block = np.ones(100_000_000, np.uint8)
  after = metrics.memory()['memory/host_peak_bytes']
  del block
  assert metrics.memory()['memory/host_peak_bytes'] >= after >= before
  assert 1e8 < after < 1e12  # a process with JAX and 100 MB; KiB would be 1e5


def test_device_memory_is_the_most_used_devices(monkeypatch):
  class Device:
    def __init__(self, stats):
      self.memory_stats = lambda: stats

  devices = [
    Device({'peak_bytes_in_use': 5, 'bytes_limit': 16}),
    Device({'peak_bytes_in_use': 7, 'bytes_limit': 16}),
    Device(None),  # as on CPU
  ]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  found = metrics.memory()
  assert found['memory/device_peak_bytes'] == 7.0
  assert found['memory/device_limit_bytes'] == 16.0
