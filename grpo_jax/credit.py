"""Stage 7 of a step: rewards to what each token of the batch learns (device).

Advantages, the filters that clear masks, and the constant factors of tokens.
All of it looks at the whole rollout, before any split into minibatches.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Bool, Float

from grpo_jax.structs import Array, Batch


def assign(
  batch: Batch,
  rewards: Float[Array, 'Q G'],
  finished: Bool[Array, 'Q G'],
  counted: Bool[Array, 'Q'],
  *,
  estimate: Callable,
  importance: Callable | None = None,
  entropy_share: float = 1.0,
  mask_truncated: bool = False,
) -> tuple[Batch, dict[str, Array]]:
  """The batch with advantages, and with its mask and factors set.

  Args:
    batch: a rollout with its logprobs.
    rewards: NaN where missing.
    finished: completions that stopped by themselves.
    counted: groups that are learned from. The others do not count at all:
      neither as tokens, nor in the KL, nor in what advantages take from the
      whole batch.
    estimate: (batch, rewards, mask that is left) -> batch with advantages, and
      scalars to report; `by_group` or `by_critic`.
    importance: a function of `importance`, of trainer to sampler.
    entropy_share: share of the counted tokens, those of highest entropy, that
      carry the policy loss (2506.01939 eq. 6: 0.2). Denominators still count
      all of them.
    mask_truncated: nor do completions cut at the length limit (DAPO
      2503.14476, 3.4). Their rewards still count in their group's mean.
  """
  mask = batch.mask & counted[:, None, None]
  if mask_truncated:
    mask = mask & finished[:, :, None]
  factors = _factors(batch, mask, importance, entropy_share)
  rewards = jnp.where(counted[:, None], rewards, jnp.nan)
  batch, metrics = estimate(batch, rewards, mask)
  return batch.replace(factors=factors, entropy=None), metrics


def by_group(
  batch: Batch,
  rewards: Float[Array, 'Q G'],
  mask: Bool[Array, 'Q G C'],
  *,
  advantages: Callable,
  penalty: Callable | None,
  kl_coef: float,
) -> tuple[Batch, dict[str, Array]]:
  """Advantages [Q G] from the rewards of a group.

  0 where the reward is missing: such a completion still counts in the KL and in
  denominators, as in TRL.

  Args:
    batch, rewards: as in `assign`.
    mask: what is left to learn from.
    advantages: rewards [Q G] -> advantages [Q G].
    penalty: a KL estimator of `losses`; its sum over a completion, times
      kl_coef, is taken off the reward (RLOO 2402.14740, 2.1). None where the
      KL is in the loss.
    kl_coef: weight of the penalty.
  """
  if penalty is not None:
    rewards = rewards - kl_coef * token_penalty(batch, penalty).sum(-1)
  return batch.replace(mask=mask, advantages=advantages(rewards)), {}


def by_critic(
  batch: Batch,
  rewards: Float[Array, 'Q G'],
  mask: Bool[Array, 'Q G C'],
  *,
  advantages: Callable,
  penalty: Callable | None,
  kl_coef: float,
) -> tuple[Batch, dict[str, Array]]:
  """Advantages [Q G C] and returns from a value model.

  The reward is that of a completion's last token; the penalty is each token's
  own (InstructGPT 2203.02155 eq. 2). A missing reward clears the mask.

  Args:
    batch: with values.
    rewards, mask, penalty, kl_coef: as in `by_group`.
    advantages: `advantages.gae` with its arguments bound.
  """
  mask = mask & ~jnp.isnan(rewards)[:, :, None]
  last = jnp.arange(mask.shape[2]) == batch.mask.sum(-1, keepdims=True) - 1
  per_token = jnp.where(last & mask, rewards[:, :, None], 0.0)
  if penalty is not None:
    per_token = per_token - kl_coef * token_penalty(batch, penalty)
  found, returns = advantages(per_token, batch.values, mask)
  counted = jnp.maximum(mask.sum(), 1)

  def mean(x):
    return jnp.sum(x, where=mask) / counted

  def variance(x):
    return mean((x - mean(x)) ** 2)

  explained = 1 - variance(returns - batch.values) / variance(returns)
  # Of returns that differ by fp32's rounding alone there is nothing to explain.
  differ = variance(returns) > 1e-10 * mean(returns**2)
  explained = jnp.where(differ, explained, jnp.nan)
  return (
    batch.replace(mask=mask, advantages=found, returns=returns),
    {'value/explained_variance': explained},
  )


def token_penalty(batch: Batch, kl: Callable) -> Float[Array, 'Q G C']:
  """KL estimate of every sampled token, 0 where there is none."""
  sampled = batch.mask
  if batch.teacher is not None:
    # The policy did not choose these: they say nothing of its KL.
    sampled = sampled & ~batch.teacher[:, :, None]
  x = jnp.where(sampled, batch.ref_logprobs - batch.old_logprobs, 0.0)
  return jnp.where(sampled, kl(x, jnp.zeros_like(x)), 0.0)


def top_entropy(
  entropy: Float[Array, 'Q G C'], mask: Bool[Array, 'Q G C'], share: float
) -> Bool[Array, 'Q G C']:
  """The counted tokens of highest entropy, at least `share` of all counted.

  Ties at the threshold are all in. The threshold is one of the whole batch.
  """
  ranked = jnp.sort(jnp.where(mask, entropy, jnp.inf).ravel())
  # Counted ones come first, ascending; 1e-4 undoes the rounding of 1 - share.
  counted = mask.sum()
  first = jnp.floor(counted * (1 - share) + 1e-4).astype(jnp.int32)
  threshold = ranked[jnp.clip(first, 0, jnp.maximum(counted - 1, 0))]
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
