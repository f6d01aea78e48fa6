"""Who is decoded where: seats that finished completions leave to waiting ones.

Host arithmetic alone. The places of `continuous.py` are rows of seats; those of
a row share a trunk, so one prompt may have several rows, and every row has as
many seats. Prompts are divided over `ways` devices, which plan alike and apart,
so that no completion moves between devices.

After every chunk of tokens, seats of finished completions go to waiting ones:
of the same prompt first, whose trunk is there, then of the next prompt. As long
as seats are well used nobody else moves. When they are not, or the cache has no
room for another chunk, all are seated anew: in as few seats as will do, with
the cache cut to what the oldest completion needs.
"""

import dataclasses

import numpy as np

from grpo_jax import layout

# Seated anew, in fewer seats, where fewer than this share would be taken.
_WORTH = 0.85


@dataclasses.dataclass(frozen=True)
class Plan:
  """Seats for the next chunk, by way (X), row (U) and seat of a row (J).

  Attributes:
    prompts: [X U] the prompt of each row, counted within its way.
    samples: [X U J] the completion: prompt * G + sample; -1 for an empty seat.
    ages: [X U J] tokens it has so far.
    sources: [X U J] its seat before, counted through U and J; -1 for none.
    capacity: slots of the cache.
    moved: whether anybody changes seats; else new ones sit down and that is
      all.
  """

  prompts: np.ndarray
  samples: np.ndarray
  ages: np.ndarray
  sources: np.ndarray
  capacity: int
  moved: bool

  @property
  def taken(self) -> np.ndarray:
    """[X U J] whether somebody sits there."""
    return self.samples >= 0

  @property
  def oldest(self) -> int:
    """The most tokens that anybody has."""
    return int(self.ages.max())


def capacities(max_length: int, chunk: int) -> list[int]:
  """Slots that a cache of seats may have, see `layout.capacities`."""
  return layout.capacities(max_length, 4 * chunk)


