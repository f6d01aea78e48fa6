"""What each token learns from: advantages, filters and factors by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import advantages, credit, importance, losses
from grpo_jax.structs import Batch

NAN = float('nan')


def batch(mask, **fields):
  """Two prompts, two samples, tokens as the mask says."""
  mask = np.array(mask, bool)
  zeros = np.zeros(mask.shape, np.int32)
  return Batch(
    trunk=np.zeros((len(mask), 2), np.int32),
    trunk_mask=np.ones((len(mask), 2), bool),
    inputs=zeros,
    targets=zeros,
    mask=jnp.asarray(mask),
    **{k: jnp.asarray(v, jnp.float32) for k, v in fields.items()},
  )


MASK = [[[1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0]]]
REWARDS = jnp.array([[1.0, 0.0], [0.5, 0.5]])
FINISHED = jnp.array([[True, False], [True, True]])
ALL = jnp.ones(2, bool)


def by_group(**settings):
  return functools.partial(
    credit.by_group,
    **dict(
      advantages=functools.partial(advantages.group, std='none'),
      penalty=None,
      kl_coef=0.0,
    )
    | settings,
  )


def assign(
  b, rewards=REWARDS, finished=FINISHED, counted=ALL, estimate=None, **settings
):
  estimate = by_group() if estimate is None else estimate
  return credit.assign(
    b, rewards, finished, counted, estimate=estimate, **settings
  )


def test_nothing_is_filtered_by_default():
  got, metrics = assign(batch(MASK))
  np.testing.assert_array_equal(got.mask, MASK)
  np.testing.assert_allclose(got.advantages, [[0.5, -0.5], [0, 0]])
  assert got.factors is None and metrics == {}


def test_a_group_that_does_not_count_leaves_the_mask():
  got, _ = assign(batch(MASK), counted=jnp.array([True, False]))
  np.testing.assert_array_equal(got.mask, [MASK[0], np.zeros((2, 3))])


@pytest.mark.parametrize(
  'estimate, found',
  [
    # Deviations of 1/2 from the mean, standard deviation sqrt(1/2) of the two.
    (functools.partial(advantages.group, std='batch', eps=0.0), 0.5**0.5),
    (functools.partial(advantages.group, std='raw', eps=0.0), 0.5**0.5),
    (functools.partial(advantages.reinforce_pp, eps=0.0), 0.5**0.5),
  ],
)
def test_a_group_that_does_not_count_sets_no_scale_of_the_batch(
  estimate, found
):
  got, _ = assign(
    batch(MASK),
    jnp.array([[1.0, 0.0], [9.0, 9.0]]),
    counted=jnp.array([True, False]),
    estimate=by_group(advantages=estimate),
  )
  np.testing.assert_allclose(
    got.advantages, [[found, -found], [0, 0]], rtol=1e-6
  )


def test_a_missing_reward_is_no_advantage_and_stays_in_the_mask():
  got, _ = assign(batch(MASK), jnp.array([[1.0, NAN], [0.5, 0.0]]))
  np.testing.assert_array_equal(got.mask, MASK)
  np.testing.assert_allclose(got.advantages, [[0, 0], [0.25, -0.25]])


def test_truncated_completions_are_masked_but_count_in_the_mean():
  got, _ = assign(batch(MASK), mask_truncated=True)
  wanted = np.array(MASK, bool)
  wanted[0, 1] = False
  np.testing.assert_array_equal(got.mask, wanted)
  # 1 - (1 + 0) / 2: the reward of the masked sample is still compared with.
  np.testing.assert_allclose(got.advantages[0], [0.5, -0.5])


def test_kl_in_the_reward_takes_the_sum_over_the_completion_off():
  # log policy - log reference is 0.1 a token, so k1 sums to 0.2 and 0.3.
  b = batch(
    MASK, old_logprobs=np.full((2, 2, 3), -1.0),
    ref_logprobs=np.where(MASK, -1.1, NAN),
  )  # fmt: skip
  got, _ = assign(b, estimate=by_group(penalty=losses.k1, kl_coef=2.0))
  # Rewards 1 - 0.4 and 0 - 0.6; then 0.5 - 0.2 and 0.5 - 0.4.
  np.testing.assert_allclose(
    got.advantages, [[0.6, -0.6], [0.1, -0.1]], rtol=1e-5
  )


def test_a_teachers_trace_pays_no_kl():
  b = batch(
    MASK, old_logprobs=np.full((2, 2, 3), -1.0),
    ref_logprobs=np.full((2, 2, 3), -1.1),
  ).replace(teacher=jnp.array([[False, True], [False, True]]))  # fmt: skip
  got, _ = assign(b, estimate=by_group(penalty=losses.k1, kl_coef=2.0))
  # Only the first sample of each: 1 - 0.4 and 0, 0.5 - 0.2 and 0.5.
  np.testing.assert_allclose(
    got.advantages, [[0.3, -0.3], [-0.1, 0.1]], rtol=1e-5
  )


ENTROPY = [[[0.1, 0.9, 7.0], [0.3, 0.5, 0.2]], [[0.4, 7, 7], [0.8, 0.6, 7]]]


@pytest.mark.parametrize(
  'share, lowest', [(0.25, 0.8), (0.5, 0.5), (0.3, 0.6), (1e-6, 0.9)]
)
def test_only_the_tokens_of_highest_entropy_carry_the_loss(share, lowest):
  # Eight counted tokens: 0.1 0.2 0.3 0.4 0.5 0.6 0.8 0.9; a share of 0.3 is
  # 2.4 of them, so three.
  b = batch(MASK, entropy=ENTROPY)
  got, _ = assign(b, entropy_share=share)
  wanted = np.array(MASK, bool) & (np.array(ENTROPY) >= lowest)
  np.testing.assert_array_equal(got.factors, wanted)
  np.testing.assert_array_equal(got.mask, MASK)
  assert got.entropy is None


def test_masked_tokens_have_no_say_in_the_entropy_threshold():
  finished = jnp.array([[False, True], [True, True]])
  b = batch(MASK, entropy=ENTROPY)
  got, _ = assign(
    b, finished=finished, mask_truncated=True, entropy_share=1 / 6
  )
  # Without 0.1 and 0.9 six are left, and the highest is 0.8.
  wanted = np.zeros((2, 2, 3))
  wanted[1, 1, 0] = 1
  np.testing.assert_array_equal(got.factors, wanted)


def test_importance_weighs_the_trainer_against_the_sampler():
  b = batch(
    MASK, old_logprobs=np.log(np.where(MASK, 0.6, 1)),
    sampler_logprobs=np.log(np.where(MASK, 0.2, 1)),
  )  # fmt: skip
  weigh = functools.partial(importance.truncated, high=2.0)
  got, _ = assign(b, importance=weigh)
  np.testing.assert_allclose(np.asarray(got.factors)[np.array(MASK, bool)], 2.0)
  weigh = functools.partial(importance.truncated, high=5.0)
  ranked = b.replace(entropy=jnp.asarray(ENTROPY))
  got, _ = assign(ranked, importance=weigh, entropy_share=0.25)
  wanted = np.zeros((2, 2, 3))
  wanted[0, 0, 1] = wanted[1, 1, 0] = 3.0
  np.testing.assert_allclose(got.factors, wanted, rtol=1e-5)


def test_rejected_tokens_are_still_counted_in_the_denominators():
  ratios = np.where(np.arange(3) == 1, 4.0, 1.0)
  b = batch(
    MASK, old_logprobs=np.log(np.where(MASK, ratios / 8, 1)),
    sampler_logprobs=np.log(np.where(MASK, 1 / 8, 1)),
  )  # fmt: skip
  got, _ = assign(b, importance=importance.rejected)
  counted = np.array(MASK, bool)
  np.testing.assert_allclose(
    got.factors[counted],
    np.broadcast_to([1.0, 0.0, 1.0], counted.shape)[counted],
    rtol=1e-5,
  )
  # Weights are made of the mask: token_mean divides by all 8.
  np.testing.assert_array_equal(got.mask, MASK)


def test_a_teachers_trace_has_no_sampler_to_be_weighed_against():
  b = batch(
    MASK, old_logprobs=np.full((2, 2, 3), -1.0),
    sampler_logprobs=np.full((2, 2, 3), -1.5),
  ).replace(teacher=jnp.array([[False, True], [False, True]]))  # fmt: skip
  got, _ = assign(b, importance=importance.truncated)
  np.testing.assert_allclose(got.factors[:, 1], 1.0)
  np.testing.assert_allclose(got.factors[0, 0, :2], np.exp(0.5), rtol=1e-6)


def by_critic(**settings):
  return functools.partial(
    credit.by_critic,
    **dict(
      advantages=functools.partial(advantages.gae, whiten=False),
      penalty=None,
      kl_coef=0.0,
    )
    | settings,
  )


VALUES = [[[0.5, 0.2, NAN], [0.1, 0.1, 0.1]], [[0.2, 9, 9], [0.0, 0.5, 9]]]


def test_a_critic_gets_the_reward_at_the_last_token():
  got, metrics = assign(batch(MASK, values=VALUES), estimate=by_critic())
  # lam = gamma = 1: the reward minus the value before each token.
  np.testing.assert_allclose(
    got.advantages,
    [[[0.5, 0.8, 0], [-0.1, -0.1, -0.1]], [[0.3, 0, 0], [0.5, 0.0, 0]]],
    atol=1e-6,
  )
  np.testing.assert_allclose(
    got.returns, [[[1, 1, 0], [0, 0, 0]], [[0.5, 0, 0], [0.5, 0.5, 0]]],
    atol=1e-6,
  )  # fmt: skip
  returns = np.array([1, 1, 0, 0, 0, 0.5, 0.5, 0.5])
  errors = returns - [0.5, 0.2, 0.1, 0.1, 0.1, 0.2, 0.0, 0.5]
  wanted = 1 - errors.var() / returns.var()
  np.testing.assert_allclose(
    metrics['value/explained_variance'], wanted, rtol=1e-5
  )


@pytest.mark.parametrize('reward', [0.0, 0.7])
def test_of_equal_returns_a_critic_explains_nothing(reward):
  rewards = np.full((2, 2), reward, np.float32)
  got = assign(batch(MASK, values=VALUES), rewards, estimate=by_critic())
  assert np.isnan(got[1]['value/explained_variance'])


def test_a_critic_learns_nothing_from_a_missing_reward():
  rewards = jnp.array([[1.0, NAN], [0.5, 0.5]])
  got, _ = assign(batch(MASK, values=VALUES), rewards, estimate=by_critic())
  wanted = np.array(MASK, bool)
  wanted[0, 1] = False
  np.testing.assert_array_equal(got.mask, wanted)
  assert np.isfinite(got.advantages).all() and np.isfinite(got.returns).all()


def test_a_critics_kl_penalty_is_each_tokens_own():
  b = batch(
    MASK, values=np.zeros((2, 2, 3)), old_logprobs=np.full((2, 2, 3), -1.0),
    ref_logprobs=np.full((2, 2, 3), -1.1),
  )  # fmt: skip
  estimate = by_critic(penalty=losses.k1, kl_coef=1.0)
  got, _ = assign(b, estimate=estimate)
  # Two tokens at 0.1 each are still to be paid at the first, one at the second.
  np.testing.assert_allclose(got.advantages[0, 0, :2], [0.8, 0.9], rtol=1e-5)


def test_gae_by_hand():
  rewards, values = jnp.array([[[0.0, 0, 1]]]), jnp.array([[[0.5, 0.2, 0.4]]])
  mask = jnp.ones((1, 1, 3), bool)
  found, returns = advantages.gae(
    rewards, values, mask, lam=0.5, gamma=0.9, whiten=False
  )
  # delta: 0.18 - 0.5, 0.36 - 0.2, 1 - 0.4; A: -0.32 + 0.45 * 0.43, 0.16 +
  # 0.45 * 0.6, 0.6.
  np.testing.assert_allclose(found[0, 0], [-0.1265, 0.43, 0.6], rtol=1e-6)
  np.testing.assert_allclose(returns[0, 0], [0.3735, 0.63, 1.0], rtol=1e-6)


def test_whitened_advantages_have_mean_0_and_std_1_over_counted_tokens():
  mask = jnp.asarray(MASK, bool)
  rewards = jnp.where(mask, jnp.arange(12.0).reshape(2, 2, 3), 99.0)
  plain, returns = advantages.gae(rewards, 0 * rewards, mask, whiten=False)
  white, same = advantages.gae(rewards, 0 * rewards, mask)
  counted = np.asarray(plain)[np.asarray(mask)]
  np.testing.assert_allclose(
    np.asarray(white)[np.asarray(mask)],
    (counted - counted.mean()) / counted.std(),
    rtol=1e-5,
  )
  assert not np.asarray(white)[~np.asarray(mask)].any()
  # What the critic learns is not whitened.
  np.testing.assert_array_equal(returns, same)


@pytest.mark.parametrize('settings', [dict(lam=1.1), dict(gamma=-0.1)])
def test_gae_refuses_what_is_no_discount(settings):
  x = jnp.zeros((1, 1, 1))
  with pytest.raises(ValueError, match=r'gae: \w+=.* must be in \[0, 1\]'):
    advantages.gae(x, x, x > 0, **settings)


def test_credit_compiles_and_gives_no_nan_gradient_fodder():
  fn = jax.jit(functools.partial(credit.assign, estimate=by_critic()))
  got, _ = fn(batch(MASK, values=VALUES), REWARDS, FINISHED, ALL)
  assert np.isfinite(got.advantages).all()
