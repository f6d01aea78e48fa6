"""Rewards: what a completion is worth.

`code`, `correct`, `number`, `math_verify`, `option`, `format`, `language`,
`lexicon`, `cosine`, `soft_overlong`, `repetition`, `score`, `function`,
`random` and `constant` are factories `name(*, task, ...) -> reward`, chosen by
a config through their names; a reward is `(completion, example) -> float` and
total. `grade` applies them to a step's completions, `combine` makes one reward
of several, `faults` counts what went wrong meanwhile. `Completion` is a text
that knows its length in tokens.
"""

from grpo_jax.rewards.choice import option
from grpo_jax.rewards.code_execution import code
from grpo_jax.rewards.completion import Completion
from grpo_jax.rewards.fault_counts import faults
from grpo_jax.rewards.grading import combine, grade
from grpo_jax.rewards.languages import language
from grpo_jax.rewards.length import cosine, soft_overlong
from grpo_jax.rewards.lexicon import lexicon
from grpo_jax.rewards.ngrams import repetition
from grpo_jax.rewards.rules import (
  constant,
  correct,
  format,
  function,
  number,
  random,
  score,
)
from grpo_jax.rewards.symbolic import math_verify

__all__ = [
  'Completion',
  'code',
  'combine',
  'constant',
  'correct',
  'cosine',
  'faults',
  'format',
  'function',
  'grade',
  'language',
  'lexicon',
  'math_verify',
  'number',
  'option',
  'random',
  'repetition',
  'score',
  'soft_overlong',
]
