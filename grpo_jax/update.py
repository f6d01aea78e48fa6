"""One optimizer update from one minibatch (device side).

The batch is split into microbatches that are scanned; each adds its part of
one weighted sum. Weights come from the whole batch, so the result does not
depend on the split.
"""

from collections.abc import Callable, Mapping, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grpo_jax import replicas as replicas_lib
from grpo_jax.objectives import OF_SAMPLED
from grpo_jax.replicas import Replicas
from grpo_jax.structs import Array, Batch, has_samples, PyTree, TrainState

# Of an update as a whole; all other metrics are means over its tokens.
_OF_UPDATES = ('loss', 'grad_norm', 'nonfinite', 'tokens', 'padding/update')


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
  parts: tuple[int, int],
  replicas: Replicas | None = None,
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
    parts: how many Q and G are split into, one microbatch each.
    replicas: copies of the parameters that each sum gradients by themselves.

  Returns:
    The new state, and scalars: 'loss', 'grad_norm', 'nonfinite' (1.0 when the
    update was skipped), the number of counted 'tokens', means over them of the
    objective's metrics (OF_SAMPLED: over those that no teacher gave),
    '<name>_max' of 'logprob_gap', and 'padding/update', the share of computed
    tokens that nobody needed: padding, trunks computed again, completions that
    do not count.
  """
  weights = weigh(batch.mask)
  grads, loss, sums, tops = accumulate(
    state.params,
    batch,
    weights,
    score=score,
    objective=objective,
    parts=parts,
    replicas=replicas,
  )
  return finish(
    state,
    (grads, loss, sums, tops),
    totals(batch),
    tx=tx,
    computed=computed(batch, parts=parts),
  )


def totals(batch: Batch) -> dict[str, Array]:
  """Of the whole minibatch: 'tokens' that count, and those 'needed' for them.

  The latter with the trunk, once, of every prompt that has any.
  """
  counted = batch.mask.any((1, 2))[:, None]
  tokens = batch.mask.sum(dtype=jnp.float32)
  trunks = (batch.trunk_mask & counted).sum(dtype=jnp.float32)
  return {'tokens': tokens, 'needed': tokens + trunks}


def computed(batch: Batch, *, parts: tuple[int, int]) -> int:
  """Tokens that go through the model, trunks and padding included."""
  return batch.trunk.size * parts[1] + batch.inputs.size


def finish(
  state: TrainState,
  found: tuple[PyTree, Array, dict[str, Array], dict[str, Array]],
  totals: dict[str, Array],
  *,
  tx: optax.GradientTransformation,
  computed: int | Array,
) -> tuple[TrainState, dict[str, Array]]:
  """The optimizer's step, and the metrics of `update`.

  Args:
    state: before.
    found: what `accumulate` returns.
    totals: of the minibatch, from `totals`.
    tx: the optimizer.
    computed: tokens that went through the model.
  """
  grads, loss, sums, tops = found
  tokens = jnp.maximum(totals['tokens'], 1.0)
  norm = optax.global_norm(grads)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  moved = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  # Filters may leave nothing: momentum and decay would move on without it.
  applied = finite & (totals['tokens'] > 0)
  state = jax.tree.map(
    lambda new, old: jnp.where(applied, new, old), moved, state
  )
  own = jnp.maximum(sums.get('sampled_share', tokens), 1.0)
  metrics = {
    k: v / (own if k in OF_SAMPLED else tokens) for k, v in sums.items()
  }
  metrics |= {f'{k}_max': v for k, v in tops.items()}
  metrics |= {
    'loss': loss,
    'grad_norm': norm,
    'nonfinite': 1.0 - finite.astype(jnp.float32),
    'tokens': totals['tokens'],
    'padding/update': 1.0 - totals['needed'] / computed,
  }
  return state, metrics


def accumulate(
  params: PyTree,
  batch: Batch,
  weights: Array,
  *,
  score: Callable,
  objective: Callable,
  parts: tuple[int, int],
  replicas: Replicas | None = None,
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
  part_of = functools.partial(split, parts=parts)
  whole = (batch, weights)
  if replicas is not None:
    by_replica = dict(spmd_axis_name=replicas_lib.AXIS)
    loss_fn, grad_fn = (
      jax.vmap(fn, in_axes=(None, 0, 0), **by_replica)
      for fn in (loss_fn, grad_fn)
    )
    part_of = jax.vmap(part_of, out_axes=1, **by_replica)
    whole = replicas.apart(whole)

  def together(grads, loss, sums, tops):
    if replicas is None:
      return grads, loss, sums, tops
    add = functools.partial(jax.tree.map, lambda x: x.sum(0))
    return (
      add(grads),
      add(loss),
      add(sums),
      {k: v.max() for k, v in tops.items()},
    )

  if parts == (1, 1):
    (loss, (sums, tops)), grads = grad_fn(params, *whole)
    return together(grads, loss, sums, tops)

  def body(carry, xs):
    (loss, (sums, tops)), grads = grad_fn(params, *xs)
    old_added, old_tops = carry
    added = jax.tree.map(jnp.add, old_added, (grads, loss, sums))
    return (added, jax.tree.map(jnp.maximum, old_tops, tops)), None

  xs = part_of(whole)
  first = jax.tree.map(lambda x: x[0], xs)
  # Of the loss alone: tracing its gradient once more would take as long again.
  shapes = jax.eval_shape(loss_fn, params, *first)
  loss, (sums, tops) = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), shapes
  )
  grads = jax.tree.map(
    lambda p: jnp.zeros((*loss.shape, *p.shape), p.dtype), params
  )
  carry, _ = jax.lax.scan(body, ((grads, loss, sums), tops), xs)
  (grads, loss, sums), tops = carry
  return together(grads, loss, sums, tops)


def mean(name: str, updates: Sequence[Mapping[str, float]]) -> float:
  """Of a metric over the updates of a step, or over the tokens of all of them.

  Those that it counts: of what is `OF_SAMPLED`, not a teacher's.
  """
  values = np.array([one[name] for one in updates], np.float64)
  if name in _OF_UPDATES:
    return values.mean()
  tokens = np.array([one['tokens'] for one in updates], np.float64)
  if name in OF_SAMPLED:
    tokens *= [one.get('sampled_share', 1.0) for one in updates]
  return (tokens * values).sum() / max(tokens.sum(), 1.0)


def split(tree: PyTree, *, parts: tuple[int, int]) -> PyTree:
  """[Q ...] -> [qg Q/q ...] and [Q G ...] -> [qg Q/q G/g ...].

  Arrays without samples are the same for all parts of their groups. Rows and
  samples of a part are strided, so that with both split over devices every
  device keeps some of its own in each part, and no data moves.

  Args:
    tree: Batch, or arrays [Q G ...].
    parts: (q, g).
  """
  by_prompt, by_sample = parts

  def one(path, x):
    x = _strided(x, by_prompt, 0)
    if not has_samples(path, x[0]):
      return jnp.repeat(x, by_sample, 0)
    x = jnp.moveaxis(_strided(x, by_sample, 2), 2, 1)
    return x.reshape(by_prompt * by_sample, *x.shape[2:])

  return jax.tree_util.tree_map_with_path(one, tree)


def unsplit(x: Array, *, parts: tuple[int, int]) -> Array:
  """[qg Q/q G/g ...] back to [Q G ...]."""
  by_prompt, by_sample = parts
  x = x.reshape(by_prompt, by_sample, *x.shape[1:])
  x = jnp.moveaxis(x, (0, 1), (1, 3))
  shape = (x.shape[0] * by_prompt, x.shape[2] * by_sample)
  return x.reshape(*shape, *x.shape[4:])


def _strided(x, parts, axis):
  """Splits an axis in two and moves the parts, i, i + parts ..., before it."""
  size = x.shape[axis] // parts  # not -1: arrays may be empty
  x = x.reshape(*x.shape[:axis], size, parts, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis + 1, axis)