class Seating:
  """Plans of one call of the sampler, one after another."""

  def __init__(
    self,
    *,
    prompts: int,
    group_size: int,
    seats: int,
    ways: int,
    chunk: int,
    max_length: int,
  ):
    """Nobody sits yet.

    Args:
      prompts: Q, a multiple of `ways`.
      group_size: G.
      seats: the most that are decoded at a time, a multiple of `ways`.
      ways: devices that prompts are divided over.
      chunk: tokens between plans.
      max_length: the most tokens of a completion.
    """
    self.group_size, self.ways, self.chunk = group_size, ways, chunk
    self.capacities = capacities(max_length, chunk)
    # By way: prompt -> its completions that wait, both in order.
    self.waiting = [
      {
        q: list(range(q * group_size, (q + 1) * group_size))
        for q in range(prompts // ways)
      }
      for _ in range(ways)
    ]
    self.most = min(seats // ways, prompts // ways * group_size)
    self.widths = _halves(group_size)
    self.sizes = _sizes(self.most)
    self.plan: Plan | None = None
    self.slot = 0  # of the cache, that is decoded next
    self.tokens = 0  # decoded since the last plan

  def next(self, finished: np.ndarray | None) -> Plan | None:
    """The next plan, None when nobody is left.

    Args:
      finished: [X U J] whose completion has ended; None at first.
    """
    if self.plan is None:
      return self._seat_anew([[] for _ in range(self.ways)])
    left = self.plan.taken & ~finished
    if not left.any() and not any(self.waiting):
      return None
    grown = self.plan.ages + self.tokens
    stay = self._stay(left, grown)
    if stay is not None:
      return stay
    sitting = [
      [
        (int(self.plan.samples[x][i]), int(grown[x][i]), place)
        for place, i in enumerate(np.ndindex(left[x].shape))
        if left[x][i]
      ]
      for x in range(self.ways)
    ]
    return self._seat_anew(sitting)

  def reached(self, slot: int) -> None:
    """The plan was followed up to this slot of the cache."""
    self.tokens = slot - self.slot
    self.slot = slot

  def _stay(self, left, grown):
    """The plan in which nobody moves, or None if it is not worth it."""
    plan = self.plan
    if self.slot + self.chunk > plan.capacity:
      return None
    samples = np.where(left, plan.samples, -1)
    prompts = plan.prompts.copy()
    waiting = [{q: list(s) for q, s in w.items()} for w in self.waiting]
    for x, queue in enumerate(waiting):
      _fill(prompts[x], samples[x], queue)
    size = samples[0].size
    taken = (samples >= 0).sum((1, 2)).max()
    fewer = any(taken <= s < size for s in self.sizes)
    if taken < _WORTH * size and (fewer or any(waiting)):
      return None
    self.waiting = waiting
    places = np.arange(samples[0].size).reshape(samples[0].shape)
    return self._set(
      prompts=prompts,
      samples=samples,
      ages=np.where(left, grown, 0),
      sources=np.where(left, places, -1),
      capacity=plan.capacity,
      moved=False,
    )

  def _seat_anew(self, sitting):
    """Everybody who sits, and of those who wait as many as there is room for.

    Args:
      sitting: by way, (completion, age, seat) of each.
    """
    for x, row in enumerate(sitting):
      queue = self.waiting[x]
      known = dict.fromkeys(s // self.group_size for s, *_ in row)
      # Prompts that are there first.
      for prompt in [*known, *(q for q in list(queue) if q not in known)]:
        if len(row) == self.most:
          break
        new = _called(queue, prompt, self.most - len(row))
        row += [(sample, 0, -1) for sample in new]
    width, size = self._shape([[s for s, *_ in row] for row in sitting])
    shape = (self.ways, size // width, width)
    samples, sources = np.full((2, *shape), -1)
    ages, prompts = np.zeros(shape, int), np.zeros(shape[:2], int)
    for x, row in enumerate(sitting):
      r = w = 0
      before = None
      for sample, age, source in sorted(row):
        prompt = sample // self.group_size
        if before is not None and (prompt != before or w == width):
          r, w = r + 1, 0
        before = prompt
        prompts[x, r] = prompt
        samples[x, r, w], ages[x, r, w], sources[x, r, w] = sample, age, source
        w += 1
    oldest = int(ages.max())
    self.slot = oldest
    enough = min(oldest + self.chunk, self.capacities[-1])
    return self._set(
      prompts=prompts,
      samples=samples,
      ages=ages,
      sources=sources,
      capacity=next(c for c in self.capacities if c >= enough),
      moved=True,
    )

  def _shape(self, sitting):
    """(seats of a row, seats in all) that hold everybody of each way."""
    best = None
    for width in self.widths:
      rows = max(_rows(row, width, self.group_size) for row in sitting)
      # Rows of half-empty seats may need more than `most` in all.
      size = next(
        (s for s in self.sizes if s >= rows * width and s % width == 0),
        rows * width,
      )
      if best is None or size < best[1]:
        best = width, size
    return best

  def _set(self, **plan):
    self.plan = Plan(**plan)
    return self.plan


def _fill(prompts, samples, queue):
  """Seats those who wait on free seats, in place; takes them off the queue."""
  free = (samples < 0).sum(1)
  # Rows that somebody sits in keep their prompt.
  for r in np.flatnonzero((free > 0) & (free < samples.shape[1])):
    own = _called(queue, prompts[r], free[r])
    samples[r, np.flatnonzero(samples[r] < 0)[: len(own)]] = own
  for r in np.flatnonzero(free == samples.shape[1]):
    if not queue:
      return
    prompts[r] = next(iter(queue))
    own = _called(queue, prompts[r], samples.shape[1])
    samples[r, : len(own)] = own


def _called(queue, prompt, most):
  """The first of a prompt's completions that wait, taken off the queue."""
  waiting = queue.get(prompt, [])
  if waiting[most:]:
    queue[prompt] = waiting[most:]
  else:
    queue.pop(prompt, None)
  return waiting[:most]


def _rows(samples, width, group_size):
  """Rows of so many seats that these completions take."""
  _, counts = np.unique(np.array(samples) // group_size, return_counts=True)
  return int((-(-counts // width)).sum())


def _halves(number):
  """The number, its half, ... while it is even, and 1."""
  found = [number]
  while found[-1] % 2 == 0:
    found.append(found[-1] // 2)
  return found if found[-1] == 1 else [*found, 1]


def _sizes(most):
  """Numbers of seats, ascending: few, as each is a program to compile."""
  found = {most}
  size = most
  while size > 1:
    found |= {size, -(-3 * size // 4)}
    size = -(-size // 2)
  return sorted(found | {1})
