"""The optax chain: clip, Adam moments, decoupled decay, schedule."""

import jax
import optax

from grpo_jax.models.params import name
from grpo_jax.structs import PyTree


def adamw(
  *,
  learning_rate: float,
  schedule: str,
  warmup_steps: int,
  total_steps: int,
  final_fraction: float,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
  moments_dtype: str = 'float32',
) -> optax.GradientTransformation:
  """AdamW (1711.05101) with clipping by global norm.

  Args:
    learning_rate: peak.
    schedule: 'constant', 'linear' or 'cosine' from the peak to
      `final_fraction` of it at `total_steps`.
    warmup_steps: updates of linear warm-up; the first one already moves.
    total_steps: optimizer updates in the run.
    final_fraction: last learning rate over the peak.
    b1, b2, eps: Adam's.
    weight_decay: of matrices only, times the learning rate.
    clip_norm: largest global gradient norm; 0 does not clip.
    moments_dtype: 'bfloat16' halves both moments' memory.

  Raises:
    ValueError: a number out of range, or no such schedule.
  """
  for field, value in (('learning_rate', learning_rate), ('eps', eps)):
    if value <= 0:
      raise ValueError(f'optimizer.{field}={value} must be above 0')
  for field, value in (('b1', b1), ('b2', b2)):
    if not 0 <= value < 1:
      raise ValueError(f'optimizer.{field}={value} must be in [0, 1)')
  for field, value in (
    ('warmup_steps', warmup_steps),
    ('weight_decay', weight_decay),
    ('clip_norm', clip_norm),
    ('final_fraction', final_fraction),
  ):
    if value < 0:
      raise ValueError(f'optimizer.{field}={value} must not be negative')
  rate = learning_rates(
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    total_steps=total_steps,
    final_fraction=final_fraction,
  )
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    _adam(moments_dtype, b1=b1, b2=b2, eps=eps),
    optax.add_decayed_weights(weight_decay, mask=_is_matrix),
    optax.scale_by_learning_rate(rate),
  )


def learning_rates(
  *,
  learning_rate: float,
  schedule: str,
  warmup_steps: int,
  total_steps: int,
  final_fraction: float,
) -> optax.Schedule:
  """Learning rate by number of updates already applied."""
  decay_steps = max(total_steps - warmup_steps, 1)
  end = learning_rate * final_fraction
  decays = {
    'constant': lambda: optax.constant_schedule(learning_rate),
    'linear': lambda: optax.linear_schedule(learning_rate, end, decay_steps),
    'cosine': lambda: optax.cosine_decay_schedule(
      learning_rate, decay_steps, final_fraction
    ),
  }
  if schedule not in decays:
    raise ValueError(
      f'optimizer.schedule={schedule!r} is not one of {", ".join(decays)}'
    )
  if not warmup_steps:
    return decays[schedule]()
  # From 1/warmup, not from 0: an update at rate 0 is a wasted rollout.
  warmup = optax.linear_schedule(
    learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1)
  )
  return optax.join_schedules([warmup, decays[schedule]()], [warmup_steps])


def _adam(dtype, *, b1, b2, eps):
  """Adam whose moments are rounded to `dtype` between updates; else fp32."""
  adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
  if dtype == 'float32':
    return adam
  if dtype != 'bfloat16':
    raise ValueError(
      f'optimizer.moments_dtype={dtype!r} is not float32 or bfloat16'
    )
  if b2 > 0.99:
    raise ValueError(
      f'optimizer.b2={b2} with moments_dtype=bfloat16: changes of less than '
      '1/256 an update are rounded away; use a b2 of 0.99 or less'
    )

  def cast(state, dtype):
    return state._replace(
      mu=optax.tree_utils.tree_cast(state.mu, dtype),
      nu=optax.tree_utils.tree_cast(state.nu, dtype),
    )

  def init(params):
    return cast(adam.init(params), dtype)

  def update(gradients, state, params=None):
    updates, state = adam.update(gradients, cast(state, 'float32'), params)
    return updates, cast(state, dtype)

  return optax.GradientTransformation(init, update)


def _is_matrix(params: PyTree) -> PyTree:
  def one(path, _):
    return not name(path).endswith(('norm', 'bias'))

  return jax.tree_util.tree_map_with_path(one, params)
