"""A limit of tokens that rises within a run, as R1-Zero's does."""

import re

import pytest
import tiny

from configs import base
from grpo_jax import validation_rl

FLAGS = (
  '--config.steps=3', '--config.sample.chunk=4', '--config.eval.every=0',
  '--config.log.samples_every=1', '--config.checkpoint.every=1',
)  # fmt: skip
EARLY = (
  *FLAGS,
  '--config.sample.early_steps=2',
  '--config.sample.early_completion_length=5',
)


@pytest.fixture(scope='module')
def workdirs(tmp_path_factory):
  """Runs with and without, and one that was interrupted at the change."""
  found = {}
  for name, flags in (('plain', FLAGS), ('early', EARLY), ('resumed', EARLY)):
    found[name] = tmp_path_factory.mktemp(name)
    where = f'--workdir={found[name]}'
    if name == 'resumed':
      done = tiny.job('train', *flags, '--config.steps=2', where)
      assert done.code == 0, done.err
    done = tiny.job('train', *flags, where)
    assert done.code == 0, done.err
  return found


def test_completions_are_cut_at_the_lower_limit_until_the_step(workdirs):
  rows = tiny.rows(workdirs['early'])
  assert [row['length/max'] for row in rows] == [5, 5, 8]
  assert [r['length/max'] for r in tiny.rows(workdirs['plain'])] == [8, 8, 8]


def test_below_the_limit_the_same_tokens_are_sampled(workdirs):
  from grpo_jax import runs

  # The policies are the same at the first step only.
  long, short = (
    [r['completion'] for r in runs.open_run(workdirs[n]).samples(step=1)]
    for n in ('plain', 'early')
  )
  assert long != short
  pairs = zip(long, short, strict=True)
  assert all(a.startswith(b) for a, b in pairs)


def test_a_run_resumed_at_the_change_gives_the_same_numbers(workdirs):
  assert tiny.rows(workdirs['resumed']) == tiny.rows(workdirs['early'])


@pytest.mark.parametrize('length', [0, 31, 64])
def test_a_limit_that_no_chunk_fits_or_that_is_not_lower_is_refused(length):
  cfg = base.get_config()
  cfg.sample.update(early_steps=10, early_completion_length=length)
  told = f'sample.early_completion_length={length} must be at least sample.ch'
  with pytest.raises(ValueError, match=re.escape(told)):
    validation_rl.of_training(cfg, ways=tiny.ways())
