"""Trunks and branches from token ids, against arrays written by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from grpo_jax import layout
from grpo_jax.structs import Rollout

PROMPTS = [[11, 12, 13, 14], [21]]
COMPLETIONS = [[[31, 32, 1], [41, 1]], [[51, 52], [1]]]


def example():
  prompts = layout.prompts(PROMPTS, multiple=2)
  return prompts, layout.branches(
    prompts, COMPLETIONS, max_length=8, multiple=4
  )


def test_prompts_are_left_padded_without_their_last_token():
  prompts, _ = example()
  np.testing.assert_array_equal(prompts.trunk, [[0, 11, 12, 13], [0, 0, 0, 0]])
  np.testing.assert_array_equal(
    prompts.trunk_mask, [[False, True, True, True], [False] * 4]
  )
  np.testing.assert_array_equal(prompts.last, [14, 21])


def test_branches_start_with_the_prompts_last_token_and_end_with_eos():
  prompts, batch = example()
  np.testing.assert_array_equal(
    batch.inputs,
    [
      [[14, 31, 32, 1], [14, 41, 1, 0]],
      [[21, 51, 52, 0], [21, 1, 0, 0]],
    ],
  )
  np.testing.assert_array_equal(
    batch.targets,
    [
      [[31, 32, 1, 0], [41, 1, 0, 0]],
      [[51, 52, 0, 0], [1, 0, 0, 0]],
    ],
  )
  np.testing.assert_array_equal(
    batch.mask,
    np.array(
      [
        [[1, 1, 1, 0], [1, 1, 0, 0]],
        [[1, 1, 0, 0], [1, 0, 0, 0]],
      ],
      bool,
    ),
  )
  assert batch.trunk is prompts.trunk


def test_a_batch_of_one_token_prompts_has_an_empty_trunk():
  prompts = layout.prompts([[7], [8]], multiple=4)
  assert prompts.trunk.shape == (2, 0) and prompts.last.tolist() == [7, 8]


def test_an_eos_that_is_also_the_pad_token_stays_in_the_mask():
  pad = eos = 0
  prompts = layout.prompts([[pad, 5, eos]], multiple=4)
  batch = layout.branches(prompts, [[[6, eos]]], max_length=4, multiple=4)
  np.testing.assert_array_equal(prompts.trunk_mask, [[0, 0, 1, 1]])
  np.testing.assert_array_equal(batch.targets, [[[6, eos, pad, pad]]])
  np.testing.assert_array_equal(batch.mask, [[[1, 1, 0, 0]]])


def test_completions_are_cut_at_the_limit():
  prompts = layout.prompts([[5]], multiple=4)
  batch = layout.branches(
    prompts, [[[1, 2, 3, 4, 5], [9]]], max_length=3, multiple=2
  )
  np.testing.assert_array_equal(batch.targets, [[[1, 2, 3, 0], [9, 0, 0, 0]]])
  np.testing.assert_array_equal(batch.mask.sum(-1), [[3, 1]])


def test_every_token_but_the_first_of_a_whole_text_is_a_target():
  prompt, completion = layout.whole_text([4, 5, 6])
  prompts = layout.prompts([prompt], multiple=1)
  batch = layout.branches(prompts, [[completion]], max_length=9, multiple=1)
  np.testing.assert_array_equal(batch.inputs, [[[4, 5]]])
  np.testing.assert_array_equal(batch.targets, [[[5, 6]]])
  assert batch.mask.all()


def rollout(lengths, width):
  mask = np.arange(width) < np.array(lengths)[..., None]
  ids = np.arange(mask.size).reshape(mask.shape)
  return Rollout(inputs=ids, targets=ids + 1, mask=mask, logprobs=-1.0 * ids)


@pytest.mark.parametrize('multiple, width', [(1, 5), (4, 8), (5, 5), (16, 10)])
def test_trim_cuts_at_the_longest_completion_rounded_up(multiple, width):
  full = rollout([[2, 5], [1, 3]], 10)
  cut = layout.trim(full, longest=5, multiple=multiple)
  for name in ('inputs', 'targets', 'mask', 'logprobs'):
    np.testing.assert_array_equal(
      getattr(cut, name), getattr(full, name)[:, :, :width]
    )
  assert cut.mask.sum() == full.mask.sum() == 11


def test_round_up_is_the_smallest_multiple_that_is_enough():
  cases = {(0, 4): 0, (1, 4): 4, (4, 4): 4, (5, 4): 8, (7, 1): 7}
  assert {k: layout.round_up(*k) for k in cases} == cases


def tokens(least):
  return st.lists(st.integers(0, 3), min_size=least, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_prompts_and_completions_come_back_from_the_arrays(
  data, rows, group, multiple
):
  # Few ids, so that pad (0) and EOS turn up anywhere.
  ids = [data.draw(tokens(1)) for _ in range(rows)]
  wanted = [[data.draw(tokens(0)) for _ in range(group)] for _ in range(rows)]
  prompts = layout.prompts(ids, multiple=multiple)
  batch = layout.branches(prompts, wanted, max_length=6, multiple=multiple)
  assert prompts.trunk.shape[1] % multiple == 0
  assert batch.mask.shape[2] % multiple == 0
  for q in range(rows):
    trunk = prompts.trunk[q][prompts.trunk_mask[q]].tolist()
    assert trunk + [prompts.last[q]] == ids[q]
    for g in range(group):
      mask = batch.mask[q, g]
      assert batch.targets[q, g][mask].tolist() == wanted[q][g]
      # What is read is what was to be said, one place later.
      read = batch.inputs[q, g][mask].tolist()
      assert read == ([ids[q][-1]] + wanted[q][g])[: len(read)]
