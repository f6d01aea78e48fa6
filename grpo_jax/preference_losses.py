"""What a reward model minimises, of its score after the last token.

Each takes a Batch whose mask is true on that token alone and the values [Q G C]
before every target, and returns loss and metrics per token, as the objectives
of `update` do. `batch.returns` holds what is wanted of the score there,
`batch.factors`, where it is given, the weight of the row.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from grpo_jax.structs import Array, Batch


def pairwise(
  batch: Batch,
  values: Float[Array, 'Q G C'],
  *,
  margin_scale: float = 0.0,
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """-log sigmoid(r_chosen - r_rejected - margin_scale margin).

  Bradley-Terry (2203.02155 eq. 1); the margin is Llama 2's (2307.09288 eq. 2).
  Both rows of a pair have its loss, so the mean over rows is that over pairs.

  Args:
    batch: groups of two, the chosen response first; returns are the margin of
      the chosen and 0.
    values: see above.
    margin_scale: of the data's margins; 0 ignores them.
  """
  scores, wanted = at_last(batch, values), at_last(batch, batch.returns)
  gap = scores[:, 0] - scores[:, 1]
  margin = margin_scale * (wanted[:, 0] - wanted[:, 1])
  loss = -jax.nn.log_sigmoid(gap - margin)
  right = jnp.where(gap == 0, 0.5, gap > 0)

  def of_both(x):
    return jnp.broadcast_to(x[:, None, None], values.shape)

  return _weighed(batch, of_both(loss)), {
    'accuracy': of_both(right),
    'margin': of_both(gap),
    'score': values,
  }


def pointwise(
  batch: Batch, values: Float[Array, 'Q G C']
) -> tuple[Float[Array, 'Q G C'], dict[str, Array]]:
  """-label log sigmoid(r) - (1 - label) log sigmoid(-r): cross entropy.

  Args:
    batch: returns are the labels, in [0, 1].
    values: see above.
  """
  label = batch.returns
  loss = -label * jax.nn.log_sigmoid(values)
  loss -= (1 - label) * jax.nn.log_sigmoid(-values)
  side = jnp.sign(values) * jnp.sign(label - 0.5)
  return _weighed(batch, loss), {
    'accuracy': (1 + side) / 2,
    # How far the score is on the right side.
    'margin': values * jnp.sign(label - 0.5),
    'score': values,
  }


def at_last(batch: Batch, values: Float[Array, 'Q G C']) -> Float[Array, 'Q G']:
  """What `values` holds on the one token that the mask is true on, or 0."""
  return jnp.sum(jnp.where(batch.mask, values, 0.0), -1)


def _weighed(batch, loss):
  return loss if batch.factors is None else loss * batch.factors
