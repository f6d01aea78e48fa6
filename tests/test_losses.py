"""Per-token losses, KL and token weights, against numbers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import losses, objectives, update
from grpo_jax.structs import Batch

NAN, INF = float('nan'), float('inf')


def clip(ratio, advantage, **eps):
  """(loss, clipped) of one token."""
  loss, clipped = one_token(losses.clip, ratio, advantage, **eps)
  return float(loss[0, 0, 0]), bool(clipped[0, 0, 0])


def one_token(loss, ratio, advantage, **settings):
  old = jnp.full((1, 1, 1), -1.5)
  new = old + jnp.log(jnp.float32(ratio))
  advantages = jnp.full((1, 1, 1), advantage, jnp.float32)
  return loss(new, old, advantages, old < 0, **settings)


@pytest.mark.parametrize(
  'ratio, advantage, eps, loss, clipped',
  [
    (1.1, 2.0, {}, -2.2, False),
    (1.5, 2.0, {}, -2.4, True),  # held at 1.2
    (0.5, 2.0, {}, -1.0, False),  # below, but the advantage pulls back
    (0.9, -2.0, {}, 1.8, False),
    (0.5, -2.0, {}, 1.6, True),  # held at 0.8
    (1.5, -2.0, {}, 3.0, False),  # above, but the advantage pulls back
    # DAPO's clip-higher.
    (1.25, 2.0, dict(eps_high=0.28), -2.5, False),
    (1.5, 2.0, dict(eps_high=0.28), -2.56, True),
    (0.5, -2.0, dict(eps_high=0.28), 1.6, True),
    # R1's eps of 10: 1 - 10 bounds no ratio, the upper bound is 11.
    (1e-3, -2.0, dict(eps_low=10.0, eps_high=10.0), 0.002, False),
    (50.0, -2.0, dict(eps_low=10.0, eps_high=10.0), 100.0, False),
    (10.5, 2.0, dict(eps_low=10.0, eps_high=10.0), -21.0, False),
    (12.0, 2.0, dict(eps_low=10.0, eps_high=10.0), -22.0, True),
    # Dual clip: the loss of a negative advantage is bounded too.
    (5.0, -2.0, dict(dual_clip=3.0), 6.0, True),
    (2.0, -2.0, dict(dual_clip=3.0), 4.0, False),
    (5.0, 2.0, dict(dual_clip=3.0), -2.4, True),
    (0.5, -2.0, dict(dual_clip=3.0), 1.6, True),
  ],
)
def test_clip_gives_the_number_by_hand(ratio, advantage, eps, loss, clipped):
  got, flag = clip(ratio, advantage, **eps)
  # exp(log(ratio)) rounds in fp32.
  assert got == pytest.approx(loss, rel=1e-5)
  assert flag == clipped


@jax.jit
def slopes(log_ratio, advantage):
  """Gradient of the clipped loss of each token, and the flag."""

  def total(x):
    mask = jnp.ones_like(x, bool)
    loss, clipped = losses.clip(x, jnp.zeros_like(x), advantage, mask)
    return loss.sum(), clipped[0, 0]

  slope, clipped = jax.grad(total, has_aux=True)(log_ratio)
  return slope[0, 0], clipped


def test_the_clipped_flag_says_where_the_gradient_vanishes():
  ratios = jnp.array([0.1, 0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 1.5, 9.0])
  log_ratio = jnp.log(ratios)[None, None]
  both = set()
  for advantage in (1.5, -1.5):
    a = jnp.full((1, 1, 1), advantage)
    slope, clipped = slopes(log_ratio, a)
    np.testing.assert_array_equal(slope == 0, clipped)
    # Elsewhere it is that of the plain surrogate.
    np.testing.assert_allclose(
      slope, np.where(clipped, 0, -advantage * ratios), rtol=1e-6
    )
    both |= set(clipped.tolist())
  assert both == {True, False}


def test_k3_gives_the_number_by_hand():
  x = jnp.log(jnp.array([[[1.0, 2.0, 0.5]]]))
  ln2 = 0.6931472
  np.testing.assert_allclose(
    losses.k3(x, 0 * x)[0, 0], [0, 1 - ln2, ln2 - 0.5], rtol=1e-6
  )


# Two completions, of three tokens and of one; old logprobs -1, padding 0.
LENGTHS = jnp.array([[[1, 1, 1], [1, 0, 0]]], bool)
OLD = jnp.where(LENGTHS, -1.0, 0.0)
LOG_RATIOS = jnp.array([[[0.1, -0.2, 0.4], [0.3, 0.0, 0.0]]])
ADVANTAGES = jnp.array([[[2.0], [-1.0]]])


def two_completions(loss, **settings):
  """Loss, clipped and the gradient by logprob of the counted tokens."""

  def total(new):
    value, clipped = loss(new, OLD, ADVANTAGES, LENGTHS, **settings)
    value = jnp.where(LENGTHS, value, 0.0)
    return value.sum(), (value, clipped)

  slopes, (value, clipped) = jax.grad(total, has_aux=True)(OLD + LOG_RATIOS)
  pick = lambda x: np.asarray(x)[np.asarray(LENGTHS)]
  return pick(value), pick(clipped), pick(slopes)


def test_gspo_gives_every_token_the_ratio_of_its_completion():
  # exp of the means 0.1 and 0.3; values and slopes -s A.
  s, t = np.exp(0.1), np.exp(0.3)
  value, clipped, slopes = two_completions(
    losses.gspo, eps_low=1.0, eps_high=1.0
  )
  np.testing.assert_allclose(value, [-2 * s, -2 * s, -2 * s, t], rtol=1e-6)
  np.testing.assert_allclose(slopes, [-2 * s, -2 * s, -2 * s, t], rtol=1e-6)
  assert not clipped.any()
  # At the paper's bounds the first is held; the other is pulled back.
  value, clipped, slopes = two_completions(losses.gspo)
  np.testing.assert_allclose(value, [-2 * 1.0004] * 3 + [t], rtol=1e-6)
  np.testing.assert_allclose(slopes, [0, 0, 0, t], rtol=1e-6)
  assert clipped.tolist() == [True, True, True, False]


def test_gmpo_is_the_geometric_mean_of_clipped_ratios():
  # log rho 0.6, -0.2 and 1.0 (masked); held at 0.4 where that is worse.
  old = jnp.full((1, 2, 3), -2.0)
  new = old + jnp.array([[[0.6, -0.2, 1.0]] * 2])
  mask = jnp.array([[[True, True, False]] * 2])
  advantages = jnp.array([[[1.0], [-1.0]]])
  loss, clipped = losses.gmpo(new, old, advantages, mask)
  np.testing.assert_allclose(loss[0, 0, :2], -np.exp(0.1), rtol=1e-6)
  # A bad answer's ratio is not held from above: (0.6 - 0.2) / 2.
  np.testing.assert_allclose(loss[0, 1, :2], np.exp(0.2), rtol=1e-6)
  assert clipped.tolist() == [[[True, False, False], [False] * 3]]

  def total(x):
    loss, _ = losses.gmpo(x, old, advantages, mask)
    return jnp.where(mask, loss, 0).sum()

  # The clipped token has no gradient; the other has the whole ratio's.
  grads = jax.grad(total)(new)
  np.testing.assert_allclose(
    grads[0], [[0, -np.exp(0.1), 0], [np.exp(0.2), np.exp(0.2), 0]], rtol=1e-6
  )


def test_gspos_dual_clip_bounds_the_loss_of_a_bad_answer():
  old = jnp.full((1, 1, 2), -2.0)
  new = old + jnp.log(jnp.array([[[4.0, 9.0]]]))  # s = 6
  advantages = jnp.array([[[-2.0]]])
  settings = dict(eps_low=0.2, eps_high=0.2)
  free, _ = losses.gspo(new, old, advantages, old < 0, **settings)
  np.testing.assert_allclose(free, 12.0, rtol=1e-5)
  held, flag = losses.gspo(
    new, old, advantages, old < 0, dual_clip=3.0, **settings
  )
  np.testing.assert_allclose(held, 6.0, rtol=1e-5)
  assert flag.all()


def test_cispo_bounds_the_weight_and_keeps_every_gradient():
  ratio = np.exp([0.1, -0.2, 0.4, 0.3])
  advantage = np.array([2, 2, 2, -1])
  logprobs = -1 + np.array([0.1, -0.2, 0.4, 0.3])
  for settings, low, high in (
    (dict(), 0.0, 5.0),
    (dict(eps_low=0.1, eps_high=0.2), 0.9, 1.2),
  ):
    held = np.clip(ratio, low, high)
    value, clipped, slopes = two_completions(losses.cispo, **settings)
    np.testing.assert_allclose(value, -held * advantage * logprobs, rtol=1e-6)
    np.testing.assert_allclose(slopes, -held * advantage, rtol=1e-6)
    assert clipped.tolist() == (held != ratio).tolist()


def test_reinforce_and_sapo_give_the_numbers_by_hand():
  value, _, slopes = two_completions(losses.reinforce)
  np.testing.assert_allclose(value, [1.8, 2.4, 1.2, -0.7], rtol=1e-6)
  np.testing.assert_allclose(slopes, [-2, -2, -2, 1], rtol=1e-6)
  # 4 sigmoid(0) = 2 and slope 1 at ratio 1, whatever tau.
  for advantage, tau in ((2.0, 1.0), (-3.0, 1.05)):
    loss, _ = one_token(losses.sapo, 1.0, advantage)
    assert loss.item() == pytest.approx(-2 * advantage / tau)
  # tau = 2: 4/2 sigmoid(2 (3/2 - 1)) = 2 / (1 + e^-1) = 1.4621172.
  loss, _ = one_token(losses.sapo, 1.5, 3.0, tau_pos=2.0)
  assert loss.item() == pytest.approx(-3 * 1.4621172, rel=1e-6)


def test_sapo_on_policy_has_reinforces_gradient():
  def slope(loss):
    def total(x):
      return loss(x, OLD, ADVANTAGES, LENGTHS)[0].sum()

    return np.asarray(jax.grad(total)(OLD))[np.asarray(LENGTHS)]

  np.testing.assert_allclose(
    slope(losses.sapo), slope(losses.reinforce), rtol=1e-6
  )


def test_vespo_weighs_a_completion_by_the_product_of_its_ratios():
  w, v = np.exp(0.3), np.exp(0.3)
  first = w**2 * np.exp(3 * (1 - w))
  second = v**3 * np.exp(2 * (1 - v))
  value, _, slopes = two_completions(losses.vespo)
  wanted = [-2 * first] * 3 + [second]
  np.testing.assert_allclose(slopes, wanted, rtol=1e-5)
  logprobs = -1 + np.array([0.1, -0.2, 0.4, 0.3])
  np.testing.assert_allclose(value, wanted * logprobs, rtol=1e-5)


def test_k1_gives_the_number_by_hand():
  x = jnp.array([[[0.0, 2.0, -0.5]]])
  np.testing.assert_array_equal(losses.k1(x, x)[0, 0], [0, -2, 0.5])


def test_k2_gives_the_number_by_hand():
  x = jnp.array([[[0.0, 2.0, -0.5]]])
  np.testing.assert_array_equal(losses.k2(x, 0 * x)[0, 0], [0, 2, 0.125])


def test_k3_is_never_negative_however_close_the_policies():
  x = jnp.geomspace(1e-12, 20, 4000)
  x = jnp.concatenate([-x, x])[None, None]
  values = np.asarray(jax.jit(losses.k3)(x, x))
  assert values.min() >= 0
  assert values[np.abs(x) > 1e-3].min() > 0


REF = np.array([0.5, 0.3, 0.15, 0.05], np.float32)
LOGITS = jnp.array([-1.0, 0.5, 0.9, 0.0])


def expected(estimator, logits, sampled_from):
  logprobs = jax.nn.log_softmax(logits)
  x, log_ratio = jnp.log(REF) - logprobs, logprobs - jnp.log(sampled_from)
  return jnp.sum(sampled_from * estimator(x[None, None], log_ratio[None, None]))


def test_k3_is_on_average_the_reverse_kl():
  policy = jax.nn.softmax(LOGITS)
  reverse = float(jnp.sum(policy * (jnp.log(policy) - jnp.log(REF))))
  # Sums of four fp32 terms of order 1.
  assert expected(losses.k3, LOGITS, policy) == pytest.approx(reverse, abs=1e-6)


def test_the_mean_gradient_of_k2_is_the_reverse_kls_and_of_k3_the_forwards():
  # Tokens are sampled, so no gradient flows through their frequency. What is
  # left of k3, E[(1 - ref/policy) grad logprob], belongs to
  # KL(reference || policy).
  policy = jax.nn.softmax(LOGITS)
  gap = jnp.log(policy) - jnp.log(REF)
  reverse = policy * (gap - jnp.sum(policy * gap))
  forward = policy - REF  # the softmax's gradient of -sum ref logprob
  assert jnp.abs(forward - reverse).max() > 0.05
  for estimator, wanted in (
    (losses.k1, 0.0),  # useless as a loss
    (losses.k2, reverse),
    (losses.k3, forward),
    (losses.k3_ratio, reverse),
  ):
    got = jax.grad(expected, argnums=1)(estimator, LOGITS, policy)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_ratio_makes_k3_the_reverse_kl_off_policy_too():
  # Samples of another policy than the one trained.
  others = jnp.array([0.1, 0.2, 0.3, 0.4])
  policy = jax.nn.softmax(LOGITS)
  gap = jnp.log(policy) - jnp.log(REF)
  value, slope = jax.value_and_grad(expected, argnums=1)(
    losses.k3_ratio, LOGITS, others
  )
  assert value == pytest.approx(float(jnp.sum(policy * gap)), abs=1e-6)
  np.testing.assert_allclose(
    slope, policy * (gap - jnp.sum(policy * gap)), atol=1e-6
  )


def one_token_batch(old, ref, advantage=0.0):
  shape = (1, 1, 1)
  ids = jnp.zeros(shape, jnp.int32)
  return Batch(
    trunk=ids[0],
    trunk_mask=ids[0] > 0,
    inputs=ids,
    targets=ids,
    mask=ids == 0,
    advantages=jnp.full((1, 1), advantage),
    old_logprobs=jnp.full(shape, old),
    ref_logprobs=jnp.full(shape, ref),
  )


def policy_loss(logprobs, entropy, batch, kl_coef=0.1):
  return objectives.policy(
    batch, logprobs, entropy, loss=losses.clip, kl=losses.k3, kl_coef=kl_coef
  )


def test_the_kl_term_is_added_and_pulls_towards_the_reference():
  @jax.jit
  def total(logprob, ref, advantage):
    x = jnp.full((1, 1, 1), logprob)
    batch = one_token_batch(-1.0, ref, advantage)
    return policy_loss(x, x, batch)[0].sum()

  # On policy the surrogate is -2. k3 of ln 2 and of ln 4 by hand.
  for ref, kl in [(0.0, 0.0), (np.log(2), 1 - np.log(2)), (np.log(4), 1.6137)]:
    assert total(-1.0, -1.0 + ref, 2.0) == pytest.approx(
      -2 + 0.1 * kl, rel=1e-5
    )
  # Descent raises a logprob under the reference's and lowers one above it.
  slope = jax.jit(jax.grad(total))
  assert slope(-1.0, -0.5, 0.0) < 0 < slope(-1.0, -1.5, 0.0)


def test_the_ratio_is_exactly_1_on_policy():
  logprobs = -jnp.linspace(0.01, 15, 60).reshape(2, 3, 10)
  ids = jnp.zeros((2, 3, 10), jnp.int32)
  batch = Batch(
    trunk=ids[:, 0],
    trunk_mask=ids[:, 0] > 0,
    inputs=ids,
    targets=ids,
    mask=ids == 0,
    advantages=jnp.arange(6.0).reshape(2, 3) - 2,
    old_logprobs=logprobs,
  )
  loss, metrics = policy_loss(logprobs, logprobs, batch, kl_coef=0.0)
  np.testing.assert_array_equal(metrics['ratio'], 1.0)
  np.testing.assert_array_equal(metrics['logprob_gap'], 0.0)
  assert not metrics['clip_share'].any() and 'kl' not in metrics
  np.testing.assert_array_equal(
    loss, np.broadcast_to(-batch.advantages[:, :, None], (2, 3, 10))
  )


MASK = jnp.array([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], bool)


@pytest.mark.parametrize(
  'weigh, by_completion',
  [
    # 6 tokens; 3 completions that count, of 3, 1 and 2 tokens.
    (losses.token_mean, [1 / 6, 1 / 6, 1 / 6]),
    (losses.sequence_mean, [1 / 9, 1 / 3, 1 / 6]),
    (losses.sequence_sum, [1 / 3, 1 / 3, 1 / 3]),
    # Groups of 4 and 2 tokens.
    (losses.prompt_mean, [1 / 8, 1 / 8, 1 / 4]),
    (functools.partial(losses.constant, length=10), [1 / 30, 1 / 30, 1 / 30]),
  ],
)
def test_weights_are_those_by_hand(weigh, by_completion):
  a, b, c = by_completion
  expected = [[[a, a, a], [b, 0, 0]], [[c, c, 0], [0, 0, 0]]]
  np.testing.assert_allclose(weigh(MASK), expected, rtol=1e-6)


WEIGHTINGS = [
  losses.token_mean,
  losses.sequence_mean,
  losses.sequence_sum,
  losses.prompt_mean,
  functools.partial(losses.constant, length=10),
]


@pytest.mark.parametrize('weigh', WEIGHTINGS)
def test_weights_do_not_depend_on_the_padded_width_or_on_masked_rows(weigh):
  wide = jnp.pad(MASK, ((0, 1), (0, 2), (0, 5)))
  np.testing.assert_array_equal(weigh(wide)[:2, :2, :3], weigh(MASK))
  assert weigh(wide).sum() == pytest.approx(float(weigh(MASK).sum()))


@functools.partial(jax.jit, static_argnums=0)
def gradient(weigh, batch, fill, logprobs_at=0.0):
  """Loss, metric sums and gradient of a model of one parameter.

  Its logprob is the parameter where the mask is true, spoilt by `fill`
  elsewhere.
  """
  extra = jnp.where(batch.mask, 0.0, fill)
  objective = functools.partial(
    objectives.policy, loss=losses.clip, kl=losses.k3, kl_coef=0.1
  )
  grads, loss, sums, tops = update.accumulate(
    jnp.float32(logprobs_at),
    batch,
    weigh(batch.mask),
    score=lambda params, batch: (params + extra, 2 * params + extra),
    objective=objective,
    parts=(1, 1),
  )
  return grads, loss, sums, tops


def masked_batch(mask, fill):
  ids = jnp.zeros(mask.shape, jnp.int32)
  spoilt = jnp.where(mask, -1.0, fill)
  return Batch(
    trunk=ids[:, 0],
    trunk_mask=ids[:, 0] > 0,
    inputs=ids,
    targets=ids,
    mask=mask,
    advantages=jnp.array([[1.0, -1.0], [2.0, 0.5]]),
    old_logprobs=spoilt,
    ref_logprobs=jnp.where(mask, -1.2, fill),
  )


@pytest.mark.parametrize('fill', [NAN, INF, -INF])
@pytest.mark.parametrize('weigh', WEIGHTINGS)
def test_masked_nan_and_inf_reach_neither_loss_nor_gradient(weigh, fill):
  clean = gradient(weigh, masked_batch(MASK, -1.0), 0.0, -1.1)
  spoilt = gradient(weigh, masked_batch(MASK, fill), fill, -1.1)
  assert np.isfinite(clean[:2]).all() and clean[0] != 0
  for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(spoilt), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('weigh', WEIGHTINGS)
def test_a_batch_without_a_counted_token_has_zero_loss_and_gradient(weigh):
  nothing = jnp.zeros_like(MASK)
  assert not weigh(nothing).any()
  grads, loss, sums, _ = gradient(weigh, masked_batch(nothing, NAN), NAN)
  assert grads == 0 and loss == 0
  assert not any(np.any(v) for v in sums.values())


def test_supervised_loss_is_the_negative_logprob_of_counted_tokens():
  batch = masked_batch(MASK, NAN)
  logprobs = jnp.where(MASK, -0.25, NAN)
  loss, metrics = objectives.supervised(batch, logprobs, logprobs)
  np.testing.assert_array_equal(loss, np.where(MASK, 0.25, 0.0))
  np.testing.assert_array_equal(metrics['nll'], loss)
