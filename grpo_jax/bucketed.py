"""Updates and logprobs by buckets of lengths: `updates.length_buckets`.

The same sums as in `update.py`, over microbatches that `planner` makes of the
lengths of a minibatch. Each has one of a few shapes, and a program for each
shape adds its part to the gradient; weights come from the whole minibatch
before. What is left to the compiler elsewhere, the loop over microbatches, is a
loop of the host here: how many there are of each shape is known only after
sampling.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import hosts, planner, programs, sharding, slots, update
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, PyTree, TrainState

# A microbatch holds 1 / SHARE of the tokens of the largest minibatch that the
# config allows, so that the last one of a shape, which is not full, wastes
# little; but LEAST a device, below which products get slow.
SHARE = 100
LEAST = 1024


def plans(
  policy: Policy, cfg, *, parts: tuple[int, int]
) -> Callable[[np.ndarray, Batch], list[planner.Bucket]]:
  """(lengths [Q G], batch) -> buckets; none where they would compute more.

  Args:
    policy: its mesh, and whether its attention tells completions apart.
    cfg: of the job.
    parts: what bounds the memory of a microbatch: into how many Q and G would
      be split without buckets.
  """
  longest = cfg.sample.max_completion_length
  widths = planner.widths(
    longest,
    cfg.updates.length_buckets,
    multiple=cfg.updates.length_multiple,
  )
  ways = policy.rows('train').ways
  capacity = cfg.group_size if programs.tells_apart(policy) else 1

  def fn(lengths, batch):
    (q, g), trunk = lengths.shape, batch.trunk.shape[1]
    most = q // parts[0] * (trunk + g // parts[1] * longest)
    wanted = q * (trunk + g * longest) // SHARE
    sizes = planner.Sizes(
      widths=widths,
      capacity=min(capacity, planner.CAPACITY),
      tokens=min(most, max(wanted, LEAST * policy.mesh.size)),
      ways=ways[:2],
    )
    buckets = planner.plan(lengths, trunk=trunk, sizes=sizes)
    plain = update.computed(batch, parts=parts)
    return buckets if planner.computed(buckets, trunk=trunk) < plain else []

  return fn


def lengths_of(mask: Array) -> np.ndarray:
  """[Q G] tokens of each completion, on every host."""
  return hosts.everywhere(mask.sum(-1), what='lengths')


def by_buckets(
  policy: Policy,
  scoring: Callable,
  *,
  outputs: int,
  plan: Callable,
  plain: Callable,
) -> Callable[[PyTree, Batch], tuple[Array, ...]]:
  """(params, batch) -> first outputs [Q G C] of a score.

  Past a completion's end they mean nothing.

  Args:
    policy: its mesh.
    scoring: (params, batch) -> arrays [Q G C].
    outputs: how many of them.
    plan: from `plans`.
    plain: the same without buckets.
  """
  rows = policy.rows('train')
  take = _take(policy)

  @functools.partial(jax.jit, donate_argnums=1)
  def add(params, outs, part, index):
    found = scoring(params, part)[:outputs]
    return rows.constrain(
      tuple(slots.put(o, x, index) for o, x in zip(outs, found, strict=True))
    )

  @jax.jit
  def empty(mask):
    zeros = jnp.zeros(mask.shape, jnp.float32)
    return rows.constrain((zeros,) * outputs)

  def fn(params, batch):
    buckets = plan(lengths_of(batch.mask), batch)
    if not buckets:
      return plain(params, batch)
    outs = empty(batch.mask)
    for part, index in take((batch,), buckets):
      outs = sharding.keep_up(outs, policy.mesh)
      outs = add(params, outs, part[0], index)
    return outs

  return fn


def updater(
  policy: Policy,
  *,
  score: Callable,
  objective: Callable,
  weigh: Callable,
  tx,
  plan: Callable,
  plain: Callable,
  shardings: TrainState,
) -> Callable[..., tuple[TrainState, dict]]:
  """(state, batch, lengths or None) -> what `update.update` returns.

  Args:
    policy: whose mesh.
    score, objective, weigh, tx: as in `update.update`.
    plan: from `plans`.
    plain: (state, batch) -> the same without buckets.
    shardings: of the state.
  """
  whole = sharding.replicated(policy.mesh)
  take = _take(policy)
  accumulate = functools.partial(
    update.accumulate, score=score, objective=objective, parts=(1, 1)
  )

  @jax.jit
  def begin(batch):
    return weigh(batch.mask), update.totals(batch)

  @functools.partial(jax.jit, donate_argnums=0)
  def add(carry, params, part):
    *added, tops = accumulate(params, *part)
    *carry, highest = carry
    grads, *added = jax.tree.map(jnp.add, carry, added)
    grads = jax.lax.with_sharding_constraint(grads, shardings.params)
    return grads, *added, jax.tree.map(jnp.maximum, highest, tops)

  def nothing(params, part):
    """The first carry: zeros, each with a sharding of its own."""
    shapes = jax.eval_shape(accumulate, params, *part)
    places = (shardings.params, *jax.tree.map(lambda _: whole, shapes[1:]))
    make = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.jit(make, out_shardings=places)

  @functools.partial(
    jax.jit, donate_argnums=0, out_shardings=(shardings, whole)
  )
  def finish(state, found, totals, computed):
    return update.finish(state, found, totals, tx=tx, computed=computed)

  empty = None

  def fn(state, batch, lengths=None):
    nonlocal empty
    if lengths is None:
      lengths = lengths_of(batch.mask)
    buckets = plan(lengths, batch)
    if not buckets:
      return plain(state, batch)
    weights, totals = begin(batch)
    carry = None
    for part, _ in take((batch, weights), buckets):
      if empty is None:
        empty = nothing(state.params, part)
      carry = empty() if carry is None else carry
      carry = sharding.keep_up(carry, policy.mesh)
      carry = add(carry, state.params, part)
    computed = planner.computed(buckets, trunk=batch.trunk.shape[1])
    computed = sharding.put(np.float32(computed), whole)
    return finish(state, carry, totals, computed)

  return fn


def _take(policy):
  """(arrays, buckets) -> each microbatch of them, and its index."""
  rows = policy.rows('train')

  @functools.partial(jax.jit, static_argnames=('slots', 'width'))
  def program(tree, index, **shape):
    return rows.constrain(slots.take(tree, index, **shape))

  def fn(tree, buckets):
    for bucket in buckets:
      for some in bucket.microbatches():
        index = rows.put(slots.index(some))
        shape = dict(slots=bucket.slots, width=bucket.width)
        yield program(tree, index, **shape), index

  return fn
