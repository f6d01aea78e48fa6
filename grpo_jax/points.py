"""Labelled answers: `python -m grpo_jax.points --config=... --workdir=...`

What a policy answers to the questions of a task, each with the value that a
reward gives it (`pairs.gold`), as {prompt, response, label} in
WORKDIR/points.jsonl: what a pointwise reward model learns from, as R1's for
safety. `grpo_jax.pairs` makes pairs.
"""

import collections
import json
import pathlib

from grpo_jax import (
  answers,
  cli,
  config,
  policy,
  programs,
  questions,
  rewards,
  validation,
)  # fmt: skip

FILE = 'points.jsonl'


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Samples, judges and writes; equal answers to a prompt are written once."""
  workdir = cli.need_workdir(workdir)
  settings = cfg.pairs.to_dict()
  config.one_of('pairs.gold', settings['gold'], tuple(cfg.rewards))
  validation.of_answers(cfg, 'pairs')
  pol = policy.open_policy(cfg)
  ask = questions.questions(cfg, pol.tokenizer, evaluation=False)
  gold = questions.reward_functions(cfg, ask.task)[settings['gold']]
  count = min(settings['prompts'], len(ask.task))
  answerer = answers.Answerer(
    pol,
    ask,
    batch_prompts=min(settings['batch_prompts'], count),
    max_completion_length=cfg.sample.max_completion_length,
    chunk=cfg.sample.chunk,
    **{
      name: settings[name]
      for name in ('samples', 'temperature', 'top_k', 'top_p', 'min_p')
    },
  )
  params = programs.publish(pol)(pol.params())
  examples = [ask.task.example(i) for i in ask.indices(0, count)]
  made = {}
  for part in answerer.run(params, examples, seed=cfg.seed):
    labels = rewards.grade(part.completions, part.examples, {'': gold})['']
    for q, example in enumerate(part.examples):
      for completion, label in zip(part.completions[q], labels[q], strict=True):
        made[example.prompt, str(completion)] = float(label)
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE
  partial = path.with_name(path.name + '.partial')
  with partial.open('w', encoding='utf-8') as file:
    for (prompt, response), label in made.items():
      row = {'prompt': prompt, 'response': response, 'label': label}
      file.write(json.dumps(row, ensure_ascii=False) + '\n')
  partial.replace(path)
  told = collections.Counter(made.values()).most_common(3)
  shares = ', '.join(f'{n} of label {label:g}' for label, n in told)
  print(f'{len(made)} answers to {count} prompts in {path}: {shares}')


if __name__ == '__main__':
  cli.main(run)
