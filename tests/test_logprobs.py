"""Chunked logprobs and entropy, against plain ones over all logits."""

import functools

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
import jax.numpy as jnp
import numpy as np
import pytest

from grpo_jax import logprobs

# All different, so that a shape in a jaxpr tells its axes.
Q, G, C, D, V = 2, 3, 7, 5, 11


def draw():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(Q, G, C, D)).astype(np.float32)
  head = rng.normal(size=(V, D)).astype(np.float32)
  return hidden, head, rng.integers(0, V, (Q, G, C)).astype(np.int32)


HIDDEN, HEAD, TARGETS = draw()


def by_numpy(temperature, vocab_size):
  """log_softmax in float64, on the real vocabulary only."""
  logits = HIDDEN.astype(np.float64) @ HEAD[:vocab_size].T.astype(np.float64)
  logits = logits / temperature
  logits = logits - logits.max(-1, keepdims=True)
  table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  targets = np.minimum(TARGETS, vocab_size - 1)
  picked = np.take_along_axis(table, targets[..., None], -1)[..., 0]
  return picked, -(np.exp(table) * table).sum(-1)


@functools.cache
def program(temperature, vocab_size, chunk):
  return jax.jit(
    functools.partial(
      logprobs.token_logprobs,
      temperature=temperature,
      vocab_size=vocab_size,
      chunk=chunk,
    )
  )


@pytest.mark.parametrize(
  'temperature, vocab_size, chunk',
  [
    (1.0, V, C),
    (0.7, V, 1),
    (0.7, V, 3),
    (1.5, V, 5),
    (1.5, V, 100),
    (0.7, 9, 3),  # two rows of vocabulary padding
  ],
)
def test_logprobs_and_entropy_are_the_plain_ones(
  temperature, vocab_size, chunk
):
  targets = np.minimum(TARGETS, vocab_size - 1)
  got = program(temperature, vocab_size, chunk)(
    jnp.asarray(HIDDEN), jnp.asarray(HEAD), jnp.asarray(targets)
  )
  # fp32 products of logits of order 10.
  for value, expected in zip(
    got, by_numpy(temperature, vocab_size), strict=True
  ):
    assert value.shape == (Q, G, C) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, atol=5e-6)


def test_entropy_is_the_one_by_hand():
  # Logits ln 1, ln 1, ln 2 at temperature 1: probabilities 1/4, 1/4, 1/2.
  head = jnp.log(jnp.array([[1.0], [1.0], [2.0], [50.0]]))
  picked, entropy = logprobs.token_logprobs(
    jnp.ones((1, 1, 1, 1)),
    head,
    jnp.array([[[2]]]),
    temperature=1.0,
    vocab_size=3,
    chunk=1,
  )
  assert picked[0, 0, 0] == pytest.approx(np.log(0.5), rel=1e-6)
  assert entropy[0, 0, 0] == pytest.approx(1.5 * np.log(2), rel=1e-6)


def test_vocabulary_padding_has_no_probability_and_no_gradient():
  def total(head):
    args = (jnp.asarray(HIDDEN), head, jnp.minimum(TARGETS, 8))
    return program(1.0, 9, 3)(*args)[0].sum()

  loud = jnp.asarray(HEAD).at[9:].set(1e3)
  value, slope = jax.value_and_grad(total)(loud)
  assert value == total(jnp.asarray(HEAD))
  assert not slope[9:].any() and slope[:9].any()


@pytest.mark.parametrize('chunk', [1, 3, 5])
def test_the_gradient_is_that_of_the_plain_sum(chunk):
  scale = jnp.asarray(
    np.random.default_rng(1).normal(size=(Q, G, C)), jnp.float32
  )

  def plain(hidden, head):
    table = jax.nn.log_softmax(hidden @ head.T / 0.7)
    picked = jnp.take_along_axis(table, TARGETS[..., None], -1)[..., 0]
    return (scale * picked).sum()

  def chunked(hidden, head):
    picked, entropy = program(0.7, V, chunk)(hidden, head, jnp.asarray(TARGETS))
    # The entropy is a metric: nothing flows through it.
    return (scale * picked).sum() + 100 * entropy.sum()

  args = (jnp.asarray(HIDDEN), jnp.asarray(HEAD))
  expected = jax.grad(plain, (0, 1))(*args)
  got = jax.grad(chunked, (0, 1))(*args)
  for a, b in zip(got, expected, strict=True):
    # fp32 sums of up to 42 terms, in another order.
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_hidden_states_in_bf16_still_give_fp32_logits():
  hidden = jnp.asarray(HIDDEN, jnp.bfloat16)
  args = (jnp.asarray(HEAD), jnp.asarray(TARGETS))
  got, _ = program(1.0, V, C)(hidden, *args)
  wide, _ = program(1.0, V, C)(hidden.astype(jnp.float32), *args)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, wide)


