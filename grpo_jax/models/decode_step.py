"""One step of decoding: the decoder of `transformer` with features first.

A step has few rows, and on CPU a product of weights [out, in] by features
[in, rows] is 1.15 to 1.6 times as fast as that of 16 to 64 rows by weights
(LOG.md). So the stream is [D Q G], and only attention has rows first. Q and G
stay apart, as two axes of a mesh may split them. On TPU the compiler lays both
out the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from grpo_jax.models import attention, decoding
from grpo_jax.models import cache as caches
from grpo_jax.models.architecture import Config
from grpo_jax.models.transformer import layer_of, rms_norm
from grpo_jax.structs import Array, KV, PyTree, Trunk


def turns(
  c: Config,
  trunk: Trunk,
  t: Int[Array, ''],
  start: Int[Array, 'Q G'] | None,
  rows: tuple[int, int],
) -> tuple[Float[Array, 'half Q G'], Float[Array, 'half Q G']]:
  """Cosines and sines of RoPE at slot `t` of (Q, G) branches, for `step`.

  A loop of steps carries those of the next: within the step XLA computes them
  for each head of each layer again, a tenth of a step on CPU.
  """
  frequencies = attention.rope_frequencies(
    c.head_dim, theta=c.rope_theta, scaling=c.rope_scaling
  )
  positions = trunk.length[:, None] + t
  if start is not None:
    positions = positions - start
  positions = jnp.broadcast_to(positions, rows).astype(jnp.float32)
  angles = frequencies[:, None, None] * positions
  return jnp.cos(angles), jnp.sin(angles)


def step(
  c: Config,
  params: PyTree,
  tokens: Int[Array, 'Q G'],
  t: Int[Array, ''],
  turned: tuple[Array, Array],
  trunk: Trunk,
  cache: list[KV],
  start: Int[Array, 'Q G'] | None = None,
  *,
  attend: Callable = decoding.scores,
  dtype,
) -> tuple[Float[Array, 'Q G D'], list[KV]]:
  """Decodes slot `t` of every branch.

  Args:
    c: sizes.
    params: `unstack`ed.
    tokens, t: what goes into slot t.
    turned: `turns` of slot t.
    trunk: as from `prefill`.
    cache: a layer each, slots before t filled; see `cache`.
    start: the slot of each branch's first token; None for 0.
    attend: see `decoding`.
    dtype: of the products.

  Returns:
    Final hidden states and the cache with slot t filled.
  """
  start = jnp.zeros((1, 1), jnp.int32) if start is None else start
  x = jnp.moveaxis(params['embed'][tokens].astype(dtype), -1, 0)
  filled = []
  for i, w in enumerate(params['layers']):
    w = jax.tree.map(lambda p: p.astype(dtype), w)
    q, k, v = _heads(c, x, w, turned)
    kv = caches.write(cache[i], k, v, t)
    y = attend(q, kv.k, kv.v, layer_of(trunk, i), t=t, start=start)
    y = jnp.moveaxis(y.reshape(*tokens.shape, -1), -1, 0)
    x = x + _linear(w['o'].reshape(c.embed_dim, -1), y)
    x = x + _mlp(c, x, w)
    filled.append(kv)
  x = jnp.moveaxis(x, 0, -1)
  return rms_norm(x, params['final_norm'], c.norm_eps), filled


def _heads(c, x, w, turned):
  """Queries, keys and values of x [D Q G], [Q G N 1 H] each, q and k turned."""
  y = _norm(c, x, w['attn_norm'], axis=0)
  found = []
  for name in 'qkv':
    z = jnp.einsum('nhd,dqg->nhqg', w[name], y)
    if f'{name}_bias' in w:
      z = z + w[f'{name}_bias'][..., None, None]
    if f'{name}_norm' in w:
      z = _norm(c, z, w[f'{name}_norm'], axis=1)
    if name != 'v':
      z = attention.turn(z, *turned, axis=1)
    found.append(jnp.moveaxis(z, (2, 3), (0, 1))[:, :, :, None])
  return found


def _mlp(c, x, w):
  y = _norm(c, x, w['mlp_norm'], axis=0)
  y = jax.nn.silu(_linear(w['gate'], y)) * _linear(w['up'], y)
  return _linear(w['down'], y)


def _linear(w, x):
  return jnp.einsum('oi,iqg->oqg', w, x)


def _norm(c, x, scale, axis):
  """Over the features, an axis that is followed by Q and G."""
  return rms_norm(x, scale[:, None, None], c.norm_eps, axis=axis)
