"""Decoding in seats, replayed on paper for completions of known lengths."""

from collections.abc import Iterator
import math

import numpy as np

from grpo_jax import seating

_SIGMA = 0.8  # 2 % of the lengths are cut at four times their mean


def decoded(
  lengths: np.ndarray, *, seats: int, max_length: int, ways: int, chunk: int
) -> int:
  """Tokens that were decoded for completions of these lengths.

  Args:
    lengths: [Q G] tokens that count.
    seats: as in `seating.Seating`; 0: all to the end of the longest.
    max_length: of a completion.
    ways, chunk: as in `seating.Seating`.
  """
  if not seats:
    return int(lengths.size * lengths.max())
  plans = replay(
    lengths, seats=seats, max_length=max_length, ways=ways, chunk=chunk
  )
  return sum(tokens * plan.samples.size for plan, tokens in plans)


def replay(
  lengths: np.ndarray, *, seats: int, max_length: int, ways: int, chunk: int
) -> Iterator[tuple[seating.Plan, int]]:
  """Each plan for completions of these lengths, and the tokens it lasted.

  As plans depend on nothing else.

  Args:
    lengths: [Q G] tokens that count.
    seats, ways, chunk: as in `seating.Seating`.
    max_length: of a completion.
  """
  prompts, group_size = lengths.shape
  planned = seating.Seating(
    prompts=prompts,
    group_size=group_size,
    seats=seats,
    ways=ways,
    chunk=chunk,
    max_length=max_length,
  )
  flat, finished = lengths.reshape(ways, -1), None
  while (plan := planned.next(finished)) is not None:
    wanted = np.take_along_axis(
      flat, np.maximum(plan.samples, 0).reshape(ways, -1), 1
    ).reshape(plan.samples.shape)
    missing = np.where(plan.taken, wanted - plan.ages, 0)
    tokens = min(chunk, plan.capacity - planned.slot, int(missing.max()))
    yield plan, tokens
    finished = missing <= tokens
    planned.reached(planned.slot + tokens)


def lognormal(
  shape: tuple[int, int], *, mean: float, longest: int
) -> np.ndarray:
  """[Q G] int32 lengths as completions have them: many short ones, few long.

  Args:
    shape: (Q, G).
    mean: of the distribution, before it is cut.
    longest: the longest one's.
  """
  middle = math.log(mean) - _SIGMA**2 / 2
  drawn = np.random.RandomState(1).lognormal(middle, _SIGMA, shape)
  drawn = np.clip(drawn.round(), 1, longest).astype(np.int32)
  drawn.flat[drawn.argmax()] = longest
  return drawn
