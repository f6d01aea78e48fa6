"""What advantages, importance weights and KL estimators must satisfy alone.

KL estimators are summed exactly over a small vocabulary: every token is a
completion, weighted by its probability under the policy that samples.
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

Q, G, C, V = 4, 3, 4, 5
NAN = float('nan')
# Not negative, as max_rl wants them; few, so that groups have equal rewards.
REWARDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, NAN])
rewards_of = arrays(np.float32, (Q, G), elements=REWARDS)
every_advantage = pytest.mark.parametrize('name', found.ADVANTAGES)


@functools.cache
def advantage(name, eps_0=False):
  function = found.ADVANTAGES[name]
  return jax.jit(found.with_eps_0(function) if eps_0 else function)


@every_advantage
@some
@given(rewards_of)
def test_a_missing_reward_has_no_advantage_and_no_part_in_the_others(
  name, rewards
):
  values = np.asarray(advantage(name)(rewards))
  assert np.isfinite(values).all()
  assert not values[np.isnan(rewards)].any()
  # The same groups in order, missing rewards and one more at their end.
  order = np.argsort(rewards, 1)
  packed = np.take_along_axis(rewards, order, 1)
  packed = np.pad(packed, ((0, 0), (0, 1)), constant_values=NAN)
  again = np.asarray(advantage(name)(packed))[:, :G]
  wanted = np.take_along_axis(values, order, 1)
  np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-6)


@every_advantage
@some
@given(rewards_of)
def test_advantages_of_a_batch_add_up_to_zero(name, rewards):
  # Rounding of 12 numbers up to 3.
  assert abs(np.asarray(advantage(name)(rewards)).sum()) < 2e-5


@every_advantage
@some
@given(rewards_of, REWARDS)
def test_a_group_of_equals_has_exactly_zero_advantage(name, rewards, reward):
  whole_batch = {'reinforce_pp'}  # knows no groups
  rewards[0] = reward
  if name in whole_batch:
    rewards[:] = reward
  for eps_0 in (False, True):
    assert not np.asarray(advantage(name, eps_0)(rewards))[0].any()


@every_advantage
@some
@given(rewards_of, st.floats(0.1, 50))
def test_rewards_in_another_unit_give_the_same_normalised_advantages(
  name, rewards, unit
):
  function = found.ADVANTAGES[name]
  normalised = (
    found.with_eps_0(function) is not function
    and function.keywords.get('std') != 'none'
  )
  values, scaled = (
    np.asarray(advantage(name, eps_0=True)(r))
    for r in (rewards, rewards * np.float32(unit))
  )
  assert np.isfinite(values).all()
  wanted = values if normalised else values * unit
  np.testing.assert_allclose(scaled, wanted, rtol=1e-4, atol=1e-5 * unit)


# max_rl divides by the mean.
@pytest.mark.parametrize('name', sorted(found.ADVANTAGES.keys() - {'max_rl'}))
@some
@given(rewards_of, st.sampled_from([-1.5, 0.25, 3.0]))
def test_a_constant_on_all_rewards_changes_no_advantage(name, rewards, shift):
  # Steps of 1/8, so that the shift itself does not round.
  rewards = np.round(rewards * 8) / 8
  values, shifted = (
    np.asarray(advantage(name)(r)) for r in (rewards, rewards + shift)
  )
  np.testing.assert_allclose(shifted, values, rtol=1e-5, atol=1e-5)


@functools.cache
def importance(name):
  return jax.jit(found.IMPORTANCE[name])


@pytest.mark.parametrize('name', found.IMPORTANCE)
@some
@given(
  st.integers(0, 2**32 - 1),
  arrays(int, (Q, G), elements=st.integers(0, C)),
  st.permutations(range(Q)),
  st.permutations(range(G)),
)
def test_importance_weights_depend_on_the_completion_alone(
  name, seed, lengths, groups, samples
):
  mask = np.arange(C) < lengths[:, :, None]
  log_ratio = np.random.default_rng(seed).normal(0, 0.5, mask.shape)
  log_ratio = np.float32(log_ratio)
  wanted = np.where(mask, importance(name)(log_ratio, mask), 0.0)
  assert (wanted >= 0).all()
  # Another order, and one more group, sample and slot.
  place = np.ix_(groups, samples, range(C))
  wide = np.pad(log_ratio[place], (0, 1), constant_values=NAN)
  got = np.asarray(importance(name)(wide, np.pad(mask[place], (0, 1))))
  got = np.where(mask[place], got[:Q, :G, :C], 0.0)
  np.testing.assert_allclose(got, wanted[place], rtol=1e-5)


# KL estimators.


@functools.cache
def expectation(name):
  """(logits, sampler, reference) -> gradient and loss of the KL term alone.

  All log probabilities [V]. The loss is that of a batch with each token once.
  """

  def score(logits, batch):
    logprobs = jax.nn.log_softmax(logits)[batch.targets]
    return logprobs, logprobs

  @jax.jit
  def fn(logits, sampler, reference):
    shape = (1, V, 1)
    batch = Batch(
      trunk=jnp.zeros((1, 0), jnp.int32),
      trunk_mask=jnp.zeros((1, 0), bool),
      inputs=jnp.zeros(shape, jnp.int32),
      targets=jnp.arange(V).reshape(shape),
      mask=jnp.ones(shape, bool),
      advantages=jnp.zeros((1, V)),
      old_logprobs=sampler.reshape(shape),
      ref_logprobs=reference.reshape(shape),
    )
    gradient, loss, *_ = update.accumulate(
      logits,
      batch,
      jnp.exp(sampler).reshape(shape),
      score=score,
      objective=functools.partial(
        objectives.policy, loss=losses.clip, kl=found.KLS[name], kl_coef=1.0
      ),
      parts=(1, 1),
    )
    return gradient, loss

  return fn


def zero(p, ref):
  return 0 * p


def reverse(p, ref):
  """Gradient by logits of KL(policy || reference)."""
  gap = np.log(p / ref)
  return p * (gap - np.sum(p * gap))


def forward(p, ref):
  """Gradient by logits of KL(reference || policy)."""
  return p - ref


# Whether the mean is KL(policy || reference), and the mean gradient, when the
# policy samples; then whether both hold with any sampler.
CLAIMS = {
  'k1': (True, zero, False),
  'k2': (False, reverse, False),
  'k3': (True, forward, False),
  'k3_ratio': (True, reverse, True),
}


def log_softmax(x):
  return x - np.log(np.exp(x).sum())


three_policies = arrays(np.float64, (3, V), elements=st.floats(-2, 2, width=16))


def test_every_kl_estimator_has_its_claims_here():
  assert found.KLS.keys() == CLAIMS.keys()


@pytest.mark.parametrize('name', CLAIMS)
@some
@given(three_policies)
def test_mean_and_mean_gradient_of_a_kl_estimator_are_those_claimed(
  name, logits
):
  is_kl, slope, off_policy = CLAIMS[name]
  policy, other, reference = (log_softmax(x) for x in logits)
  p, ref = np.exp(policy), np.exp(reference)
  kl = np.sum(p * (policy - reference))
  for sampler in (policy, other) if off_policy else (policy,):
    gradient, loss = expectation(name)(
      *(np.float32(x) for x in (logits[0], sampler, reference))
    )
    # Sums of five float32 terms of up to 50, ratio and exp(x) among them.
    if is_kl:
      np.testing.assert_allclose(loss, kl, rtol=0, atol=2e-5)
    np.testing.assert_allclose(gradient, slope(p, ref), rtol=0, atol=2e-5)


def test_off_policy_only_the_ratio_makes_the_claims_true():
  logits = np.array([[-1, 0.5, 1, 0, 0], [1, 0, -1, 0, 2], [0, 1, 0, -1, 0.5]])
  policy, other, reference = (log_softmax(x) for x in logits)
  wrong = set()
  for name, (_, slope, _) in CLAIMS.items():
    gradient, _ = expectation(name)(
      *(np.float32(x) for x in (logits[0], other, reference))
    )
    wanted = slope(np.exp(policy), np.exp(reference))
    if np.abs(gradient - wanted).max() > 0.02:
      wrong.add(name)
  assert wrong == {name for name, claims in CLAIMS.items() if not claims[2]}
