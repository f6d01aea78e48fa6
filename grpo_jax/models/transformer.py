"""The decoder: one function for trunks and branches; `decode_step` has steps.

Covers Llama 3, SmolLM2, Qwen2/2.5 and Qwen3 dense by `Config` alone: RMSNorm,
RoPE, grouped-query attention, gated SiLU MLP, optional biases on q, k and v,
optional norms of q and k, tied or untied head.

Matrices are stored [out, in], as checkpoints do. Layers are stacked on a
leading axis and scanned; given as a list (`unstack`), they are unrolled, which
spares a decode step the copy of each layer's weights.
"""

from collections.abc import Callable
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Float, Int

from grpo_jax.models import attention, causal
from grpo_jax.models.architecture import Config
from grpo_jax.models.params import Param
from grpo_jax.models.remat import ATTENTION, rematerialised
from grpo_jax.structs import Array, KV, Prompts, PyTree, Trunk


def declare(c: Config) -> PyTree:
  """The parameter tree, as `Param` leaves."""
  l, d, f = c.num_layers, c.embed_dim, c.mlp_dim
  n, k, h = c.num_heads, c.num_kv_heads, c.head_dim
  # Products with the stream keep unit variance. GPT-2's fixed 0.02 is that of
  # a width of 2,500; a width of 128 learns slower from it (LOG.md).
  narrow = d**-0.5
  # Outputs into the residual stream shrink with depth (GPT-2, section 2.3).
  out = narrow / (2 * l) ** 0.5

  def layer(shape, axes, init):
    return Param((l, *shape), ('layers', *axes), init)

  layers = {
    'attn_norm': layer((d,), ('embed',), 'ones'),
    'q': layer((n, h, d), ('heads', 'head_dim', 'embed'), narrow),
    'k': layer((k, h, d), ('kv_heads', 'head_dim', 'embed'), narrow),
    'v': layer((k, h, d), ('kv_heads', 'head_dim', 'embed'), narrow),
    'o': layer((d, n, h), ('embed', 'heads', 'head_dim'), out),
    'mlp_norm': layer((d,), ('embed',), 'ones'),
    'gate': layer((f, d), ('mlp', 'embed'), narrow),
    'up': layer((f, d), ('mlp', 'embed'), narrow),
    'down': layer((d, f), ('embed', 'mlp'), out),
  }
  if c.qkv_bias:
    layers |= {
      'q_bias': layer((n, h), ('heads', 'head_dim'), 'zeros'),
      'k_bias': layer((k, h), ('kv_heads', 'head_dim'), 'zeros'),
      'v_bias': layer((k, h), ('kv_heads', 'head_dim'), 'zeros'),
    }
  if c.qk_norm:
    layers |= {
      'q_norm': layer((h,), ('head_dim',), 'ones'),
      'k_norm': layer((h,), ('head_dim',), 'ones'),
    }
  tree = {
    'embed': Param((c.vocab_size, d), ('vocab', 'embed'), narrow),
    'layers': layers,
    'final_norm': Param((d,), ('embed',), 'ones'),
  }
  if not c.tied_head:
    tree['head'] = Param((c.vocab_size, d), ('vocab', 'embed'), narrow)
  return tree


def unstack(params: PyTree) -> PyTree:
  """The same parameters with the layers as a list, to be unrolled."""
  stacked = params['layers']
  depth = stacked['attn_norm'].shape[0]
  layers = [{k: x[i] for k, x in stacked.items()} for i in range(depth)]
  return params | {'layers': layers}


def as_stored(_: str, weights: PyTree) -> PyTree:
  """Weights where they are: on one device, or split by the compiler."""
  return weights


def prefill(
  c: Config,
  params: PyTree,
  prompts: Prompts,
  *,
  dtype,
  remat: str = 'none',
  attend: Callable = causal.full,
  gather: Callable = as_stored,
) -> Trunk:
  """Runs every trunk once. See `structs.Trunk`; the rest as in `forward`."""
  mask = prompts.trunk_mask
  width = mask.shape[1]
  length = mask.sum(1, dtype=jnp.int32)
  positions = jnp.arange(width, dtype=jnp.int32) - (width - length)[:, None]
  _, kv = forward(
    c,
    params,
    prompts.trunk[:, None],
    jnp.maximum(positions, 0)[:, None],
    functools.partial(attend, valid=mask),
    dtype=dtype,
    remat=remat,
    gather=gather,
  )
  kv = KV(k=kv.k[:, :, 0], v=kv.v[:, :, 0])
  return Trunk(kv=kv, mask=mask, length=length)


def branches(
  c: Config,
  params: PyTree,
  inputs: Int[Array, 'Q G C'],
  trunk: Trunk,
  *,
  steps: Int[Array, 'Q G C'] | None = None,
  dtype,
  remat: str = 'none',
  attend: Callable = causal.full,
  gather: Callable = as_stored,
) -> Float[Array, 'Q G C D']:
  """Final hidden states of whole branches over their trunk, for training.

  `steps` are the places of tokens after the trunk, as they stand if None; the
  rest is as in `forward`.
  """
  if steps is None:
    steps = jnp.arange(inputs.shape[2], dtype=jnp.int32)
  positions = jnp.broadcast_to(
    trunk.length[:, None, None] + steps, inputs.shape
  )
  hidden, _ = forward(
    c,
    params,
    inputs,
    positions,
    attend,
    trunk=trunk,
    dtype=dtype,
    remat=remat,
    gather=gather,
  )
  return hidden


