"""What passes between an untrusted program and its test: plain data."""

import math

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from grpo_jax.rewards.jail import values

PLAIN = strategies.recursive(
  strategies.none()
  | strategies.booleans()
  | strategies.integers()
  | strategies.floats(allow_nan=False)
  | strategies.complex_numbers(allow_nan=False)
  | strategies.text(strategies.characters())
  | strategies.binary(),
  lambda inner: (
    strategies.lists(inner)
    | strategies.lists(inner).map(tuple)
    | strategies.frozensets(strategies.integers())
    | strategies.sets(strategies.text())
    | strategies.dictionaries(strategies.integers(), inner)
  ),
  max_leaves=8,
)


def form(value):
  """Value and types, to the sign of a zero; sets have no order."""
  kind = type(value)
  if kind in (list, tuple):
    return kind, [form(item) for item in value]
  if kind in (set, frozenset):
    return kind, {form(item) for item in value}
  if kind is dict:
    return kind, [(form(key), form(item)) for key, item in value.items()]
  return kind, repr(value)


@settings(deadline=None, max_examples=200)
@given(PLAIN)
def test_plain_data_passes_as_it_is(value):
  back = values.decode(values.encode(value))
  assert form(back) == form(value)


def test_long_numbers_and_nan_pass():
  assert values.decode(values.encode(-(7**9999))) == -(7**9999)
  assert math.isnan(values.decode(values.encode(math.nan)))
  assert values.decode(values.encode(np.float64(0.5))) == 0.5


@settings(deadline=None, max_examples=200)
@given(strategies.binary() | PLAIN.map(values.encode).map(lambda b: b[:-1]))
def test_bytes_of_anything_else_are_refused_or_plain(content):
  try:
    value = values.decode(content)
  except (ValueError, TypeError):
    return
  assert values.encode(value) is not None


@pytest.mark.parametrize(
  'content',
  [b'l\xff\xff\xff\xff', b'i\x01\x00\x00\x00z', b'l\x01\x00\x00\x00' * 500],
)
def test_a_claim_of_much_is_refused_at_once(content):
  with pytest.raises(ValueError):
    values.decode(content)
