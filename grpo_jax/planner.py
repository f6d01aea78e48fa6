"""Which completions of an update lie in which slots (host side, numpy).

Completions of a group differ in length by a factor of ten; in rows as wide as
the longest, most of what an update computes would be padding. So completions of
a prompt are laid end to end in slots of a few widths, and a few slots to a row
share their trunk:

  row   trunk [P]   slots [T W], in each completions of the row's prompt

`plan` tries the ways there are and takes the one that computes least; every
process comes to the same from the same lengths. A bucket is the rows of one
width, cut into microbatches of one shape, so that a run compiles one program a
width and number of slots.
"""

from collections.abc import Iterator
import dataclasses
import functools
import itertools

import numpy as np

# Completions a slot at most: objectives see each as a row of its own.
CAPACITY = 16
# Widths at most: each costs programs, and every choice among them is tried.
MOST = 8


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What slots, rows and microbatches may be.

  Attributes:
    widths: of slots, descending; the first holds any completion.
    capacity: completions a slot; 1 where attention cannot tell them apart.
    tokens: of a microbatch, unless its smallest shape has more.
    ways: devices that rows, and slots of a row, are split over.
  """

  widths: tuple[int, ...]
  capacity: int
  tokens: int
  ways: tuple[int, int] = (1, 1)


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Rows of one shape: N of them, in microbatches of `rows`.

  Attributes:
    width: W, tokens of a slot.
    slots: T, slots of a row.
    rows: of a microbatch; N is a multiple of it.
    prompt: [N] the prompt of a row; -1 for rows of padding.
    branch: [N m] which of the prompt's completions; -1 for none. In the order
      of `start`.
    start: [N m] place of its first token among the T*W of the row; T*W for
      none.
    length: [N m] its tokens; 0 for none.
  """

  width: int
  slots: int
  rows: int
  prompt: np.ndarray
  branch: np.ndarray
  start: np.ndarray
  length: np.ndarray

  def microbatches(self) -> Iterator['Bucket']:
    """The same, `rows` at a time."""
    for i in range(0, len(self.prompt), self.rows):
      some = slice(i, i + self.rows)
      yield dataclasses.replace(
        self,
        prompt=self.prompt[some],
        branch=self.branch[some],
        start=self.start[some],
        length=self.length[some],
      )


def plan(lengths: np.ndarray, *, trunk: int, sizes: Sizes) -> list[Bucket]:
  """The cheapest buckets found; each completion lies in exactly one.

  Args:
    lengths: [Q G] tokens; completions of 0 are left out.
    trunk: P, tokens of a trunk as computed.
    sizes: what may be chosen from.

  Raises:
    ValueError: a completion is longer than the widest slot.
  """
  lengths = np.asarray(lengths)
  if lengths.max(initial=0) > sizes.widths[0]:
    raise ValueError(
      f'a completion of {lengths.max()} tokens does not fit a slot of '
      f'{sizes.widths[0]}'
    )
  found = []
  for opened in sizes.widths:
    packed = _pack(lengths, opened, sizes)
    for narrower in _subsets(sizes.widths[1:]):
      widths = (sizes.widths[0], *narrower)
      shapes = _shapes(packed, widths, trunk, sizes)
      total = sum(cost for *_, cost in shapes)
      # Of equally good ones, the one with fewer shapes and wider slots.
      found.append((total, len(shapes), len(found), packed, shapes))
  *_, packed, shapes = min(found, key=lambda f: f[:3])
  return [_bucket(packed, *shape, sizes) for *shape, _ in shapes]


def computed(buckets: list[Bucket], *, trunk: int) -> int:
  """Tokens that go through the model, trunks and padding included."""
  return sum(len(b.prompt) * (trunk + b.slots * b.width) for b in buckets)


