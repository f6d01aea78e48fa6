"""Stage 5 of a step, bound to a config: completions to rewards.

Rules and batched rewards, each for its domains and from its step on, make the
components; their weighted sum is the reward. What is judged is a function of
(config, step): a run that goes on judges as one that was never stopped.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from grpo_jax import (
  batched_rewards,
  config,
  hosts,
  questions,
  rewards,
)  # fmt: skip
from grpo_jax.rewards import grading, rules, text
from grpo_jax.tasks import Example, shares, Task

# Fields of every reward, beside its function's arguments.
_OF_THE_RUN = ('weight', 'domains', 'from_step')


class Grader:
  """The rewards of a run."""

  def __init__(self, cfg, task: Task):
    """Opens reward models.

    Raises:
      ValueError: a reward that does not exist, or that does not fit the task or
        the others.
    """
    self.weights = reward_weights(cfg)
    check(cfg, task)
    self.gate = cfg.reward_gate
    self.domains = domains_of(cfg)
    self.from_step = {k: v.get('from_step', 0) for k, v in cfg.rewards.items()}
    self.rules = reward_functions(cfg, task)
    _need_completions(cfg, task)
    self.batched = {
      name: config.pick(batched_rewards, arguments_of(reward), cfg=cfg)()
      for name, reward in cfg.rewards.items()
      if name not in self.rules
    }

  def grade(
    self,
    step: int,
    completions: Sequence[Sequence[str | None]],
    examples: Sequence[Example | None],
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rewards [Q G] and components, of what is here; NaN elsewhere.

    A component is NaN too where its domains are others, and is not there at all
    before its first step; without any, rewards are 0.

    Args:
      step: of the run, from 0.
      completions: [Q][G], None for those of other processes.
      examples: Q of them, None likewise.
    """
    begun = [k for k, first in self.from_step.items() if first <= step]
    if not begun:
      return np.zeros((len(examples), len(completions[0])), np.float32), {}
    domains = {k: self.domains[k] for k in begun}
    # Dispatched first: the device scores while the host grades by rule.
    scores = {
      k: self.batched[k](
        completions, [e if self._is_for(k, e) else None for e in examples]
      )
      for k in begun
      if k in self.batched
    }
    rules = {k: self.rules[k] for k in begun if k in self.rules}
    found = grading.grade_here(completions, examples, rules)
    if scores:
      found |= hosts.everywhere(scores, what='scores of reward models')
    found = {k: found[k] for k in begun}
    return rewards.combine(
      found,
      weights={k: self.weights[k] for k in begun},
      gate=self.gate,
      applies=applying(domains, examples),
    ), found

  def _is_for(self, name, example):
    return _is_of(self.domains[name], example)


def reward_functions(cfg, task: Task) -> dict[str, Callable]:
  """component name -> (completion, example) -> float; rewards by rule.

  One of some domains gives None to examples of others: it has no say there.

  Raises:
    ValueError: an unknown reward, or one that cannot judge this task: every
      answer would be wrong, and nothing would say so.
  """
  functions = {}
  for name in rules_of(cfg):
    reward = cfg.rewards[name]
    domains = reward.get('domains', ())
    judged = shares.within(task, domains)
    fn = config.pick(rewards, arguments_of(reward), task=judged)()
    _need_judgeable(reward.name, judged)
    functions[name] = _of_domains(fn, domains) if domains else fn
  return functions


def _of_domains(fn, domains):
  def reward(completion, example):
    return fn(completion, example) if example.domain in domains else None

  return reward


def _need_judgeable(name, task):
  """ValueError where a reward compares with answers that are not there."""
  for one in task.kinds:
    if name in rules.COMPARING:
      questions.need_answers(one)
    answer = one.example(0).answer
    judgeable = {
      'math_verify': not text.is_empty(answer),
      'number': text.parse_number(answer) is not None,
    }
    if not judgeable.get(name, True):
      raise ValueError(
        f'reward {name}: no answer could be right, as the first reference '
        f"answer of the task is {answer[:40]!r}; use the reward 'correct'"
      )


def _need_completions(cfg, task):
  """ValueError where a reward compares with completions that are not there."""
  for reward in cfg.rewards.values():
    if reward.get('reference') == 'completion':
      judged = shares.within(task, reward.get('domains', ()))
      for one in judged.kinds:
        questions.completion_of(one.example(0), one)


def reward_weights(cfg) -> dict[str, float]:
  """component name -> its weight in the reward."""
  taken = {'mean', 'std'} & set(cfg.rewards)
  if taken:
    name = min(taken)
    raise ValueError(
      f'rewards.{name}: reward/{name} is what all rewards come to; give it '
      'another name'
    )
  missing = [k for k, v in cfg.rewards.items() if 'weight' not in v]
  if missing:
    raise ValueError(f'rewards.{missing[0]} has no weight (0 only reports it)')
  if cfg.reward_gate and cfg.reward_gate not in cfg.rewards:
    raise ValueError(
      f'reward_gate={cfg.reward_gate!r} is none of the rewards: '
      f'{", ".join(cfg.rewards)}'
    )
  return {k: float(v.weight) for k, v in cfg.rewards.items()}


