"""The int8 cache of branches being decoded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_sampling as helpers
import tiny

from grpo_jax import runs
from grpo_jax.models import cache


def random(shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_an_entry_is_off_by_half_a_step_of_its_positions_largest():
  x = random((2, 3, 1, 1, 8))
  empty = cache.empty((2, 3, 1, 4, 8), jnp.dtype('int8'))
  kept = cache.write(empty, x, jnp.int32(2))
  assert kept.values.dtype == jnp.int8 and cache.slots(kept) == 4
  got = kept.values[:, :, :, 2] * kept.scale[:, :, :, 2, None]
  largest = np.abs(x[:, :, :, 0]).max(-1, keepdims=True)
  error = np.abs(got - x[:, :, :, 0])
  assert (error <= largest / 254 * (1 + 1e-5)).all() and error.max() > 0
  # The largest itself is exact, and other slots are as they were.
  np.testing.assert_allclose(np.abs(got).max(-1, keepdims=True), largest, 1e-6)
  assert not kept.values[:, :, :, [0, 1, 3]].any()


def test_a_vector_of_zeros_stays_one():
  empty = cache.empty((1, 1, 1, 2, 4), jnp.dtype('int8'))
  kept = cache.write(empty, jnp.zeros((1, 1, 1, 1, 4)), jnp.int32(0))
  q = random((1, 1, 1, 1, 4))
  assert not cache.scores(q, kept).any()
  out = cache.weighted(jnp.ones((1, 1, 1, 1, 2)), kept, q.dtype)
  assert np.isfinite(out).all()


def test_products_with_a_cache_are_those_with_its_entries():
  kept = cache.empty((1, 2, 2, 3, 8), jnp.dtype('int8'))
  for t in range(3):
    kept = cache.write(kept, random((1, 2, 2, 1, 8), t), jnp.int32(t))
  entries = kept.values * kept.scale[..., None]
  q, weights = random((1, 2, 2, 5, 8), 7), random((1, 2, 2, 5, 3), 8)
  np.testing.assert_allclose(
    cache.scores(q, kept), cache.scores(q, entries), atol=1e-5
  )
  np.testing.assert_allclose(
    cache.weighted(weights, kept, q.dtype),
    cache.weighted(weights, entries, q.dtype),
    atol=1e-5,
  )


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
