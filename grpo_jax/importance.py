"""Importance weights of tokens whose sampler was not quite the trainer.

Between stages 7 and 8 of a step: `log_ratio` is log of the trainer's
probability over the sampler's, of the same parameters (a rounded or stale
sampler). The weights are constants of the update and scale each token's loss;
they do not enter the denominators, so what is rejected does not make the rest
count more.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from grpo_jax.structs import Array

LEVELS = ('token', 'sequence', 'geometric')


def none(
  log_ratio: Float[Array, 'Q G C'], mask: Bool[Array, 'Q G C']
) -> Float[Array, 'Q G C']:
  """1 everywhere."""
  del mask
  return jnp.ones_like(log_ratio)


def truncated(
  log_ratio: Float[Array, 'Q G C'], mask: Bool[Array, 'Q G C'], *,
  level: str = 'token', low: float = 0.0, high: float = 2.0,
) -> Float[Array, 'Q G C']:  # fmt: skip
  """Truncated importance sampling (TIS): clip(ratio, low, high).

  Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy
  RL training". With `clip` as the loss and high = inf it is the decoupled
  objective of AReaL (2505.24298) eq. 7: the ratio of the update is to the
  trainer's own old policy (proximal), the weight accounts for the behaviour.

  Args:
    log_ratio: of trainer to sampler; anything where the mask is false.
    mask: tokens that count.
    level: of the ratio: 'token'; 'sequence', the product over the completion;
      'geometric', its mean per token.
    low, high: bounds.

  Raises:
    ValueError: no such level, or bounds in the wrong order.
  """
  return jnp.clip(_ratio(log_ratio, mask, level, low, high), low, high)


def rejected(
  log_ratio: Float[Array, 'Q G C'], mask: Bool[Array, 'Q G C'], *,
  level: str = 'token', low: float = 0.5, high: float = 2.0,
) -> Float[Array, 'Q G C']:  # fmt: skip
  """Masked importance sampling (MIS): the ratio, 0 outside [low, high].

  Args:
    log_ratio, mask, level, low, high: as in `truncated`.

  Raises:
    ValueError: as in `truncated`.
  """
  ratio = _ratio(log_ratio, mask, level, low, high)
  return jnp.where((low <= ratio) & (ratio <= high), ratio, 0.0)


def _ratio(log_ratio, mask, level, low, high):
  if level not in LEVELS:
    raise ValueError(f'level={level!r} is not one of {", ".join(LEVELS)}')
  if not 0 <= low < high:
    raise ValueError(f'low={low}, high={high}: 0 <= low < high is needed')
  log_ratio = jnp.where(mask, log_ratio, 0.0)
  if level != 'token':
    total = log_ratio.sum(-1, keepdims=True)
    if level == 'geometric':
      total = total / jnp.maximum(mask.sum(-1, keepdims=True), 1)
    log_ratio = jnp.broadcast_to(total, log_ratio.shape)
  return jnp.exp(log_ratio)
