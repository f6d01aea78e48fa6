"""Advantages: rewards [Q G] to advantages [Q G], groups by position.

`gae` alone is per token and needs a critic.
"""

import jax
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
    std: 'group', 'batch' (of the centred rewards), 'raw' (of the batch's
      rewards as they are: Lite PPO 2508.08221, TRL's 'batch') or 'none'.
    ddof: 1 for the sample standard deviation, 0 for the population's.
    eps: added to the standard deviation.

  Returns:
    float32. Zero for missing rewards, and exactly zero for a group whose
    rewards are all equal: a float mean would leave a residue.
  """
  if std not in ('group', 'batch', 'raw', 'none'):
    raise ValueError(f'std={std!r} is not one of group, batch, raw, none')
  present, centred = _centre(rewards)
  if std == 'none':
    return centred
  axis = 1 if std == 'group' else (0, 1)
  n = present.sum(axis, keepdims=True)
  spread = centred
  if std == 'raw':
    r = jnp.where(present, rewards, 0.0)
    spread = jnp.where(present, r - _mean(r, present, axis=axis), 0.0)
  variance = (spread**2).sum(axis, keepdims=True) / jnp.maximum(n - ddof, 1)
  # With eps = 0 a group without signal would be 0 / 0.
  return jnp.where(variance > 0, centred / (jnp.sqrt(variance) + eps), 0.0)


def rloo(rewards: Float[Array, 'Q G']) -> Float[Array, 'Q G']:
  """REINFORCE leave-one-out: A_i = r_i - mean of the other rewards.

  Ahmadian et al. (2402.14740), as n / (n - 1) (r - mean).

  Args:
    rewards: as in `group`.

  Returns:
    As in `group`; zero for the only reward of a group.
  """
  present, centred = _centre(rewards)
  n = present.sum(1, keepdims=True)
  return centred * n / jnp.maximum(n - 1, 1)


def reinforce_pp(
  rewards: Float[Array, 'Q G'], *, ddof: int = 1, eps: float = 1e-8
) -> Float[Array, 'Q G']:
  """REINFORCE++: A = (r - batch mean) / (batch std + eps), no groups.

  Hu et al. (2501.03262), for one answer a prompt. Its form with a group
  baseline is `group` with std='batch'.

  Args:
    rewards: as in `group`.
    ddof: as in `group`.
    eps: added to the standard deviation.

  Returns:
    float32. Zero for missing rewards, and exactly zero everywhere if all the
    batch's rewards are equal.
  """
  one_group = rewards.reshape(1, -1)
  values = group(one_group, std='group', ddof=ddof, eps=eps)
  return values.reshape(rewards.shape)


def max_rl(
  rewards: Float[Array, 'Q G'], *, eps: float = 1e-6
) -> Float[Array, 'Q G']:
  """Maximum likelihood RL: A = (r - mean) / (mean + eps).

  Tajwar et al. (2602.02710): with rewards 0 and 1 its gradient is that of
  log pass rate, truncated at what G samples can tell.

  Args:
    rewards: as in `group`, and not negative.
    eps: added to the mean.

  Returns:
    As in `group`; zero too for a group whose mean is negative, where the
    objective is not defined.
  """
  present, centred = _centre(rewards)
  mean = _mean(jnp.where(present, rewards, 0.0), present, axis=1)
  return jnp.where(mean > 0, centred / (jnp.maximum(mean, 0) + eps), 0.0)


def gae(
  rewards: Float[Array, 'Q G C'],
  values: Float[Array, 'Q G C'],
  mask: Bool[Array, 'Q G C'],
  *,
  lam: float = 1.0,
  gamma: float = 1.0,
  whiten: bool = True,
) -> tuple[Float[Array, 'Q G C'], Float[Array, 'Q G C']]:
  """Generalised advantage estimation, and the returns a critic learns.

  Schulman et al. (1506.02438) eq. 16, from the last token back:
    delta_t = r_t + gamma V_(t+1) - V_t,  A_t = delta_t + gamma lam A_(t+1),
  with V = A = 0 past the last token; returns are A + V. With lam = gamma = 1,
  A_t is the reward still to come minus V_t.

  Args:
    rewards: of each token; mostly 0 but for the last.
    values: V before each token, of the critic that sampled.
    mask: tokens that count.
    lam, gamma: in [0, 1].
    whiten: advantages to mean 0 and standard deviation 1 over all counted
      tokens of the rollout, after the returns are taken.

  Returns:
    Advantages and returns, float32, 0 where the mask is false.

  Raises:
    ValueError: lam or gamma out of range.
  """
  for name, value in (('lam', lam), ('gamma', gamma)):
    if not 0 <= value <= 1:
      raise ValueError(f'gae: {name}={value} must be in [0, 1]')
  values = jnp.where(mask, values, 0.0)

  def back(carry, xs):
    next_advantage, next_value = carry
    reward, value, counted = xs
    delta = reward + gamma * next_value - value
    advantage = jnp.where(counted, delta + gamma * lam * next_advantage, 0.0)
    return (advantage, value), advantage

  zero = jnp.zeros(mask.shape[:2], jnp.float32)
  by_token = [jnp.moveaxis(x, 2, 0) for x in (rewards, values, mask)]
  _, advantages = jax.lax.scan(
    back, (zero, zero), tuple(by_token), reverse=True
  )
  advantages = jnp.moveaxis(advantages, 0, 2)
  returns = jnp.where(mask, advantages + values, 0.0)
  if whiten:
    n = jnp.maximum(mask.sum(), 1)
    centred = jnp.where(mask, advantages - advantages.sum() / n, 0.0)
    advantages = centred / (jnp.sqrt(jnp.sum(centred**2) / n) + 1e-8)
  return advantages, returns


def zero_variance(group_rewards: Float[Array, 'Q G']) -> Bool[Array, 'Q']:
  """Groups without a signal: at most one distinct reward, by equality."""
  missing = jnp.isnan(group_rewards)
  low = jnp.min(jnp.where(missing, jnp.inf, group_rewards), 1)
  high = jnp.max(jnp.where(missing, -jnp.inf, group_rewards), 1)
  return low >= high


def _centre(rewards):
  """Which rewards are present, and r - mean of the group, 0 without signal."""
  present = ~jnp.isnan(rewards)
  signal = present & ~zero_variance(rewards)[:, None]
  r = jnp.where(present, rewards, 0.0)
  return present, jnp.where(signal, r - _mean(r, present, axis=1), 0.0)


def _mean(x, where, axis):
  total = jnp.sum(x, axis, keepdims=True, where=where)
  return total / jnp.maximum(where.sum(axis, keepdims=True), 1)
