"""Killed anywhere and started again, a run gives the same numbers and bits.

With everything on that has a state: a KL reference, minibatches, evaluation.
"""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny

from grpo_jax import checkpoint_items, checkpoints

STEPS = 10  # of the tiny config


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
  """A workdir of three processes, and how each of the first two ended."""
  workdir = tmp_path_factory.mktemp('rl')
  # Row 5 is written while step 6 is computed; checkpoint 4 may not be whole.
  killed = interrupt('train', workdir, at=5, by=signal.SIGKILL)
  written = last(workdir / 'metrics.jsonl')
  stopped = interrupt('train', workdir, at=7, by=signal.SIGTERM)
  resumed = tiny.finish(tiny.start('train', f'--workdir={workdir}'))
  assert resumed.code == 0, resumed.err
  return workdir, [killed, stopped, resumed], written


def interrupt(job, workdir, *, at, by):
  """Starts the job and sends it a signal once the row of a step is written."""
  process = tiny.start(job, f'--workdir={workdir}')
  path = workdir / 'metrics.jsonl'
  while process.poll() is None and not (path.exists() and last(path) >= at):
    time.sleep(0.005)
  process.send_signal(by)
  return tiny.finish(process)


def last(path):
  """The newest step; the last line may be half a line."""
  found = re.findall(r'^{"step": (\d+),', path.read_text(), re.MULTILINE)
  return int(found[-1]) if found else 0


def state(workdir):
  """Every array of the final checkpoint, as name -> bytes."""
  path = checkpoint_items.folder(workdir) / str(STEPS)
  items, _ = checkpoint_items.read(path, {'params': None, 'rest': None})
  leaves = jax.tree_util.tree_leaves_with_path(items)
  return {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves}


def test_kills_leave_the_metrics_as_if_there_had_been_none(interrupted):
  workdir, *_ = interrupted
  found, wanted = tiny.rows(workdir), tiny.rows(tiny.run('train'))
  assert found == wanted
  steps = [row['step'] for row in wanted if 'loss' in row]
  assert steps == list(range(1, STEPS + 1))
  evaluated = [row['step'] for row in wanted if 'eval/pass@1' in row]
  assert evaluated == list(range(STEPS + 1))


def test_the_run_that_is_compared_learns_something():
  # Otherwise a lost moment or reference would not show.
  rows = [r for r in tiny.rows(tiny.run('train')) if 'loss' in r]
  assert all(row['grad_norm'] > 0 for row in rows)
  assert rows[-1]['kl'] > 0
  assert len({row['loss'] for row in rows}) == STEPS


def test_kills_leave_the_same_parameters_moments_and_reference(interrupted):
  workdir, *_ = interrupted
  found, wanted = state(workdir), state(tiny.run('train'))
  assert any('ref_params' in name for name in wanted)
  assert any("'mu'" in name or '.mu' in name for name in wanted)
  assert found == wanted


def test_kills_leave_the_same_checkpoints(interrupted):
  workdir, *_ = interrupted
  wanted = checkpoints.steps(tiny.run('train'))
  assert checkpoints.steps(workdir) == wanted


def test_kills_leave_the_same_sampled_completions(interrupted):
  workdir, *_ = interrupted
  name = 'samples.jsonl'
  wanted = (tiny.run('train') / name).read_bytes()
  assert (workdir / name).read_bytes() == wanted
  steps = [json.loads(line)['step'] for line in wanted.splitlines()]
  assert sorted(set(steps)) == [1, 2, 4, 6, 8, 10]
  assert all(steps.count(step) == 16 for step in set(steps))


def test_sigkill_ends_a_run_between_its_checkpoints(interrupted):
  _, (killed, stopped, _), written = interrupted
  assert killed.code == -signal.SIGKILL
  found = int(re.search(r'resuming at step (\d+)', stopped.err)[1])
  assert found in (2, 4) and found < written


def test_sigterm_saves_the_step_and_says_how_to_go_on(interrupted):
  _, (_, stopped, resumed), _ = interrupted
  step = step_of_stop(stopped)
  assert f'resuming at step {step}\n' in resumed.err


def step_of_stop(done, by=signal.SIGTERM):
  """The step in the last line of a job that a signal has stopped."""
  assert done.code == 128 + by
  *_, message = done.err.splitlines()
  found = re.fullmatch(
    r'stopped at step (\d+) of 10, saved; the same command goes on from there',
    message,
  )
  assert found, done.err
  return int(found[1])


def test_a_second_signal_ends_the_process_at_once():
  code = (
    'import os, signal\n'
    'from grpo_jax import cli\n'
    'with cli.shutdown_requested() as stopping:\n'
    '  os.kill(os.getpid(), signal.SIGINT)\n'
    '  print("first", stopping(), flush=True)\n'
    '  os.kill(os.getpid(), signal.SIGINT)\n'
    '  print("second", flush=True)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=pathlib.Path(tiny.__file__).parents[1],
    capture_output=True,
    text=True,
  )
  assert done.stdout == f'first {int(signal.SIGINT)}\n'
  assert done.returncode == -signal.SIGINT


def test_fine_tuning_stopped_by_ctrl_c_ends_with_the_same_bits(tmp_path):
  stopped = interrupt('sft', tmp_path, at=3, by=signal.SIGINT)
  assert checkpoints.steps(tmp_path)[-1] == step_of_stop(stopped, signal.SIGINT)
  done = tiny.job('sft', f'--workdir={tmp_path}')
  assert done.code == 0, done.err
  assert tiny.rows(tmp_path) == tiny.rows(tiny.run('sft'))
  assert state(tmp_path) == state(tiny.run('sft'))


def test_a_damaged_newest_checkpoint_costs_steps_but_no_bits(
  interrupted, tmp_path
):
  workdir, *_ = interrupted
  before = tiny.rows(workdir)
  newest = checkpoint_items.folder(workdir) / str(STEPS)
  (newest / 'params' / 'manifest.ocdbt').unlink()
  assert checkpoints.steps(workdir)[-2:] == [8, STEPS]
  done = tiny.job('train', f'--workdir={workdir}')
  assert done.code == 0, done.err
  assert 'moved to 10.corrupt; resuming from step 8' in done.err
  assert tiny.rows(workdir) == before
  assert state(workdir) == state(tiny.run('train'))
