"""The Pallas kernel of decoding, interpreted, against all scores at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from grpo_jax import sharding
from grpo_jax.models import cache, decode_kernel, decoding

SLOTS = 2 * decode_kernel._SLOTS  # two blocks
Q, G, K, R, H, P = 2, 3, 2, 3, 16, 5


def case(*, slots=SLOTS, dtype='float32', trunk=P):
  """Queries, a cache that is full to its last slot, and a trunk."""
  rng = np.random.default_rng(0)
  normal = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  kept = cache.empty((Q, G, K), slots, H, jnp.dtype(dtype))
  # As many keys as there are slots, written as one.
  kept = cache.write(
    kept, normal(Q, G, K, slots, H), normal(Q, G, K, slots, H), jnp.int32(0)
  )
  mask = jnp.asarray(np.arange(trunk) >= rng.integers(0, 3, size=(Q, 1)))
  shared = normal(Q, K, trunk, H), normal(Q, K, trunk, H), mask
  return normal(Q, G, K * R, 1, H), kept.k, kept.v, shared


def kernel_on(fsdp=1, data=1, tensor=1):
  mesh = sharding.make_mesh(
    dict(data=data, fsdp=fsdp, tensor=tensor),
    jax.devices()[: fsdp * data * tensor],
  )
  return functools.partial(
    decoding.kernel, mesh=mesh, rows=PartitionSpec('fsdp', 'data'),
    heads='tensor', interpret=True,
  )  # fmt: skip


def starts(*values):
  return jnp.asarray(np.resize(values, (Q, G)), jnp.int32)


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
@pytest.mark.parametrize(
  't, start',
  [
    (0, starts(0)),
    (300, starts(0)),
    (511, starts(0, 7)),
    (512, starts(0)),
    # Some begin within the second block, and see nothing of the first.
    (900, starts(0, 600, 900, 17)),
    (SLOTS - 1, starts(512, 0)),
  ],
)
def test_the_kernel_gives_what_all_scores_give(dtype, t, start):
  given, t = case(dtype=dtype), jnp.int32(t)
  wanted = jax.jit(decoding.scores)(*given, t=t, start=start)
  got = jax.jit(kernel_on())(*given, t=t, start=start)
  assert got.shape == wanted.shape and got.dtype == wanted.dtype
  # fp32 sums in another order.
  np.testing.assert_allclose(got, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize('slots, trunk', [(24, P), (384, P), (SLOTS, 0)])
def test_slots_may_be_few_or_odd_and_trunks_empty(slots, trunk):
  given = case(slots=slots, trunk=trunk)
  where = dict(t=jnp.int32(slots - 2), start=starts(0))
  np.testing.assert_allclose(
    kernel_on()(*given, **where),
    decoding.scores(*given, **where),
    atol=2e-6,
    rtol=1e-5,
  )


def test_many_slots_that_do_not_divide_are_refused_with_the_remedy():
  assert decode_kernel.block_size(8192) == 512
  assert decode_kernel.block_size(1000) == 1000
  with pytest.raises(ValueError, match='8000 slots in blocks of 128'):
    decode_kernel.block_size(8000)


def test_slots_that_are_not_filled_are_not_read():
  """What lies in later blocks does not matter, be it no number at all."""
  q, keys, values, trunk = case()
  where = dict(t=jnp.int32(511), start=starts(0))
  wanted = kernel_on()(q, keys, values, trunk, **where)
  later = jnp.arange(SLOTS) > 511
  keys = dataclasses.replace(
    keys, values=jnp.where(later, jnp.nan, keys.values)
  )
  values = dataclasses.replace(
    values, values=jnp.where(later[:, None], jnp.nan, values.values)
  )
  got = kernel_on()(q, keys, values, trunk, **where)
  np.testing.assert_array_equal(got, wanted)


def test_rows_and_heads_may_be_split_over_devices():
  given = case(slots=128)
  where = dict(t=jnp.int32(100), start=starts(0, 50))
  one = jax.jit(kernel_on())(*given, **where)
  several = jax.jit(kernel_on(fsdp=2, tensor=2))(*given, **where)
  np.testing.assert_allclose(several, one, atol=1e-6)
