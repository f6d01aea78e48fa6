"""Advantages: rewards [Q G] to advantages [Q G], groups by position."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from grpo_jax.structs import Array


def group(
  rewards: Float[Array, 'Q G'], *, std: str = 'group', ddof: int = 1,
  eps: float = 1e-4,
) -> Float[Array, 'Q G']:  # fmt: skip
  """Group-relative advantages: A = (r - mean) / (std + eps).

  DeepSeekMath (2402.03300) eq. 3; std='none' is Dr. GRPO (2503.20783) 3.2.
  The papers do not give ddof and eps: the defaults are TRL's.

  Args:
    rewards: float32; NaN is a missing reward, left out of every statistic.
    std: 'group', 'batch' (of the centred rewards) or 'none'.
    ddof: 1 for the sample standard deviation, 0 for the population's.
    eps: added to the standard deviation.

  Returns:
    float32. Zero for missing rewards, and exactly zero for a group whose
    rewards are all equal: a float mean would leave a residue.
  """
  if std not in ('group', 'batch', 'none'):
    raise ValueError(f'std={std!r} is not one of group, batch, none')
  present = ~jnp.isnan(rewards)
  r = jnp.where(present, rewards, 0.0)
  mean = _mean(r, present, axis=1)
  centred = jnp.where(present & ~zero_variance(rewards)[:, None], r - mean, 0.0)
  if std == 'none':
    return centred
  axis = 1 if std == 'group' else (0, 1)
  n = present.sum(axis, keepdims=True)
  variance = (centred**2).sum(axis, keepdims=True) / jnp.maximum(n - ddof, 1)
  return centred / (jnp.sqrt(variance) + eps)


def zero_variance(rewards: Float[Array, 'Q G']) -> Bool[Array, 'Q']:
  """Groups without a signal: at most one distinct reward, by equality."""
  low = jnp.min(jnp.where(jnp.isnan(rewards), jnp.inf, rewards), 1)
  high = jnp.max(jnp.where(jnp.isnan(rewards), -jnp.inf, rewards), 1)
  return low >= high


def _mean(x, where, axis):
  total = jnp.sum(x, axis, keepdims=True, where=where)
  return total / jnp.maximum(where.sum(axis, keepdims=True), 1)
