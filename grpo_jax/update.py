"""One optimizer update from one minibatch (device side).

The batch is split into microbatches that are scanned; each adds its part of
one weighted sum. Weights come from the whole batch, so the result does not
depend on the split.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import optax

from grpo_jax.structs import Array, Batch, PyTree, TrainState


def init_state(
  params: PyTree,
  tx: optax.GradientTransformation,
  *,
  reference: bool,
) -> TrainState:
  """Step 0. With `reference`, a copy of the parameters is the reference."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    ref_params=jax.tree.map(jnp.copy, params) if reference else None,
  )


def reset_reference(state: TrainState) -> TrainState:
  """The policy as it is becomes the reference (R1 2501.12948v2, 2.1)."""
  return state.replace(ref_params=jax.tree.map(jnp.copy, state.params))


def update(
  state: TrainState,
  batch: Batch,
  *,
  score: Callable,
  objective: Callable,
  weigh: Callable,
  tx: optax.GradientTransformation,
  microbatches: int,
) -> tuple[TrainState, dict[str, Array]]:
  """Applies one optimizer update, or none if anything is not finite.

  Args:
    state: donated by the caller.
    batch: one minibatch.
    score: (params, batch) -> what the objective takes, as logprobs and entropy
      [Q G C].
    objective: (batch, *scores) -> per-token loss and metrics; see
      `objectives.policy`.
    weigh: mask -> weights [Q G C]; see `losses.token_mean`.
    tx: the optimizer.
    microbatches: how many parts Q is split into.

  Returns:
    The new state, and scalars: 'loss', 'grad_norm', 'nonfinite' (1.0 when the
    update was skipped), the number of counted 'tokens', means over them of the
    objective's metrics, and '<name>_max' of 'logprob_gap'.
  """
  weights = weigh(batch.mask)
  tokens = jnp.maximum(batch.mask.sum(dtype=jnp.float32), 1.0)
  grads, loss, sums, tops = accumulate(
    state.params,
    batch,
    weights,
    score=score,
    objective=objective,
    microbatches=microbatches,
  )
  norm = optax.global_norm(grads)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  moved = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  state = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old), moved, state
  )
  metrics = {k: v / tokens for k, v in sums.items()}
  metrics |= {f'{k}_max': v for k, v in tops.items()}
  metrics |= {
    'loss': loss,
    'grad_norm': norm,
    'nonfinite': 1.0 - finite.astype(jnp.float32),
    'tokens': batch.mask.sum(dtype=jnp.float32),
  }
  return state, metrics


def accumulate(
  params: PyTree,
  batch: Batch,
  weights: Array,
  *,
  score: Callable,
  objective: Callable,
  microbatches: int,
) -> tuple[PyTree, Array, dict[str, Array], dict[str, Array]]:
  """Gradient, loss, sums over counted tokens, and maxima of 'logprob_gap'."""

  def loss_fn(params, batch, weights):
    token_loss, metrics = objective(batch, *score(params, batch))
    # `where`, not a product with 0: a masked inf must not become NaN.
    loss = jnp.sum(jnp.where(batch.mask, weights * token_loss, 0.0))
    masked = {k: jnp.where(batch.mask, v, 0.0) for k, v in metrics.items()}
    sums = {k: jnp.sum(v, dtype=jnp.float32) for k, v in masked.items()}
    tops = {k: v.max() for k, v in masked.items() if k == 'logprob_gap'}
    return loss, (sums, tops)

  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  if microbatches == 1:
    (loss, (sums, tops)), grads = grad_fn(params, batch, weights)
    return grads, loss, sums, tops

  def body(carry, xs):
    (loss, (sums, tops)), grads = grad_fn(params, *xs)
    old_added, old_tops = carry
    added = jax.tree.map(jnp.add, old_added, (grads, loss, sums))
    return (added, jax.tree.map(jnp.maximum, old_tops, tops)), None

  split = functools.partial(split_rows, parts=microbatches)
  xs = jax.tree.map(split, (batch, weights))
  first = jax.tree.map(lambda x: x[0], xs)
  shapes = jax.eval_shape(grad_fn, params, *first)
  (loss, (sums, tops)), grads = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), shapes
  )
  carry, _ = jax.lax.scan(body, ((grads, loss, sums), tops), xs)
  (grads, loss, sums), tops = carry
  return grads, loss, sums, tops


def split_rows(x: Array, *, parts: int) -> Array:
  """[Q ...] -> [parts Q/parts ...], part i holding rows i, i + parts, ...

  Strided, so that with Q split over devices every device keeps rows of its own
  in each part, and no data moves.
  """
  x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
  return jnp.swapaxes(x, 0, 1)
