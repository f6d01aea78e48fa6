"""A token from logits and one uniform number, by inverse CDF.

Cheaper than a Gumbel number for each token of the vocabulary, and the same
whatever the mesh, the batch and the order of work.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from grpo_jax.structs import Array

BLOCK = 128  # first over blocks of the vocabulary, then within one


def uniform(keys: Array, t: Int[Array, 'Q G']) -> Float[Array, 'Q G']:
  """A number in [0, 1) for each row key and position."""
  draw = lambda key, t: jax.random.uniform(jax.random.fold_in(key, t))
  return jax.vmap(jax.vmap(draw))(keys, t)


def choose(
  logits: Float[Array, 'Q G V'],
  uniform: Float[Array, 'Q G'],
  *,
  greedy: bool,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
) -> tuple[Int[Array, 'Q G'], Float[Array, 'Q G']]:
  """Picks a token and its logprob under the distribution picked from.

  Args:
    logits: fp32, over the temperature.
    uniform: in [0, 1).
    greedy: the most likely token; the logprob is then 0, that of certainty.
    top_k: keep the k most likely; 0 keeps all.
    top_p: keep the smallest set of at least this mass (1904.09751).
    min_p: keep tokens at least this fraction of the largest probability.
  """
  if greedy:
    token = jnp.argmax(logits, -1).astype(jnp.int32)
    return token, jnp.zeros(token.shape, jnp.float32)
  logits = _filter(logits, top_k=top_k, top_p=top_p, min_p=min_p)
  top = logits.max(-1, keepdims=True)
  mass = jnp.exp(logits - top)
  token = inverse_cdf(mass, uniform)
  total = top[..., 0] + jnp.log(mass.sum(-1))
  picked = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
  return token, picked - total


def inverse_cdf(
  mass: Float[Array, 'Q G V'], uniform: Float[Array, 'Q G']
) -> Int[Array, 'Q G']:
  """First index whose cumulative mass exceeds uniform * total.

  In two levels, since a cumulative sum over a whole vocabulary is slow: the
  block of the vocabulary, then the token within it. Never a token of mass 0.
  """
  pad = -mass.shape[-1] % BLOCK
  mass = jnp.pad(mass, ((0, 0), (0, 0), (0, pad)))
  mass = mass.reshape(*mass.shape[:2], -1, BLOCK)
  by_block = jnp.cumsum(mass.sum(-1), -1)
  aim = uniform[..., None] * by_block[..., -1:]
  block = _first_above(by_block, aim, mass.sum(-1))
  before = jnp.where(
    block > 0,
    jnp.take_along_axis(by_block, jnp.maximum(block - 1, 0), -1),
    0.0,
  )
  inside = jnp.take_along_axis(mass, block[..., None], 2)[:, :, 0]
  offset = _first_above(jnp.cumsum(inside, -1), aim - before, inside)
  return (block * BLOCK + offset)[..., 0].astype(jnp.int32)


def _first_above(cumulative, aim, mass):
  """First index with cumulative > aim, or the last with mass (rounding)."""
  first = jnp.sum(cumulative <= aim, -1, keepdims=True)
  places = jnp.arange(mass.shape[-1])
  last = jnp.max(jnp.where(mass > 0, places, 0), -1, keepdims=True)
  # Rounding may also point before any mass: then the first with mass.
  lowest = jnp.argmax(mass > 0, -1, keepdims=True)
  return jnp.clip(first, lowest, last)


def _filter(logits, *, top_k, top_p, min_p):
  if top_k:
    kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    logits = jnp.where(logits < kth, -jnp.inf, logits)
  if top_p < 1:
    probs = jax.nn.softmax(logits, -1)
    ordered = -jnp.sort(-probs, -1)
    before = jnp.cumsum(ordered, -1) - ordered
    # The smallest probability that still belongs to the set.
    floor = jnp.min(
      jnp.where(before < top_p, ordered, jnp.inf), -1, keepdims=True
    )
    logits = jnp.where(probs < floor, -jnp.inf, logits)
  if min_p > 0:
    floor = logits.max(-1, keepdims=True) + jnp.log(min_p)
    logits = jnp.where(logits < floor, -jnp.inf, logits)
  return logits
