"""RoPE, and attention of branches to their trunk and to themselves."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
import numpy as np

from grpo_jax.models import cache
from grpo_jax.structs import Array

NEGATIVE = -1e30  # finite, so that a row with nothing to see is not NaN


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
  heads = jax.tree.leaves(k)[0].shape[2]
  repeats = n // heads
  q = q * (1 / math.sqrt(h))
  q = q.reshape(rows, group, heads, repeats * c, h)
  # An empty trunk (prompts of one token) has no maximum without `initial`.
  largest = functools.partial(jnp.max, axis=-1, keepdims=True, initial=NEGATIVE)
  scores = cache.scores(q, k)
  seen = jnp.tile(mask, (1, 1, repeats, 1))[:, :, None]
  scores = jnp.where(seen, scores, NEGATIVE)
  top = jax.lax.stop_gradient(largest(scores))
  if trunk is not None:
    trunk_k, trunk_v, trunk_mask = trunk
    # All branches of a group against their one trunk.
    shared = jnp.einsum(
      'qkch,qkph->qkcp',
      _together(q),
      trunk_k,
      preferred_element_type=jnp.float32,
    )
    shared = jnp.where(trunk_mask[:, None, None], shared, NEGATIVE)
    shared_top = jax.lax.stop_gradient(largest(shared))
    top = jnp.maximum(top, _apart(shared_top, group))
  weights = jnp.exp(scores - top)
  total = weights.sum(-1, keepdims=True)
  out = cache.weighted(weights, v, q.dtype)
  if trunk is not None:
    weights = jnp.exp(shared - _together(top))
    total = total + _apart(weights.sum(-1, keepdims=True), group)
    weights = weights.astype(trunk_v.dtype)
    out = out + _apart(jnp.einsum('qkcp,qkph->qkch', weights, trunk_v), group)
  out = (out / total).astype(q.dtype)
  return out.reshape(rows, group, n, c, h)


def _together(x):
  """[Q G K C X] -> [Q K GC X]."""
  x = jnp.moveaxis(x, 1, 2)
  rows, heads, group, c, width = x.shape
  return x.reshape(rows, heads, group * c, width)


def _apart(x, group):
  """[Q K GC X] -> [Q G K C X]."""
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
  sin, cos = jnp.sin(angles), jnp.cos(angles)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
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
