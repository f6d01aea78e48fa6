"""Causal attention of whole branches to their trunk and to themselves.

Three ways with one meaning, chosen by config: `full` holds all scores and is
the fastest where they fit (CPU, short completions); `chunked` holds a block of
them at a time, on any device; `splash` is JAX's Pallas kernel for TPU, which
skips what the mask hides. Decoding, with one query a branch, has its own:
`models.decoding`.

Each takes (q [Q G N C H], k [Q G K C H], v [Q G K C H], trunk) and `valid`
[Q C], the own slots that hold a token, or None if all do (only a trunk is
padded on the left); returns [Q G N C H]. Rows of padding hold finite numbers
that mean nothing. All but `splash` take `segments` [Q G C], whose tokens see
their own segment and the trunk only: completions packed end to end.
"""

import math

import jax
from jax.experimental.pallas.ops.tpu import splash_attention
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from grpo_jax.models.attention import attend, NEGATIVE
from grpo_jax.models.remat import ATTENTION
from grpo_jax.structs import Array

BLOCK = 512  # queries or keys at a time of `chunked`
# Of `splash`, by the compiler's schedule a fifth faster than 512 (LOG.md).
_SPLASH_BLOCK = 1024
_TRUNK = -1  # of segments: seen by all
LANES = 128  # of a TPU; blocks are multiples of it


def full(
  q,
  k,
  v,
  trunk=None,
  *,
  valid: Array | None = None,
  segments: Array | None = None,
) -> Array:
  """All scores at once."""
  size = q.shape[3]
  mask = jnp.tril(jnp.ones((size, size), bool))[None, None]
  if valid is not None:
    mask = mask & valid[:, None, None]
  if segments is not None:
    mask = mask & (segments[..., None] == segments[:, :, None])
  return attend(q, k, v, mask, trunk)


