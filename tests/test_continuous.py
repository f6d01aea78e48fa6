"""Continuous decoding: finished completions leave their seats to others."""

import dataclasses
import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
import tiny

from grpo_jax import (
  layout,
  policy,
  programs,
  samplers,
  seating,
  seating_replay,
  sharding,
)  # fmt: skip
from grpo_jax import seats as seats_lib
from grpo_jax.structs import KV, Trunk

PROMPTS = [[5, 6, 7], [8, 5], [9], [6, 6, 9, 9], [7, 5], [8], [5, 9, 6], [7, 7]]
LONGEST = 24


def at(devices):
  """A policy whose completions end early or late, on so many devices."""
  cfg = tiny.get_config()
  cfg.model.update(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8)
  mesh = sharding.make_mesh(
    dict(data=1, fsdp=devices, tensor=1), jax.devices()[:devices]
  )
  return dataclasses.replace(policy.open_policy(cfg), mesh=mesh)


@functools.cache
def sampled(
  seats, *, devices=1, chunk=4, group_size=4, limits=False, cache='',
  attention='scores',
):  # fmt: skip
  pol = dataclasses.replace(at(devices), decoding=attention)
  if cache:
    pol = dataclasses.replace(pol, cache_dtype=np.dtype(cache))
  sample = samplers.sampler(
    pol, group_size=group_size, max_completion_length=LONGEST, chunk=chunk,
    seats=seats, temperature=1.0,
  )  # fmt: skip
  host = layout.prompts(PROMPTS, multiple=4)
  more = dict(limits=wanted(group_size)) if limits else {}
  return jax.device_get(
    sample(
      programs.publish(pol)(pol.params()),
      pol.rows('sample').put(host),
      programs.stream(0, 'rollout', 3),
      first=2,
      **more,
    )
  )


def wanted(group_size):
  shape = (len(PROMPTS), group_size)
  return np.random.RandomState(0).randint(1, LONGEST + 1, shape, np.int32)


def assert_same(got, plain, cut=None):
  width = plain.mask.shape[2]
  mask = plain.mask
  if cut is not None:
    mask = mask & (np.arange(width) < cut[:, :, None])
  np.testing.assert_array_equal(got.mask[:, :, :width], mask)
  assert not got.mask[:, :, width:].any()
  for name in ('targets', 'inputs'):
    ours, theirs = getattr(got, name)[:, :, :width], getattr(plain, name)
    np.testing.assert_array_equal(ours[mask], theirs[mask], err_msg=name)
  # fp32 rounding: keys lie in other slots and widths.
  np.testing.assert_allclose(
    got.logprobs[:, :, :width][mask], plain.logprobs[mask], atol=1e-5
  )
  assert not got.logprobs[~got.mask].any()


@pytest.mark.parametrize(
  'seats, how',
  [
    (32, {}),  # all at once: only fewer and fewer
    (5, {}),
    (1, dict(chunk=30)),  # one after another, each to its end
    (6, dict(group_size=3, chunk=8)),
    (16, dict(devices=8, chunk=3)),
  ],
)
def test_any_number_of_seats_draws_the_tokens_of_all_together(seats, how):
  group_size = how.get('group_size', 4)
  plain = sampled(0, group_size=group_size)
  lengths = plain.mask.sum(-1)
  assert lengths.min() < 5 and lengths.max() == LONGEST
  assert_same(sampled(seats, **how), plain)


def test_an_int8_cache_goes_from_seat_to_seat():
  assert_same(sampled(4, cache='int8', chunk=12), sampled(0, cache='int8'))


