"""Attention of one new token a branch to its cache, as a Pallas kernel for TPU.

Decoding long completions waits for caches to be read. XLA computes all scores
of a cache, then all sums of its values, at less than half of the memory's
speed (LOG.md); the kernel streams both once, a block of slots at a time, by
online softmax, on both cores of a chip, and reads no block that is not filled
yet. The trunk, which a group reads once for all branches, stays a plain matrix
product; `attention.join` makes one softmax of the two.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int

from grpo_jax.models import cache
from grpo_jax.models.attention import NEGATIVE, Softmax
from grpo_jax.models.causal import LANES, largest_block
from grpo_jax.structs import Array

NAME = 'decode_attention'  # of the kernel, in compiled programs
_SLOTS = 512  # at a time, at most
_ROWS = 8  # caches at a time, at most


def over_cache(
  q: Float[Array, 'Q G K R H'],
  keys: cache.Keys,
  values: cache.Values,
  *,
  t: Int[Array, ''],
  start: Int[Array, 'Q G'],
  mesh: Mesh,
  rows: PartitionSpec,
  heads: str | None,
  interpret: bool = False,
) -> Softmax:
  """Each branch's softmax over its own slots, on the devices of a mesh.

  The compiler cannot split a kernel, so this does, by `shard_map`.

  Args:
    q: of the new tokens, over sqrt(H).
    keys, values: of the cache, slot t filled.
    t: the last slot that is seen.
    start: the first one of each branch.
    mesh: of the devices.
    rows: how Q and G are split.
    heads: the mesh axis that K is split over.
    interpret: run the kernel's Python, on any device.
  """
  by_head = PartitionSpec(*rows, heads)
  # Of an int8 cache; a scale that is None has no leaf.
  scales = (keys.scale, values.scale)
  return jax.shard_map(
    functools.partial(_on_each_device, interpret=interpret),
    mesh=mesh,
    in_specs=(PartitionSpec(), rows, *(by_head,) * 4),
    out_specs=by_head,
    check_vma=False,
  )(t, start, q, keys.values, values.values, scales)


def _on_each_device(t, start, q, keys, values, scales, *, interpret):
  """[Q G K R H] and the caches of a device -> Softmax."""
  shape, slots = q.shape, keys.shape[-1]
  q, keys, values = (x.reshape(-1, *x.shape[3:]) for x in (q, keys, values))
  # A row of the kernel is a branch's key head.
  start = jnp.broadcast_to(start[..., None], shape[:3]).reshape(-1)
  count, repeats, width = q.shape
  rows = next(n for n in range(_ROWS, 0, -1) if count % n == 0)
  block = block_size(slots)

  def of_row(i, j, t, start):
    return i, 0, 0

  # Blocks after the last filled one are that one: nothing new is read.
  def of_keys(i, j, t, start):
    return i, 0, jnp.minimum(j, t[0] // block)

  def of_values(i, j, t, start):
    return i, jnp.minimum(j, t[0] // block), 0

  given = [q, keys, values]
  specs = [
    pl.BlockSpec((rows, repeats, width), of_row),
    pl.BlockSpec((rows, width, block), of_keys),
    pl.BlockSpec((rows, block, width), of_values),
  ]
  for scale in scales:
    if scale is not None:
      given.append(scale.reshape(count, 1, slots))
      specs.append(pl.BlockSpec((rows, 1, block), of_keys))
  # The last axis of out, top and total.
  kinds = (width, LANES, LANES)
  out, top, total = pl.pallas_call(
    functools.partial(_kernel, block=block),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(count // rows, slots // block),
      in_specs=specs,
      out_specs=[pl.BlockSpec((rows, repeats, n), of_row) for n in kinds],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((count, repeats, n), jnp.float32) for n in kinds
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary')
    ),
    name=NAME,
    interpret=interpret,
  )(t.reshape(1), start, *given)
  apart = lambda x: x.reshape(*shape[:4], x.shape[-1])
  return Softmax(apart(out), apart(top[..., :1]), apart(total[..., :1]))


def _kernel(t, start, q, keys, values, *rest, block):
  """One block of slots of some rows; outputs are what is known so far."""
  *scales, out, top, total = rest
  i, j = pl.program_id(0), pl.program_id(1)
  count, repeats = q.shape[:2]

  @pl.when(j == 0)
  def _():
    out[...] = jnp.zeros_like(out)
    top[...] = jnp.full_like(top, NEGATIVE)
    total[...] = jnp.zeros_like(total)

  def add(row):
    product = functools.partial(
      jnp.dot,
      preferred_element_type=jnp.float32,
      precision=jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
    )
    scores = product(q[row], keys[row].astype(q.dtype))
    if scales:
      scores = scores * scales[0][row]
    slots = j * block + jax.lax.broadcasted_iota(jnp.int32, (repeats, block), 1)
    seen = (slots >= start[i * count + row]) & (slots <= t[0])
    scores = jnp.where(seen, scores, NEGATIVE)
    old = top[row]
    new = jnp.maximum(old, scores.max(-1, keepdims=True))
    # A block may hold nothing that this row sees: exp(0) is not its weight.
    weights = jnp.where(seen, jnp.exp(scores - new[:, :1]), 0.0)
    shrink = jnp.exp(old - new)
    top[row] = new
    total[row] = total[row] * shrink + weights.sum(-1, keepdims=True)
    if scales:
      weights = weights * scales[1][row]
    found = product(weights.astype(q.dtype), values[row].astype(q.dtype))
    out[row] = out[row] * shrink[:, :1] + found

  @pl.when(j * block <= t[0])
  def _():
    for row in range(count):
      add(row)


def block_size(slots: int) -> int:
  """Slots that are read at a time: whole lanes that divide all, or all of few.

  Raises:
    ValueError: many slots, which lanes do not divide.
  """
  found = largest_block(slots, most=_SLOTS)
  if found > 2 * _SLOTS:
    raise ValueError(
      f'sample.decoding=kernel reads a cache of {slots} slots in blocks of '
      f'{LANES}, which do not divide it; set sample.max_completion_length and '
      f'sample.chunk to multiples of {LANES}'
    )
  return found
