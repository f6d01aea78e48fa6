"""RoPE, and attention of branches to their trunk and to themselves."""

import math

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
import numpy as np

from grpo_jax.models import cache
from grpo_jax.structs import Array

NEGATIVE = -1e30  # finite, so that a row with nothing to see is not NaN


@struct.dataclass
class Softmax:
  """Attention to some of the keys, to be joined with that to others."""

  out: Array  # [... H] sums of values by exp(score - top), fp32
  top: Array  # [... 1] largest score
  total: Array  # [... 1] sum of exp(score - top)


def attend(
  q: Float[Array, 'Q G N C H'],
  k: Array | cache.Keys,
  v: Array | cache.Values,
  mask: Bool[Array, '#Q #G C S'],
  trunk: tuple[Array, Array, Array] | None = None,
) -> Float[Array, 'Q G N C H']:
  """Softmax attention over a branch's own keys and its trunk's, as one softmax.

  Heads stand before positions, so that every product is a batch of plain
  matrices and no cache is ever transposed.

  Args:
    q, k, v: rotated queries and keys, and values, of the branch; keys and
      values [Q G K S H], or a cache's.
    mask: which of its own slots each branch token sees.
    trunk: k [Q K P H], v [Q K P H] and mask [Q P] of the trunk, read once for
      all G branches (Hydragen, arXiv 2402.05099), or None.

  Returns:
    [Q G N C H]. Scores and softmax are fp32. A token that sees nothing gets
    the mean of the values; only padding does.
  """
  rows, group, n, c, h = q.shape
  heads = math.prod(jax.tree.leaves(k)[0].shape[:-2]) // (rows * group)
  repeats = n // heads
  q = q * (1 / math.sqrt(h))
  q = q.reshape(rows, group, heads, repeats * c, h)
  scores = cache.scores(q, k)
  seen = jnp.tile(mask, (1, 1, repeats, 1))[:, :, None]
  scores = jnp.where(seen, scores, NEGATIVE)
  top = _largest(scores)
  if trunk is not None:
    shared = _trunk_scores(q, trunk)
    top = jnp.maximum(top, _apart(_largest(shared), group))
  weights = jnp.exp(scores - top)
  total = weights.sum(-1, keepdims=True)
  out = cache.weighted(weights, v, q.dtype)
  if trunk is not None:
    found = _trunk_values(shared, _together(top), trunk)
    total = total + _apart(found.total, group)
    out = out + _apart(found.out, group)
  out = (out / total).astype(q.dtype)
  return out.reshape(rows, group, n, c, h)


def over_trunk(
  q: Float[Array, 'Q G K C H'], trunk: tuple[Array, Array, Array]
) -> Softmax:
  """Attention to the trunk alone, as `attend` takes it; q is over sqrt(H)."""
  shared = _trunk_scores(q, trunk)
  found = _trunk_values(shared, _largest(shared), trunk)
  return jax.tree.map(lambda x: _apart(x, q.shape[1]), found)


def join(a: Softmax, b: Softmax) -> Float[Array, '... H']:
  """One softmax over the keys of both, in fp32."""
  top = jnp.maximum(a.top, b.top)
  a_share, b_share = jnp.exp(a.top - top), jnp.exp(b.top - top)
  total = a.total * a_share + b.total * b_share
  return (a.out * a_share + b.out * b_share) / total


def _trunk_scores(q, trunk):
  """All branches of a group against their one trunk, [Q K GC P]."""
  k, _, mask = trunk
  shared = jnp.einsum(
    'qkch,qkph->qkcp', _together(q), k, preferred_element_type=jnp.float32
  )
  return jnp.where(mask[:, None, None], shared, NEGATIVE)


def _trunk_values(shared, top, trunk):
  """[Q K GC H] and [Q K GC 1] of scores and what they are compared to."""
  _, v, _ = trunk
  weights = jnp.exp(shared - top)
  return Softmax(
    out=jnp.einsum(
      'qkcp,qkph->qkch',
      weights.astype(v.dtype),
      v,
      preferred_element_type=jnp.float32,
    ),
    top=top,
    total=weights.sum(-1, keepdims=True),
  )


def _largest(scores):
  # An empty trunk (prompts of one token) has no maximum without `initial`.
  found = jnp.max(scores, axis=-1, keepdims=True, initial=NEGATIVE)
  return jax.lax.stop_gradient(found)


def _together(x):
  """[Q G K C ...] -> [Q K GC ...]."""
  x = jnp.moveaxis(x, 1, 2)
  rows, heads, group, c, width = x.shape
  return x.reshape(rows, heads, group * c, width)


def _apart(x, group):
  """[Q K GC ...] -> [Q G K C ...]."""
  rows, heads, joint, width = x.shape
  x = x.reshape(rows, heads, group, joint // group, width)
  return jnp.moveaxis(x, 2, 1)


def rope(
  x: Float[Array, 'Q G N C H'],
  positions: Int[Array, 'Q G C'],
  frequencies: Float[np.ndarray, 'half'],
) -> Float[Array, 'Q G N C H']:
  """Rotary embedding in Hugging Face's half-split order (RoFormer eq. 34)."""
  angles = positions[:, :, None, :, None].astype(jnp.float32) * frequencies
  return turn(x, jnp.cos(angles), jnp.sin(angles), axis=-1)


def turn(x: Array, cos: Array, sin: Array, *, axis: int) -> Array:
  """Turns the two halves of an axis by angles as many as half of it."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis)
  return turned.astype(x.dtype)


def rope_frequencies(
  head_dim: int, *, theta: float, scaling: tuple | None
) -> np.ndarray:
  """Angular frequencies [H/2] in float32.

  Args:
    head_dim: H.
    theta: the base.
    scaling: None, ('linear', factor), or ('llama3', factor, low_freq_factor,
      high_freq_factor, original_max_positions) as in Llama 3.1's config.
  """
  exponent = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
  inv = (1.0 / theta**exponent).astype(np.float32)
  if scaling is None:
    return inv
  kind, factor, *rest = scaling
  if kind == 'linear':
    return inv / np.float32(factor)
  if kind != 'llama3':
    raise ValueError(
      f'rope scaling {kind!r} is not known; use linear or llama3'
    )
  low, high, original = rest
  wavelength = 2 * np.pi / inv
  smooth = (original / wavelength - low) / (high - low)
  mixed = (1 - smooth) * inv / factor + smooth * inv
  scaled = np.where(wavelength > original / low, inv / factor, mixed)
  return np.where(wavelength < original / high, inv, scaled).astype(np.float32)
