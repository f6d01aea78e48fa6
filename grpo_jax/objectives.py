"""Objectives: what `update` minimises, per token, and metrics per token.

An algorithm is advantages x token weights x per-token loss (+ KL). Here the
loss of `losses` meets the batch; the masked, weighted sum is `update.py`'s.
"""

import jax.numpy as jnp
from jaxtyping import Float

from grpo_jax.structs import Array, Batch


def policy(
  batch: Batch,
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
  *,
  loss,
  kl,
  kl_coef: float,
  entropy_coef: float = 0.0,
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

  Returns:
    Loss per token, and metrics per token. Both may hold anything where the
    mask is false.
  """
  # Masked positions get a ratio of exactly 1: no inf can reach a gradient.
  logprobs = jnp.where(batch.mask, logprobs, 0.0)
  old_logprobs = jnp.where(batch.mask, batch.old_logprobs, 0.0)
  log_ratio = logprobs - old_logprobs
  advantages = batch.advantages
  if advantages.ndim == 2:
    advantages = advantages[:, :, None]
  token_loss, clipped = loss(logprobs, old_logprobs, advantages, batch.mask)
  if batch.factors is not None:
    token_loss = token_loss * batch.factors
  metrics = {
    'policy_loss': token_loss,
    'entropy': entropy,
    'clip_share': clipped,
    'ratio': jnp.exp(log_ratio),
    'logprob_gap': jnp.abs(log_ratio),
  }
  if batch.ref_logprobs is not None:
    gap = jnp.where(batch.mask, batch.ref_logprobs - logprobs, 0.0)
    divergence = kl(gap, log_ratio)
    metrics['kl'] = divergence
    token_loss = token_loss + kl_coef * divergence
  if entropy_coef:
    bonus = jnp.where(batch.mask, entropy, 0.0)
    if batch.factors is not None:
      bonus = jnp.where(batch.factors > 0, bonus, 0.0)
    token_loss = token_loss - entropy_coef * bonus
  return token_loss, metrics


def supervised(
  batch: Batch,
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """Cross entropy in nats per token."""
  loss = -jnp.where(batch.mask, logprobs, 0.0)
  return loss, {'nll': loss, 'entropy': entropy}
