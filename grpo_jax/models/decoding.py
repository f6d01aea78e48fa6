"""Attention of one new token a branch, to its trunk and to its cache.

Two ways with one meaning, chosen by `sample.decoding`: `scores` leaves it to
the compiler, on any device; `kernel` is `decode_kernel`, on TPU.

Each takes (q [Q G N 1 H], keys, values of a `cache`, trunk) and t and start:
the last slot seen, and each branch's first [Q G]; returns [Q G N 1 H].
"""

import math

import jax.numpy as jnp

from grpo_jax.models import attention, cache, decode_kernel
from grpo_jax.structs import KV


def scores(q, keys, values, trunk, *, t, start):
  """All scores at once."""
  slots = jnp.arange(cache.slots(keys))
  seen = ((slots <= t) & (slots >= start[:, :, None]))[:, :, None]
  return attention.attend(q, keys, values, seen, trunk)


def kernel(q, keys, values, trunk, *, t, start, **where):
  """A block of slots at a time, none that is not filled.

  Args:
    q, keys, values, trunk, t, start: see the module.
    where: mesh, rows, heads and interpret of `decode_kernel.over_cache`.
  """
  rows, group, n, _, h = q.shape
  cached = cache.spread(KV(keys, values), (rows, group, -1))
  heads = cached.k.values.shape[2]
  scaled = (q * (1 / math.sqrt(h))).reshape(rows, group, heads, n // heads, h)
  start = jnp.broadcast_to(start, (rows, group))
  own = decode_kernel.over_cache(
    scaled, cached.k, cached.v, t=t, start=start, **where
  )
  both = attention.join(own, attention.over_trunk(scaled, trunk))
  return both.astype(q.dtype).reshape(q.shape)
