"""Keys and values of branches while they are decoded: as they are, or in int8.

Keys lie with their slots last, so that the products of a query with all of them
run along memory, as those of weights with values do: a CPU computes scores
three to sixteen times as fast as with the slots before the head (LOG.md).

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

  values: Array  # [Q G K H S]
  scale: Array | None  # [Q G K S] float32 of int8; None is 1


@struct.dataclass
class Values:
  """Of S slots; an entry is value * scale."""

  values: Array  # [Q G K S H]
  scale: Array | None  # [Q G K S] float32 of int8; None is 1


def empty(rows: tuple[int, int, int], slots: int, head_dim: int, dtype) -> KV:
  """A layer's cache with nothing in it; rows are (Q, G, K)."""
  scale = jnp.zeros((*rows, slots), jnp.float32) if dtype == jnp.int8 else None
  return KV(
    k=Keys(jnp.zeros((*rows, head_dim, slots), dtype), scale),
    v=Values(jnp.zeros((*rows, slots, head_dim), dtype), scale),
  )


def slots(keys: Keys) -> int:
  """S, the positions there is room for."""
  return keys.values.shape[-1]


def along_slots(change: Callable[[Array, int], Array], cached: KV) -> KV:
  """The cache with (array, its axis of slots) -> array applied to all of it."""
  last = lambda x: change(x, x.ndim - 1)
  return KV(
    k=jax.tree.map(last, cached.k),
    v=jax.tree.map(lambda x: change(x, 3), cached.v),
  )


def write(cached: KV, k: Array, v: Array, t: Array) -> KV:
  """The cache with a key and a value [Q G K 1 H] at slot `t`."""
  (k, k_scale), (v, v_scale) = (
    (x, None) if cached.k.scale is None else _rounded(x) for x in (k, v)
  )
  new = KV(k=Keys(jnp.swapaxes(k, 3, 4), k_scale), v=Values(v, v_scale))

  def put(old, x, axis):
    return jax.lax.dynamic_update_slice_in_dim(old, x, t, axis)

  return KV(
    k=jax.tree.map(lambda old, x: put(old, x, old.ndim - 1), cached.k, new.k),
    v=jax.tree.map(lambda old, x: put(old, x, 3), cached.v, new.v),
  )


def scores(q: Array, keys: Array | Keys) -> Array:
  """Products of queries [Q G K C H] with keys, [Q G K C S] in fp32."""
  exact = dict(preferred_element_type=jnp.float32)
  if not isinstance(keys, Keys):
    return jnp.einsum('qgkch,qgksh->qgkcs', q, keys, **exact)
  values = keys.values.astype(q.dtype)
  found = jnp.einsum('qgkch,qgkhs->qgkcs', q, values, **exact)
  return found if keys.scale is None else found * keys.scale[:, :, :, None]


def weighted(weights: Array, values: Array | Values, dtype) -> Array:
  """Sums of values by weights [Q G K C S], [Q G K C H]; products in `dtype`."""
  if isinstance(values, Values):
    if values.scale is not None:
      weights = weights * values.scale[:, :, :, None]
    values = values.values
  return jnp.einsum(
    'qgkcs,qgksh->qgkch', weights.astype(dtype), values.astype(dtype)
  )


def _rounded(x):
  wide = x.astype(jnp.float32)
  scale = jnp.abs(wide).max(-1) / 127
  # A vector of zeros has no scale; any will do.
  steps = wide / jnp.where(scale > 0, scale, 1.0)[..., None]
  return jnp.round(steps).astype(jnp.int8), scale
