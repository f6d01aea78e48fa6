"""The fit of a reward curve, on curves whose law is known."""

import numpy as np
import pytest

from grpo_jax import scaling_law
from grpo_jax.scaling_law import Sigmoid

TRUE = Sigmoid(start=0.15, ceiling=0.8, exponent=1.6, midpoint=120.0)
STEPS = np.arange(1, 601, dtype=np.float64)


def noisy(seed, spread=0.02):
  rng = np.random.default_rng(seed)
  return TRUE(STEPS) + spread * rng.normal(size=STEPS.size)


def test_the_curve_is_the_papers_formula():
  # At C_mid half of the way is gone; at three times it 3^B / (1 + 3^B).
  assert float(TRUE(120.0)) == pytest.approx((0.15 + 0.8) / 2)
  share = 3**1.6 / (1 + 3**1.6)
  assert float(TRUE(360.0)) == pytest.approx(0.15 + 0.65 * share)


def test_a_curve_without_noise_gives_its_own_numbers():
  found = scaling_law.fit(STEPS, TRUE(STEPS), largest=1.0)
  for name in ('start', 'ceiling', 'exponent', 'midpoint'):
    assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-3)


@pytest.mark.parametrize('seed', range(3))
def test_the_first_half_foretells_the_end_within_the_noise(seed):
  told = scaling_law.forecast(STEPS, noisy(seed), largest=1.0)
  assert told.split == 300
  assert abs(told.error) < 0.02
  assert told.noise == pytest.approx(0.02, rel=0.15)
  assert told.whole.ceiling == pytest.approx(0.8, abs=0.03)


def test_a_curve_that_breaks_after_the_first_half_is_told_by_how_much():
  reward = TRUE(STEPS)
  reward[300:] = 0.3
  told = scaling_law.forecast(STEPS, reward, largest=1.0)
  wanted = TRUE(STEPS[-60:]).mean() - 0.3
  assert told.error == pytest.approx(wanted, abs=0.01)
  assert f'off by {told.error:+.3f} at the end' in str(told)


def test_a_flat_curve_has_itself_for_a_ceiling():
  told = scaling_law.forecast(STEPS, np.full(600, 0.2), largest=1.0)
  assert abs(told.error) < 1e-3 and told.noise < 1e-3


def test_missing_points_are_left_out():
  reward = TRUE(STEPS)
  reward[::3] = np.nan
  found = scaling_law.fit(STEPS, reward, largest=1.0)
  assert found.ceiling == pytest.approx(0.8, rel=1e-3)


def test_a_forecast_needs_something_left_to_foretell():
  with pytest.raises(ValueError, match='share=1.0 must be between'):
    scaling_law.forecast(STEPS, TRUE(STEPS), largest=1.0, share=1.0)


@pytest.mark.parametrize(
  'compute, reward, saying',
  [
    (range(1, 6), [0.1] * 5, '5 points do not hold a sigmoid down; 8 are'),
    (range(10), [0.1] * 10, 'compute must be positive; the least is 0'),
    (range(1, 11), [0.1] * 9, r'compute \(10,\) and reward \(9,\) must be two'),
  ],
)
def test_what_cannot_be_fitted_is_refused(compute, reward, saying):
  with pytest.raises(ValueError, match=saying):
    scaling_law.fit(list(compute), reward, largest=1.0)
