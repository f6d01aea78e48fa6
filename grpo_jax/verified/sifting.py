"""What is thought of completions: stages 2 and 3 of a verified set (`keep`)."""

import collections
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from grpo_jax import chat_client, config, grader, questions, rewards
from grpo_jax.rewards import fault_counts, text
from grpo_jax.tasks import shares
from grpo_jax.verified import filters, rewriting, selection, verify

_THREADS = 16  # that wait for judges and rewriters
_PROMPTS = 4  # of one, a filter of contents may refuse every answer


class Sifter:
  """Judges, rewrites and sifts the completions of a block of prompts.

  Attributes:
    asked: 'prompts' and 'answers' that the judge was asked about, and its
      'verdicts'.
  """

  def __init__(self, cfg, ask: questions.Questions):
    """Picks every function that the config names.

    Raises:
      ValueError: unknown names or arguments.
    """
    k, task = cfg.keep, ask.task
    self.tokenizer = ask.tokenizer
    self.functions = grader.reward_functions(cfg, task)
    weights, self.gate = grader.reward_weights(cfg), cfg.reward_gate
    if self.gate and self.gate not in self.functions:
      raise ValueError(
        f'reward_gate={self.gate!r} is a reward model, and a set is kept by '
        'rules and keep.judge; name a rule, or set it to none'
      )
    for name, weight in weights.items():
      if name not in self.functions and weight:
        raise ValueError(
          f'rewards.{name} is a reward model, and a set is kept by rules and '
          f'keep.judge; set rewards.{name}.weight=0'
        )
    self.weights = {k: weights[k] for k in self.functions}
    self.domains = grader.domains_of(cfg)
    judge = k.judge.to_dict()
    # Of the examples that the judge decides on: the rest is for `right`.
    self.judged_domains = tuple(judge.pop('domains', ()))
    self.judge = config.pick(verify, judge)()
    self.asked = collections.Counter(prompts=0, answers=0, verdicts=0)
    self.right = k.right
    self._check(task)
    self.rules = selection.Rules(
      min_reward=k.min_reward,
      filters=[(f['name'], config.pick(filters, f)()) for f in k.filters],
      rewrite=config.pick(rewriting, k.rewrite, task=task)(),
      still_right=self._still_right,
      count=self.count,
      near_size=k.near_size,
      near=k.near_duplicates,
      per_prompt=k.per_prompt,
    )

  def count(self, text: str) -> int:
    """Tokens of a completion, EOS included."""
    return len(self.tokenizer.encode(text, start=False)) + 1

  def rows(self, indices, completions, examples) -> list[dict]:
    """Rows of progress.

    Args:
      indices: Q of prompts.
      completions: [Q][G].
      examples: Q.
    """
    if not examples:
      return []
    components = rewards.grade(completions, examples, self.functions)
    whole = rewards.combine(
      components,
      weights=self.weights,
      gate=self.gate,
      applies=grader.applying(self.domains, examples),
    )
    right = components.get(self.right, np.ones_like(whole))
    with ThreadPoolExecutor(_THREADS) as pool:
      judged = [q for q, e in enumerate(examples) if self.judges(e)]
      pairs = [(c, examples[q]) for q in judged for c in completions[q]]
      if pairs:
        told = list(pool.map(lambda pair: _number(self.judge(*pair)), pairs))
        # Where nothing is said, it is wrong without being asked about.
        said = [not text.is_empty(text.reply(c)) for c, _ in pairs]
        self.asked.update(
          prompts=len(judged),
          answers=sum(said),
          verdicts=int((~np.isnan(told) & said).sum()),
        )
        right = np.array(right)
        right[judged] = np.reshape(told, (len(judged), -1))
      rows = list(
        pool.map(
          lambda *of: selection.sift(*of, self.rules),
          *(indices, examples, completions, whole, right),
        )
      )
    if self.right not in components:
      # All pass, which does not make them right.
      for q in {*range(len(rows))} - {*judged}:
        rows[q].update(judged=0, right=0)
    return rows

  def judges(self, example) -> bool:
    """Whether the judge decides on its answers."""
    if self.judge is None:
      return False
    return not self.judged_domains or example.domain in self.judged_domains

  def _still_right(self, completion, example) -> bool:
    """Of a text that has been rewritten."""
    final = rewards.Completion(
      completion, tokens=self.count(completion), finished=True
    )
    if self.judges(example):
      return self.judge(final, example) == 1.0
    if not self.right:
      return True
    right = {'right': self.functions[self.right]}
    return rewards.grade([[final]], [example], right)['right'][0, 0] == 1.0

  def _check(self, task):
    """ValueError where `right` and the judge cannot decide on the task."""
    known = shares.domains(task)
    if self.judged_domains:
      if self.judge is None:
        raise ValueError(
          f'keep.judge.domains={self.judged_domains} are of a judge, and there '
          'is none'
        )
      for domain in self.judged_domains:
        if domain not in known:
          raise ValueError(
            f'keep.judge.domains names {domain!r}, and the task has {known}'
          )
      for part in shares.within(task, self.judged_domains).parts:
        questions.need_answers(part.task)
    elif self.judge is not None:
      questions.need_answers(task)
      return
    if not self.right:
      return
    config.one_of('keep.right', self.right, tuple(self.functions))
    own = self.domains[self.right]
    for domain in known if own else ():
      if domain not in (*own, *self.judged_domains):
        raise ValueError(
          f'answers of domain {domain!r} are judged neither by keep.right='
          f'{self.right!r} nor by keep.judge; none could be kept'
        )


def refuse_silence(asked: Mapping[str, int], *, whole: bool) -> None:
  """ValueError where the judge was asked enough and never had a verdict.

  It may have none on a few answers, and again whenever they are judged: those
  are left out of the set, and end nothing.

  Args:
    asked: as of `Sifter`, of all processes.
    whole: no other prompt follows.
  """
  if asked['verdicts'] or not asked['answers']:
    return
  enough = asked['answers'] >= chat_client.ENOUGH
  if whole or (enough and asked['prompts'] >= _PROMPTS):
    reasons = '; '.join(fault_counts.told('judge/'))
    raise ValueError(
      f'keep.judge gave no verdict on any of {asked["answers"]} answers; check '
      'its arguments and that it can be reached'
      + (f' ({reasons})' if reasons else '')
    )


def _number(verdict) -> float:
  return float('nan') if verdict is None else float(verdict)