# Few programs, as the kernel's are slow to compile for its interpreter.
@pytest.mark.parametrize('seats, how', [
  (0, dict(devices=2, chunk=LONGEST)), (8, dict(chunk=LONGEST // 2)),
])  # fmt: skip
def test_the_kernel_of_decoding_draws_the_tokens_of_all_scores(seats, how):
  got = sampled(seats, attention='kernel', **how)
  assert_same(got, sampled(0))


def test_prompts_of_one_token_have_seats_too():
  kv = np.zeros((2, len(PROMPTS), 1, 0, 4), np.float32)
  nothing = np.zeros((len(PROMPTS), 0), bool)
  trunk = Trunk(kv=KV(k=kv, v=kv), mask=nothing, length=nothing.sum(1))
  found = seats_lib.trunks(trunk, np.array([0, 3, 1]), ways=1)
  assert found.kv.k.shape == (2, 3, 1, 0, 4) and found.mask.shape == (3, 0)


def test_every_completion_ends_at_its_own_limit():
  assert_same(sampled(8, limits=True, chunk=8), sampled(0), cut=wanted(4))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_everybody_sits_from_the_first_token_to_the_last(data):
  ways = data.draw(st.sampled_from([1, 2, 4]))
  prompts = ways * data.draw(st.integers(1, 4))
  group_size = data.draw(st.integers(1, 8))
  seats = ways * data.draw(st.integers(1, 20))
  longest = data.draw(st.integers(1, 40))
  chunk = data.draw(st.integers(1, 12))
  seed = data.draw(st.integers(0, 99))
  lengths = np.random.RandomState(seed).randint(
    1, longest + 1, (ways, prompts // ways * group_size)
  )
  found = seating.Seating(
    prompts=prompts,
    group_size=group_size,
    seats=seats,
    ways=ways,
    chunk=chunk,
    max_length=longest,
  )
  done = np.zeros_like(lengths)  # tokens of each so far
  before, finished = None, None
  while (plan := found.next(finished)) is not None:
    assert plan.samples[0].size <= seats // ways
    assert plan.oldest <= found.slot
    until = min(found.slot + chunk, plan.capacity)
    assert found.slot < until
    for x, samples in enumerate(plan.samples):
      places = {}
      for place, (r, w) in enumerate(np.ndindex(samples.shape)):
        if (sample := samples[r, w]) < 0:
          continue
        assert sample not in places
        places[sample] = place
        assert sample // group_size == plan.prompts[x, r]
        assert plan.ages[x, r, w] == done[x, sample] < lengths[x, sample]
        source = plan.sources[x, r, w]
        if done[x, sample]:
          assert before.samples[x].flat[source] == sample
          assert plan.moved or source == place
        else:
          assert source == -1
      # Nobody is left standing for good.
      unfinished = (done[x] > 0) & (done[x] < lengths[x])
      assert set(np.flatnonzero(unfinished)) <= set(places)
    left = np.where(
      plan.taken,
      np.take_along_axis(
        lengths - done, plan.samples.clip(0).reshape(ways, -1), 1
      ).reshape(plan.samples.shape),
      0,
    )
    tokens = min(until - found.slot, left.max())
    for x, samples in enumerate(plan.samples):
      sitting = samples[samples >= 0]
      done[x, sitting] += tokens
    done = np.minimum(done, lengths)
    before, finished = plan, left <= tokens
    found.reached(found.slot + tokens)
  np.testing.assert_array_equal(done, lengths)


def test_seats_of_the_same_prompt_are_filled_first_and_nobody_moves():
  plans = seating.Seating(
    prompts=2, group_size=4, seats=2, ways=1, chunk=2, max_length=8
  )
  first = plans.next(None)
  assert first.samples.tolist() == [[[0, 1]]]
  plans.reached(2)
  second = plans.next(np.array([[[True, False]]]))
  assert second.samples.tolist() == [[[2, 1]]]
  assert second.sources.tolist() == [[[-1, 1]]]
  assert second.ages.tolist() == [[[0, 2]]]
  assert not second.moved


def decoded(lengths, seats, *, chunk):
  longest = int(lengths.max())
  return seating_replay.decoded(
    lengths, seats=seats, ways=1, chunk=chunk, max_length=longest
  )


def test_tokens_that_are_decoded_by_hand():
  lengths = np.array([[1, 1, 1, 4]])
  assert decoded(lengths, 0, chunk=1) == 16
  # After the first token of all one seat is left.
  assert decoded(lengths, 4, chunk=1) == 4 + 1 + 1 + 1
  # In chunks of two, three seats are empty for a token.
  assert decoded(lengths, 4, chunk=2) == 2 * 4 + 2 * 1


def test_most_seats_are_busy_where_lengths_differ():
  lengths = np.random.RandomState(0).lognormal(4.5, 0.8, (16, 16))
  lengths = np.clip(lengths.round(), 1, 512).astype(int)
  lengths[0, 0] = 512
  total = lengths.sum()
  assert total < 0.3 * decoded(lengths, 0, chunk=16)  # all together
  assert total > 0.85 * decoded(lengths, 64, chunk=16)


def test_what_seats_cannot_be_is_told():
  pol = at(4)
  with pytest.raises(ValueError, match='6 seats do not divide over 4 devices'):
    samplers.sampler(
      pol, group_size=2, max_completion_length=8, chunk=8, seats=6,
      temperature=1.0,
    )  # fmt: skip
  split = dict(pol.rules['sample']) | dict(prompts=(), samples='fsdp')
  pol = dataclasses.replace(pol, rules=pol.rules | {'sample': split})
  with pytest.raises(ValueError, match='rules.sample.samples splits them'):
    samplers.sampler(
      pol, group_size=4, max_completion_length=8, chunk=8, seats=8,
      temperature=1.0,
    )  # fmt: skip