def forward(
  c: Config,
  params: PyTree,
  tokens: Int[Array, 'Q G C'],
  positions: Int[Array, 'Q G C'],
  attend: Callable,
  *,
  trunk: Trunk | None = None,
  dtype,
  remat: str = 'none',
  gather: Callable = as_stored,
) -> tuple[Float[Array, 'Q G C D'], KV]:
  """The decoder.

  Args:
    c: sizes.
    params: as declared, or with the layers as a list.
    tokens, positions: of this call's tokens.
    attend: (q, k, v, trunk) -> [Q G N C H]; see `causal`.
    trunk: keys and values shared by a group.
    dtype: of matmuls and of the keys and values returned.
    remat: a name of `remat.POLICIES`.
    gather: (name, weights) -> the same, whole on each device that is to use
      them: 'embed', or a layer's by 'layers'.

  Returns:
    Hidden states after the final norm, and this call's keys and values
    stacked over layers ([L Q G K C H]).
  """
  frequencies = attention.rope_frequencies(
    c.head_dim, theta=c.rope_theta, scaling=c.rope_scaling
  )
  x = gather('embed', params['embed'])[tokens].astype(dtype)
  one_layer = functools.partial(
    _layer,
    c,
    positions=positions,
    frequencies=frequencies,
    attend=attend,
    gather=gather,
  )

  if isinstance(params['layers'], list):
    kvs = []
    for i, weights in enumerate(params['layers']):
      shared = None if trunk is None else layer_of(trunk, i)
      x, kv = one_layer(x, weights, shared)
      kvs.append(kv)
    kvs = jax.tree.map(lambda *xs: jnp.stack(xs), *kvs)
  else:

    def body(x, layer):
      weights, kv = layer
      shared = None if kv is None else (kv.k, kv.v, trunk.mask)
      return one_layer(x, weights, shared)

    kv = None if trunk is None else trunk.kv
    x, kvs = jax.lax.scan(
      rematerialised(body, remat), x, (params['layers'], kv)
    )
  return rms_norm(x, params['final_norm'], c.norm_eps), kvs


def head(params: PyTree) -> Float[Array, 'V D']:
  """The matrix that turns hidden states into logits."""
  return params['head'] if 'head' in params else params['embed']


def layer_of(trunk: Trunk, i: int) -> tuple[Array, Array, Array]:
  """Keys, values and mask of a trunk in layer i, as attention takes them."""
  return trunk.kv.k[i], trunk.kv.v[i], trunk.mask


def rms_norm(x: Array, scale: Array, eps: float, axis: int = -1) -> Array:
  """x / rms(x) * scale over an axis, in fp32 (arXiv 1910.07467)."""
  wide = x.astype(jnp.float32)
  wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis, keepdims=True) + eps)
  return (wide * scale).astype(x.dtype)


def _layer(c, x, w, trunk, *, positions, frequencies, attend, gather):
  """One block; `trunk` is this layer's."""
  # Cast first: what travels is half as much.
  w = gather('layers', jax.tree.map(lambda p: p.astype(x.dtype), w))
  y = rms_norm(x, w['attn_norm'], c.norm_eps)
  q, k, v = (_heads(y, w, name) for name in 'qkv')
  if c.qk_norm:
    q = rms_norm(q, w['q_norm'], c.norm_eps)
    k = rms_norm(k, w['k_norm'], c.norm_eps)
  q = attention.rope(q, positions, frequencies)
  k = attention.rope(k, positions, frequencies)
  y = checkpoint_name(attend(q, k, v, trunk), ATTENTION)
  y = jnp.swapaxes(y, 2, 3).reshape(*x.shape[:3], c.num_heads * c.head_dim)
  x = x + _linear(y, w['o'].reshape(c.embed_dim, -1))
  y = rms_norm(x, w['mlp_norm'], c.norm_eps)
  y = jax.nn.silu(_linear(y, w['gate'])) * _linear(y, w['up'])
  return x + _linear(y, w['down']), KV(k=k, v=v)


def _linear(x, w):
  """x [Q G C in] by w [out in], as one plain matrix product."""
  flat = x.reshape(-1, x.shape[-1])
  out = jnp.einsum('ni,oi->no', flat, w)
  return out.reshape(*x.shape[:-1], w.shape[0])


def _heads(x, w, name):
  """Projection 'q', 'k' or 'v' of x [Q G C D], as [Q G N C H]."""
  matrix = w[name]
  y = _linear(x, matrix.reshape(-1, matrix.shape[-1]))
  y = y.reshape(*x.shape[:3], *matrix.shape[:2])
  if f'{name}_bias' in w:
    y = y + w[f'{name}_bias']
  return jnp.swapaxes(y, 2, 3)
