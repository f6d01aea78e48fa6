"""Stages 4 to 6 together: what waits for what."""

import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import layout, rollout
from grpo_jax.structs import Prompts, Rollout


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


def test_the_host_grades_while_the_device_scores_and_shares_afterwards():
  scores = Late()

  def grade(completions, examples):
    assert not scores.ready
    return np.ones((4, 2), np.float32), {}

  def share(found):
    # A gathering queues behind what the device has to do.
    assert scores.ready
    return found

  ones = np.ones((4, 2), np.int32)
  got = rollout.collect(
    np.arange(4),
    [None] * 4,
    Prompts(trunk=ones, trunk_mask=ones > 0, last=ones[:, 0]),
    None,
    None,
    jax.random.key(0),
    sample=sampled,
    append=layout.append,
    score=lambda batch: batch.replace(ref_logprobs=scores),
    lengths=lambda mask: np.asarray(mask.sum(-1)),
    texts=lambda *_: ([['a', 'b']] * 4, np.ones((4, 2), bool)),
    grade=grade,
    share=share,
    length_multiple=3,
  )
  assert got.rewards.all() and got.tokens == 24