def widths(longest: int, count: int, *, multiple: int) -> tuple[int, ...]:
  """Of slots: all, 3/4, 1/2, 3/8, 1/4 ... of `longest`, `count` of them.

  Rounded up to a multiple; so there may be fewer that differ.
  """
  found = []
  for i in range(count):
    parts = longest * (3 if i % 2 else 4)
    found.append(-(-parts // (4 * 2 ** (i // 2) * multiple)) * multiple)
  return tuple(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class _Packed:
  """Completions in slots, sorted by length in each group.

  Attributes:
    branch, length, slot, offset: [Q G] of each: which it is, its tokens, its
      slot and its place there. Slots of completions of 0 tokens are -1.
    used: [Q G] tokens in each slot.
  """

  branch: np.ndarray
  length: np.ndarray
  slot: np.ndarray
  offset: np.ndarray
  used: np.ndarray


def _pack(lengths, opened, sizes):
  """Longest first, each where least room is left; see `_Packed`.

  A new slot is `opened` tokens wide, or as wide as its first completion needs.
  """
  branch = np.argsort(-lengths, 1, kind='stable')
  length = np.take_along_axis(lengths, branch, 1)
  groups = np.arange(len(lengths))
  room, used, count = (np.zeros_like(length) for _ in range(3))
  slot, offset = np.full_like(length, -1), np.zeros_like(length)
  opened_so_far = np.zeros_like(groups)
  ladder = np.array(sorted(w for w in sizes.widths if w >= opened))
  for i, tokens in enumerate(length.T):
    fits = (room >= tokens[:, None]) & (count < sizes.capacity) & (count > 0)
    best = np.where(fits, room, np.iinfo(room.dtype).max).argmin(1)
    new = ~fits.any(1)
    best = np.where(new, opened_so_far, best)
    real = tokens > 0
    new &= real
    q, best = groups[real], best[real]
    wide = ladder[np.searchsorted(ladder, tokens)]
    room[groups[new], opened_so_far[new]] = wide[new]
    opened_so_far += new
    slot[q, i], offset[q, i] = best, used[q, best]
    room[q, best] -= tokens[real]
    used[q, best] += tokens[real]
    count[q, best] += 1
  return _Packed(branch, length, slot, offset, used)


def _shapes(packed, widths, trunk, sizes):
  """(width, slots, rows, which slots, cost) of each bucket that has any.

  What does not fill a microbatch may cost less in slots of the next width.
  """
  widths = sorted(widths)  # of Python's ints: they become shapes
  kind = np.searchsorted(widths, packed.used)
  kind[packed.used == 0] = -1
  best = functools.partial(_best, trunk=trunk, sizes=sizes)
  found, which = [], kind == 0
  for i, width in enumerate(widths):
    slots, rows, cost = best(which, width)
    if i + 1 == len(widths):
      wider = None
    else:
      wider = kind == i + 1
      row = _row_of(which, slots)
      left = which & (row >= (row.max() + 1) // rows * rows)
      apart = cost + best(wider, widths[i + 1])[2]
      kept = best(which & ~left, width)
      if kept[2] + best(wider | left, widths[i + 1])[2] < apart:
        which, wider = which & ~left, wider | left
        slots, rows, cost = kept
    if which.any() or (wider is None and not found):
      found.append((width, slots, rows, which, cost))
    which = wider
  return found


def _best(which, width, *, trunk, sizes):
  """(slots a row, rows a microbatch, cost) of the cheapest rows."""
  found = _rows(which, width, trunk, sizes)
  slots, rows, cost = min(found, key=lambda shape: shape[-1])
  return slots, rows, cost if which.any() else 0


def _row_of(which, slots):
  """[Q G] the row of each slot that is in `which`."""
  rows = -(-which.sum(1) // slots)
  first = np.cumsum(rows) - rows
  return np.where(which, first[:, None] + (np.cumsum(which, 1) - 1) // slots, 0)


def _rows(which, width, trunk, sizes):
  """(slots a row, rows a microbatch, cost) of each number of slots."""
  by_row, by_slot = sizes.ways
  group, slots = which.shape[1], by_slot
  counts = which.sum(1)
  while slots <= group:
    tokens = trunk + slots * width
    rows = max(sizes.tokens // tokens // by_row, 1) * by_row
    if slots > by_slot and rows * tokens > sizes.tokens:
      break
    batches = max(-(-int((-(-counts // slots)).sum()) // rows), 1)
    yield slots, rows, batches * rows * tokens
    slots *= 2


def _bucket(packed, width, slots, rows, which, sizes):
  """The rows of all slots that are in `which`, [Q G]."""
  group = which.shape[1]
  rank = np.cumsum(which, 1) - 1
  per_prompt = -(-which.sum(1) // slots)
  first = np.cumsum(per_prompt) - per_prompt
  count = max(-(-int(per_prompt.sum()) // rows), 1) * rows
  prompt = np.full(count, -1, np.int32)
  prompt[: per_prompt.sum()] = np.repeat(np.arange(len(which)), per_prompt)
  # Every completion that lies in one of these slots.
  q, i = np.nonzero(
    (packed.slot >= 0) & np.take_along_axis(which, packed.slot, 1)
  )
  slot = packed.slot[q, i]
  row = first[q] + rank[q, slot] // slots
  start = rank[q, slot] % slots * width + packed.offset[q, i]
  order = np.lexsort((start, row))
  q, i, row, start = (x[order] for x in (q, i, row, start))
  place = np.arange(len(row)) - np.searchsorted(row, row)
  shape = (count, min(slots * sizes.capacity, group))
  branch, starts, length = (
    np.full(shape, fill, np.int32) for fill in (-1, slots * width, 0)
  )
  branch[row, place] = packed.branch[q, i]
  starts[row, place] = start
  length[row, place] = packed.length[q, i]
  return Bucket(width, slots, rows, prompt, branch, starts, length)


def _subsets(items):
  for count in range(len(items) + 1):
    yield from itertools.combinations(items, count)
