"""Rewards: what a completion is worth.

`code`, `correct`, `number`, `format`, `math_verify`, `random` and `constant`
are factories `name(*, task, ...) -> reward`, chosen by a config through their
names; a reward is `(completion, example) -> float` and total. `grade` applies
them to a step's completions, `combine` makes one reward of several, `faults`
counts what went wrong meanwhile.
"""

from grpo_jax.rewards.code_execution import code
from grpo_jax.rewards.fault_counts import faults
from grpo_jax.rewards.grading import combine, grade
from grpo_jax.rewards.rules import constant, correct, format, number, random
from grpo_jax.rewards.symbolic import math_verify

__all__ = [
  'code',
  'combine',
  'constant',
  'correct',
  'faults',
  'format',
  'grade',
  'math_verify',
  'number',
  'random',
]
