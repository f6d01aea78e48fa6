"""Rewards by rule: correctness, number, format, a function, two controls.

Stage 5 of a step. What has a `task` here is a factory `name(*, task, ...)` that
returns `reward(completion: str, example) -> float`. A reward is total: any
text gives a number, never an exception. `task` is the task being trained on;
`correct` asks it what is right, and all take it, so that a config can choose
any of them by name.
"""

from collections.abc import Callable, Mapping
import hashlib
from typing import Any

from grpo_jax import hooks
from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import no_answer

Reward = Callable[[str, Any], float]

# Rewards that compare with the task's answers.
COMPARING = ('correct', 'cosine', 'math_verify', 'number', 'option')


def correct(
  *, task, extract: str = 'tags', extract_in: Mapping[str, str] | None = None
) -> Reward:
  """1.0 where the task accepts the answer.

  Args:
    task: its `verify(answer, example)` judges the extracted text.
    extract: 'tags' (strict: the one answer pair, at the end), 'boxed',
      'last_number', or 'lenient' (last answer pair, else box, else number).
    extract_in: domain -> how instead, of a mixture's examples whose answers
      stand elsewhere, as in dict(code='program').
  """
  usual = by_task(task, extract, name='correct')
  others = {
    domain: by_task(task, name, name='correct')
    for domain, name in (extract_in or {}).items()
  }
  if not others:
    return usual
  return lambda completion, example: others.get(example.domain, usual)(
    completion, example
  )


def number(*, task, extract: str = 'tags') -> Reward:
  """1.0 where the answer is a number exactly equal to `example.answer`."""
  del task
  find = text.extractor(extract)

  def reward(completion, example):
    answer = find(completion)
    if text.is_empty(answer):
      return no_answer('number', extract)
    return float(text.same_number(answer, example.answer))

  return reward


def format(*, task, thought: bool = True, summary: bool = False) -> Reward:
  """1.0 for <think>..</think><answer>..</answer> and nothing else.

  Both must hold something. `thought=False` also accepts an answer pair alone,
  `summary=True` also text between thought and answer, as a cold start has it.
  """
  del task
  return lambda completion, example: float(
    text.well_formed(completion, thought=thought, summary=summary)
  )


def function(*, task, path: str) -> Reward:
  """A function of one's own, (completion, example) -> float.

  Args:
    task: unused.
    path: 'module:function', importable from the working folder. The example
      has `prompt`, `answer` and `data`.
  """
  del task
  return hooks.load(path, field='path of the reward function')


def score(*, task, field: str = 'score', extract: str = 'tags') -> Reward:
  """What the example's own score says of the answer, a float.

  Of tasks that know degrees of right, as `general`; 0.0 for other examples and
  without an answer.

  Args:
    task: unused.
    field: of `example.data`, which holds a function of the answer.
    extract: as for `correct`, or '' for the whole completion.
  """
  del task
  find = text.extractor(extract) if extract else str

  def reward(completion, example):
    answer = find(completion)
    if text.is_empty(answer):
      return no_answer('score', extract)
    known = example.data.get(field)
    return 0.0 if known is None else float(known(answer))

  return reward


def random(*, task, seed: int = 0, p: float = 0.5) -> Reward:
  """1.0 with probability p, by a coin that ignores what is right: a control.

  The coin is a hash of seed, prompt and completion. The prompt is part of it,
  or the control could be learned: the same lucky text would win everywhere.
  """
  del task
  if not 0.0 <= p <= 1.0:
    raise ValueError(f'p={p} must be a probability between 0 and 1')

  def reward(completion, example):
    # repr keeps lone surrogates, which UTF-8 cannot encode.
    content = repr((seed, example.prompt, completion)).encode(
      'utf-8', 'backslashreplace'
    )
    draw = int.from_bytes(hashlib.sha256(content).digest()[:8], 'big')
    return float(draw < p * 2**64)

  return reward


def constant(*, task, value: float = 0.0) -> Reward:
  """The same reward for everything: a control with no gradient."""
  del task
  return lambda completion, example: float(value)


def extractors_of(rewards) -> dict[str, str]:
  """The extractors of a config's rewards: domain -> name, '' for all others.

  Of a domain it is that of the first reward that judges it, and of others that
  of the first one that judges all; without such a reward, of the first. A
  reward that judges no answers has a say where no other does.
  """
  judges = [
    reward
    for reward in rewards.values()
    if reward.get('name') in (*COMPARING, 'code')
  ]
  found, first = {}, []
  for reward in judges or rewards.values():
    name = 'program' if reward.get('name') == 'code' else reward.get('extract')
    if not name and not judges:
      continue
    name = name or 'tags'
    first.append(name)
    own = dict(reward.get('extract_in', {}))
    for domain in reward.get('domains', ()) or ('',):
      own.setdefault(domain, name)
    found = own | found
  return {'': first[0] if first else 'tags'} | found


def by_task(task, extract: str, *, name: str) -> Reward:
  """`correct`, for rewards that build on it.

  Args:
    task: as for `correct`.
    extract: as for `correct`.
    name: of the reward that completions without an answer count under.
  """
  find = text.extractor(extract)

  def reward(completion, example):
    answer = find(completion)
    if text.is_empty(answer):
      return no_answer(name, extract)
    return float(task.verify(answer, example))

  return reward
