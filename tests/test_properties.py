"""What must not change an update, for every loss, weighting and advantage.

The model is a table whose logits are the row of the input token. One program
takes the gradients of all losses under all weightings of all advantages, so
that an example tests every combination. Structure (lengths, rewards, orders)
is drawn by hypothesis; logprobs by numpy, so that none is at a clip's bound.
"""

import functools

import found
from found import some
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import losses, objectives, update
from grpo_jax.structs import Batch

Q, G, C, V = 4, 3, 4, 6
NAN = float('nan')
TABLE = np.random.default_rng(0).normal(0, 0.7, (V, V)).astype(np.float32)
# Not negative, as max_rl wants them; few, so that groups have equal rewards.
REWARDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, NAN])
seeds = st.integers(0, 2**32 - 1)
lengths_of = arrays(int, (Q, G), elements=st.integers(0, C))
rewards_of = arrays(np.float32, (Q, G), elements=REWARDS)
# Compiles in half the time; the numbers are small.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def objective(*, loss=losses.clip, kl=losses.k3, kl_coef=0.0):
  return functools.partial(objectives.policy, loss=loss, kl=kl, kl_coef=kl_coef)


WITHOUT_KL = {k: objective(loss=v) for k, v in found.LOSSES.items()}
WITH_KL = {k: objective(kl=v, kl_coef=0.1) for k, v in found.KLS.items()}


def table_score(params, batch):
  logprobs = jax.nn.log_softmax(params[batch.inputs])
  picked = jnp.take_along_axis(logprobs, batch.targets[..., None], -1)[..., 0]
  return picked, -jnp.sum(jnp.exp(logprobs) * logprobs, -1)


def make_batch(seed, lengths):
  """Ragged completions; masked places hold numbers as good as the others."""
  rng = np.random.default_rng(seed)
  inputs, targets = rng.integers(0, V, (2, Q, G, C), dtype=np.int32)
  logprobs = np.log(np.exp(TABLE) / np.exp(TABLE).sum(-1, keepdims=True))
  logprobs = logprobs[inputs, targets]
  near = lambda: np.float32(logprobs + 0.5 * rng.normal(size=logprobs.shape))
  return Batch(
    trunk=np.zeros((Q, 0), np.int32),
    trunk_mask=np.zeros((Q, 0), bool),
    inputs=inputs,
    targets=targets,
    mask=np.arange(C) < lengths[:, :, None],
    old_logprobs=near(),
    ref_logprobs=near(),
  )


@jit
def prepare(rewards, mask):
  """All advantages [A Q G] and all weights [W Q G C]."""
  return (
    jnp.stack([f(rewards) for f in found.ADVANTAGES.values()]),
    jnp.stack([f(mask) for f in found.WEIGHTINGS.values()]),
  )


@functools.cache
def program(microbatches):
  """(batch, advantages, weights) -> {objective: gradient, loss, sums}."""

  def one(objective, batch, advantages, weights):
    return update.accumulate(
      jnp.asarray(TABLE),
      batch.replace(advantages=advantages),
      weights,
      score=table_score,
      objective=objective,
      parts=(microbatches, 1),
    )[:3]

  def every(batch, advantages, weights):
    results = {}
    for name, objective in (WITHOUT_KL | WITH_KL).items():
      f = jax.vmap(functools.partial(one, objective), (None, None, 0))
      f = jax.vmap(f, (None, 0, None))
      results[name] = f(batch, advantages, weights)
    return results

  return jit(every)


def run(batch, rewards, microbatches=1):
  """Advantages, weights, and {objective: gradient, loss, metric sums}."""
  advantages, weights = prepare(rewards, batch.mask)
  results = program(microbatches)(batch, advantages, weights)
  return jax.device_get((advantages, weights, results))


def assert_same_results(got, wanted):
  """Equal for each combination, but for the order of float32 sums."""
  for name, values in wanted.items():
    for a, b in zip(
      jax.tree.leaves(got[name]), jax.tree.leaves(values), strict=True
    ):
      # Up to 120 terms of order 1, which may cancel; metrics are plain sums.
      atol = 1e-5 if a is got[name][0] or a is got[name][1] else 1e-4
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol, err_msg=name)


def test_functions_are_found():
  assert found.LOSSES.keys() > {'clip', 'gspo', 'clip(dual_clip=1.5)'}
  assert found.KLS.keys() >= {'k1', 'k2', 'k3', 'k3_ratio'}
  assert found.WEIGHTINGS.keys() > {'token_mean', 'sequence_mean', 'constant'}
  assert found.ADVANTAGES.keys() > {'group', 'group(std=none)', 'rloo'}
  assert found.IMPORTANCE.keys() > {'truncated', 'rejected(level=geometric)'}


def test_the_combinations_differ():
  lengths = np.array([[4, 2, 0], [1, 3, 3], [4, 1, 2], [2, 2, 4]])
  rewards = np.array([[1, 0, 0], [0.5, 2, NAN], [0, 0.1, 1], [2, 2, 0]])
  *_, results = run(make_batch(0, lengths), np.float32(rewards))
  losses = np.stack([values[1] for values in results.values()])
  # Losses by objective, advantage and weighting: no two of one axis agree.
  for axis in range(3):
    rows = np.moveaxis(losses, axis, 0).reshape(losses.shape[axis], -1)
    assert len({row.tobytes() for row in rows}) == len(rows)


