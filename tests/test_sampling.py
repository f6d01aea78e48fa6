"""Sampling agrees with the trainer, and its noise with nothing but its key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import drawing, layout, logprobs, samplers, sampling
from grpo_jax.models import decode_step, transformer
from grpo_jax.structs import Prompts

EOS = 3
PROMPTS = [[5, 6, 7, 8], [9], [4, 10, 11, 12, 13, 2]]


def make_prompts(ids=None, multiple=8):
  ids = PROMPTS if ids is None else ids
  host = layout.prompts(ids, multiple=multiple)
  return jax.tree.map(jnp.asarray, host)


@functools.cache
def programs(
  model, *, group_size=4, chunk=4, temperature=1.0, vocab_size=20,
  stop_ids=(EOS,), top_k=0, top_p=1.0, min_p=0.0,
  cache_dtype='float32',
):  # fmt: skip
  """The compiled programs; cached, so that tests share compilations."""
  shape = (model.num_layers, model.num_kv_heads, model.head_dim)

  def start(prompts, key, first):
    state = sampling.start_decoding(
      prompts.last,
      group_size=group_size,
      capacity=chunk,
      cache_shape=shape,
      dtype=jnp.dtype(cache_dtype),
    )
    return state, sampling.row_keys(key, state.token.shape, first)

  decode = functools.partial(
    sampling.decode,
    step=functools.partial(decode_step.step, model, dtype=jnp.float32),
    turns=functools.partial(decode_step.turns, model),
    head=transformer.head,
    stop_ids=stop_ids,
    vocab_size=vocab_size,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    min_p=min_p,
  )
  prefill = functools.partial(transformer.prefill, model, dtype=jnp.float32)
  return sampling.Programs(
    prefill=jax.jit(prefill),
    start=jax.jit(start),
    decode=jax.jit(decode),
    grow=samplers.ByLayer(sampling.grow_decoding),
    finish=jax.jit(sampling.finish_decoding),
  )


def sample(model, params, prompts, key, *, max_length=12, chunk=4, **settings):
  return sampling.sample(
    programs(model, chunk=chunk, **settings),
    jax.jit(transformer.unstack)(params),
    prompts,
    key,
    max_length=max_length,
    chunk=chunk,
  )


@functools.cache
def scorer(model, temperature, vocab_size):
  @jax.jit
  def fn(params, prompts, rollout):
    trunk = transformer.prefill(model, params, prompts, dtype=jnp.float32)
    hidden = transformer.branches(
      model, params, rollout.inputs, trunk, dtype=jnp.float32
    )
    return logprobs.token_logprobs(
      hidden,
      transformer.head(params),
      rollout.targets,
      temperature=temperature,
      vocab_size=vocab_size,
      chunk=5,
    )

  return fn


def score(model, params, prompts, rollout, *, temperature=1.0, vocab_size=20):
  return scorer(model, temperature, vocab_size)(params, prompts, rollout)


@pytest.mark.parametrize('temperature', [0.7, 1.0, 1.5])
def test_sampler_logprobs_are_the_trainers(model, params, temperature):
  prompts = make_prompts()
  key = jax.random.key(1)
  rollout = sample(model, params, prompts, key, temperature=temperature)
  trained, _ = score(model, params, prompts, rollout, temperature=temperature)
  mask = np.asarray(rollout.mask)
  assert mask.any(-1).all() and not mask.all()
  # fp32 rounding through two layers and a softmax.
  np.testing.assert_allclose(
    np.asarray(trained)[mask], np.asarray(rollout.logprobs)[mask], atol=2e-5
  )


def test_logprobs_notice_a_wrong_temperature(model, params):
  prompts = make_prompts()
  rollout = sample(model, params, prompts, jax.random.key(1), temperature=0.7)
  trained, _ = score(model, params, prompts, rollout, temperature=1.0)
  gap = np.abs(np.asarray(trained - rollout.logprobs))[rollout.mask]
  assert gap.mean() > 1e-2


def test_tokens_do_not_depend_on_chunks_padding_or_neighbours(model, params):
  key = jax.random.key(2)
  plain = sample(model, params, make_prompts(), key, chunk=12)
  chunked = sample(model, params, make_prompts(), key, chunk=4)
  padded = sample(model, params, make_prompts(multiple=16), key, chunk=12)
  alone = sample(model, params, make_prompts(PROMPTS[:1]), key, chunk=12)
  for other in (chunked, padded):
    width = min(other.mask.shape[2], plain.mask.shape[2])
    np.testing.assert_array_equal(
      plain.targets[:, :, :width], other.targets[:, :, :width]
    )
    assert plain.mask.sum() == other.mask.sum()
  width = min(alone.mask.shape[2], plain.mask.shape[2])
  np.testing.assert_array_equal(
    plain.targets[:1, :, :width], alone.targets[:, :, :width]
  )


def test_more_samples_leave_the_first_ones_as_they_were(model, params):
  key = jax.random.key(3)
  few = sample(model, params, make_prompts(), key, group_size=2, chunk=12)
  many = sample(model, params, make_prompts(), key, group_size=6, chunk=12)
  np.testing.assert_array_equal(few.targets, many.targets[:, :2])


def test_samples_prompts_and_steps_draw_different_noise(model, params):
  same = make_prompts([PROMPTS[0], PROMPTS[0]])
  rollout = sample(model, params, same, jax.random.key(0), group_size=8)
  rows = np.asarray(rollout.targets * rollout.mask).reshape(16, -1)
  assert len(np.unique(rows, axis=0)) > 12
  later = sample(model, params, same, jax.random.key(1), group_size=8)
  width = min(later.mask.shape[2], rollout.mask.shape[2])
  assert (rollout.targets[..., :width] != later.targets[..., :width]).any()


def test_the_mask_ends_with_the_first_stop_id_of_any(model, params):
  stops = (EOS, 7)
  rollout = sample(
    model, params, make_prompts(), jax.random.key(4), stop_ids=stops,
    group_size=16,
  )  # fmt: skip
  targets, mask = np.asarray(rollout.targets), np.asarray(rollout.mask)
  seen = set()
  for row, row_mask in zip(
    targets.reshape(-1, targets.shape[-1]),
    mask.reshape(-1, mask.shape[-1]),
    strict=True,
  ):
    length = row_mask.sum()
    assert row_mask[:length].all()
    kept = row[:length]
    assert not np.isin(kept[:-1], stops).any()
    if length < 12:
      assert kept[-1] in stops
      seen.add(int(kept[-1]))
  assert seen == set(stops)


def test_vocabulary_padding_is_never_sampled(model, params):
  rollout = sample(
    model, params, make_prompts(), jax.random.key(5), vocab_size=8,
    group_size=16, temperature=5.0,
  )  # fmt: skip
  assert rollout.targets.max() < 8
  trained, _ = score(
    model, params, make_prompts(), rollout, temperature=5.0, vocab_size=8
  )
  np.testing.assert_allclose(
    np.asarray(trained)[rollout.mask],
    np.asarray(rollout.logprobs)[rollout.mask],
    atol=2e-5,
  )


def test_greedy_is_the_argmax_with_logprob_zero(model, params):
  rollout = sample(
    model, params, make_prompts(), jax.random.key(0), temperature=0.0
  )
  trunk = transformer.prefill(model, params, make_prompts(), dtype=jnp.float32)
  hidden = transformer.branches(
    model, params, rollout.inputs, trunk, dtype=jnp.float32
  )
  best = jnp.argmax(hidden @ transformer.head(params).T, -1)
  np.testing.assert_array_equal(
    np.asarray(best)[rollout.mask], np.asarray(rollout.targets)[rollout.mask]
  )
  assert not rollout.logprobs.any()


def test_inverse_cdf_picks_by_hand():
  mass = jnp.array([[[0.0, 1.0, 0.0, 2.0, 1.0, 0.0]]])
  # Cumulative mass over 4: 0, .25, .25, .75, 1, 1.
  for uniform, token in [(0.0, 1), (0.249, 1), (0.25, 3), (0.74, 3), (0.75, 4)]:
    assert drawing.inverse_cdf(mass, jnp.array([[uniform]]))[0, 0] == token
  almost_one = jnp.array([[1 - 2**-24]])
  assert drawing.inverse_cdf(mass, almost_one)[0, 0] == 4


def test_inverse_cdf_draws_the_distribution_over_many_blocks():
  rng = np.random.default_rng(0)
  probs = rng.dirichlet(np.full(700, 0.1)).astype(np.float32)
  n = 200_000
  uniform = (np.arange(n, dtype=np.float32) + 0.5) / n
  mass = jnp.broadcast_to(jnp.asarray(probs), (1, n, 700))
  tokens = jax.jit(drawing.inverse_cdf)(mass, uniform[None])
  share = np.bincount(np.asarray(tokens[0]), minlength=700) / n
  # A grid of uniforms is off by at most a grid cell, plus fp32 rounding.
  np.testing.assert_allclose(share, probs, atol=1.1 / n + 2e-6)
  assert (
    np.bincount(np.asarray(tokens[0]), minlength=700)[probs == 0] == 0
  ).all()


def probabilities(logits, **filters):
  """Share of each token over a grid of uniforms, and the logprobs told."""
  n = 4096
  uniform = (jnp.arange(n) + 0.5)[None] / n
  tokens, told = drawing.choose(
    jnp.broadcast_to(logits, (1, n, logits.shape[-1])),
    uniform,
    greedy=False,
    **filters,
  )
  share = np.bincount(np.asarray(tokens[0]), minlength=logits.shape[-1]) / n
  return share, np.asarray(tokens[0]), np.asarray(told[0])


@pytest.mark.parametrize(
  'filters, kept',
  [
    ({}, [0.4, 0.3, 0.2, 0.1]),
    ({'top_k': 2}, [4 / 7, 3 / 7, 0, 0]),
    # 0.4 + 0.3 = 0.7 is not yet 0.75, so the third token belongs.
    ({'top_p': 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
    ({'top_p': 0.35}, [1, 0, 0, 0]),
    # At least 0.6 * 0.4 = 0.24.
    ({'min_p': 0.6}, [4 / 7, 3 / 7, 0, 0]),
  ],
)
def test_filters_keep_what_they_should_and_tell_its_logprob(filters, kept):
  logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
  share, tokens, told = probabilities(logits, **filters)
  np.testing.assert_allclose(share, kept, atol=1e-3)
  np.testing.assert_allclose(np.exp(told), np.array(kept)[tokens], rtol=1e-5)


def test_decoding_stops_at_the_first_capacity_that_finishes(model, params):
  everything = tuple(range(20))
  rollout = sample(
    model, params, make_prompts(), jax.random.key(0), stop_ids=everything,
    max_length=64, chunk=4,
  )  # fmt: skip
  assert rollout.mask.shape[2] == 4 and rollout.mask.sum() == 12


def test_capacities_double_up_to_the_limit():
  assert layout.capacities(100, 16) == [16, 32, 64, 100]
  assert layout.capacities(16, 16) == [16]
  assert layout.capacities(8, 16) == [8]


def test_unused_prompt_padding_changes_no_logprob(model, params):
  prompts = make_prompts()
  rollout = sample(model, params, prompts, jax.random.key(1))
  first, _ = score(model, params, prompts, rollout)
  dirty = Prompts(
    trunk=jnp.where(prompts.trunk_mask, prompts.trunk, 17),
    trunk_mask=prompts.trunk_mask,
    last=prompts.last,
  )
  second, _ = score(model, params, dirty, rollout)
  np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_caches_grow_layer_by_layer_and_old_ones_are_given_up(dtype):
  state = sampling.start_decoding(
    jnp.zeros(2, jnp.int32),
    group_size=3,
    capacity=4,
    cache_shape=(3, 2, 8),
    dtype=dtype,
  )
  filled = jax.tree.map(
    lambda x: jnp.arange(x.size).reshape(x.shape).astype(x.dtype), state
  )
  expected = sampling.grow_decoding(filled, 6)
  grown = samplers.ByLayer(sampling.grow_decoding)(filled, 6)
  assert all(x.is_deleted() for x in jax.tree.leaves(filled.cache))
  jax.tree.map(np.testing.assert_array_equal, grown, expected)
