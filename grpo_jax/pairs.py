"""Pairs whose true preference is known: `python -m grpo_jax.pairs ...`

Answers of the policy that `init_from` names, two and two, judged by a reward
that knows what is better (`pairs.gold`), and written to WORKDIR/pairs.jsonl for
`grpo_jax.reward_model`. In `pairs.longer_wins` of the pairs the longer answer
is chosen instead: a bias, planted to study how RL exploits what a reward model
has learned of it.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import math
import pathlib

import numpy as np

from grpo_jax import (
  answers,
  cli,
  config,
  files,
  grader,
  hosts,
  policy,
  programs,
  questions,
  rewards,
  tasks,
  validation,
)  # fmt: skip
from grpo_jax.rewards import Completion
from grpo_jax.tasks import shares

FILE = 'pairs.jsonl'


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Samples, judges and writes."""
  workdir = cli.need_workdir(workdir)
  p = cfg.pairs
  check(cfg)
  if p.samples < 2 or not 0 <= p.longer_wins <= 1:
    raise ValueError(
      f'pairs.samples={p.samples} must be at least 2 and '
      f'pairs.longer_wins={p.longer_wins} in [0, 1]'
    )
  workdir.mkdir(parents=True, exist_ok=True)
  path, made, asked = workdir / FILE, [], 0
  for prompt, completions, scores in judged(cfg):
    made += of_answers(
      prompt,
      completions,
      scores,
      longer_wins=p.longer_wins,
      draw=tasks.random(cfg.seed, asked),
    )
    asked += 1
  with files.once(path) as file:
    file.writelines(map(files.as_line, made))
  if not hosts.is_first():
    return
  longer = np.mean([row['longer'] for row in made]) if made else 0.0
  print(
    f'{len(made)} pairs of {asked} prompts in {path}; the longer answer is '
    f'chosen in {longer:.1%}'
  )


def check(cfg) -> None:
  """ValueError for numbers and a reward of `cfg.pairs` that cannot be."""
  validation.of_answers(cfg, 'pairs')
  config.one_of('pairs.gold', cfg.pairs.gold, grader.rules_of(cfg))


def judged(cfg) -> Iterator[tuple[str, list[Completion], np.ndarray]]:
  """Each prompt, the policy's answers to it, and the true score of each [G].

  Of a mixture, the prompts that the reward judges. A score of NaN is none.
  """
  p = cfg.pairs
  pol = policy.open_policy(cfg)
  ask = questions.questions(cfg, pol.tokenizer, evaluation=False)
  gold = grader.reward_functions(cfg, ask.task)[p.gold]
  task = shares.within(ask.task, grader.domains_of(cfg)[p.gold])
  ask = dataclasses.replace(ask, task=task)
  count = min(p.prompts, len(task))
  # All parts of a mixture, also those that a run asks later.
  order = shares.in_turn(task, count) if task.parts else ask.indices(0, count)
  examples = [task.example(i) for i in order]
  answerer = answers.of_section(pol, ask, cfg, 'pairs', count=count)
  params = programs.publish(pol)(pol.params())
  for part in answerer.run(params, examples, seed=cfg.seed):
    scores = rewards.grade(part.completions, part.examples, {'': gold})['']
    for q, example in enumerate(part.examples):
      yield example.prompt, part.completions[q], scores[q]


def of_answers(
  prompt: str,
  completions: Sequence[Completion],
  scores: np.ndarray,
  *,
  longer_wins: float,
  draw: np.random.RandomState,
) -> Iterator[dict]:
  """Pairs of answers 0 and 1, 2 and 3, ... to a prompt.

  Two answers that are equal, as texts or in all that could tell them apart,
  are no pair, nor are two of which one has no score.

  Args:
    prompt: the question.
    completions: the answers.
    scores: the true score of each, NaN for none.
    longer_wins: how often the longer answer is chosen, whatever its score.
    draw: of these pairs.
  """
  for a in range(0, len(completions) - 1, 2):
    b = a + 1
    by_length = draw.random_sample() < longer_wins
    gap = float(scores[a] - scores[b])
    if not math.isfinite(gap):
      continue  # one of them has no score
    more = completions[a].tokens - completions[b].tokens
    preference = more if by_length and more else gap
    if not preference or completions[a] == completions[b]:
      continue
    chosen, rejected = (a, b) if preference > 0 else (b, a)
    yield {
      'prompt': prompt,
      'chosen': str(completions[chosen]),
      'rejected': str(completions[rejected]),
      'gold_chosen': float(scores[chosen]),
      'gold_rejected': float(scores[rejected]),
      'longer': completions[chosen].tokens > completions[rejected].tokens,
      'by': 'length' if by_length and more else 'gold',
    }


if __name__ == '__main__':
  cli.main(run)