def test_gradients_of_bf16_hidden_states_are_those_of_fp32_but_for_rounding():
  def total(hidden, head):
    picked, _ = program(0.7, V, 3)(hidden, head, jnp.asarray(TARGETS))
    return (jnp.arange(C) * picked).sum()

  rounded = lambda x: jnp.asarray(x, jnp.bfloat16)
  narrow = jax.grad(total, (0, 1))(rounded(HIDDEN), HEAD)
  wide = jax.grad(total, (0, 1))(rounded(HIDDEN).astype(jnp.float32), HEAD)
  assert narrow[0].dtype == jnp.bfloat16 and narrow[1].dtype == jnp.float32
  for a, b in zip(narrow, wide, strict=True):
    a, b = np.asarray(a, np.float32), np.asarray(b)
    # Each factor is rounded by 2^-9 at most, and what hidden states get again.
    assert 0 < np.linalg.norm(a - b) < 0.006 * np.linalg.norm(b)


def shapes(jaxpr):
  """Shapes of everything a jaxpr computes, inner jaxprs included."""
  found = set()
  for equation in jaxpr.eqns:
    found |= {v.aval.shape for v in equation.outvars}
    for inner in jax.tree.leaves(list(equation.params.values())):
      if isinstance(inner, ClosedJaxpr):
        inner = inner.jaxpr
      if isinstance(inner, Jaxpr):
        found |= shapes(inner)
  return found


def largest_logits(chunk, differentiate):
  def total(hidden, head):
    return logprobs.token_logprobs(
      hidden,
      head,
      jnp.asarray(TARGETS),
      temperature=0.7,
      vocab_size=V,
      chunk=chunk,
    )[0].sum()

  fn = jax.grad(total, (0, 1)) if differentiate else total
  jaxpr = jax.make_jaxpr(fn)(jnp.asarray(HIDDEN), jnp.asarray(HEAD)).jaxpr
  with_v = [s for s in shapes(jaxpr) if V in s and D not in s]
  return max(int(np.prod(s)) for s in with_v)


@pytest.mark.parametrize('differentiate', [False, True])
def test_the_logits_of_all_positions_never_exist_at_once(differentiate):
  # The check sees them when the chunk is the whole branch.
  assert largest_logits(C, differentiate) == Q * G * C * V
  assert largest_logits(2, differentiate) == Q * G * 2 * V


@pytest.mark.parametrize('vocab_size', [V, 9])
def test_the_gradient_of_the_entropy_is_the_plain_ones_where_asked(vocab_size):
  scale = jnp.arange(Q * G * C, dtype=jnp.float32).reshape(Q, G, C)

  def chunked(hidden, head):
    _, entropy = logprobs.token_logprobs(
      hidden, head, jnp.asarray(TARGETS), temperature=0.7,
      vocab_size=vocab_size, chunk=3, entropy_gradient=True,
    )  # fmt: skip
    return (scale * entropy).sum()

  def plain(hidden, head):
    log_p = jax.nn.log_softmax(hidden @ head[:vocab_size].T / 0.7)
    return (scale * -(jnp.exp(log_p) * log_p).sum(-1)).sum()

  found = jax.grad(chunked, (0, 1))(HIDDEN, HEAD)
  wanted = jax.grad(plain, (0, 1))(HIDDEN, HEAD)
  for x, y in zip(found, wanted, strict=True):
    # Sums of hundreds of terms up to 40, in fp32.
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3)
  assert np.abs(wanted[1]).max() > 10
