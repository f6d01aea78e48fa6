"""Objectives, per-token losses, KL estimators and token weights.

An algorithm is advantages x token weights x per-token loss (+ KL). Functions
here are per token; the masked, weighted sum is `update.py`'s.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from grpo_jax.structs import Array, Batch

# Objectives: what `update` minimises, per token, and per-token metrics.


def policy(
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
  batch: Batch,
  *,
  loss,
  kl,
  kl_coef: float,
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """GRPO's token objective: loss + kl_coef * KL(policy || reference).

  Args:
    logprobs, entropy: of the policy being trained.
    batch: with advantages and old_logprobs, and ref_logprobs if kl_coef > 0.
    loss: `clip` with its arguments bound.
    kl: `k2` or `k3`.
    kl_coef: weight of the KL term (beta).

  Returns:
    Loss per token, and metrics per token. Both may hold anything where the
    mask is false.
  """
  # Masked positions get a ratio of exactly 1: no inf can reach a gradient.
  log_ratio = jnp.where(batch.mask, logprobs - batch.old_logprobs, 0.0)
  token_loss, clipped = loss(log_ratio, batch.advantages[:, :, None])
  metrics = {
    'policy_loss': token_loss,
    'entropy': entropy,
    'clip_share': clipped,
    'ratio': jnp.exp(log_ratio),
    'logprob_gap': jnp.abs(log_ratio),
  }
  if kl_coef > 0:
    gap = jnp.where(batch.mask, batch.ref_logprobs - logprobs, 0.0)
    divergence = kl(gap)
    metrics['kl'] = divergence
    token_loss = token_loss + kl_coef * divergence
  return token_loss, metrics


def supervised(
  logprobs: Float[Array, 'Q G C'],
  entropy: Float[Array, 'Q G C'],
  batch: Batch,
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """Cross entropy in nats per token."""
  loss = -jnp.where(batch.mask, logprobs, 0.0)
  return loss, {'nll': loss, 'entropy': entropy}


# Per-token policy losses: (log ratio [Q G C], advantages [Q G 1]) -> (loss,
# whether the clip took the gradient away).


def clip(
  log_ratio: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G 1'],
  *,
  eps_low: float = 0.2,
  eps_high: float = 0.2,
) -> tuple[Float[Array, 'Q G C'], Bool[Array, 'Q G C']]:
  """PPO's clipped surrogate: -min(rho A, clip(rho, 1-eps_low, 1+eps_high) A).

  PPO (1707.06347) eq. 7; DeepSeekMath (2402.03300) eq. 3. rho is the token's
  ratio. R1 sets eps = 10: no lower bound, upper bound 11.
  """
  ratio = jnp.exp(log_ratio)
  free = ratio * advantages
  held = jnp.clip(ratio, 1 - eps_low, 1 + eps_high) * advantages
  return -jnp.minimum(free, held), held < free


# KL estimators of x = log ref - log policy, per sampled token.


def k2(x: Float[Array, 'Q G C']) -> Float[Array, 'Q G C']:
  """x^2 / 2 >= 0 (Schulman 2020).

  Its mean is KL(policy || reference) to second order; its gradient as a loss,
  on-policy, is exactly that of KL(policy || reference).
  """
  return x**2 / 2


def k3(x: Float[Array, 'Q G C']) -> Float[Array, 'Q G C']:
  """exp(x) - x - 1 >= 0 (Schulman 2020; DeepSeekMath eq. 4).

  Its mean on the policy's samples is KL(policy || reference); its gradient as a
  loss, on-policy, is that of KL(reference || policy).
  """
  return jnp.expm1(x) - x


# Token weights: mask -> weights that already hold every normaliser. They are
# computed over the whole batch of an optimizer update, before any split, so
# that microbatches and devices only ever add.


def token_mean(mask: Bool[Array, 'Q G C']) -> Float[Array, 'Q G C']:
  """1 / tokens in the batch (DAPO 2503.14476 eq. 8)."""
  tokens = mask.sum(dtype=jnp.float32)
  return mask / jnp.maximum(tokens, 1.0)


def sequence_mean(mask: Bool[Array, 'Q G C']) -> Float[Array, 'Q G C']:
  """1 / (tokens of the completion * completions) (DeepSeekMath eq. 3).

  A completion without a counted token is not counted either.
  """
  tokens = mask.sum(-1, keepdims=True, dtype=jnp.float32)
  completions = (tokens > 0).sum(dtype=jnp.float32)
  return mask / jnp.maximum(tokens, 1.0) / jnp.maximum(completions, 1.0)


def constant(
  mask: Bool[Array, 'Q G C'], *, length: int
) -> Float[Array, 'Q G C']:
  """1 / (length * completions) (Dr. GRPO 2503.20783, 3.2).

  `length` is the configured limit, never the padded width of a batch.
  """
  completions = mask.any(-1).sum(dtype=jnp.float32)
  return mask / (length * jnp.maximum(completions, 1.0))
