"""Rewards of the length in tokens: a soft limit, and length by correctness.

Stage 5 of a step. They need completions that know their tokens
(`completion.Completion`) and raise on plain text. Both tell completions of one
quality apart, so a group of wrong answers has a gradient: drop such groups by
the task's own reward, not by the sum.
"""

import math

from grpo_jax.rewards.completion import with_tokens
from grpo_jax.rewards.rules import by_task, Reward


def soft_overlong(*, task, max_length: int, cache: int) -> Reward:
  """The soft overlong punishment of DAPO (2503.14476, eq. 13).

      0                                 tokens <= max_length - cache
      (max_length - cache - tokens) / cache    between
      -1                                tokens >= max_length

  verl's version has no floor: beyond max_length it keeps falling.

  Args:
    task: unused, see `rules`.
    max_length: tokens, EOS included; the sampler's limit or less.
    cache: tokens before it in which the punishment grows.

  Raises:
    ValueError: not 0 < cache <= max_length.
  """
  del task
  if not 0 < cache <= max_length:
    raise ValueError(
      f'soft_overlong: cache={cache} must be positive and at most '
      f'max_length={max_length}'
    )

  def reward(completion, example):
    tokens = with_tokens(completion, 'soft_overlong').tokens
    return min(max((max_length - cache - tokens) / cache, -1.0), 0.0)

  return reward


def cosine(
  *,
  task,
  max_length: int,
  extract: str = 'tags',
  right_short: float = 1.0,
  right_long: float = 0.5,
  wrong_short: float = -1.0,
  wrong_long: float = -0.5,
  cut: float = -1.0,
) -> Reward:
  """Right answers earn more when short, wrong ones lose less when long.

      long + (short - long) (1 + cos(pi tokens / max_length)) / 2

  with the values of right or of wrong answers (Demystifying Long CoT,
  2502.03373; the defaults are open-r1's, which has no `cut` and counts
  characters). The paper gives `cut`, its r_e, to lengths of exactly the
  sampler's limit; here to a completion that did not stop by itself, or is
  longer than max_length.

  Args:
    task: judges as in `correct`.
    max_length: tokens, EOS included, where the `_long` values are reached.
    extract: where the answer stands, as for `correct`.
    right_short: of a right answer of no length.
    right_long: of a right answer of max_length tokens.
    wrong_short: of a wrong answer of no length.
    wrong_long: of a wrong answer of max_length tokens.
    cut: of whatever is longer or was cut, right or wrong.

  Raises:
    ValueError: max_length not positive, or longer pays the wrong way.
  """
  if max_length < 1:
    raise ValueError(f'cosine: max_length={max_length} must be at least 1')
  if right_long > right_short or wrong_short > wrong_long:
    raise ValueError(
      f'cosine: right answers must not earn more when long ({right_short} to '
      f'{right_long}), nor wrong ones when short ({wrong_long} to '
      f'{wrong_short})'
    )
  judge = by_task(task, extract, name='cosine')

  def reward(completion, example):
    completion = with_tokens(completion, 'cosine')
    if completion.tokens > max_length or not completion.finished:
      return cut
    short, long = wrong_short, wrong_long
    if judge(completion, example) == 1.0:
      short, long = right_short, right_long
    share = (1 + math.cos(math.pi * completion.tokens / max_length)) / 2
    return long + (short - long) * share

  return reward
