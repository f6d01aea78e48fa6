"""Dynamic sampling, given completions and retired prompts, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from grpo_jax import (
  files,
  layout,
  questions,
  rollout,
  tasks,
  tokenizer,
  train,
)  # fmt: skip
from grpo_jax.rollout import Collected

NAN = float('nan')


def collected(first, width, signals, *, trunk=2):
  """A rollout of prompts `first`, ...; all arrays tell which prompt it is."""
  rows = len(signals)
  ids = np.arange(first, first + rows)
  whole = np.broadcast_to(ids[:, None, None], (rows, 2, width))
  prompts = layout.prompts([[i] * (trunk + 1) for i in ids], multiple=1)
  batch = layout.branches(
    prompts, [[[i] * width] * 2 for i in ids], max_length=9, multiple=1
  ).replace(old_logprobs=-whole.astype(np.float32))
  signals = np.array(signals, np.float32)
  return Collected(
    indices=ids,
    examples=[f'example {i}' for i in ids],
    batch=batch,
    completions=[[f'{i}a', f'{i}b'] for i in ids],
    rewards=signals + 0.25,
    components={'correct': signals, 'length': 0 * signals},
    lengths=np.full((rows, 2), width),
    finished=np.ones((rows, 2), bool),
    sampled=2,
  )


def join(batches, rows):
  together = layout.concatenate(batches)
  return jax.tree.map(lambda x: x[rows], together)


def refill(*rollouts):
  drawn = []

  def draw():
    for one in rollouts:
      drawn.append(one)
      yield one

  got, seen = rollout.refill(draw(), signal='correct', join=join)
  assert seen == drawn
  return got, seen


NONE, SOME = [1, 1], [0, 1]


def test_groups_with_a_signal_are_enough():
  one = collected(0, 3, [SOME, SOME, SOME])
  got, seen = refill(one, collected(3, 3, [SOME] * 3))
  assert got is one and len(seen) == 1


def test_groups_without_a_signal_are_replaced_by_later_ones():
  got, seen = refill(
    collected(0, 2, [NONE, SOME, NONE], trunk=4),
    collected(3, 4, [NONE, NONE, SOME]),
    collected(6, 3, [NONE, SOME, SOME]),
    collected(9, 3, [SOME] * 3),
  )
  assert len(seen) == 3
  assert got.indices.tolist() == [1, 5, 7]
  assert got.examples == ['example 1', 'example 5', 'example 7']
  assert got.completions == [['1a', '1b'], ['5a', '5b'], ['7a', '7b']]
  np.testing.assert_array_equal(got.components['correct'], [SOME] * 3)
  np.testing.assert_array_equal(got.rewards[0], [0.25, 1.25])
  np.testing.assert_array_equal(got.lengths, [[2, 2], [4, 4], [3, 3]])
  # The widths of the rollouts differ; all are padded to the widest.
  b = got.batch
  np.testing.assert_array_equal(b.mask.sum(-1), got.lengths)
  np.testing.assert_array_equal(
    b.trunk, [[1, 1, 1, 1], [0, 0, 5, 5], [0, 0, 7, 7]]
  )
  np.testing.assert_array_equal(b.trunk_mask, b.trunk > 0)
  np.testing.assert_array_equal(b.targets[0, 0], [1, 1, 0, 0])
  np.testing.assert_array_equal(b.inputs[2, 1], [7, 7, 7, 0])
  np.testing.assert_array_equal(b.old_logprobs[2, 0], [-7, -7, -7, 0])


def test_when_rollouts_run_out_the_first_groups_fill_the_batch():
  got, _ = refill(
    collected(0, 2, [NONE, SOME, NONE]), collected(3, 2, [NONE, NONE, SOME])
  )
  assert got.indices.tolist() == [0, 1, 5]


def test_the_signal_is_the_tasks_reward_and_not_the_shaped_one():
  first = collected(0, 2, [NONE, NONE])
  first.rewards[:] = [[0.1, 0.9], [0.2, 0.3]]  # shaped by length, say
  got, _ = refill(first, collected(2, 2, [SOME, SOME]))
  assert got.indices.tolist() == [2, 3]


@pytest.mark.parametrize(
  'rewards, signal',
  [
    ([1, 1, 1], False),
    ([0, 1, 1], True),
    ([0.1 + 0.2, 0.3, 0.3], True),  # in float64 they differ: by equality
    ([1, NAN, 1], False),
    ([1, NAN, 0], True),
    ([1, NAN, NAN], False),
    ([NAN, NAN, NAN], False),
  ],
)
def test_a_signal_is_two_rewards_that_differ(rewards, signal):
  assert rollout.has_signal(np.array([rewards])).tolist() == [signal]


def test_given_completions_become_further_samples_of_their_groups():
  prompts = layout.prompts([[5, 6], [7]], multiple=2)
  batch = layout.branches(
    prompts, [[[1, 2], [3]], [[4], [4]]], max_length=8, multiple=2
  ).replace(old_logprobs=-np.ones((2, 2, 2), np.float32))
  given = layout.branches(
    prompts, [[[8, 8, 9]], [[9]]], max_length=8, multiple=4
  )
  got = layout.append(jax.tree.map(jnp.asarray, batch), given)
  np.testing.assert_array_equal(
    got.targets,
    [
      [[1, 2, 0, 0], [3, 0, 0, 0], [8, 8, 9, 0]],
      [[4, 0, 0, 0], [4, 0, 0, 0], [9, 0, 0, 0]],
    ],
  )
  np.testing.assert_array_equal(got.inputs[:, 2], [[6, 8, 8, 9], [7, 9, 0, 0]])
  np.testing.assert_array_equal(got.mask.sum(-1), [[2, 1, 3], [1, 1, 1]])
  np.testing.assert_array_equal(got.teacher, [[False, False, True]] * 2)
  np.testing.assert_array_equal(got.old_logprobs[0], [
    [-1, -1, 0, 0], [-1, -1, 0, 0], [0, 0, 0, 0],
  ])  # fmt: skip


def test_what_was_given_is_no_merit_of_the_policy():
  got = dataclasses.replace(collected(0, 3, [[0, 1], [0.5, 1]]), sampled=1)
  assert got.tokens == 6
  assert got.rates('correct').tolist() == [0, 0.5]
  metrics = rollout.metrics([got], decoded=np.sum)
  assert metrics['reward/correct'] == 0.25
  assert metrics['reward/mean'] == 0.5
  # But all of the group is compared.
  assert metrics['zero_variance_share'] == 0


def ask(size):
  task = tasks.arithmetic(split='train', size=size, min_ops=1, max_ops=1)
  return questions.questions_of(
    task, base.get_config(), tokenizer.char(alphabet='0123456789+=')
  )


def test_retired_examples_are_replaced_by_others():
  questions = ask(20)
  plain = questions.indices(3, 8)
  gone = {int(plain[0]), int(plain[5]), 19}
  got = questions.indices(3, 8, without=gone)
  assert len(set(got.tolist())) == 8 and not gone & set(got.tolist())
  kept = [i for i in plain if i not in gone]
  assert got[: len(kept)].tolist() == kept
  again = questions.indices(3, 8, without=gone)
  np.testing.assert_array_equal(got, again)


def test_retired_examples_are_those_of_a_task_and_of_a_setting():
  cfg = base.get_config()
  cfg.filters.retire_above = 0.5
  extra = files.plain({'retired': [1, 4], 'config': cfg.to_dict()})
  stages = train.Stages.__new__(train.Stages)

  def gone_on(cfg, extra):
    stages.cfg, stages.teacher, stages.retired = cfg, None, set()
    stages.go_on(extra)
    return stages.retired

  assert gone_on(cfg, {}) == set()
  assert gone_on(cfg, extra) == {1, 4}
  other = cfg.copy_and_resolve_references()
  other.task.split = 'test'
  assert gone_on(other, extra) == set()
  cfg.filters.retire_above = 1.0
  assert gone_on(cfg, extra) == set()


def test_what_replaces_retired_examples_is_asked_once_a_step():
  questions, gone = ask(40), {1, 4, 9, 16, 25, 36}
  for step in range(30):
    draws = [
      questions.indices(3 * step + r, 4, without=gone, rounds=3)
      for r in range(3)
    ]
    asked = np.concatenate(draws).tolist()
    assert len(set(asked)) == 12 and not gone & set(asked)
  # Where too few are left for that, each draw still asks none twice.
  few = set(range(34))
  draws = [
    questions.indices(r, 4, without=few, rounds=3).tolist() for r in range(3)
  ]
  assert all(len(set(one)) == 4 and not few & set(one) for one in draws)


def test_the_last_examples_that_are_left_are_all_asked():
  got = ask(10).indices(7, 4, without={0, 2, 4, 6, 8, 9})
  assert sorted(got.tolist()) == [1, 3, 5, 7]
