"""Stage 7 of a step: rewards to what each token of the batch learns (device).

Advantages, the filters that clear masks, and the constant factors of tokens.
All of it looks at the whole rollout, before any split into minibatches.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Bool, Float

from grpo_jax.advantages import zero_variance
from grpo_jax.structs import Array, Batch


def assign(
  batch: Batch,
  rewards: Float[Array, 'Q G'],
  finished: Bool[Array, 'Q G'],
  *,
  advantages: Callable,
  penalty: Callable | None = None,
  kl_coef: float = 0.0,
  importance: Callable | None = None,
  entropy_share: float = 1.0,
  drop_zero_variance: bool = False,
  mask_truncated: bool = False,
) -> Batch:
  """The batch with advantages, and with its mask and factors set.

  Args:
    batch: a rollout with its logprobs, as `programs.rescore` leaves it.
    rewards: NaN where missing.
    finished: completions that stopped by themselves.
    advantages: rewards [Q G] -> advantages [Q G].
    penalty: a KL estimator of `losses`; its sum over a completion, times
      kl_coef, is taken off the reward (InstructGPT 2203.02155 eq. 2; RLOO
      2402.14740). None where the KL is in the loss.
    kl_coef: weight of the penalty.
    importance: a function of `importance`, of trainer to sampler.
    entropy_share: share of the counted tokens, those of highest entropy, that
      carry the policy loss (2506.01939 eq. 6: 0.2). Denominators still count
      all of them.
    drop_zero_variance: a group whose rewards are all equal, by the rewards
      given here, is not counted at all: neither as tokens nor in the KL.
    mask_truncated: nor are completions cut at the length limit (DAPO
      2503.14476, 3.4). Their rewards still count in their group's mean.
  """
  mask = batch.mask
  if mask_truncated:
    mask = mask & finished[:, :, None]
  if drop_zero_variance:
    mask = mask & ~zero_variance(rewards)[:, None, None]
  if penalty is not None:
    rewards = rewards - kl_coef * token_penalty(batch, penalty).sum(-1)
  return batch.replace(
    mask=mask,
    advantages=advantages(rewards),
    factors=_factors(batch, mask, importance, entropy_share),
    entropy=None,
  )


def token_penalty(batch: Batch, kl: Callable) -> Float[Array, 'Q G C']:
  """KL estimate of every sampled token, 0 where there is none."""
  x = jnp.where(batch.mask, batch.ref_logprobs - batch.old_logprobs, 0.0)
  return jnp.where(batch.mask, kl(x, jnp.zeros_like(x)), 0.0)


def top_entropy(
  entropy: Float[Array, 'Q G C'], mask: Bool[Array, 'Q G C'], share: float
) -> Bool[Array, 'Q G C']:
  """The counted tokens of highest entropy, at least `share` of all counted.

  Ties at the threshold are all in. The threshold is one of the whole batch.
  """
  ranked = jnp.sort(jnp.where(mask, entropy, jnp.inf).ravel())
  # Counted ones come first, ascending.
  lowest_in = jnp.floor(mask.sum() * (1 - share) + 1e-4).astype(jnp.int32)
  threshold = ranked[jnp.minimum(lowest_in, ranked.size - 1)]
  return mask & (entropy >= threshold)


def _factors(batch, mask, importance, entropy_share):
  factors = None
  if importance is not None:
    log_ratio = batch.old_logprobs - batch.sampler_logprobs
    factors = importance(log_ratio, mask)
  if entropy_share < 1:
    chosen = top_entropy(batch.entropy, mask, entropy_share)
    factors = jnp.where(chosen, 1.0 if factors is None else factors, 0.0)
  if factors is not None and batch.teacher is not None:
    # A teacher's trace was not sampled by the policy.
    factors = jnp.where(batch.teacher[:, :, None], 1.0, factors)
  return factors
