"""Objectives per token, by hand: teacher traces, entropy, critics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import losses, objectives
from grpo_jax.structs import Batch

NAN = float('nan')


def batch(mask=((1, 1, 0), (1, 1, 1)), **fields):
  """One prompt, two samples."""
  mask = jnp.asarray(mask, bool)[None]
  zeros = jnp.zeros(mask.shape, jnp.int32)
  return Batch(
    trunk=zeros[:, 0],
    trunk_mask=zeros[:, 0] == 0,
    inputs=zeros,
    targets=zeros,
    mask=mask,
    **{k: jnp.asarray(v)[None] for k, v in fields.items()},
  )


def policy(**settings):
  return functools.partial(
    objectives.policy,
    **dict(loss=losses.clip, kl=losses.k3, kl_coef=0.0) | settings,
  )


LOGPROBS = jnp.log(jnp.array([[[0.5, 0.2, 1.0], [0.01, 0.4, 0.9]]]))
OLD = np.log([[0.5, 0.25, 1.0], [0.9, 0.9, 0.9]])


def test_a_teachers_trace_is_pushed_by_its_shaped_probability():
  b = batch(
    advantages=[-1.0, 2.0], old_logprobs=OLD, teacher=[False, True],
    ref_logprobs=OLD,
  )  # fmt: skip
  loss, metrics = policy()(b, LOGPROBS, 0 * LOGPROBS)
  # f(p) = p / (p + 0.1): 0.01 -> 1/11, 0.4 -> 0.8, 0.9 -> 0.9. No ratio.
  np.testing.assert_allclose(loss[0, 1], [-2 / 11, -1.6, -1.8], rtol=1e-5)
  # Sampled tokens keep their ratio: 1 and 0.8.
  np.testing.assert_allclose(loss[0, 0, :2], [1.0, 0.8], rtol=1e-5)
  np.testing.assert_array_equal(metrics['sampled_share'][0, :, 0], [1, 0])
  for name in objectives.OF_SAMPLED:
    assert not np.asarray(metrics[name][0, 1]).any()


def test_a_teachers_trace_has_no_kl_term():
  b = batch(
    advantages=[0.0, 0.0], old_logprobs=OLD, teacher=[False, True],
    ref_logprobs=OLD - 0.5,
  )  # fmt: skip
  loss, metrics = policy(kl_coef=2.0, kl=losses.k2)(b, LOGPROBS, 0 * LOGPROBS)
  # Of the sampled tokens log(1 / 1) - 0.5 and log(0.25 / 0.2) - 0.5, halved.
  x = np.array([-0.5, np.log(1.25) - 0.5])
  np.testing.assert_allclose(metrics['kl'][0, 0, :2], x**2 / 2, rtol=1e-5)
  np.testing.assert_allclose(loss[0, 0, :2], x**2, rtol=1e-5)
  np.testing.assert_array_equal(loss[0, 1], 0)


def test_an_unlikely_token_of_a_teacher_has_the_larger_gradient():
  b = batch(advantages=[0.0, 1.0], old_logprobs=OLD, teacher=[False, True])

  def total(logprobs):
    return policy()(b, logprobs, 0 * logprobs)[0][0, 1].sum()

  # -d f / d log p = -0.1 p / (p + 0.1)^2, at 0.01, 0.4 and 0.9.
  grads = jax.grad(total)(LOGPROBS)[0, 1]
  np.testing.assert_allclose(
    grads, [-0.001 / 0.0121, -0.04 / 0.25, -0.09 / 1.0], rtol=1e-4
  )


def test_the_gap_is_the_trainers_to_the_sampler_where_both_are_known():
  b = batch(
    advantages=[1.0, 1.0], old_logprobs=OLD, sampler_logprobs=OLD - 0.25
  )
  _, metrics = policy()(b, LOGPROBS, 0 * LOGPROBS)
  counted = np.asarray(metrics['logprob_gap'])[np.asarray(b.mask)]
  np.testing.assert_allclose(counted, 0.25, rtol=1e-5)


def test_the_entropy_bonus_is_paid_where_the_loss_counts():
  entropy = jnp.array([[[1.0, 2.0, NAN], [3.0, 4.0, 5.0]]])
  b = batch(
    advantages=[0.0, 0.0], old_logprobs=OLD,
    factors=[[1.0, 0.0, 1.0], [2.0, 1.0, 1.0]],
  )  # fmt: skip
  loss, _ = policy(entropy_coef=0.1)(b, LOGPROBS, entropy)
  np.testing.assert_allclose(loss[0, 0, :2], [-0.1, 0.0], atol=1e-7)
  np.testing.assert_allclose(loss[0, 1], [-0.3, -0.4, -0.5], rtol=1e-6)


def test_a_bad_completion_that_the_policy_has_left_is_not_pushed_further():
  # Mean log old / new over counted tokens: 0.11 and 1.77.
  b = batch(advantages=[-1.0, -1.0], old_logprobs=OLD)
  wanted, _ = policy()(b, LOGPROBS, 0 * LOGPROBS)
  loss, _ = policy(off_policy_limit=1.7)(b, LOGPROBS, 0 * LOGPROBS)
  np.testing.assert_array_equal(loss[0, 0], wanted[0, 0])
  np.testing.assert_array_equal(loss[0, 1], 0)
  loss, _ = policy(off_policy_limit=1.8)(b, LOGPROBS, 0 * LOGPROBS)
  np.testing.assert_array_equal(loss, wanted)
  # One of positive advantage is always learned from.
  b = batch(advantages=[1.0, 1.0], old_logprobs=OLD)
  wanted, _ = policy()(b, LOGPROBS, 0 * LOGPROBS)
  loss, _ = policy(off_policy_limit=0.0)(b, LOGPROBS, 0 * LOGPROBS)
  np.testing.assert_array_equal(loss, wanted)


def test_factors_scale_the_loss_and_not_the_kl():
  b = batch(
    advantages=[1.0, 1.0], old_logprobs=LOGPROBS[0],
    ref_logprobs=LOGPROBS[0] + np.log(2), factors=np.full((2, 3), 0.5),
  )  # fmt: skip
  loss, _ = policy(kl_coef=1.0)(b, LOGPROBS, 0 * LOGPROBS)
  # -1 * 0.5, and k3 of log 2: 2 - log 2 - 1.
  wanted = -0.5 + 1 - np.log(2)
  np.testing.assert_allclose(loss[0, 1], wanted, rtol=1e-5)


@pytest.mark.parametrize(
  'value, loss, clipped',
  [
    (0.6, 0.08, False),  # within 0.2 of the old 0.5: (0.6 - 1)^2 / 2
    (0.9, 0.045, True),  # held at 0.7: (0.7 - 1)^2 / 2 is the larger
    (0.1, 0.405, False),  # away from the return: the free loss is the larger
  ],
)
def test_the_value_loss_is_the_more_pessimistic_of_two(value, loss, clipped):
  b = batch(values=np.full((2, 3), 0.5), returns=np.ones((2, 3)))
  values = jnp.full((1, 2, 3), value)
  got, metrics = objectives.value(b, values, clip=0.2)
  np.testing.assert_allclose(got[0, 1], loss, rtol=1e-5)
  assert bool(metrics['value_clip_share'][0, 1, 0]) == clipped
  free, _ = objectives.value(b, values, clip=float('inf'))
  np.testing.assert_allclose(free[0, 1], (value - 1) ** 2 / 2, rtol=1e-5)


def test_masked_values_reach_neither_the_loss_nor_its_gradient():
  b = batch(
    values=[[0.5, 0.5, NAN], [0.5] * 3], returns=[[1, 1, NAN], [1.0] * 3]
  )
  values = jnp.array([[[0.6, 0.6, NAN], [0.6] * 3]])

  def total(values):
    return objectives.value(b, values, clip=0.2)[0].sum()

  loss, grads = jax.value_and_grad(total)(values)
  assert np.isfinite(loss) and np.isfinite(grads).all()
  assert grads[0, 0, 2] == 0


def test_a_shared_body_learns_the_sum_of_both_losses():
  b = batch(
    advantages=np.ones((2, 3)), old_logprobs=OLD,
    values=np.zeros((2, 3)), returns=np.ones((2, 3)),
  )  # fmt: skip
  value = functools.partial(objectives.value, clip=0.2)
  values = jnp.full((1, 2, 3), 0.1)
  loss, metrics = objectives.policy_and_value(
    b, LOGPROBS, 0 * LOGPROBS, values,
    policy_loss=policy(), value_loss=value, value_coef=0.5,
  )  # fmt: skip
  alone, _ = policy()(b, LOGPROBS, 0 * LOGPROBS)
  np.testing.assert_allclose(loss - alone, 0.5 * 0.405 * np.array(b.mask))
  assert {'policy_loss', 'value_loss', 'entropy'} <= metrics.keys()
