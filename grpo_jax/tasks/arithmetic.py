"""Generated sums of single digits: '3 +5 -2 +9=' is 15.

Difficulty is the number of operations. The reference completions make a base
model that mostly blurts out an answer and sometimes works it out, so that RL
has both habits to choose between.
"""

import random

from grpo_jax.tasks import common

ALPHABET = '0123456789+-=; '
_HIGHEST = 99
_TRIES = 10_000


def arithmetic(
  *,
  split: str,
  size: int,
  min_ops: int,
  max_ops: int,
  max_number: int = 9,
  part: str = '',
  seed: int = 0,
  steps_share: float = 1.0,
  wrong_share: float = 0.0,
) -> common.Task:
  """Sums and differences from left to right, running totals within 0..99.

  Args:
    split: 'train' or 'test': about a tenth of all prompts, by hash.
    size: number of examples.
    min_ops, max_ops: the number of operations is uniform between them.
    max_number: terms are 1 .. max_number, at most 9.
    part: of the split, by another hash: 'corpus' or 'questions' for a half
      each, so that RL asks nothing that its base model was shown; '' for both.
    seed: of the generator; splits and parts are disjoint across seeds too.
    steps_share: share of completions that are worked out, as running totals:
      '<think>08;06;15</think><answer>15</answer>'. The others are direct:
      '<answer>15</answer>'. Terms and totals are equally wide, so that each
      total stands at a constant distance from its term; a small model then
      learns to work out in minutes.
    wrong_share: share of the direct ones whose answer is wrong: the first two
      terms read as one number.

  Raises:
    ValueError: an argument out of range, or so few different prompts that none
      of them is of the split.
  """
  common.check_arguments('arithmetic', split=split, size=size)
  if not 1 <= min_ops <= max_ops:
    raise ValueError(
      f'arithmetic: min_ops={min_ops}, max_ops={max_ops}: '
      'needs 1 <= min_ops <= max_ops'
    )
  if not 1 <= max_number <= 9:
    raise ValueError(f'arithmetic: max_number={max_number} must be 1 .. 9')
  common.check_part('arithmetic', part)
  common.check_shares(
    'arithmetic', steps_share=steps_share, wrong_share=wrong_share
  )

  within = f'arithmetic/{seed}/{split}' + (f'/{part}' if part else '')

  def make(i):
    draw = random.Random(f'{within}/{i}')
    ops = draw.randint(min_ops, max_ops)
    prompt, steps, total = _problem(draw, ops, max_number, split, part)
    if draw.random() < steps_share:
      completion = (
        f'<think>{";".join(steps)}</think><answer>{total:02d}</answer>'
      )
    else:
      wrong = draw.random() < wrong_share
      shown = _misread(prompt, total) if wrong else total
      completion = f'<answer>{shown:02d}</answer>'
    return common.Example(prompt, str(total), completion)

  # Too few prompts of a length: say so at the start.
  for ops in range(min_ops, max_ops + 1):
    _problem(random.Random(0), ops, max_number, split, part)
  return common.Task(size, make, common.same_number, summary='{prompt}{answer}')


def _problem(
  draw: random.Random, ops: int, max_number: int, split: str, part: str
) -> tuple[str, list[str], int]:
  """The first expression of that many operations that is of split and part."""
  for _ in range(_TRIES):
    problem = _expression(draw, ops, max_number)
    if common.is_of(problem[0], split, part):
      return problem
  raise ValueError(
    f'arithmetic: no {split} prompt with {ops} operations on numbers up to '
    f'{max_number} in {_TRIES} draws (part={part!r}); raise min_ops or '
    'max_number'
  )


def _expression(
  draw: random.Random, ops: int, max_number: int
) -> tuple[str, list[str], int]:
  """Prompt, steps and total of a chain of that many operations."""
  total = draw.randint(1, max_number)
  prompt, steps = str(total), []
  for _ in range(ops):
    # No draw is rejected: at least one sign keeps any total within bounds.
    sign, digit = draw.choice('+-'), draw.randint(1, max_number)
    if not 0 <= total + int(f'{sign}{digit}') <= _HIGHEST:
      sign = '-' if sign == '+' else '+'
    after = total + int(f'{sign}{digit}')
    steps.append(f'{after:02d}')
    prompt += f' {sign}{digit}'
    total = after
  return prompt + '=', steps, total


def _misread(prompt: str, total: int) -> int:
  """A wrong number at a glance: the first two terms read as one, 42 for 4 +2.

  It takes no skill and next to no training, so that a small model's effort
  goes into the worked answers.
  """
  first, second = [int(c) for c in prompt if c.isdigit()][:2]
  guess = 10 * first + second
  return guess if guess != total else guess + 1
