"""Objectives: what `update` minimises, per token, and metrics per token.

An algorithm is advantages x token weights x per-token loss (+ KL). Here the
loss of `losses` meets the batch; the masked, weighted sum is `update.py`'s.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from grpo_jax.structs import Array, Batch

# Metrics of what the policy sampled; a teacher's tokens, which it did not, are
# 0 in them, and their means are over the others.
OF_SAMPLED = ('clip_share', 'ratio', 'logprob_gap', 'kl')


def policy(
  batch: Batch,
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
  *,
  loss,
  kl,
  kl_coef: float,
  entropy_coef: float = 0.0,
  teacher_gamma: float = 0.1,
  off_policy_limit: float = float('inf'),
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """loss * factor + kl_coef * KL(policy || reference) - entropy_coef * entropy.

  Args:
    batch: with advantages and old_logprobs, and ref_logprobs if the KL is
      wanted. Its factors scale the loss alone; a factor of 0 takes the token's
      entropy bonus too.
    logprobs, entropy: of the policy being trained.
    loss: a policy loss of `losses` with its arguments bound.
    kl: a KL estimator of `losses`.
    kl_coef: weight of the KL term (beta).
    entropy_coef: weight of the entropy bonus.
    teacher_gamma: a teacher's trace has the loss -f(p) A, f(p) = p / (p +
      gamma), which still moves tokens that the policy finds unlikely; no ratio
      and no clip (LUFFY 2504.14945 eq. 6-7). Nor has it a KL term, which is an
      estimate from the policy's own samples.
    off_policy_limit: a completion of negative advantage has no policy loss once
      the mean of log sampler - log policy over its tokens is above this
      (DeepSeek-V3.2 2512.02556 eq. 9). Denominators still count it.

  Returns:
    Loss per token, and metrics per token: beside those that losses name,
    'sampled_share' where a batch has teachers, 1 for the policy's own tokens.
    All may hold anything where the mask is false.
  """
  # Masked positions get a ratio of exactly 1: no inf can reach a gradient.
  logprobs = jnp.where(batch.mask, logprobs, 0.0)
  old_logprobs = jnp.where(batch.mask, batch.old_logprobs, 0.0)
  advantages = batch.advantages
  if advantages.ndim == 2:
    advantages = advantages[:, :, None]
  if batch.teacher is not None:
    given = batch.teacher[:, :, None]
    old_logprobs = jnp.where(
      given, jax.lax.stop_gradient(logprobs), old_logprobs
    )
  log_ratio = logprobs - old_logprobs
  token_loss, clipped = loss(logprobs, old_logprobs, advantages, batch.mask)
  if batch.teacher is not None:
    p = jnp.exp(logprobs)
    taught = -p / (p + teacher_gamma) * advantages
    token_loss = jnp.where(given, taught, token_loss)
  if batch.factors is not None:
    token_loss = token_loss * batch.factors
  if off_policy_limit < float('inf'):
    kept = _near(batch, logprobs, old_logprobs, off_policy_limit)
    if batch.teacher is not None:
      kept = kept | given
    token_loss = jnp.where((advantages >= 0) | kept, token_loss, 0.0)
  metrics = {
    'policy_loss': token_loss,
    'entropy': entropy,
    'clip_share': clipped,
    'ratio': jnp.exp(log_ratio),
    'logprob_gap': jnp.abs(_gap(batch, log_ratio)),
  }
  if batch.ref_logprobs is not None:
    x = jnp.where(batch.mask, batch.ref_logprobs - logprobs, 0.0)
    metrics['kl'] = kl(x, log_ratio)
  if batch.teacher is not None:
    own = jnp.broadcast_to(~given, logprobs.shape)
    metrics |= {
      k: jnp.where(own, metrics[k], 0.0) for k in OF_SAMPLED if k in metrics
    }
    metrics['sampled_share'] = own
  if kl_coef and batch.ref_logprobs is not None:
    token_loss = token_loss + kl_coef * metrics['kl']
  if entropy_coef:
    bonus = jnp.where(batch.mask, entropy, 0.0)
    if batch.factors is not None:
      bonus = jnp.where(batch.factors > 0, bonus, 0.0)
    token_loss = token_loss - entropy_coef * bonus
  return token_loss, metrics


def value(
  batch: Batch, values: Float[Array, 'Q G C'], *, clip: float
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """A critic's (V - return)^2 / 2, pessimistic about moves beyond the clip.

  max of that loss and the same with V held within `clip` of the value at
  sampling (PPO's code; Engstrom et al. 2005.12729, 3).

  Args:
    batch: with values and returns.
    values: of the critic being trained.
    clip: > 0; inf does not clip.
  """
  values, old, returns = (
    jnp.where(batch.mask, x, 0.0) for x in (values, batch.values, batch.returns)
  )
  held = old + jnp.clip(values - old, -clip, clip)
  free, kept = (values - returns) ** 2 / 2, (held - returns) ** 2 / 2
  return jnp.maximum(free, kept), {
    'value_loss': free,
    'value': values,
    'return': returns,
    'value_clip_share': kept > free,
  }


def policy_and_value(
  batch: Batch,
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
  values: Float[Array, 'Q G C'],
  *,
  policy_loss,
  value_loss,
  value_coef: float,
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """Both objectives, for a critic that shares the policy's body (PPO eq. 9)."""
  first, metrics = policy_loss(batch, logprobs, entropy)
  second, more = value_loss(batch, values)
  return first + value_coef * second, metrics | more


def _near(batch, logprobs, old_logprobs, limit):
  """[Q G 1] completions that the policy has not moved away from."""
  sampler = batch.sampler_logprobs
  sampler = old_logprobs if sampler is None else sampler
  moved = jnp.where(batch.mask, sampler - logprobs, 0.0)
  tokens = jnp.maximum(batch.mask.sum(-1, keepdims=True), 1)
  return moved.sum(-1, keepdims=True) / tokens <= limit


def _gap(batch, log_ratio):
  """Log trainer / sampler; at the first update of a rollout both are as old."""
  if batch.sampler_logprobs is None:
    return log_ratio
  gap = batch.old_logprobs - batch.sampler_logprobs
  if batch.teacher is not None:
    gap = jnp.where(batch.teacher[:, :, None], 0.0, gap)
  return gap


def supervised(
  batch: Batch,
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """Cross entropy in nats per token."""
  loss = -jnp.where(batch.mask, logprobs, 0.0)
  return loss, {'nll': loss, 'entropy': entropy}
