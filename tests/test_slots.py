"""Microbatches with slots: the same numbers as the branches that they hold."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_update import LR, objective, ragged, TABLE, table_score, WEIGHTINGS

from grpo_jax import (
  bucketed,
  losses,
  objectives,
  planner,
  policy,
  programs,
  sharding,
  slots,
  update,
)
from grpo_jax.models import causal, transformer

ONE = functools.cache(
  lambda: sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
)
RULES = dict(prompts=('data', 'fsdp'), samples=None, positions=None)
WIDTHS = (8, 6, 4)


def planned(batch, *, tokens=20):
  sizes = planner.Sizes(widths=WIDTHS, capacity=16, tokens=tokens)
  lengths = np.asarray(batch.mask).sum(-1)
  return planner.plan(lengths, trunk=batch.trunk.shape[1], sizes=sizes)


def parts(tree, **how):
  """Microbatches of (batch, ...), with their indices."""
  for bucket in planned(tree[0], **how):
    for some in bucket.microbatches():
      index = slots.index(some)
      shape = dict(slots=bucket.slots, width=bucket.width)
      yield slots.take(tree, index, **shape), index


def test_tokens_lie_where_their_completion_begins():
  # Two completions of 2 and 1 tokens in the first slot of 4, one of 3 in the
  # second, and none.
  start, length = jnp.array([[0, 2, 4, 8]]), jnp.array([[2, 1, 3, 0]])
  got = slots.place(start, length, slots=2, width=4)
  assert got.sample.tolist() == [[[0, 0, 1, 4], [2, 2, 2, 4]]]
  assert got.step.tolist() == [[[0, 1, 0, 0], [0, 1, 2, 0]]]
  branches = jnp.arange(16.0).reshape(1, 4, 4) + 1
  packed = slots.pack(branches, got)
  assert packed.tolist() == [[[1, 2, 5, 0], [9, 10, 11, 0]]]
  back = slots.unpack(packed, got)
  assert back[0, 0, :2].tolist() == [1, 2] and back[0, 1, 0] == 5
  assert back[0, 2, :3].tolist() == [9, 10, 11]


def test_the_gradient_of_unpacking_is_packing():
  start, length = jnp.array([[0, 2, 4, 8]]), jnp.array([[2, 1, 3, 0]])
  got = slots.place(start, length, slots=2, width=4)
  mask = jnp.arange(4) < length[..., None]
  x = jnp.arange(8.0).reshape(1, 2, 4)
  factors = jnp.arange(16.0).reshape(1, 4, 4) + 1

  def total(x):
    return jnp.sum(jnp.where(mask, factors * slots.unpack(x, got), 0))

  np.testing.assert_array_equal(
    jax.grad(total)(x), slots.pack(jnp.where(mask, factors, 0), got)
  )
  # Linear, so exact against differences.
  rows = [total(x.at[0, s, w].add(1.0)) for s in range(2) for w in range(4)]
  np.testing.assert_allclose(
    jax.grad(total)(x).ravel(), np.array(rows) - total(x)
  )


def test_what_is_taken_can_be_put_back():
  batch = ragged()
  out = jnp.full(batch.mask.shape, -1.0)
  for (part,), index in parts((batch,)):
    assert part.mask.sum() == index['length'].sum()
    out = slots.put(out, part.old_logprobs, index)
  np.testing.assert_array_equal(
    np.asarray(out)[np.asarray(batch.mask)],
    np.asarray(batch.old_logprobs)[np.asarray(batch.mask)],
  )


@functools.cache
def updater(loss, weights, kl_coef):
  """The bucketed update of the table, and the plain one."""
  tx = optax.sgd(LR)
  how = dict(
    score=table_score,
    objective=functools.partial(
      objectives.policy, loss=loss, kl=losses.k3, kl_coef=kl_coef
    ),
    weigh=WEIGHTINGS[weights],
    tx=tx,
  )
  whole = sharding.replicated(ONE())
  got = bucketed.updater(
    types.SimpleNamespace(
      mesh=ONE(), rows=lambda _: sharding.Rows(ONE(), RULES)
    ),
    **how,
    plan=lambda lengths, batch: planned(batch),
    plain=None,
    shardings=jax.tree.map(
      lambda _: whole, update.init_state(TABLE, tx, reference=False)
    ),
  )
  plain = jax.jit(functools.partial(update.update, **how, parts=(1, 1)))
  return (
    got,
    plain,
    lambda: update.init_state(jnp.copy(TABLE), tx, reference=False),
  )


@pytest.mark.parametrize(
  'loss, weights',
  [
    (losses.clip, 'token_mean'),
    (losses.clip, 'constant'),
    (losses.gspo, 'sequence_mean'),
    (losses.vespo, 'token_mean'),
  ],
)
def test_an_update_by_buckets_is_the_update(loss, weights):
  batch = ragged()
  assert len(planned(batch)) > 1
  got, plain, start = updater(loss, weights, 0.1)
  state = start()
  # As in a job's loop.
  with jax.transfer_guard('disallow'):
    after, metrics = got(state, batch)
  wanted, expected = plain(start(), batch)
  # The same fp32 terms of order 1, added in another order.
  np.testing.assert_allclose(after.params, wanted.params, rtol=1e-6, atol=1e-6)
  assert np.abs(wanted.params - TABLE).max() > 1e-3
  assert metrics.keys() == expected.keys()
  for name in metrics.keys() - {'padding/update'}:
    np.testing.assert_allclose(
      metrics[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name
    )


def test_padding_is_what_nobody_needed():
  batch = ragged()
  got, plain, start = updater(losses.clip, 'token_mean', 0.1)
  # 41 tokens of completions; prompts of 4, 1, 6 and 2 without their last.
  assert batch.mask.sum() == 41 and batch.trunk.shape == (4, 8)
  needed = 41 + 3 + 0 + 5 + 1
  _, metrics = plain(start(), batch)
  assert metrics['padding/update'] == pytest.approx(
    1 - needed / (4 * 8 + 4 * 3 * 8)
  )
  _, metrics = got(start(), batch)
  computed = planner.computed(planned(batch), trunk=8)
  assert metrics['padding/update'] == pytest.approx(1 - needed / computed)
  assert computed < 4 * 8 + 4 * 3 * 8


def test_completions_that_do_not_count_are_not_computed():
  batch = ragged()
  mask = batch.mask.at[0].set(False).at[2, 1].set(False)
  batch = batch.replace(mask=mask)
  got, plain, start = updater(losses.clip, 'token_mean', 0.1)
  after, _ = got(start(), batch)
  wanted, _ = plain(start(), batch)
  np.testing.assert_allclose(after.params, wanted.params, rtol=1e-6, atol=1e-6)
  nothing = batch.replace(mask=jnp.zeros_like(mask))
  after, metrics = got(start(), nothing)
  assert metrics['tokens'] == 0 and metrics['nonfinite'] == 0
  np.testing.assert_array_equal(after.params, TABLE)


@pytest.mark.parametrize('attention', ['full', 'chunked'])
def test_packed_completions_have_the_logprobs_and_gradient_of_their_own(
  model, params, attention, monkeypatch
):
  # Blocks that slots and trunks do not divide into.
  small = functools.partial(causal.chunked, block=5)
  monkeypatch.setattr(causal, 'chunked', small)
  pol = policy.Policy(
    model=model,
    tokenizer=types.SimpleNamespace(vocab_size=model.vocab_size),
    declared=transformer.declare(model),
    mesh=ONE(),
    rules={},
    dtype=jnp.dtype('float32'),
    cache_dtype=jnp.dtype('float32'),
    attention=attention,
    load=None,
    files={},
  )
  score = programs.token_logprobs(
    pol, temperature=0.8, remat='none', logits_chunk=4
  )
  batch = ragged()
  weights = losses.token_mean(batch.mask)
  gradient = jax.jit(
    functools.partial(
      update.accumulate, score=score, objective=objective(), parts=(1, 1)
    )
  )
  wanted = gradient(params, batch, weights)
  logprobs = jax.jit(score)(params, batch)[0]
  out, found = jnp.zeros_like(logprobs), []
  # Few shapes, as each compiles.
  for part, index in parts((batch, weights), tokens=200):
    out = slots.put(out, jax.jit(score)(params, part[0])[0], index)
    found.append(gradient(params, *part))
    assert (np.asarray(index['length'] > 0).sum(1) > 1).any()
  mask = np.asarray(batch.mask)
  np.testing.assert_allclose(
    np.asarray(out)[mask], np.asarray(logprobs)[mask], atol=2e-6
  )
  total = jax.tree.map(lambda *xs: sum(xs), *(f[0] for f in found))
  for a, b in zip(
    jax.tree.leaves(total), jax.tree.leaves(wanted[0]), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
