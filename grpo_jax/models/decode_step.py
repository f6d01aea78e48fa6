"""One step of decoding: the decoder of `transformer` with features first.

A step has few rows, and on CPU a product of weights [out, in] by features
[in, rows] is 1.15 to 1.6 times as fast as that of 16 to 64 rows by weights
(LOG.md). So the stream is [D R], R = QG, and only attention has rows first. On
TPU the compiler lays both out the same.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from grpo_jax.models import attention, decoding
from grpo_jax.models import cache as caches
from grpo_jax.models.architecture import Config
from grpo_jax.models.transformer import rms_norm
from grpo_jax.structs import Array, KV, PyTree, Trunk


def step(
  c: Config,
  params: PyTree,
  tokens: Int[Array, 'Q G'],
  t: Int[Array, ''],
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
    trunk: as from `prefill`.
    cache: a layer each, slots before t filled; see `cache`.
    start: the slot of each branch's first token; None for 0.
    attend: see `decoding`.
    dtype: of the products.

  Returns:
    Final hidden states and the cache with slot t filled.
  """
  start = jnp.zeros((1, 1), jnp.int32) if start is None else start
  positions = trunk.length[:, None] + t - start
  positions = jnp.broadcast_to(positions, tokens.shape)
  x = params['embed'][tokens.reshape(-1)].astype(dtype).T
  filled = []
  for i, w in enumerate(params['layers']):
    w = jax.tree.map(lambda p: p.astype(dtype), w)
    q, k, v = _heads(c, x, w, positions)
    kv = caches.write(cache[i], k, v, t)
    shared = (trunk.kv.k[i], trunk.kv.v[i], trunk.mask)
    y = attend(q, kv.k, kv.v, shared, t=t, start=start)
    x = x + _linear(
      w['o'].reshape(c.embed_dim, -1), y.reshape(x.shape[1], -1).T
    )
    x = x + _mlp(c, x, w)
    filled.append(kv)
  x = _norm(c, x, params['final_norm'])
  return x.T.reshape(*tokens.shape, -1), filled


def _heads(c, x, w, positions):
  """Queries, keys and values of x [D R], [Q G N 1 H] each, q and k turned."""
  y = _norm(c, x, w['attn_norm'])
  frequencies = attention.rope_frequencies(
    c.head_dim, theta=c.rope_theta, scaling=c.rope_scaling
  )
  angles = frequencies[:, None] * positions.reshape(-1).astype(jnp.float32)
  found = []
  for name in 'qkv':
    matrix = w[name]  # [N H D]
    z = _linear(matrix.reshape(-1, matrix.shape[-1]), y)
    z = z.reshape(*matrix.shape[:2], -1)
    if f'{name}_bias' in w:
      z = z + w[f'{name}_bias'][..., None]
    if name != 'v':
      if c.qk_norm:
        z = _norm(c, z, w[f'{name}_norm'])
      z = attention.turn(z, jnp.cos(angles), jnp.sin(angles), axis=1)
    z = jnp.moveaxis(z, 2, 0)
    found.append(z.reshape(*positions.shape, z.shape[1], 1, z.shape[2]))
  return found


def _mlp(c, x, w):
  y = _norm(c, x, w['mlp_norm'])
  y = jax.nn.silu(_linear(w['gate'], y)) * _linear(w['up'], y)
  return _linear(w['down'], y)


def _linear(w, x):
  return jnp.einsum('oi,ir->or', w, x)


def _norm(c, x, scale):
  """Over the features, which are last but one."""
  return rms_norm(x, scale[:, None], c.norm_eps, axis=-2)
