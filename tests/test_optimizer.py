"""The optax chain, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import optimizer
from grpo_jax.models import params as params_lib
from grpo_jax.models import transformer

SETTINGS = dict(
  learning_rate=1.0,
  schedule='constant',
  warmup_steps=0,
  total_steps=10,
  final_fraction=0.1,
  b1=0.9,
  b2=0.95,
  eps=1.0,
  weight_decay=0.0,
  clip_norm=0.0,
)


def steps(params, grads, count=1, **settings):
  """The updates of `count` steps with the same gradients."""
  tx = optimizer.adamw(**(SETTINGS | settings))

  @jax.jit
  def one(state, params):
    return tx.update(grads, state, params)

  state, made = tx.init(params), []
  for _ in range(count):
    updates, state = one(state, params)
    made.append(updates)
  return made


def rates(count, **settings):
  names = (
    'learning_rate', 'schedule', 'warmup_steps', 'total_steps',
    'final_fraction',
  )  # fmt: skip
  chosen = {k: (SETTINGS | settings)[k] for k in names}
  schedule = optimizer.learning_rates(**chosen)
  return [float(schedule(i)) for i in range(count)]


@pytest.mark.parametrize(
  'settings, expected',
  [
    (dict(schedule='constant'), [1.0] * 5),
    # 10 steps from 1 to 0.1: 0.09 a step.
    (dict(schedule='linear'), [1.0, 0.91, 0.82, 0.73, 0.64]),
    # 0.1 + 0.9 (1 + cos(pi i / 4)) / 2, then the end.
    (
      dict(schedule='cosine', total_steps=4),
      [1.0, 0.8681981, 0.55, 0.2318019, 0.1, 0.1],
    ),
    # 4 steps up, then the peak and 6 steps from there to 0.1: 0.15 a step.
    (
      dict(schedule='linear', warmup_steps=4),
      [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.7],
    ),
    (dict(warmup_steps=1), [1.0, 1.0, 1.0]),
    (dict(warmup_steps=2, learning_rate=3.0), [1.5, 3.0, 3.0, 3.0]),
  ],
)
def test_learning_rates_are_those_by_hand(settings, expected):
  np.testing.assert_allclose(
    rates(len(expected), **settings), expected, rtol=1e-6
  )


def test_a_schedule_ends_at_its_final_fraction_and_stays():
  for schedule in ('linear', 'cosine'):
    end = rates(14, schedule=schedule, warmup_steps=3)[10:]
    np.testing.assert_allclose(end, 0.1, rtol=1e-6)


@pytest.mark.parametrize(
  'field, value', [('eps', 0.0), ('b1', 1.0), ('b2', 1.0), ('b2', -0.1),
                   ('final_fraction', -1.0)],
)  # fmt: skip
def test_a_number_that_makes_parameters_nan_is_refused(field, value):
  settings = dict(
    learning_rate=1.0, schedule='constant', warmup_steps=0, total_steps=10,
    final_fraction=0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0,
    clip_norm=1.0, moments_dtype='float32',
  )  # fmt: skip
  optimizer.adamw(**settings)
  with pytest.raises(ValueError, match=f'optimizer.{field}={value} must'):
    optimizer.adamw(**settings | {field: value})


def test_an_unknown_schedule_is_refused_with_the_valid_ones():
  with pytest.raises(
    ValueError, match="'cosin' is not one of constant, linear, cosine"
  ):
    rates(1, schedule='cosin')


def test_the_first_step_of_a_warm_up_moves():
  (first, second) = steps(
    {'w': jnp.zeros(2)}, {'w': jnp.array([3.0, -4.0])}, 2, warmup_steps=4
  )
  # Adam's first step is g / (|g| + eps), at a quarter of the peak rate.
  np.testing.assert_allclose(first['w'], [-0.75 / 4, 0.8 / 4], rtol=1e-5)
  # Equal gradients keep the moments' ratio: only the rate has grown.
  np.testing.assert_allclose(second['w'], 2 * first['w'], rtol=1e-5)


@pytest.mark.parametrize(
  'clip_norm, used',
  [
    (1.0, [0.6, 0.8]),  # the norm is 5
    (10.0, [3.0, 4.0]),
    (0.0, [3.0, 4.0]),  # 0 does not clip
  ],
)
def test_gradients_are_clipped_by_their_global_norm(clip_norm, used):
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([[4.0]])}
  params = jax.tree.map(jnp.zeros_like, grads)
  (got,) = steps(params, grads, clip_norm=clip_norm)
  for name, g in zip('ab', used, strict=True):
    assert got[name].item() == pytest.approx(-g / (g + 1), rel=1e-5)


def test_decay_is_of_matrices_only_and_times_the_learning_rate():
  config = transformer.Config(
    vocab_size=8,
    num_layers=1,
    embed_dim=4,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    mlp_dim=4,
    qkv_bias=True,
    qk_norm=True,
    tied_head=False,
  )
  shapes = params_lib.abstract(transformer.declare(config))
  params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
  grads = jax.tree.map(jnp.zeros_like, params)
  (got,) = steps(params, grads, learning_rate=0.5, weight_decay=0.1)
  decayed = {
    params_lib.name(path)
    for path, x in jax.tree_util.tree_leaves_with_path(got)
    if x.any()
  }
  matrices = {'q', 'k', 'v', 'o', 'gate', 'up', 'down'}
  assert decayed == {'embed', 'head'} | {f'layers/{m}' for m in matrices}
  np.testing.assert_allclose(got['embed'], -0.05, rtol=1e-6)


def test_decay_does_not_pass_through_the_moments():
  step = functools.partial(
    steps, {'w': jnp.array([2.0])}, {'w': jnp.array([3.0])}
  )
  (with_decay,), (without,) = step(weight_decay=0.1), step()
  assert (with_decay['w'] - without['w']).item() == pytest.approx(
    -0.2, rel=1e-5
  )


def test_bfloat16_moments_hold_half_and_steps_differ_by_their_rounding():
  params, grads = {'w': jnp.zeros(64)}, {'w': jnp.linspace(-1.0, 1.0, 64)}
  exact = steps(params, grads, 5, b2=0.95)
  rounded = steps(params, grads, 5, b2=0.95, moments_dtype='bfloat16')
  # The first step is of fp32 moments still; each next one of moments within
  # 2^-9 of theirs, a second moment under a root.
  np.testing.assert_array_equal(rounded[0]['w'], exact[0]['w'])
  gap = np.abs(rounded[-1]['w'] - exact[-1]['w']).max()
  assert 0 < gap < 5 * 2**-8
  tx = optimizer.adamw(**SETTINGS, moments_dtype='bfloat16')
  state = tx.init(params)
  kept = [x for x in jax.tree.leaves(state) if x.shape]
  assert len(kept) == 2 and all(x.dtype == jnp.bfloat16 for x in kept)


def test_bfloat16_moments_refuse_a_decay_that_rounding_would_stop():
  with pytest.raises(ValueError, match='b2=0.999 with moments_dtype=bfloat16'):
    steps({}, {}, b2=0.999, moments_dtype='bfloat16')
  with pytest.raises(ValueError, match='is not float32 or bfloat16'):
    steps({}, {}, moments_dtype='float16')
