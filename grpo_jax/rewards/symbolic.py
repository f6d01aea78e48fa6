"""The Math-Verify reward: mathematical equality of LaTeX and expressions.

Stage 5 of a step; the work happens in the processes of `pool.py`, so a host
thread that waits for it leaves the device and other graders running.
"""

import importlib.util

from grpo_jax.rewards import text
from grpo_jax.rewards.pool import Pool
from grpo_jax.rewards.rules import Reward

_LONGEST = 2000  # characters; a longer "answer" is no answer


def math_verify(
  *, task, extract: str = 'tags', workers: int = 2, seconds: float = 5.0
) -> Reward:
  """1.0 where Math-Verify finds the answer equal to `example.answer`.

  Args:
    task: unused, see `rules`.
    extract: where the answer stands, as for `correct`.
    workers: grading processes.
    seconds: wall time an item may take; beyond it, the answer is wrong.

  Raises:
    ValueError: Math-Verify is not installed.
  """
  del task
  if importlib.util.find_spec('math_verify') is None:
    raise ValueError(
      'reward math_verify needs the package: pip install math-verify'
    )
  find = text.extractor(extract)
  pool = Pool(name='math_verify', workers=workers, seconds=seconds)

  def reward(completion, example):
    answer = find(completion)
    if text.is_empty(answer) or len(answer) > _LONGEST:
      return 0.0
    return float(pool.grade(example.answer, answer))

  return reward
