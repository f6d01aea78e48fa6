"""Stages 4 to 6 together: what waits for what."""

import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import layout, rollout
from grpo_jax.structs import Batch, Prompts, Rollout


class Late:
  """An array that is there once it has been waited for."""

  ready = False

  def block_until_ready(self):
    self.ready = True
    return self


def sampled(params, prompts, key):
  """Two completions of three tokens to each of four prompts."""
  tokens = jnp.ones((4, 2, 3), jnp.int32)
  return Rollout(
    inputs=tokens,
    targets=tokens,
    mask=tokens > 0,
    logprobs=jnp.zeros(tokens.shape),
  )


def collect(given=None, **functions):
  ones = np.ones((4, 2), np.int32)
  return rollout.collect(
    np.arange(4),
    [None] * 4,
    Prompts(trunk=ones, trunk_mask=ones > 0, last=ones[:, 0]),
    given,
    None,
    jax.random.key(0),
    sample=sampled,
    append=layout.append,
    lengths=lambda mask: np.asarray(mask.sum(-1)),
    length_multiple=3,
    **functions,
  )


def test_the_host_grades_while_the_device_scores_and_shares_afterwards():
  scores = Late()

  def grade(completions, examples):
    assert not scores.ready
    return np.ones((4, 2), np.float32), {}

  def share(found):
    # A gathering queues behind what the device has to do.
    assert scores.ready
    return found

  got = collect(
    score=lambda batch: batch.replace(ref_logprobs=scores),
    texts=lambda *_: ([['a', 'b']] * 4, np.ones((4, 2), bool)),
    grade=grade,
    share=share,
  )
  assert got.rewards.all() and got.tokens == 24


def test_a_given_trace_that_is_cut_has_no_reward_and_a_sample_has():
  tokens = jnp.ones((4, 1, 3), jnp.int32)
  trace = Batch(
    trunk=jnp.ones((4, 2), jnp.int32),
    trunk_mask=jnp.ones((4, 2), bool),
    inputs=tokens,
    targets=tokens,
    mask=tokens > 0,
  )
  # The second sample of the first prompt is cut, and the third's trace.
  finished = np.ones((4, 3), bool)
  finished[0, 1] = finished[2, 2] = False
  graded = np.zeros((4, 3), np.float32)
  got = collect(
    trace,
    score=lambda batch: batch,
    texts=lambda *_: ([['a', 'b', 'c']] * 4, finished),
    grade=lambda *_: (graded, {'correct': graded}),
    share=lambda found: found,
  )
  for found in (got.rewards, got.components['correct']):
    assert found.dtype == np.float32
    assert np.argwhere(np.isnan(found)).tolist() == [[2, 2]]
  assert got.finished.dtype == bool and got.sampled == 2
