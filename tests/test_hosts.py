"""Several processes on one machine, as on the hosts of a pod."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from grpo_jax import runs

# Prompts over data, samples whole; two updates a step and an evaluation.
FLAGS = (
  '--config=tests/tiny.py',
  '--config.prompts_per_step=16',
  "--config.mesh={'data': -1, 'fsdp': 2, 'tensor': 1}",
  '--config.eval.every=2',
  '--config.steps=4',
)


def run(workdir, cache, *flags, processes, devices):
  subprocess.run(
    [
      sys.executable, '-m', 'launch.local', f'--processes={processes}',
      f'--devices={devices}', '--', sys.executable, '-m', 'grpo_jax.train',
      f'--workdir={workdir}', f'--compilation_cache={cache}', *FLAGS, *flags,
    ],
    cwd=tiny.REPO, check=True, timeout=600,
  )  # fmt: skip
  return runs.open_run(workdir)


def rows(run):
  """metrics.jsonl without clocks and memory."""
  found = run.metrics
  return {
    k: np.asarray(v)
    for k, v in found.items()
    if not k.startswith(tiny.MEASURED)
  }


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('programs')


@pytest.fixture(scope='module')
def alone(tmp_path_factory, cache):
  return run(tmp_path_factory.mktemp('alone'), cache, processes=1, devices=8)


def assert_same(one, other):
  got, wanted = rows(one), rows(other)
  assert got.keys() == wanted.keys()
  for name, values in wanted.items():
    # Equal to the bit where tokens and rewards are counted; sums over devices
    # in another order give fp32 rounding elsewhere.
    exact = name.startswith(('reward', 'length', 'faults', 'eval'))
    tolerance = 0 if exact else 1e-4
    np.testing.assert_allclose(
      got[name], values, rtol=tolerance, atol=tolerance, err_msg=name
    )
  for a, b in zip(
    jax.tree.leaves(one.params()), jax.tree.leaves(other.params()), strict=True
  ):
    # Learning rates of 3e-2 make parameters of order 1.
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_two_processes_of_four_devices_do_what_one_of_eight_does(
  tmp_path, cache, alone
):
  assert_same(run(tmp_path, cache, processes=2, devices=4), alone)


def test_a_run_of_two_processes_goes_on_in_one(tmp_path, cache, alone):
  run(tmp_path, cache, '--config.steps=2', processes=2, devices=4)
  assert_same(run(tmp_path, cache, processes=1, devices=4), alone)