def rules_of(cfg) -> tuple[str, ...]:
  """The rewards that are rules; the others are reward models."""
  return tuple(
    name
    for name, reward in cfg.rewards.items()
    if reward.get('name') not in batched_rewards.__all__
  )


def arguments_of(reward) -> dict:
  """A reward's name and its function's arguments: without what a run adds."""
  return {k: v for k, v in reward.to_dict().items() if k not in _OF_THE_RUN}


def domains_of(cfg) -> dict[str, tuple[str, ...]]:
  """Reward -> the domains that it judges, () for all."""
  return {k: tuple(v.get('domains', ())) for k, v in cfg.rewards.items()}


def applying(
  domains: Mapping[str, Sequence[str]], examples: Sequence[Example | None]
) -> dict[str, np.ndarray]:
  """Reward -> [Q 1] whether it judges an example; of some domains alone."""
  return {
    name: np.array([[_is_of(own, e)] for e in examples])
    for name, own in domains.items()
    if own
  }


def _is_of(domains, example):
  return example is not None and (not domains or example.domain in domains)


def check(cfg, task: Task) -> None:
  """ValueError where domains and steps of rewards and of a mixture contradict.

  Args:
    cfg: the whole config.
    task: that is trained on.
  """
  known = shares.domains(task)
  for name, reward in cfg.rewards.items():
    _check_reward(cfg, name, reward, known)
  for part in task.parts:
    if part.from_step >= cfg.steps:
      raise ValueError(
        f'task.parts.{part.name}.from_step={part.from_step} is never reached: '
        f'steps={cfg.steps}'
      )
  paid = {k: v for k, v in cfg.rewards.items() if v.weight}
  if not paid and not cfg.algorithm.reference_from:
    raise ValueError(
      'no reward has a weight, so there is nothing to learn from; give one a '
      'weight, or distil with algorithm.reference_from'
    )
  asked = [(part.domain, part.from_step) for part in task.parts]
  scheduled = any(v.get('from_step', 0) for v in cfg.rewards.values())
  # Where nothing is paid, as in distillation, no prompt needs a judge.
  for domain, first in (asked or ([('', 0)] if scheduled else [])) * bool(paid):
    starts = [
      v.get('from_step', 0)
      for v in paid.values()
      if not v.get('domains', ()) or domain in v.domains
    ]
    if not starts or min(starts) > first:
      of = f' of domain {domain!r}' if domain else ''
      when = f' before step {min(starts)}' if starts else ''
      raise ValueError(
        f'prompts{of} are asked from step {first} on and no reward with a '
        f'weight judges them{when}; correct domains and from_step of rewards '
        'or of the part'
      )
  for field, name in _leaned_on(cfg).items():
    if cfg.rewards[name].get('from_step', 0):
      raise ValueError(
        f'{field}={name!r} is asked for at every step, and rewards.{name} has '
        f'from_step={cfg.rewards[name].from_step}'
      )
  _check_filters(cfg, task, known)


def _check_reward(cfg, name, reward, known):
  domains = reward.get('domains', ())
  if isinstance(domains, str):
    raise ValueError(
      f'rewards.{name}.domains={domains!r} is a text; write ({domains!r},)'
    )
  for field, named in (
    ('domains', domains), ('extract_in', reward.get('extract_in', {})),
  ):  # fmt: skip
    unknown = [d for d in named if d not in known]
    if unknown:
      have = f'has {", ".join(known)}' if known else 'is no mixture'
      raise ValueError(
        f'rewards.{name}.{field} names {unknown[0]!r}, and the task {have}'
      )
  first = reward.get('from_step', 0)
  if not isinstance(first, int) or not 0 <= first < cfg.steps:
    raise ValueError(
      f'rewards.{name}.from_step={first!r} must be a step from 0 to '
      f'{cfg.steps - 1} (steps={cfg.steps})'
    )


def _leaned_on(cfg):
  """Fields that need a reward at every step -> its name."""
  found = {'reward_gate': cfg.reward_gate} if cfg.reward_gate else {}
  f = cfg.filters
  if f.rounds > 1 or f.retire_above < 1:
    found['filters.signal'] = f.signal
  return found


def _check_filters(cfg, task, known):
  f = cfg.filters
  if task.parts and f.retire_above < 1:
    raise ValueError(
      f'filters.retire_above={f.retire_above} would change the shares of a '
      'mixture; leave it at 1'
    )
  if not known or f.rounds == 1:
    return
  judged = cfg.rewards[f.signal].get('domains', ()) or known
  for domain in known:
    if domain not in judged:
      raise ValueError(
        f'filters.rounds={f.rounds} keeps groups by rewards.{f.signal}, which '
        f'does not judge the domain {domain!r}: its prompts would never be '
        'learned from; set filters.rounds=1 or another filters.signal'
      )
