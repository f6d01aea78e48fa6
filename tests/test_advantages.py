"""Group-relative advantages, against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import advantages

NAN = float('nan')


@functools.cache
def program(name, **settings):
  return jax.jit(functools.partial(getattr(advantages, name), **settings))


def run(name, rewards, **settings):
  return np.asarray(program(name, **settings)(jnp.array(rewards, jnp.float32)))


group = functools.partial(run, 'group')


@pytest.mark.parametrize(
  'settings, expected',
  [
    # Rewards 1, 0, 0, 0: mean 1/4, squares sum to 3/4.
    (dict(ddof=1), [0.75 / 0.5001, -0.25 / 0.5001]),
    (dict(ddof=0), [0.75 / (0.1875**0.5 + 1e-4), -0.25 / (0.1875**0.5 + 1e-4)]),
    (dict(ddof=1, eps=0.5), [0.75, -0.25]),
    (dict(ddof=0, eps=0.0), [3**0.5, -(3**-0.5)]),
    (dict(std='none'), [0.75, -0.25]),
  ],
)
def test_a_lone_success_gets_the_number_by_hand(settings, expected):
  success, failure = expected
  np.testing.assert_allclose(
    group([[1, 0, 0, 0]], **settings)[0], [success] + 3 * [failure], rtol=1e-6
  )


@pytest.mark.parametrize('ddof', [0, 1])
def test_batch_std_is_of_the_centred_rewards_of_the_whole_batch(ddof):
  # Centred: -1, 1 and -3, 3 (their means are 1 and 13). Squares sum to 20.
  std = (20 / (4 - ddof)) ** 0.5
  np.testing.assert_allclose(
    group([[0, 2], [10, 16]], std='batch', ddof=ddof, eps=0.25),
    np.array([[-1, 1], [-3, 3]]) / (std + 0.25),
    rtol=1e-6,
  )


def test_an_unknown_std_is_refused_with_the_valid_ones():
  with pytest.raises(
    ValueError, match="'row' is not one of group, batch, raw, none"
  ):
    group([[0, 1]], std='row')


@pytest.mark.parametrize('std', ['group', 'batch', 'none'])
def test_equal_rewards_give_exactly_zero(std):
  equal = [0.1] * 16
  rewards = jnp.array([equal, [0.0] * 15 + [1.0]], jnp.float32)
  # Only exact equality can tell: the float mean of 0.1 is not 0.1.
  assert rewards[0, 0] - jax.jit(lambda r: r.sum() / 16)(rewards[0]) != 0
  values = group(rewards, std=std)
  assert not values[0].any() and values[1].all()


def test_a_missing_reward_is_in_no_statistic_and_gets_zero():
  values = group([[1, NAN, 0, NAN, 0, 0]])
  alone = group([[1, 0, 0, 0]])
  np.testing.assert_array_equal(values[0, [1, 3]], 0)
  np.testing.assert_allclose(values[0, [0, 2, 4, 5]], alone[0], rtol=1e-6)


def test_a_missing_reward_is_in_no_batch_statistic():
  values = group([[0, 2, NAN], [10, NAN, 16]], std='batch', eps=0.25)
  std = (20 / 3) ** 0.5
  np.testing.assert_allclose(
    values,
    np.array([[-1, 1, 0], [-3, 0, 3]]) / (std + 0.25),
    rtol=1e-6,
  )


def test_a_reward_of_zero_is_not_missing():
  with_zero = group([[0.0, 1.0, 1.0]], std='none')
  np.testing.assert_allclose(with_zero[0], [-2 / 3, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize('std', ['group', 'batch', 'none'])
def test_groups_of_at_most_one_reward_get_zero(std):
  rewards = [[5.0, NAN], [NAN, NAN]]
  assert not group(rewards, std=std).any()
  assert not group([[5.0], [7.0]], std=std).any()


def test_close_rewards_are_not_shrunk_by_a_floor():
  # Deviations 0.0005, sample std 0.000707; a variance floor would give 0.005.
  expected = 0.0005 / (0.001 / 2**0.5 + 1e-4)
  assert expected == pytest.approx(0.62, abs=0.01)
  # fp32 keeps 1.001 to 6e-8, a part in 8000 of the deviation.
  np.testing.assert_allclose(
    group([[1.0, 1.001]])[0], [-expected, expected], rtol=1e-3
  )


def test_permuting_a_group_permutes_its_advantages():
  rewards = np.array([[0.0, 1.0, 3.0, NAN], [2.0, 2.0, 5.0, 1.0]])
  order = [2, 0, 3, 1]
  # The sums run in another order.
  np.testing.assert_allclose(
    group(rewards[:, order]), group(rewards)[:, order], rtol=1e-6
  )


def test_two_rows_of_one_prompt_are_two_groups():
  # Merged, both rows would have mean 1/2 and a signal.
  assert not group([[1, 1], [0, 0]]).any()
  np.testing.assert_array_equal(
    group([[1, 0], [1, 0]])[0], group([[1, 0], [5, 9]])[0]
  )


def test_zero_variance_is_by_equality_of_what_is_present():
  rewards = jnp.array(
    [[0.1, 0.1, 0.1], [1, 1.0000001, 1], [2, NAN, 2], [NAN] * 3, [0, NAN, 1]],
    jnp.float32,
  )
  np.testing.assert_array_equal(
    advantages.zero_variance(rewards), [True, False, True, True, False]
  )


def test_rloo_is_each_reward_less_the_mean_of_its_siblings():
  # Siblings' means: 2, 3, 4 for the first; the second misses one.
  np.testing.assert_allclose(
    run('rloo', [[5, 3, 1], [4, NAN, 1]]), [[3, 0, -3], [3, 0, -3]], atol=1e-6
  )


def test_a_lone_success_is_scaled_by_rloo_too():
  # Its siblings are all equal; a standard deviation of theirs would be 0.
  values = run('rloo', [[1, 0, 0, 0]])
  np.testing.assert_allclose(values, [[1] + 3 * [-1 / 3]], rtol=1e-6)


def test_reinforce_pp_takes_mean_and_std_over_the_batch():
  # 0, 2, 4, 6: mean 3, squares sum to 20; the missing one is in neither.
  rewards = [[0, 2, NAN], [4, NAN, 6]]
  expected = np.array([[-3, -1, 0], [1, 0, 3]])
  for ddof in (0, 1):
    np.testing.assert_allclose(
      run('reinforce_pp', rewards, ddof=ddof, eps=0.5),
      expected / ((20 / (4 - ddof)) ** 0.5 + 0.5),
      rtol=1e-6,
    )


def test_reinforce_pp_keeps_the_signal_of_a_group_of_equals():
  values = run('reinforce_pp', [[1, 1], [0, 0]])
  np.testing.assert_allclose(values[0], -values[1])
  assert (values[0] > 0).all()
  assert not run('reinforce_pp', [[0.1] * 16, [0.1] * 16]).any()


def test_max_rl_divides_by_the_pass_rate():
  # Pass rates 1/4 and 3/4.
  np.testing.assert_allclose(
    run('max_rl', [[1, 0, 0, 0], [1, 1, NAN, 1], [1, 1, 1, 0]], eps=0.0),
    [[3, -1, -1, -1], [0, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, -1]],
    rtol=1e-6,
  )


def test_max_rl_gives_zero_where_no_answer_is_right_or_rewards_are_negative():
  assert not run('max_rl', [[0, 0], [-1, -3], [-1, 1]]).any()


@pytest.mark.parametrize('name', ['rloo', 'max_rl'])
def test_no_signal_is_exactly_zero_in_every_group_estimator(name):
  assert not run(name, [[0.1] * 16, [NAN] * 16]).any()
  assert not run(name, [[5.0], [7.0]]).any()


def test_the_raw_std_is_of_the_batchs_rewards_as_they_are():
  rewards = jnp.array([[1.0, 0.0], [3.0, 3.0], [5.0, float('nan')]])
  got = advantages.group(rewards, std='raw', ddof=1, eps=0.0)
  spread = np.std([1, 0, 3, 3, 5], ddof=1)
  np.testing.assert_allclose(
    got, [[0.5 / spread, -0.5 / spread], [0, 0], [0, 0]], rtol=1e-6
  )
