"""Keys and values of branches while they are decoded: as they are, or in int8.

An int8 cache halves what decoding reads, which is what long completions wait
for. Each position of each head has a scale of its own, its largest magnitude
over 127, so an entry is off by 1/254 of that at most. The sampler's logprobs
then differ from the trainer's: `logprob_gap/mean` says by how much.
"""

from flax import struct
import jax
import jax.numpy as jnp

from grpo_jax.structs import Array


@struct.dataclass
class Int8:
  """[Q G K S H] in eight bits."""

  values: Array  # [Q G K S H] int8
  scale: Array  # [Q G K S] float32; entry = value * scale


Cached = Array | Int8


def empty(shape: tuple[int, ...], dtype) -> Cached:
  """Zeros [Q G K S H]; int8 with its scales."""
  values = jnp.zeros(shape, dtype)
  if dtype != jnp.int8:
    return values
  return Int8(values, jnp.zeros(shape[:-1], jnp.float32))


def slots(cached: Cached) -> int:
  """S, the positions there is room for."""
  return (cached.values if isinstance(cached, Int8) else cached).shape[3]


def write(cached: Cached, x: Array, t: Array) -> Cached:
  """The cache with x [Q G K 1 H] at slot `t`."""
  new = _rounded(x) if isinstance(cached, Int8) else x
  put = jax.lax.dynamic_update_slice_in_dim
  return jax.tree.map(lambda old, x: put(old, x, t, axis=3), cached, new)


def scores(q: Array, keys: Cached) -> Array:
  """Products of queries [Q G K C H] with keys, [Q G K C S] in fp32."""
  plain = keys.values.astype(q.dtype) if isinstance(keys, Int8) else keys
  found = jnp.einsum(
    'qgkch,qgksh->qgkcs', q, plain, preferred_element_type=jnp.float32
  )
  if isinstance(keys, Int8):
    found = found * keys.scale[:, :, :, None]
  return found


def weighted(weights: Array, values: Cached, dtype) -> Array:
  """Sums of values by weights [Q G K C S], [Q G K C H]; products in `dtype`."""
  if isinstance(values, Int8):
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
  return Int8(jnp.round(steps).astype(jnp.int8), scale)
