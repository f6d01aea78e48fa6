"""What every task shares: examples, splits, and which examples a step sees.

Stage 1 of a step. A task is its examples, by index, and how to judge an
answer. Both are pure functions of the task's arguments, so any step can be
replayed on its own.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from grpo_jax.rewards import text

PARTS = ('corpus', 'questions')
SPECIALS = text.TAGS


@dataclasses.dataclass(frozen=True)
class Example:
  """One question.

  Attributes:
    prompt: what the policy is asked.
    answer: the reference answer; '' when only `data` can judge.
    completion: a reference completion for supervised fine-tuning, or ''.
    data: facts of the task that its `verify` or a reward needs: tests, options;
      'language', in which it is asked (ISO 639-1).
    domain: of a mixture's part, as 'reasoning'; rewards may be of some domains
      alone. '' elsewhere.
  """

  prompt: str
  answer: str
  completion: str = ''
  data: dict[str, Any] = dataclasses.field(default_factory=dict)
  domain: str = ''


@dataclasses.dataclass(frozen=True)
class Task:
  """Examples 0 .. size-1 and how to judge them.

  Attributes:
    size: number of examples.
    make: index -> example, pure.
    check: (answer text already extracted, example) -> right; total.
    source: the file, folder or data set whose rows the examples are; '' for
      generated ones, which may be too many and too costly to list.
    parts: of a mixture, one after another; () elsewhere.
    judged: whether `check` can find an answer right; not so of prompts alone.
    order: (count, *, seed, step, rounds) -> indices of a step, where it is not
      `batch_indices`.
    summary: the sentence that sums a right answer up, with '{prompt}' and
      '{answer}' in it, in characters that the task's models have.
  """

  size: int
  make: Callable[[int], Example]
  check: Callable[[str, Example], bool]
  source: str = ''
  parts: tuple['Part', ...] = ()
  judged: bool = True
  order: Callable[..., np.ndarray] | None = None
  summary: str = 'The answer is {answer}.\n'

  def __len__(self) -> int:
    return self.size

  @property
  def kinds(self) -> tuple['Task', ...]:
    """The tasks of a mixture's parts; of any other, itself."""
    return tuple(part.task for part in self.parts) or (self,)

  def example(self, i: int) -> Example:
    """Example i; IndexError outside 0 .. len-1."""
    if not 0 <= i < self.size:
      raise IndexError(f'example {i} of a task of {self.size}')
    return self.make(int(i))

  def verify(self, answer: str, example: Example) -> bool:
    """Whether the extracted answer is right; never raises."""
    return self.check(answer, example)

  def batch(
    self, count: int, *, seed: int, step: int, rounds: int = 1
  ) -> np.ndarray:
    """[count] indices of the examples drawn, a function of (seed, step).

    Args:
      count: how many.
      seed: of the order.
      step: from 0, or a draw's number where a step has several.
      rounds: draws a step, for schedules that count in steps.
    """
    if self.order is None:
      return batch_indices(self.size, count, seed=seed, step=step)
    return self.order(count, seed=seed, step=step, rounds=rounds)


@dataclasses.dataclass(frozen=True)
class Part:
  """One of the tasks of a mixture.

  Attributes:
    name: unique in the mixture.
    task: its examples, with the part's name and domain.
    domain: of its examples.
    share: of a step's prompts, over the sum of all that take part.
    from_step: the first step, from 0, that it takes part in.
  """

  name: str
  task: Task
  domain: str
  share: float
  from_step: int


def is_of(text: str, split: str, part: str) -> bool:
  """Whether a question is of a split and, unless it is '', of a part."""
  return split_of(text) == split and part in ('', part_of(text))


def same_number(answer: str, example: Example) -> bool:
  """The check of tasks whose answers are numbers."""
  return text.same_number(answer, example.answer)


def of_prompts(prompts: Sequence[str], *, source: str = '') -> Task:
  """A task of prompts alone: nothing is right."""
  return Task(
    len(prompts),
    lambda i: Example(prompts[i], answer=''),
    lambda answer, example: False,
    source=source,
    judged=False,
  )


def split_of(text: str, *, test_share: float = 0.1) -> str:
  """'test' for a fixed share of all texts, by hash, and 'train' for the rest.

  Equal texts land in one split, whatever the seed, size or order of a task.
  """
  digest = hashlib.sha256(text.encode('utf-8', 'backslashreplace')).digest()
  share = int.from_bytes(digest[:8], 'big') / 2**64
  return 'test' if share < test_share else 'train'


def part_of(text: str) -> str:
  """'corpus' or 'questions': of all texts a half each, whatever their split.

  What a base model learns from has one, what RL asks the other, so that no
  question was seen with its answer before.
  """
  digest = hashlib.sha256(f'part/{text}'.encode()).digest()
  return PARTS[digest[0] // 128]


def check_part(name: str, part: str) -> None:
  """ValueError for a part that no task has."""
  if part not in ('', *PARTS):
    raise ValueError(
      f"{name}: part={part!r} must be one of {PARTS}, or '' for both"
    )


def check_shares(name: str, **shares: float) -> None:
  """ValueError, in the task's name, for a share that is none."""
  for field, share in shares.items():
    if not 0.0 <= share <= 1.0:
      raise ValueError(f'{name}: {field}={share} must be between 0 and 1')


def check_arguments(name: str, *, split: str, size: int | None = None):
  """ValueError for a split or size that no task has."""
  if split not in ('train', 'test'):
    raise ValueError(f"{name}: split={split!r} must be 'train' or 'test'")
  if size is not None and size < 1:
    raise ValueError(f'{name}: size={size} must be at least 1')


def batch_indices(
  size: int, batch_size: int, *, seed: int, step: int
) -> np.ndarray:
  """The examples of a step, a function of (seed, step) alone.

  Every epoch is a permutation of its own. Batches are never ragged: one that
  reaches the end of an epoch goes on into the next.

  Args:
    size: examples in the task.
    batch_size: examples a step, may exceed `size`.
    seed: non-negative.
    step: from 0.

  Returns:
    [batch_size] int64 indices below `size`.
  """
  if min(size, batch_size) < 1 or min(seed, step) < 0:
    raise ValueError(
      f'size={size} and batch_size={batch_size} must be positive, '
      f'seed={seed} and step={step} not negative'
    )
  return indices_from(size, step * batch_size, batch_size, seed=seed)


def indices_from(size: int, start: int, count: int, *, seed: int) -> np.ndarray:
  """[count] examples of the endless order, from its position `start` on."""
  parts, needed = [np.zeros(0, np.int64)], count
  while needed:
    epoch, offset = divmod(start, size)
    part = _permutation(size, seed, epoch)[offset : offset + needed]
    parts.append(part)
    start, needed = start + len(part), needed - len(part)
  return np.concatenate(parts)


def random(*numbers: int) -> np.random.RandomState:
  """A stream of its own for these numbers, as (seed, epoch).

  RandomState: its streams are frozen, Generator's may change with numpy.
  """
  bits = np.random.MT19937(np.random.SeedSequence(numbers))
  return np.random.RandomState(bits)


@functools.lru_cache(maxsize=8)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
  order = random(seed, epoch).permutation(size).astype(np.int64)
  order.setflags(write=False)  # shared by every caller
  return order
