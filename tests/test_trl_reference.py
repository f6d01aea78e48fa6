"""Losses, gradients, advantages and importance weights are TRL's.

`reference/trl.npz` holds what TRL 1.16 gives (see `trl_cases.py`); where the
two differ, both numbers are worked out by hand.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import trl_cases as cases
import trl_inputs
import trl_ours

# Both sides are float32 and add some 60 terms in another order; a rounding is
# 6e-8 of the largest of them.
TOLERANCE = 1e-6


@pytest.fixture(scope='module')
def stored():
  with np.load(cases.REFERENCE) as file:
    return dict(file)


def of(stored, name):
  """What is stored under 'name/...'."""
  start = f'{name}/'
  return {
    k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)
  }


@pytest.fixture(scope='module')
def ours(stored):
  return trl_ours.run_all(cases.EQUAL, of(stored, 'inputs'))


@pytest.mark.parametrize('name', cases.EQUAL)
def test_loss_and_gradients_are_those_of_trl(name, stored, ours):
  trl_ours.assert_equal(
    cases.EQUAL[name],
    ours[name],
    of(stored, name),
    of(stored, 'inputs'),
    TOLERANCE,
  )


def test_the_cases_tell_their_settings_apart(stored):
  # Otherwise a setting that is not in force would pass. On policy some are the
  # same by design: REINFORCE.
  def alike(a, b):
    a, b = of(stored, a), of(stored, b)
    return np.allclose(a['loss'], b['loss'], atol=1e-4) and np.allclose(
      a['logprobs'], b['logprobs'], atol=1e-4
    )

  def settings(case):
    kl = case.kl if case.kl_coef else None
    unused = dict(trl={}, microbatches=1, kl=kl)
    return dataclasses.replace(case, **unused)

  for a, b in itertools.combinations(cases.EQUAL, 2):
    pair = cases.EQUAL[a], cases.EQUAL[b]
    if not all(case.on_policy for case in pair):
      assert alike(a, b) == (settings(pair[0]) == settings(pair[1])), (a, b)


@pytest.fixture
def both(request, stored):
  """Case, inputs, TRL's numbers and ours, for a name given indirectly."""
  case, inputs = cases.DIFFERENT[request.param]
  return case, inputs, of(stored, request.param), trl_ours.run(case, inputs)


def differ(name):
  return pytest.mark.parametrize('both', [name], indirect=True, ids=[name])


def close(actual, expected):
  """Equal up to a rounding of numbers of about 1, or else an error."""
  np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)


def per_token(rows, inputs):
  """[Q G C]: the number of a completion on each of its tokens, 0 on padding."""
  places = np.arange(inputs['logprobs'].shape[-1])
  mask = places < inputs['lengths'][..., None]
  return np.where(mask, np.array(rows)[..., None], 0.0)


@differ('two_updates_per_generation')
def test_an_update_divides_by_its_own_tokens(both):
  # Advantages are 0.5 and -0.5, every ratio is 1, 12 tokens were generated.
  # TRL divides both updates by 12 / 2, though one has 4 tokens, the other 8.
  case, inputs, trl, _ = both
  assert trl['part'].tolist() == [[1, 1], [0, 0]]
  signs = per_token([[-0.5, 0.5], [-0.5, 0.5]], inputs)
  close(trl['logprobs'], signs / 6)
  for row, tokens in ((0, 4), (1, 8)):
    mask = trl_inputs.mask_of(inputs)
    mask[1 - row] = False
    update = trl_ours.run(case, inputs, mask)
    close(update['logprobs'][row], signs[row] / tokens)


@differ('bnpo_accumulated')
def test_token_mean_does_not_depend_on_microbatches(both):
  # TRL's bnpo averages the token means of microbatches of 4 and 8 tokens.
  _, inputs, trl, ours = both
  assert trl['part'].tolist() == [[1, 1], [0, 0]]
  a, b = 0.5 / 4 / 2, 0.5 / 8 / 2
  close(trl['logprobs'], per_token([[-a, a], [-b, b]], inputs))
  close(ours['logprobs'], per_token([[-0.5 / 12, 0.5 / 12]] * 2, inputs))


# Completions of 1, 3 and 2 tokens and a truncated one, which is masked out.
@pytest.mark.parametrize(
  'both, weights',
  [
    ('grpo_without_truncated', [1, 1 / 3, 1 / 2]),
    ('dr_grpo_without_truncated', [1 / 8, 1 / 8, 1 / 8]),
    ('luspo_without_truncated', [1, 1, 1]),
  ],
  indirect=['both'],
)
def test_a_completion_without_a_counted_token_is_not_counted(both, weights):
  # TRL divides by all 4 completions.
  _, inputs, trl, ours = both
  a, b, c = (0.5 * w for w in weights)
  gradient = per_token([[-a, b], [-c, 0]], inputs)
  close(trl['logprobs'], gradient / 4)
  close(ours['logprobs'], gradient / 3)


@differ('dapo_without_truncated')
def test_tokens_of_masked_completions_are_in_neither_denominator(both):
  _, inputs, trl, ours = both
  twelfth = 0.5 / 6
  gradient = per_token([[-twelfth, twelfth], [-twelfth, 0]], inputs)
  close(trl['logprobs'], gradient)
  close(ours['logprobs'], gradient)


