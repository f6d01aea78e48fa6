"""Importance weights, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import importance

MASK = jnp.array([[[1, 1, 1], [1, 1, 0]]], bool)
# Ratios 4, 1/4, 3/2 (product 3/2) and 1/10, 3 (product 3/10).
LOG_RATIO = jnp.log(jnp.array([[[4, 0.25, 1.5], [0.1, 3, 0]]]))


@pytest.mark.parametrize(
  'fn, settings, first, second',
  [
    (importance.none, {}, [1, 1, 1], [1, 1]),
    (importance.truncated, {}, [2, 0.25, 1.5], [0.1, 2]),
    (importance.truncated, dict(low=0.5, high=3.5), [3.5, 0.5, 1.5], [0.5, 3]),
    (importance.truncated, dict(level='sequence'), [1.5] * 3, [0.3] * 2),
    (
      importance.truncated, dict(level='sequence', high=1.25),
      [1.25] * 3, [0.3] * 2,
    ),
    (
      importance.truncated, dict(level='geometric'),
      [1.5 ** (1 / 3)] * 3, [0.3**0.5] * 2,
    ),
    (importance.rejected, {}, [0, 0, 1.5], [0, 0]),
    (importance.rejected, dict(low=0.05, high=3.5), [0, 0.25, 1.5], [0.1, 3]),
    (importance.rejected, dict(level='sequence'), [1.5] * 3, [0, 0]),
    (
      importance.rejected, dict(level='geometric'),
      [1.5 ** (1 / 3)] * 3, [0.3**0.5] * 2,
    ),
  ],
)  # fmt: skip
def test_weights_are_those_by_hand(fn, settings, first, second):
  got = np.asarray(fn(LOG_RATIO, MASK, **settings))
  np.testing.assert_allclose(got[0, 0], first, rtol=1e-6)
  np.testing.assert_allclose(got[0, 1, :2], second, rtol=1e-6)
  assert np.isfinite(got).all()


def test_weights_do_not_depend_on_what_is_masked():
  wide = jnp.pad(LOG_RATIO, ((0, 0), (0, 1), (0, 2)), constant_values=jnp.nan)
  mask = jnp.pad(MASK, ((0, 0), (0, 1), (0, 2)))
  for level in importance.LEVELS:
    plain = importance.truncated(LOG_RATIO, MASK, level=level)
    got = importance.truncated(wide, mask, level=level)
    np.testing.assert_array_equal(
      jnp.where(MASK, got[:, :2, :3], 0), jnp.where(MASK, plain, 0)
    )


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(level='word'), "level='word' is not one of token, sequence"),
    (dict(low=2.0, high=1.0), 'low=2.0, high=1.0: 0 <= low < high'),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    importance.truncated(LOG_RATIO, MASK, **settings)


@pytest.mark.parametrize('level', importance.LEVELS)
@pytest.mark.parametrize('fn', [importance.truncated, importance.rejected])
def test_no_weight_is_above_the_upper_bound(fn, level):
  rng = np.random.default_rng(0)
  log_ratio = jnp.asarray(rng.normal(0, 2, (3, 50, 4)), jnp.float32)
  got = fn(log_ratio, log_ratio > -9, level=level, high=1.5)
  # Kept tokens too, whatever the level at which they are judged.
  assert 1.0 < got.max() <= 1.5
