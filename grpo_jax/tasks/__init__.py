"""Tasks: questions by index, and how to judge an answer.

Each function here makes a task from keyword arguments; a config chooses one by
name. A task has a length, `example(i) -> Example` and `verify(answer, example)
-> bool`; `batch_indices` says which examples a step sees.
"""

from grpo_jax.tasks.arithmetic import arithmetic
from grpo_jax.tasks.attempts import attempts
from grpo_jax.tasks.bilingual import bilingual
from grpo_jax.tasks.common import (
  batch_indices,
  Example,
  of_prompts,
  Part,
  random,
  SPECIALS,
  split_of,
  Task,
)
from grpo_jax.tasks.countdown import ALPHABET, countdown
from grpo_jax.tasks.general import general
from grpo_jax.tasks.gsm8k import gsm8k
from grpo_jax.tasks.humaneval import humaneval
from grpo_jax.tasks.instructions import instructions
from grpo_jax.tasks.jsonl import jsonl
from grpo_jax.tasks.mawps import mawps
from grpo_jax.tasks.mixture import mixture
from grpo_jax.tasks.own import function
from grpo_jax.tasks.reasoning_gym import reasoning_gym
from grpo_jax.tasks.verified import verified

__all__ = [
  'ALPHABET',
  'SPECIALS',
  'Example',
  'Part',
  'Task',
  'arithmetic',
  'attempts',
  'batch_indices',
  'bilingual',
  'countdown',
  'function',
  'general',
  'gsm8k',
  'humaneval',
  'instructions',
  'jsonl',
  'mawps',
  'mixture',
  'of_prompts',
  'random',
  'reasoning_gym',
  'split_of',
  'verified',
]
