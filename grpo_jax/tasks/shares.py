"""The parts of a mixture: which domains, how many of each in a step.

Stage 1 of a step. `mixture` makes the task; here is what asks about it, of any
task: without parts it is all of one kind.
"""

from collections.abc import Collection, Sequence
import dataclasses
import functools

import numpy as np

from grpo_jax.rewards import text
from grpo_jax.tasks import common

_PART = 'mixture/part'  # in Example.data: whose `verify` judges it
# Multiples of it are spread evenly over [0, 1), however many.
_GOLDEN = (5**0.5 - 1) / 2


def joined(parts: Sequence[common.Part]) -> common.Task:
  """The examples of the parts, one after another.

  Every draw has each part's share to within one prompt, and the excess evens
  out: with S the cumulative shares of those that have begun and u the draw's
  number in [0, 1), part k has floor(count S_k + u) - floor(count S_(k-1) + u)
  prompts. Each part goes through an order of its own, from where its earlier
  draws ended, so all is a function of (seed, step).
  """
  ends = np.cumsum([len(part.task) for part in parts])
  by_name = {part.name: part.task for part in parts}

  def make(i):
    k = int(np.searchsorted(ends, i, side='right'))
    return parts[k].task.make(i - int(ends[k]) + len(parts[k].task))

  def check(answer, example):
    return by_name[example.data[_PART]].verify(answer, example)

  return common.Task(
    size=int(ends[-1]),
    make=make,
    check=check,
    parts=parts,
    judged=any(part.task.judged for part in parts),
    order=functools.partial(_order, parts),
  )


def marked(part: common.Part) -> common.Task:
  """The part's task, its examples with its name and domain."""

  def make(i):
    example = part.task.make(i)
    return dataclasses.replace(
      example, data=example.data | {_PART: part.name}, domain=part.domain
    )

  return dataclasses.replace(part.task, make=make)


def part_of(task: common.Task, example: common.Example) -> common.Task:
  """The part that an example of a mixture is of; any other task itself."""
  by_name = {part.name: part.task for part in task.parts}
  return by_name.get(example.data.get(_PART), task)


def domains(task: common.Task) -> tuple[str, ...]:
  """Those of a mixture's parts, sorted; () of any other task."""
  return tuple(sorted({part.domain for part in task.parts}))


def within(task: common.Task, wanted: Collection[str]) -> common.Task:
  """The examples of a mixture that are of some domains; () is all of a task.

  Raises:
    ValueError: it has none of them.
  """
  if not wanted:
    return task
  found = tuple(part for part in task.parts if part.domain in wanted)
  if not found:
    raise ValueError(
      f'domains {tuple(wanted)} are none of the task, which has {domains(task)}'
    )
  return joined(found)


def checkable(task: common.Task) -> common.Task | None:
  """The examples of a mixture that a rule can judge; None if there are none.

  Parts without answers, as prompts for a reward model, are not among them.
  """
  if not task.parts:
    return task
  parts = tuple(p for p in task.parts if has_answers(p.task))
  return joined(parts) if parts else None


def has_answers(task: common.Task) -> bool:
  """Whether there is anything to judge an answer by (to the first example)."""
  if not task.judged:
    return False
  example = task.example(0)
  facts = example.data.keys() - {_PART}
  return bool(facts) or not text.is_empty(example.answer)


def first_of_each(task: common.Task, count: int) -> list[int]:
  """Indices of up to `count` examples, the first of every part by its share."""
  if not task.parts:
    return list(range(min(count, len(task))))
  counts = _counts(task.parts, count, np.array([0.5]))[:, 0]
  found, at = [], 0
  for part, wanted in zip(task.parts, counts.tolist(), strict=True):
    found += range(at, at + min(wanted, len(part.task)))
    at += len(part.task)
  return found


def in_turn(task: common.Task, count: int) -> list[int]:
  """Indices of up to `count` examples, each once, in an order of their own.

  However many are taken, every part has its share of them until it ends: who
  stops early has some of each. A larger count goes on where a smaller one ends.
  """
  if not task.parts:
    return list(range(min(count, len(task))))
  sizes = np.array([len(part.task) for part in task.parts])
  numbers = [np.arange(min(count, size)) for size in sizes]
  places = [
    (own + 0.5) / part.share
    for own, part in zip(numbers, task.parts, strict=True)
  ]
  starts = np.cumsum(sizes) - sizes
  found = [own + start for own, start in zip(numbers, starts, strict=True)]
  order = np.argsort(np.concatenate(places), kind='stable')
  return np.concatenate(found)[order][:count].tolist()


def _order(parts, count, *, seed, step, rounds):
  """The examples of a draw: `Task.batch`."""
  if step < 0 or count < 1:
    raise ValueError(f'step={step} must not be negative, count={count} above 0')
  first = common.random(seed, len(parts)).random_sample()
  changes = sorted({part.from_step * rounds for part in parts} | {step})
  before = np.zeros(len(parts), np.int64)
  for begin, end in zip(changes, changes[1:], strict=False):
    if begin < step:
      u = (first + np.arange(begin, end) * _GOLDEN) % 1.0
      before += _counts(_begun(parts, begin, rounds), count, u).sum(1)
  u = np.array([(first + step * _GOLDEN) % 1.0])
  now = _counts(_begun(parts, step, rounds), count, u)[:, 0]
  found, at = [], 0
  for part, start, wanted in zip(parts, before, now, strict=True):
    size = len(part.task)
    own = common.indices_from(size, int(start), int(wanted), seed=seed)
    found.append(at + own)
    at += size
  indices = np.concatenate(found)
  # Of several draws a step or devices, each has some of every part.
  common.random(seed, len(parts), step).shuffle(indices)
  return indices


def _begun(parts, draw, rounds):
  """The parts, those that have not begun with a share of 0."""
  return [
    part
    if part.from_step * rounds <= draw
    else dataclasses.replace(part, share=0.0)
    for part in parts
  ]


def _counts(parts, count, u):
  """[parts draws] prompts of each part in draws of u [draws]."""
  shares = np.array([part.share for part in parts])
  if not shares.sum() > 0:
    raise ValueError('no part of the mixture has begun at this step')
  ends = np.cumsum(shares) / shares.sum()
  # Parts after the last that has begun end where it ends.
  ends[ends >= ends[-1]] = 1.0
  ends = np.floor(np.append(0.0, ends)[:, None] * count + u)
  return np.diff(ends, axis=0).astype(np.int64)