@differ('equal_rewards')
def test_equal_rewards_leave_no_residue(both):
  # In float32 the mean of 0.9, 0.9, 0.9 is 6e-8 less than 0.9; over a standard
  # deviation of about 0 plus 1e-4 that is 6e-4 for TRL.
  _, _, trl, ours = both
  close(trl['advantages'], np.full((1, 3), 5.96e-4))
  assert not ours['advantages'].any()
  assert not ours['logprobs'].any()


@differ('partly_missing_reward')
def test_a_partly_missing_reward_is_not_a_zero(both):
  # Rewards 1, missing, 0, 0, and half of 1 each. TRL takes the missing one for
  # 0: 1.5, 0.5, 0.5, 0.5 have the mean 0.75. Ours leaves its completion out.
  _, _, trl, ours = both
  close(trl['advantages'], [[0.75, -0.25, -0.25, -0.25]])
  close(ours['advantages'], [[2 / 3, 0, -1 / 3, -1 / 3]])


@differ('kl_of_a_sequence_ratio')
def test_the_kl_of_gspo_is_weighted_by_the_ratio_of_its_token(both):
  # Ratios 2 and 1/2, so s = 1; k3 of log 2 and log 4; the second completion
  # is on policy and its own reference. The unbiased estimate has the token's
  # ratio (DeepSeek-V3.2, 3.1); TRL takes s.
  _, _, trl, ours = both
  a, b = 1 - np.log(2), 3 - np.log(4)
  close(trl['loss'], (a + b) / 2 / 2)
  close(ours['loss'], (2 * a + b / 2) / 2 / 2)
  # Of rho k3(log ref - log policy) by log policy: rho (k3 + 1 - ref/policy).
  slopes = [2 * (a - 1), (b - 3) / 2]
  close(ours['logprobs'][0, 0], np.array(slopes) / 4)


@differ('entropy_of_grpo')
def test_the_entropy_bonus_has_the_weights_of_the_loss(both):
  # Completions of 1 and 3 tokens, a factor of 0.6, no advantages. TRL takes
  # the mean over tokens whatever the loss does.
  _, inputs, trl, ours = both
  close(trl['entropy'], per_token([[-0.6 / 4] * 2], inputs))
  close(ours['entropy'], per_token([[-0.6 / 2, -0.6 / 6]], inputs))


@differ('top_entropy_accumulated')
def test_top_entropy_is_one_threshold_for_all_microbatches(both):
  # Four tokens of entropies 1, 2 and 3, 4: the upper half of each microbatch
  # for TRL, of all of them for ours. Both divide by four tokens.
  _, _, trl, ours = both
  assert trl['part'].tolist() == [[1, 1], [0, 0]]
  close(trl['logprobs'], [[[0], [0.125]], [[0], [0.125]]])
  close(ours['logprobs'], [[[0], [0]], [[-0.125], [0.125]]])


@differ('top_entropy_between_ranks')
def test_top_entropy_keeps_no_less_than_its_share(both):
  # 0.7 of three tokens of entropies 3, 2, 1. TRL's quantile of 0.3 lies
  # between 1 and 2, so two are left; ours needs all three for 0.7 of them.
  # Advantages 2/3, -1/3, -1/3.
  _, _, trl, ours = both
  close(trl['logprobs'], [[[-2 / 9], [1 / 9], [0]]])
  close(ours['logprobs'], [[[-2 / 9], [1 / 9], [1 / 9]]])


@differ('delta_below_the_clip')
def test_dual_clip_below_the_clip_bounds_the_loss(both):
  # Advantages 0.5 and -0.5, ratios 1 and 2. Of max(min(2, 1.1), 1.28) TRL
  # takes 1.28; ours bounds the loss by 1.1. Neither leaves a gradient.
  _, _, trl, ours = both
  close(trl['loss'], (-0.5 + 1.28 * 0.5) / 2)
  close(ours['loss'], (-0.5 + 1.1 * 0.5) / 2)
  for each in (trl, ours):
    close(each['logprobs'], [[[-0.25], [0]]])


@differ('cispo_at_its_default')
def test_cispo_does_not_shrink_on_policy_gradients_at_its_default(both):
  # TRL's default bound is 0.2: the weight of a ratio of 1 becomes 0.2.
  _, _, trl, ours = both
  close(trl['logprobs'], [[[-0.2 * 0.25], [0.2 * 0.25]]])
  close(ours['logprobs'], [[[-0.25], [0.25]]])


def test_every_stored_case_is_read_here(stored):
  names = {key.split('/')[0] for key in stored}
  assert names == {'inputs', *cases.EQUAL, *cases.DIFFERENT}


def test_the_stored_inputs_hold_what_the_cases_need(stored):
  inputs = of(stored, 'inputs')
  log_ratio = inputs['logprobs'] - inputs['old_logprobs']
  held = np.abs(np.exp(log_ratio) - 1)[trl_inputs.mask_of(inputs)] > 0.28
  assert 0.2 < held.mean() < 0.8
  assert np.isnan(inputs['rewards']).any()
  assert np.unique(inputs['lengths']).size > 3
