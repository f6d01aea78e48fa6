"""Generated sums of single digits: '3+5-2+9=' is 15.

Difficulty is the number of operations. The reference completions make a base
model that mostly blurts out an answer and sometimes works it out, so that RL
has both habits to choose between.
"""

import random

from grpo_jax.rewards import text
from grpo_jax.tasks import common

ALPHABET = '0123456789+-=;'
_HIGHEST = 99


def arithmetic(
  *,
  split: str,
  size: int,
  min_ops: int,
  max_ops: int,
  seed: int = 0,
  steps_share: float = 1.0,
  wrong_share: float = 0.0,
) -> common.Task:
  """Sums and differences from left to right, running totals within 0..99.

  Args:
    split: 'train' or 'test': about a tenth of all prompts, by hash.
    size: number of examples.
    min_ops, max_ops: the number of operations is uniform between them.
    seed: of the generator; the splits are disjoint across seeds too.
    steps_share: share of completions that are worked out, as in
      '<think>3+5=8;8-2=6;6+9=15</think><answer>15</answer>'. The others are
      direct: '<answer>15</answer>'.
    wrong_share: share of the direct ones whose answer is wrong.
  """
  common.check_arguments('arithmetic', split=split, size=size)
  if not 1 <= min_ops <= max_ops:
    raise ValueError(
      f'arithmetic: min_ops={min_ops}, max_ops={max_ops}: '
      'needs 1 <= min_ops <= max_ops'
    )
  for name, share in (
    ('steps_share', steps_share),
    ('wrong_share', wrong_share),
  ):
    if not 0.0 <= share <= 1.0:
      raise ValueError(f'arithmetic: {name}={share} must be between 0 and 1')

  def make(i):
    draw = random.Random(f'arithmetic/{seed}/{split}/{i}')
    ops = draw.randint(min_ops, max_ops)
    prompt, steps, total = _expression(draw, ops)
    while common.split_of(prompt) != split:
      prompt, steps, total = _expression(draw, ops)
    if draw.random() < steps_share:
      completion = f'<think>{";".join(steps)}</think><answer>{total}</answer>'
    else:
      wrong = draw.random() < wrong_share
      shown = _near_miss(draw, total) if wrong else total
      completion = f'<answer>{shown}</answer>'
    return common.Example(prompt, str(total), completion)

  return common.Task(size, make, _check)


def _check(answer: str, example: common.Example) -> bool:
  return text.same_number(answer, example.answer)


def _expression(draw: random.Random, ops: int) -> tuple[str, list[str], int]:
  """Prompt, steps and total of a chain of that many operations."""
  total = draw.randint(1, 9)
  prompt, steps = str(total), []
  for _ in range(ops):
    # No draw is rejected: at least one sign keeps any total within bounds.
    sign, digit = draw.choice('+-'), draw.randint(1, 9)
    if not 0 <= total + int(f'{sign}{digit}') <= _HIGHEST:
      sign = '-' if sign == '+' else '+'
    after = total + int(f'{sign}{digit}')
    steps.append(f'{total}{sign}{digit}={after}')
    prompt += f'{sign}{digit}'
    total = after
  return prompt + '=', steps, total


def _near_miss(draw: random.Random, total: int) -> int:
  """Another number within 0..99, at most 9 away."""
  low, high = max(0, total - 9), min(_HIGHEST, total + 9)
  guess = draw.randint(low, high - 1)
  return guess + (guess >= total)
