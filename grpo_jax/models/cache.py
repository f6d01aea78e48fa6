"""Keys and values of branches while they are decoded: as they are, or in int8.

Keys lie with their slots last, so that the products of a query with all of them
run along memory, as those of weights with values do: a CPU computes scores
three to sixteen times as fast as with the slots before the head (LOG.md).

Of the axes Q, G and K, those of one are left out: products have no such axes,
and where a program of XLA's CPU backend has to get rid of them between writing
a slot and reading all, it copies the cache for every token (LOG.md).

An int8 cache halves what decoding reads, which is what long completions wait
for. Each position of each head has a scale of its own, its largest magnitude
over 127, so an entry is off by 1/254 of that at most. The sampler's logprobs
then differ from the trainer's: `logprob_gap/mean` says by how much.
"""

from collections.abc import Callable

from flax import struct
import jax
import jax.numpy as jnp

from grpo_jax.structs import Array, KV


@struct.dataclass
class Keys:
  """Of S slots; an entry is value * scale."""

  values: Array  # [(Q G K) H S]
  scale: Array | None  # [(Q G K) S] float32 of int8; None is 1


@struct.dataclass
class Values:
  """Of S slots; an entry is value * scale."""

  values: Array  # [(Q G K) S H]
  scale: Array | None  # [(Q G K) S] float32 of int8; None is 1


def empty(rows: tuple[int, int, int], slots: int, head_dim: int, dtype) -> KV:
  """A layer's cache with nothing in it; rows are (Q, G, K)."""
  rows = [n for n in rows if n > 1]
  scale = jnp.zeros((*rows, slots), jnp.float32) if dtype == jnp.int8 else None
  return KV(
    k=Keys(jnp.zeros((*rows, head_dim, slots), dtype), scale),
    v=Values(jnp.zeros((*rows, slots, head_dim), dtype), scale),
  )


def slots(keys: Keys) -> int:
  """S, the positions there is room for."""
  return keys.values.shape[-1]


def along_slots(change: Callable[..., Array], cached: KV, *others: KV) -> KV:
  """The cache with a change applied to all of it.

  Args:
    change: (array, its axis of slots, the same of the others) -> array.
    cached, others: of the same axes.
  """

  def of(back, *arrays):
    return jax.tree.map(lambda x, *xs: change(x, x.ndim - back, *xs), *arrays)

  caches = (cached, *others)
  return KV(
    k=of(1, *(x.k for x in caches)),
    v=Values(
      values=of(2, *(x.v.values for x in caches)),
      scale=of(1, *(x.v.scale for x in caches)),
    ),
  )


def compact(cached: KV) -> KV:
  """Axes of one left out, of a cache that has Q, G and K."""
  return jax.tree.map(
    lambda x: x.reshape(*(n for n in x.shape[:3] if n > 1), *x.shape[3:]),
    cached,
  )


def spread(cached: KV, rows: tuple[int, int, int]) -> KV:
  """The cache with all of Q, G and K, whose sizes are `rows`."""
  kept = cached.k.values.ndim - 2
  return jax.tree.map(lambda x: x.reshape(*rows, *x.shape[kept:]), cached)


def write(cached: KV, k: Array, v: Array, t: Array) -> KV:
  """The cache with a key and a value [Q G K 1 H] at slot `t`."""
  (k, k_scale), (v, v_scale) = (
    (x, None) if cached.k.scale is None else _rounded(x) for x in (k, v)
  )
  new = KV(k=Keys(jnp.swapaxes(k, 3, 4), k_scale), v=Values(v, v_scale))

  def put(old, axis, x):
    return jax.lax.dynamic_update_slice_in_dim(old, x, t, axis)

  return along_slots(put, cached, compact(new))


def scores(q: Array, keys: Array | Keys) -> Array:
  """Products of queries [Q G K C H] with keys, [Q G K C S] in fp32."""
  exact = dict(preferred_element_type=jnp.float32)
  if not isinstance(keys, Keys):
    return jnp.einsum('qgkch,qgksh->qgkcs', q, keys, **exact)
  values = keys.values.astype(q.dtype)
  rows = values.shape[:-2]
  own = q.reshape(*rows, *q.shape[3:])
  found = jnp.einsum('...ch,...hs->...cs', own, values, **exact)
  if keys.scale is not None:
    found = found * keys.scale[..., None, :]
  return found.reshape(*q.shape[:-1], -1)


def weighted(weights: Array, values: Array | Values, dtype) -> Array:
  """Sums of values by weights [Q G K C S], [Q G K C H] fp32.

  Products are in `dtype`; their sums are not rounded to it.
  """
  exact = dict(preferred_element_type=jnp.float32)
  if not isinstance(values, Values):
    return jnp.einsum(
      'qgkcs,qgksh->qgkch',
      weights.astype(dtype),
      values.astype(dtype),
      **exact,
    )
  rows = values.values.shape[:-2]
  own = weights.reshape(*rows, *weights.shape[3:])
  if values.scale is not None:
    own = own * values.scale[..., None, :]
  found = jnp.einsum(
    '...cs,...sh->...ch',
    own.astype(dtype),
    values.values.astype(dtype),
    **exact,
  )
  return found.reshape(*weights.shape[:-1], -1)


def _rounded(x):
  wide = x.astype(jnp.float32)
  scale = jnp.abs(wide).max(-1) / 127
  # A vector of zeros has no scale; any will do.
  steps = wide / jnp.where(scale > 0, scale, 1.0)[..., None]
  return jnp.round(steps).astype(jnp.int8), scale
