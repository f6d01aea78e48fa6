"""Caches of branches being decoded: in int8, and without axes of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_sampling as helpers
import tiny

from grpo_jax import layout, policy, programs, runs, samplers, sharding
from grpo_jax.models import cache


def random(shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


INT8 = jnp.dtype('int8')


def entries(kept, rows):
  """Keys and values [Q G K S H] that a cache of those rows holds."""
  kept = cache.spread(kept, rows)
  keys = jnp.swapaxes(kept.k.values, 3, 4)
  found = []
  for values, scale in ((keys, kept.k.scale), (kept.v.values, kept.v.scale)):
    found.append(values if scale is None else values * scale[..., None])
  return found


def test_an_entry_is_off_by_half_a_step_of_its_positions_largest():
  xs = random((2, 3, 1, 1, 8)), random((2, 3, 1, 1, 8), 1)
  kept = cache.write(cache.empty((2, 3, 1), 4, 8, INT8), *xs, jnp.int32(2))
  assert cache.slots(kept.k) == 4
  assert kept.k.values.dtype == kept.v.values.dtype == jnp.int8
  for x, found in zip(xs, entries(kept, (2, 3, 1)), strict=True):
    got, wanted = found[:, :, :, 2], x[:, :, :, 0]
    largest = np.abs(wanted).max(-1, keepdims=True)
    error = np.abs(got - wanted)
    assert (error <= largest / 254 * (1 + 1e-5)).all() and error.max() > 0
    # The largest itself is exact, and other slots are as they were.
    np.testing.assert_allclose(
      np.abs(got).max(-1, keepdims=True), largest, 1e-6
    )
    assert not found[:, :, :, [0, 1, 3]].any()


def test_a_vector_of_zeros_stays_one():
  zeros = jnp.zeros((1, 1, 1, 1, 4))
  kept = cache.write(
    cache.empty((1, 1, 1), 2, 4, INT8), zeros, zeros, jnp.int32(0)
  )
  q = random((1, 1, 1, 1, 4))
  assert not cache.scores(q, kept.k).any()
  out = cache.weighted(jnp.ones((1, 1, 1, 1, 2)), kept.v, q.dtype)
  assert np.isfinite(out).all()


@pytest.mark.parametrize('dtype', ['int8', 'float32'])
def test_products_with_a_cache_are_those_with_its_entries(dtype):
  kept = cache.empty((1, 2, 2), 3, 8, jnp.dtype(dtype))
  written = []
  for t in range(3):
    new = random((1, 2, 2, 1, 8), t), random((1, 2, 2, 1, 8), 9 + t)
    kept = cache.write(kept, *new, jnp.int32(t))
    written.append(new)
  keys, values = entries(kept, (1, 2, 2))
  if dtype == 'float32':
    for found, wanted in zip(
      (keys, values), zip(*written, strict=True), strict=True
    ):
      np.testing.assert_array_equal(found, jnp.concatenate(wanted, 3))
  q, weights = random((1, 2, 2, 5, 8), 7), random((1, 2, 2, 5, 3), 8)
  np.testing.assert_allclose(
    cache.scores(q, kept.k), cache.scores(q, keys), atol=1e-5
  )
  np.testing.assert_allclose(
    cache.weighted(weights, kept.v, q.dtype),
    cache.weighted(weights, values, q.dtype),
    atol=1e-5,
  )


@pytest.mark.parametrize('dtype', ['int8', 'float32'])
@pytest.mark.parametrize('rows', [(4, 1, 2), (4, 2, 1), (3, 1, 1), (1, 1, 1)])
def test_a_compact_cache_is_the_same_without_axes_of_one(rows, dtype):
  small = cache.empty(rows, 3, 8, jnp.dtype(dtype))
  assert small.k.values.shape == (*(n for n in rows if n > 1), 8, 3)
  new = random((*rows, 1, 8)), random((*rows, 1, 8), 1)
  less = cache.write(small, *new, jnp.int32(1))
  kept = cache.spread(less, rows)
  assert jax.tree.map(jnp.shape, cache.compact(kept)) == jax.tree.map(
    jnp.shape, less
  )
  if dtype == 'float32':
    np.testing.assert_array_equal(kept.k.values[..., 1], new[0][..., 0, :])
    np.testing.assert_array_equal(kept.v.values[:, :, :, 1:2], new[1])
  q, weights = random((*rows, 5, 8), 7), random((*rows, 5, 3), 8)
  assert cache.slots(less.k) == 3
  np.testing.assert_allclose(
    cache.scores(q, less.k), cache.scores(q, kept.k), atol=1e-5
  )
  np.testing.assert_allclose(
    cache.weighted(weights, less.v, q.dtype),
    cache.weighted(weights, kept.v, q.dtype),
    atol=1e-5,
  )


@pytest.mark.parametrize('group_size', [1, 2])
def test_no_cache_is_copied_while_tokens_are_decoded(group_size):
  cfg = tiny.get_config()
  cfg.model.update(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8)
  pol = dataclasses.replace(
    policy.open_policy(cfg),
    mesh=sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1]),
  )
  sampler = samplers.sampler(
    pol, group_size=group_size, max_completion_length=512, chunk=512,
    temperature=1.0,
  )  # fmt: skip
  run = sampler.programs
  prompts = pol.rows('sample').put(
    layout.prompts([[5, 6, 7], [8, 5]] * 4, multiple=4)
  )
  params = programs.publish(pol)(pol.params())
  state, keys = run.start(prompts, jax.random.key(0), jnp.int32(0))
  trunk = run.prefill(params, prompts)
  used = (
    run.decode.lower(params, trunk, state, keys).compile().memory_analysis()
  )
  largest = max(x.nbytes for x in jax.tree.leaves(state.cache))
  assert used.temp_size_in_bytes < largest


@pytest.mark.parametrize('seed', [1, 2])
def test_an_int8_cache_draws_from_a_distribution_close_by(model, params, seed):
  prompts = helpers.make_prompts()
  key = jax.random.key(seed)
  rollout = helpers.sample(
    model, params, prompts, key, cache_dtype='int8', max_length=12
  )
  trained, _ = helpers.score(model, params, prompts, rollout)
  gap = np.abs(np.asarray(trained - rollout.logprobs))[rollout.mask]
  # The model's logits are of order 1; without rounding the gap is below 2e-5.
  assert 1e-5 < gap.max() < 0.05


def test_a_run_samples_from_an_int8_cache(tmp_path):
  done = tiny.job(
    'train', f'--workdir={tmp_path}', '--config.steps=2',
    '--config.sample.cache_dtype=int8',
  )  # fmt: skip
  assert done.code == 0, done.err
  gaps = runs.open_run(tmp_path).metrics['logprob_gap/mean']
  gaps = gaps[np.isfinite(gaps)]
  assert len(gaps) and (gaps > 1e-5).all() and (gaps < 0.1).all()
