"""Per-token policy losses, KL estimators and token weights.

Functions here are per token; `objectives.py` joins them and `update.py` takes
the masked, weighted sum.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from grpo_jax.structs import Array

# Policy losses: (logprobs, old_logprobs, advantages, mask) -> (loss, whether
# the clip took the gradient away). Masked logprobs are 0 on both sides. rho is
# the token's ratio exp(logprobs - old_logprobs).

Loss = tuple[Float[Array, 'Q G C'], Bool[Array, 'Q G C']]


def clip(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
  *,
  eps_low: float = 0.2,
  eps_high: float = 0.2,
  dual_clip: float = float('inf'),
) -> Loss:
  """PPO's clipped surrogate: -min(rho A, clip(rho, 1-eps_low, 1+eps_high) A).

  PPO (1707.06347) eq. 7; DeepSeekMath (2402.03300) eq. 3. R1 sets eps = 10: no
  lower bound, upper bound 11.

  Args:
    logprobs, old_logprobs, advantages, mask: see above.
    eps_low, eps_high: bounds of the ratio.
    dual_clip: for A < 0 the loss is at most -dual_clip A (Ye et al.
      1912.09729 eq. 5). The two-sided clip of INTELLECT-2 (2505.07291) is the
      same for a delta above 1 + eps_high.
  """
  del mask
  return _clipped(
    jnp.exp(logprobs - old_logprobs), advantages, eps_low, eps_high, dual_clip
  )


def gspo(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
  *,
  eps_low: float = 3e-4,
  eps_high: float = 4e-4,
  dual_clip: float = float('inf'),
) -> Loss:
  """`clip` of the sequence's ratio s = exp(mean of log rho), in token form.

  GSPO (2507.18071) eq. 5 and 14: every token has the value s and a gradient of
  its own, s A grad logprob. Meant for `sequence_mean` weights: with those it is
  the sequence objective exactly.

  Args:
    logprobs, old_logprobs, advantages, mask: see above.
    eps_low, eps_high: bounds of s (the paper's, 5.1).
    dual_clip: as in `clip`.
  """
  ratio = jnp.exp(_sequence_log_ratio(logprobs, old_logprobs, mask))
  return _clipped(ratio, advantages, eps_low, eps_high, dual_clip)


def gmpo(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
  *,
  eps_low: float = 0.4,
  eps_high: float = 0.4,
) -> Loss:
  """-A times the geometric mean of the completion's clipped ratios.

  GMPO (2507.20673) eq. 4: like `gspo`, but the clip is each token's own, on
  log rho, and pessimistic as PPO's. Meant for `sequence_mean` weights.

  Args:
    logprobs, old_logprobs, advantages, mask: see above; one advantage a
      completion.
    eps_low, eps_high: bounds of log rho (the paper's).
  """
  log_ratio = jnp.where(mask, logprobs - old_logprobs, 0.0)
  held = jnp.clip(log_ratio, -eps_low, eps_high)
  clipped = jnp.where(advantages > 0, held < log_ratio, held > log_ratio)
  log_ratio = jnp.where(clipped, held, log_ratio)
  tokens = jnp.maximum(mask.sum(-1, keepdims=True, dtype=jnp.float32), 1.0)
  mean = jax.lax.stop_gradient(log_ratio.sum(-1, keepdims=True) / tokens)
  # The value of the mean at every token, the gradient of each token's own.
  own = log_ratio - jax.lax.stop_gradient(log_ratio)
  return -advantages * jnp.exp(mean + own), clipped & mask


def cispo(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
  *,
  eps_low: float = float('inf'),
  eps_high: float = 4.0,
) -> Loss:
  """-sg(clip(rho, 1-eps_low, 1+eps_high)) A logprob.

  MiniMax-M1 (2506.13585) eq. 4-5: the weight is bounded, no gradient is lost.
  The upper bound is 1 + eps_high; TRL's `epsilon_high` is the bound itself.

  Args:
    logprobs, old_logprobs, advantages, mask: see above.
    eps_low, eps_high: bounds of the weight; no lower one, as in the paper.

  Returns:
    Loss, and where the weight is at a bound.
  """
  del mask
  ratio = jnp.exp(jax.lax.stop_gradient(logprobs) - old_logprobs)
  held = jnp.clip(ratio, 1 - eps_low, 1 + eps_high)
  return -held * advantages * logprobs, held != ratio


def reinforce(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
) -> Loss:
  """-A logprob (Williams 1992): no ratio, so right for one update a rollout."""
  del old_logprobs
  return -advantages * logprobs, jnp.zeros_like(mask)


def sapo(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
  *,
  tau_pos: float = 1.0,
  tau_neg: float = 1.05,
) -> Loss:
  """-4/tau sigmoid(tau (rho - 1)) A: a soft gate in place of the clip.

  SAPO (2511.20347) eq. 5-6; on policy its gradient is REINFORCE's.

  Args:
    logprobs, old_logprobs, advantages, mask: see above.
    tau_pos, tau_neg: how fast the gate closes, for A > 0 and A <= 0.
  """
  ratio = jnp.exp(logprobs - old_logprobs)
  tau = jnp.where(advantages > 0, tau_pos, tau_neg)
  gate = 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))
  return -gate * advantages, jnp.zeros_like(mask)


def vespo(
  logprobs: Float[Array, 'Q G C'],
  old_logprobs: Float[Array, 'Q G C'],
  advantages: Float[Array, 'Q G #C'],
  mask: Bool[Array, 'Q G C'],
  *,
  k_pos: float = 2.0,
  lambda_pos: float = 3.0,
  k_neg: float = 3.0,
  lambda_neg: float = 2.0,
) -> Loss:
  """-sg(phi(w)) A logprob, phi(w) = w^k exp(lambda (1 - w)).

  VESPO, as in TRL 1.16: w is the product of the completion's ratios, phi(1) = 1
  and far-off completions fade out. Clamps of log w are TRL's.

  Args:
    logprobs, old_logprobs, advantages, mask: see above.
    k_pos, lambda_pos, k_neg, lambda_neg: of phi, for A >= 0 and A < 0.
  """
  log_ratio = jnp.clip(logprobs - old_logprobs, -20.0, 20.0)
  log_w = jnp.sum(log_ratio, -1, keepdims=True, where=mask)
  log_w = jax.lax.stop_gradient(jnp.clip(log_w, jnp.log(1e-8), 20.0))
  k = jnp.where(advantages >= 0, k_pos, k_neg)
  lam = jnp.where(advantages >= 0, lambda_pos, lambda_neg)
  phi = jnp.exp(k * log_w + lam * (1 - jnp.exp(log_w)))
  return -phi * advantages * logprobs, jnp.zeros_like(mask)


def _clipped(ratio, advantages, eps_low, eps_high, dual_clip):
  free = ratio * advantages
  held = jnp.clip(ratio, 1 - eps_low, 1 + eps_high) * advantages
  value = jnp.minimum(free, held)
  if dual_clip == float('inf'):
    return -value, held < free
  floor = jnp.where(advantages < 0, dual_clip * advantages, -jnp.inf)
  return -jnp.maximum(value, floor), (held < free) | (floor > value)


def _sequence_log_ratio(logprobs, old_logprobs, mask):
  """Mean log rho of the completion, with the gradient of each token's own."""
  log_ratio = jnp.where(mask, logprobs - old_logprobs, 0.0)
  tokens = jnp.maximum(mask.sum(-1, keepdims=True, dtype=jnp.float32), 1.0)
  mean = jax.lax.stop_gradient(log_ratio.sum(-1, keepdims=True) / tokens)
  return mean + logprobs - jax.lax.stop_gradient(logprobs)


# KL estimators of x = log ref - log policy per sampled token. log_ratio is the
# token's log rho, which only `k3_ratio` needs.


def k1(
  x: Float[Array, 'Q G C'], log_ratio: Float[Array, 'Q G C']
) -> Float[Array, 'Q G C']:
  """-x (Schulman 2020): the KL itself, on average. For the reward only.

  As a loss its gradient is zero on average: E[grad logprob] = 0.
  """
  del log_ratio
  return -x


def k2(
  x: Float[Array, 'Q G C'], log_ratio: Float[Array, 'Q G C']
) -> Float[Array, 'Q G C']:
  """x^2 / 2 >= 0 (Schulman 2020).

  Its mean is KL(policy || reference) to second order; its gradient as a loss,
  on-policy, is exactly that of KL(policy || reference).
  """
  del log_ratio
  return x**2 / 2


def k3(
  x: Float[Array, 'Q G C'], log_ratio: Float[Array, 'Q G C']
) -> Float[Array, 'Q G C']:
  """exp(x) - x - 1 >= 0 (Schulman 2020; DeepSeekMath eq. 4).

  Its mean on the policy's samples is KL(policy || reference); its gradient as a
  loss, on-policy, is that of KL(reference || policy).
  """
  del log_ratio
  return jnp.expm1(x) - x


def k3_ratio(
  x: Float[Array, 'Q G C'], log_ratio: Float[Array, 'Q G C']
) -> Float[Array, 'Q G C']:
  """rho (exp(x) - x - 1), the ratio with its gradient (DeepSeek-V3.2, 3.1).

  Unbiased off-policy, and its gradient too is that of KL(policy || reference).
  """
  return jnp.exp(log_ratio) * (jnp.expm1(x) - x)


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


def sequence_sum(mask: Bool[Array, 'Q G C']) -> Float[Array, 'Q G C']:
  """1 / completions: long completions weigh more (LUSPO 2602.05261)."""
  completions = mask.any(-1).sum(dtype=jnp.float32)
  return mask / jnp.maximum(completions, 1.0)


def prompt_mean(mask: Bool[Array, 'Q G C']) -> Float[Array, 'Q G C']:
  """1 / (tokens of the group * groups): every prompt weighs the same.

  A group without a counted token is not counted either.
  """
  tokens = mask.sum((1, 2), keepdims=True, dtype=jnp.float32)
  groups = (tokens > 0).sum(dtype=jnp.float32)
  return mask / jnp.maximum(tokens, 1.0) / jnp.maximum(groups, 1.0)


def constant(
  mask: Bool[Array, 'Q G C'], *, length: int
) -> Float[Array, 'Q G C']:
  """1 / (length * completions) (Dr. GRPO 2503.20783, 3.2).

  `length` is the configured limit, never the padded width of a batch.
  """
  completions = mask.any(-1).sum(dtype=jnp.float32)
  return mask / (length * jnp.maximum(completions, 1.0))