@some
@given(seeds, lengths_of, rewards_of, st.permutations(range(Q)))
def test_permuting_groups_changes_nothing(seed, lengths, rewards, order):
  batch = make_batch(seed, lengths)
  a, w, results = run(batch, rewards)
  turned = jax.tree.map(lambda x: x[order], batch)
  b, v, others = run(turned, rewards[order])
  np.testing.assert_allclose(b, a[:, order], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(v, w[:, order])
  assert_same_results(others, results)


@some
@given(seeds, lengths_of, rewards_of, st.data())
def test_permuting_samples_within_groups_changes_nothing(
  seed, lengths, rewards, data
):
  orders = st.lists(st.permutations(range(G)), min_size=Q, max_size=Q)
  order = np.array(data.draw(orders))
  batch = make_batch(seed, lengths)
  a, w, results = run(batch, rewards)

  def turn(x):
    return x[np.arange(Q)[:, None], order] if x.ndim > 2 else x

  b, v, others = run(
    jax.tree.map(turn, batch), turn(rewards[..., None])[..., 0]
  )
  wanted = np.take_along_axis(a, order[None], 2)
  np.testing.assert_allclose(b, wanted, rtol=1e-5, atol=1e-6)
  wanted = np.take_along_axis(w, order[None, ..., None], 2)
  np.testing.assert_array_equal(v, wanted)
  assert_same_results(others, results)


@pytest.mark.parametrize('parts', [2, 4])
@some
@given(seeds, lengths_of, rewards_of)
def test_splitting_into_microbatches_changes_nothing(
  parts, seed, lengths, rewards
):
  batch = make_batch(seed, lengths)
  *_, results = run(batch, rewards)
  *_, others = run(batch, rewards, microbatches=parts)
  assert_same_results(others, results)


def enlarge(x, fill):
  """Two more groups, one more sample each, two more slots on the right."""
  more = [(0, 2), (0, 1), (0, 2)][: x.ndim]
  return np.pad(x, more, constant_values=fill)


@some
@given(seeds, lengths_of, rewards_of)
def test_padding_and_masked_rows_without_a_reward_change_nothing(
  seed, lengths, rewards
):
  batch = make_batch(seed, lengths)
  a, w, results = run(batch, rewards)
  wide = Batch(
    trunk=np.zeros((Q + 2, 0), np.int32),
    trunk_mask=np.zeros((Q + 2, 0), bool),
    inputs=enlarge(batch.inputs, 1),
    targets=enlarge(batch.targets, 2),
    mask=enlarge(batch.mask, False),
    old_logprobs=enlarge(batch.old_logprobs, NAN),
    ref_logprobs=enlarge(batch.ref_logprobs, -np.inf),
  )
  b, v, others = run(wide, enlarge(rewards, NAN))
  np.testing.assert_allclose(b[:, :Q, :G], a, rtol=1e-5, atol=1e-6)
  assert not b[:, Q:].any() and not b[:, :, G:].any()
  np.testing.assert_allclose(v[:, :Q, :G, :C], w, rtol=1e-6)
  assert_same_results(others, results)


@some
@given(seeds, lengths_of, rewards_of, arrays(bool, (Q, G)))
def test_masking_rows_takes_away_their_own_terms_only(
  seed, lengths, rewards, left_out
):
  # A masked row keeps its reward in the statistics of its group: advantages
  # are of rewards alone. Weights, too, are held fixed here.
  batch = make_batch(seed, lengths)
  advantages, weights = prepare(rewards, batch.mask)
  parts = []
  for rows in (left_out, ~left_out, np.ones((Q, G), bool)):
    part = batch.replace(mask=batch.mask & rows[:, :, None])
    parts.append(program(1)(part, advantages, weights))
  left, right, whole = jax.device_get(parts)
  assert_same_results(jax.tree.map(np.add, left, right), whole)


@some
@given(seeds, lengths_of, arrays(bool, (Q, G)), REWARDS)
def test_equal_rewards_give_exactly_no_gradient_but_the_kls(
  seed, lengths, missing, reward
):
  rewards = np.where(missing, np.float32(NAN), np.float32(reward))
  advantages, _, results = run(make_batch(seed, lengths), rewards)
  assert not advantages.any()
  for name in WITHOUT_KL:
    gradient, loss, _ = results[name]
    assert not gradient.any() and not loss.any(), name
  if lengths.any():
    gradients = np.concatenate([results[name][0] for name in WITH_KL])
    assert gradients.reshape(len(gradients), -1).any(1).all()


@some
@given(seeds, lengths_of, rewards_of)
def test_on_policy_every_loss_has_reinforces_gradient(seed, lengths, rewards):
  batch = make_batch(seed, lengths)
  batch = batch.replace(old_logprobs=np.asarray(table_score(TABLE, batch)[0]))
  *_, results = run(batch, rewards)
  for name in WITHOUT_KL:
    np.testing.assert_allclose(
      results[name][0], results['reinforce'][0], rtol=1e-5, atol=1e-5,
      err_msg=name,
    )  # fmt: skip
