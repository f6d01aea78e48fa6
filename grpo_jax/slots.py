"""Completions laid end to end in slots, as `planner` says (device side).

`take` makes a microbatch: branches [Q G C] as everywhere, and where each of
their tokens lies among slots [Q T W]. The model and its head see slots; `pack`
and `unpack` lead there and back, so that objectives only ever see branches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from grpo_jax.planner import Bucket
from grpo_jax.structs import Array, has_samples, PyTree, Slots


def index(bucket: Bucket) -> dict:
  """What `take` needs of a microbatch, as host arrays by row."""
  fields = ('prompt', 'branch', 'start', 'length')
  return {name: getattr(bucket, name) for name in fields}


def take(tree: PyTree, index: dict, *, slots: int, width: int) -> PyTree:
  """Rows of a batch as a microbatch with slots.

  Args:
    tree: (Batch, arrays [Q G C ...]).
    index: by row, from `index`.
    slots, width: T and W.

  Returns:
    The same, for N rows of m completions, cut or padded to W. The mask of what
    is none is false; the batch has its `slots`.
  """
  row, column = (jnp.maximum(index[k], 0) for k in ('prompt', 'branch'))

  def one(path, x):
    if not has_samples(path, x):
      return x[row]
    x = x[row[:, None], column]
    if x.ndim < 3:
      return x
    x = x[:, :, :width]
    return jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[2])))

  batch, *rest = jax.tree_util.tree_map_with_path(one, tree)
  real = index['length'] > 0
  batch = batch.replace(
    mask=batch.mask & real[:, :, None],
    slots=place(index['start'], index['length'], slots=slots, width=width),
  )
  return batch, *rest


def place(start: Array, length: Array, *, slots: int, width: int) -> Slots:
  """Where tokens lie, from where each completion begins.

  Args:
    start, length: [Q G], by ascending start; T*W and 0 for none.
    slots, width: T and W.
  """
  places = jnp.arange(slots * width, dtype=jnp.int32)
  begun = start[:, None] <= places[None, :, None]
  sample = begun.sum(-1, dtype=jnp.int32) - 1
  at = jnp.maximum(sample, 0)
  step = places - jnp.take_along_axis(start, at, 1)
  real = (sample >= 0) & (step < jnp.take_along_axis(length, at, 1))
  shape = (len(start), slots, width)
  return Slots(
    sample=jnp.where(real, sample, start.shape[1]).reshape(shape),
    step=jnp.where(real, step, 0).reshape(shape),
    start=start,
  )


def put(out: Array, x: Array, index: dict) -> Array:
  """`out` [Q G C] with branches x [N m W] of a microbatch where they belong.

  Args:
    out, x: values of tokens.
    index: of the microbatch, from `index`.
  """
  wanted = out.shape[2]
  x = x[:, :, :wanted]
  x = jnp.pad(x, ((0, 0), (0, 0), (0, wanted - x.shape[2])))
  # Past the end: dropped.
  real = index['length'] > 0
  row = jnp.where(real, index['prompt'][:, None], len(out))
  return out.at[row, jnp.maximum(index['branch'], 0)].set(x, mode='drop')


def pack(x: Array, slots: Slots | None) -> Array:
  """Branches [Q G W] as slots [Q T W], 0 where no token is.

  Without slots (None), as they are.
  """
  if slots is None:
    return x
  rows, group, width = x.shape
  flat = x.reshape(rows, group * width)
  at = slots.sample * width + slots.step
  at = jnp.minimum(at, group * width - 1).reshape(rows, -1)
  found = jnp.take_along_axis(flat, at, 1).reshape(slots.sample.shape)
  return jnp.where(slots.sample < group, found, 0)


def unpack(
  x: Float[Array, 'Q T W'], slots: Slots | None
) -> Float[Array, 'Q G W']:
  """Slots as branches; what is past a branch's end means nothing.

  Its gradient is `pack`: each token lies in one place, and a gradient past a
  branch's end is dropped. Without slots (None), as they are.
  """
  return x if slots is None else _unpack(x, slots)


@jax.custom_vjp
def _unpack(x, slots):
  rows, count, width = x.shape
  at = slots.start[:, :, None] + jnp.arange(width, dtype=jnp.int32)
  at = jnp.minimum(at, count * width - 1).reshape(rows, -1)
  found = jnp.take_along_axis(x.reshape(rows, -1), at, 1)
  return found.reshape(*slots.start.shape, width)


_unpack.defvjp(
  lambda x, slots: (_unpack(x, slots), slots),
  lambda slots, gradient: (pack(gradient, slots), None),
)