def chunked(
  q,
  k,
  v,
  trunk=None,
  *,
  valid: Array | None = None,
  segments: Array | None = None,
  block: int = BLOCK,
) -> Array:
  """A block of queries at a time against a block of keys, by online softmax.

  Rabe and Staats (2112.05682). Blocks that causality hides are computed too,
  so this costs up to twice the products of `splash`.

  Args:
    q, k, v, trunk, valid, segments: see the module.
    block: queries, and keys, at a time.
  """
  rows, group, heads, size, width = q.shape
  keys, values, seen, ahead = _joined(q, k, v, trunk, valid)
  kv_heads = keys.shape[2]
  # Short ones are not filled up to a whole block.
  block = min(block, max(keys.shape[3], 1))
  q = q.reshape(rows, group, kv_heads, heads // kv_heads, size, width)
  q = _blocks(q * (1 / math.sqrt(width)), block, axis=4)
  keys, values = (_blocks(x, block, axis=3) for x in (keys, values))
  seen = _blocks(seen, block, axis=1)
  places = jnp.arange(len(keys) * block).reshape(-1, block)
  theirs = None
  if segments is not None:
    theirs = jnp.pad(
      segments, ((0, 0), (0, 0), (ahead, 0)), constant_values=_TRUNK
    )
    segments, theirs = (_blocks(x, block, axis=2) for x in (segments, theirs))

  @jax.checkpoint
  def one_block(_, xs):
    queries, own, first = xs
    last_seen = ahead + first + jnp.arange(block)

    def add(carry, xs):
      top, total, out = carry
      k, v, present, theirs, places = xs
      scores = jnp.einsum(
        'qgkrch,qgksh->qgkrcs', queries, k, preferred_element_type=jnp.float32
      )
      visible = (places <= last_seen[:, None]) & present[:, None]
      visible = visible[:, None]
      if theirs is not None:
        theirs = theirs[:, :, None]
        visible = visible & ((theirs == own[..., None]) | (theirs == _TRUNK))
      scores = jnp.where(visible[:, :, None, None], scores, NEGATIVE)
      new_top = jnp.maximum(top, scores.max(-1, keepdims=True))
      new_top = jax.lax.stop_gradient(new_top)
      shrink = jnp.exp(top - new_top)
      weights = jnp.exp(scores - new_top)
      out = out * shrink + jnp.einsum(
        'qgkrcs,qgksh->qgkrch', weights.astype(v.dtype), v,
        preferred_element_type=jnp.float32,
      )  # fmt: skip
      total = total * shrink + weights.sum(-1, keepdims=True)
      return (new_top, total, out), None

    shape = (*queries.shape[:-1], 1)
    empty = (
      jnp.full(shape, NEGATIVE), jnp.zeros(shape), jnp.zeros(queries.shape)
    )  # fmt: skip
    (_, total, out), _ = jax.lax.scan(
      add, empty, (keys, values, seen, theirs, places)
    )
    return None, (out / total).astype(v.dtype)

  firsts = jnp.arange(len(q)) * block
  _, outs = jax.lax.scan(one_block, None, (q, segments, firsts))
  outs = jnp.moveaxis(outs, 0, 4)
  outs = outs.reshape(rows, group, heads, -1, width)
  return outs[:, :, :, :size]


def splash(
  q,
  k,
  v,
  trunk=None,
  *,
  valid: Array | None = None,
  mesh: Mesh,
  rows: PartitionSpec,
  heads: str | None,
  positions: str | None = None,
  interpret: bool = False,
) -> Array:
  """JAX's splash attention on the devices of a mesh, each on rows of its own.

  The compiler cannot split a kernel, so this does, by `shard_map`.

  Args:
    q, k, v, trunk, valid: see the module.
    mesh: of the devices.
    rows: how Q and G are split; a trunk alone (G = 1) is not split by G.
    heads: the mesh axis that heads are split over.
    positions: the mesh axis that queries C of branches are split over; each
      device has their keys whole. Later queries see more: with causal masks
      the last device has up to twice the mean work.
    interpret: run the kernel's Python, on any device.
  """
  if not q.shape[3]:  # an empty trunk; the kernel has no block for it
    return q
  keys, values, seen, ahead = _joined(q, k, v, trunk, valid)
  prompts, samples = rows
  # A trunk is whole on every device that has positions of its branches.
  positions = None if trunk is None else positions
  parts = 1 if positions is None else mesh.shape[positions]
  n, size, width = q.shape[2:]
  # Keys are filled up on the left, where nothing sees them, and queries on the
  # right, whose results are dropped; then the mask stays a shifted triangle.
  right = -size % (parts * LANES)
  left = -(keys.shape[3] + right) % LANES
  pad = lambda x, axis, a, b: jnp.pad(
    x, [(a, b) if i == axis else (0, 0) for i in range(x.ndim)]
  )
  q = pad(q * jnp.asarray(1 / math.sqrt(width), q.dtype), 3, 0, right)
  keys, values = (pad(x, 3, left, right) for x in (keys, values))
  seen = pad(seen, 1, left, right)
  mask = splash_attention.CausalMask(
    (q.shape[3], keys.shape[3]), offset=left + ahead
  )
  kernel = _kernel(
    mask,
    heads=n if heads is None else n // mesh.shape[heads],
    parts=parts,
    interpret=interpret,
  )
  by_query = PartitionSpec(
    prompts, samples if q.shape[1] > 1 else None, heads, positions
  )
  by_key = PartitionSpec(*by_query[:3])
  masks = kernel.manual_sharding_spec(
    NamedSharding(mesh, PartitionSpec(None, positions))
  )
  out = jax.shard_map(
    _on_each_device,
    mesh=mesh,
    in_specs=(masks, by_query, by_key, by_key, PartitionSpec(prompts)),
    out_specs=by_query,
    check_vma=False,
  )(kernel, q, keys, values, seen)
  return out[:, :, :, :size]


def _kernel(mask, *, heads, parts, interpret):
  """The kernel of one device's heads; masks are split over `parts` of C."""
  queries, keys = mask.shape
  # They divide what has been filled up, so that no more is.
  by_q, by_k = (
    largest_block(n, most=_SPLASH_BLOCK) for n in (queries // parts, keys)
  )
  return splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([mask] * heads),
    block_sizes=splash_attention.BlockSizes(
      block_q=by_q, block_kv=by_k, block_kv_compute=by_k,
      block_q_dkv=by_q, block_kv_dkv=by_k, block_kv_dkv_compute=by_k,
      block_q_dq=by_q, block_kv_dq=by_k,
    ),
    head_shards=1,
    q_seq_shards=parts,
    residual_checkpoint_name=ATTENTION,
    interpret=interpret,
  )  # fmt: skip


def _on_each_device(kernel, q, k, v, seen):
  """q [q G n c H], k and v [q G k S H], seen [q S] -> as q."""

  def one_row(q, k, v, seen):
    segments = splash_attention.SegmentIds(
      q=jnp.ones(q.shape[2], jnp.int32), kv=seen.astype(jnp.int32)
    )
    return jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=segments))(
      q, k, v
    )

  return jax.vmap(one_row)(q, k, v, seen)


def _joined(q, k, v, trunk, valid):
  """Keys and values [Q G K P+C H], which of them exist [Q P+C], and P."""
  rows, group, _, size, _ = q.shape
  seen = jnp.ones((rows, size), bool) if valid is None else valid
  if trunk is None:
    return k, v, seen, 0
  trunk_k, trunk_v, mask = trunk

  def join(shared, own):
    shape = (rows, group, *shared.shape[1:])
    shared = jnp.broadcast_to(shared[:, None], shape)
    return jnp.concatenate([shared, own], 3)

  seen = jnp.concatenate([mask, seen], 1)
  return join(trunk_k, k), join(trunk_v, v), seen, mask.shape[1]


def _blocks(x, block, *, axis):
  """[... n ...] -> [n / block, ... block ...], filled up with zeros."""
  pad = [(0, 0)] * x.ndim
  pad[axis] = (0, -x.shape[axis] % block)
  x = jnp.pad(x, pad)
  x = x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def largest_block(n: int, *, most: int) -> int:
  """The largest multiple of LANES that divides n; n itself if none does."""
  sizes = range(LANES, most + 1, LANES)
  return max((b for b in sizes if n % b == 0), default=n)
