"""Labelled answers: `python -m grpo_jax.points --config=... --workdir=...`

What a policy answers to the questions of a task, each with the value that a
reward gives it (`pairs.gold`), as {prompt, response, label} in
WORKDIR/points.jsonl: what a pointwise reward model learns from, as R1's for
safety. `grpo_jax.pairs` makes pairs.
"""

import collections
import pathlib

import numpy as np

from grpo_jax import cli, files, hosts, pairs

FILE = 'points.jsonl'


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Samples, judges and writes; equal answers to a prompt are written once."""
  workdir = cli.need_workdir(workdir)
  pairs.check(cfg)
  made, count = {}, 0
  for prompt, completions, labels in pairs.judged(cfg):
    count += 1
    for completion, label in zip(completions, labels, strict=True):
      # Some have none.
      if not np.isnan(label):
        made[prompt, str(completion)] = float(label)
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / FILE
  with files.once(path) as file:
    for (prompt, response), label in made.items():
      row = {'prompt': prompt, 'response': response, 'label': label}
      file.write(files.as_line(row))
  if not hosts.is_first():
    return
  told = collections.Counter(made.values()).most_common(3)
  shares = ', '.join(f'{n} of label {label:g}' for label, n in told)
  print(f'{len(made)} answers to {count} prompts in {path}: {shares}')


if __name__ == '__main__':
  cli.main(run)
