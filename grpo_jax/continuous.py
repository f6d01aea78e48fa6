"""Continuous decoding: a finished branch leaves its seat to a waiting one.

As `sampling.py`, for completions of very different lengths: there a batch of
branches is decoded to the end of the longest, here `seating.py` says after
every chunk of tokens who sits where. Branches then begin at different slots of
the cache, whose next slot is the same for all: one write a token, and the older
ones reach further back. Tokens are those of `sampling.py`, as noise and
positions are a branch's own, and logprobs differ in rounding.
"""

from collections.abc import Callable
import dataclasses

import jax
import numpy as np

from grpo_jax import seating
from grpo_jax.structs import Array, Prompts, PyTree, Rollout


@dataclasses.dataclass(frozen=True)
class Programs:
  """What the loop is made of, compiled.

  Attributes:
    prefill: (params, prompts) -> Trunk.
    begin: (prompts, key, first, limits, max_length) -> (`seats.Known`, an empty
      Rollout).
    trunks: (trunk, prompts [U]) -> the rows' Trunk.
    empty: (rows, width, capacity) -> Decoding.
    move: (decoding, capacity, sources [U J], oldest) -> Decoding.
    sit: (decoding, known, prompts [U], samples, fresh [U J]) -> (Decoding, keys
      [U J]).
    decode: (params, trunk, decoding, keys, until) -> (decoding, what the host
      is to know: done [U J] and the slot reached).
    collect: (rollout, decoding, seats [Q G]) -> rollout with the completions
      of those seats.
    finish: (rollout, prompts) -> rollout.
  """

  prefill: Callable
  begin: Callable
  trunks: Callable
  empty: Callable
  move: Callable
  sit: Callable
  decode: Callable
  collect: Callable
  finish: Callable


def sample(
  run: Programs,
  params: PyTree,
  prompts: Prompts,
  key: Array,
  *,
  group_size: int,
  seats: int,
  ways: int,
  max_length: int,
  chunk: int,
  put: Callable[[PyTree], PyTree],
  put_whole: Callable[[np.generic], Array],
  first: int = 0,
  limits: np.ndarray | None = None,
) -> Rollout:
  """Samples a group per prompt.

  Args:
    run: the programs.
    params: the published policy.
    prompts: Q prompts.
    key: of the step.
    group_size: G.
    seats: branches decoded at a time, at most.
    ways: devices that prompts are divided over.
    max_length: C, the most tokens a completion may have.
    chunk: tokens between plans.
    put: host arrays of rows to the devices.
    put_whole: a number to all of them.
    first: number of the first prompt, in the keys of the noise.
    limits: [Q G] int32 tokens of each completion, below `max_length`; None for
      `max_length`.

  Returns:
    Rollout of C = max_length.
  """
  count = prompts.last.shape[0]
  if limits is None:
    limits = np.full((count, group_size), max_length, np.int32)
  plans = seating.Seating(
    prompts=count,
    group_size=group_size,
    seats=seats,
    ways=ways,
    chunk=chunk,
    max_length=max_length,
  )
  trunk = run.prefill(params, prompts)
  known, found = run.begin(
    prompts, key, put_whole(np.int32(first)), put(limits), max_length
  )
  state = rows = asked = finished = None
  while (plan := plans.next(finished)) is not None:
    named = put(_rows(plan.prompts))
    if asked is None or not np.array_equal(asked, plan.prompts):
      rows, asked = run.trunks(trunk, named), plan.prompts
    if state is None:
      state = run.empty(*_rows(plan.samples).shape, plan.capacity)
    elif plan.moved:
      oldest = put_whole(np.int32(plan.oldest))
      state = run.move(state, plan.capacity, put(_rows(plan.sources)), oldest)
    fresh = plan.taken & (plan.sources < 0)
    state, keys = run.sit(
      state, known, named, put(_rows(plan.samples)), put(_rows(fresh))
    )
    until = min(plans.slot + chunk, plan.capacity)
    state, told = run.decode(
      params, rows, state, keys, put_whole(np.int32(until))
    )
    done, slot = jax.device_get(told)
    plans.reached(int(slot))
    finished = done.reshape(plan.samples.shape)
    ended = _seats(plan.samples, finished, count // ways * group_size)
    if (ended >= 0).any():
      found = run.collect(found, state, put(ended.reshape(limits.shape)))
  return run.finish(found, prompts)


def _rows(x):
  """[X U ...] -> [XU ...]."""
  return x.reshape(-1, *x.shape[2:]).astype(np.int32)


def _seats(samples, finished, count):
  """[X count] the seat of each completion that has ended, or -1."""
  ways = len(samples)
  places = np.full((ways, count), -1, np.int32)
  for x in range(ways):
    ended = np.flatnonzero((samples[x] >= 0) & finished[x])
    places[x, samples[x].reshape(-1)[ended]] = ended
  return places
