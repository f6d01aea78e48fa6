"""Evaluation: `python -m grpo_jax.evaluate --workdir=RUN [--config=...]`

Samples answers to held-out questions and writes `eval.json`. Without
`--init_from`, the newest checkpoint of the run in the workdir is evaluated.
"""

import functools
import pathlib

import numpy as np
from tqdm import tqdm

from grpo_jax import (
  cli,
  layout,
  measures,
  policy,
  programs,
  questions,
  rollout,
  sharding,
)  # fmt: skip
from grpo_jax.rewards import text
from grpo_jax.structs import PyTree


def run(cfg, workdir: pathlib.Path) -> None:
  """Evaluates and prints; writes `workdir/eval.json`."""
  cfg = from_workdir(cfg, workdir)
  pol = policy.open_policy(cfg)
  evaluation = Evaluation(cfg, pol)
  result = evaluation.run(programs.publish(pol)(pol.params()), progress=True)
  workdir.mkdir(parents=True, exist_ok=True)
  cli.write_json(workdir / 'eval.json', result)
  for name, value in scalars(result).items():
    print(f'{name:20s} {value:.4f}')
  print(f'written to {workdir / "eval.json"}')


def from_workdir(cfg, workdir: pathlib.Path):
  """The config, with the run in `workdir` to start from unless one is given."""
  if (workdir / policy.MODEL_FOLDER).is_dir() and not cli.init_from_given():
    cfg = cfg.copy_and_resolve_references()
    cfg.init_from = str(workdir)
  return cfg


class Evaluation:
  """The evaluation of a config, to be run on any parameters."""

  def __init__(self, cfg, pol: policy.Policy):
    e = cfg.eval
    self.cfg, self.policy = cfg, pol
    self.questions = questions.questions(cfg, pol.tokenizer, evaluation=True)
    self.count = min(e.prompts, len(self.questions.task))
    largest = max((*e.ks, *e.votes), default=1)
    if largest > e.samples:
      raise ValueError(
        f'eval.samples={e.samples} is too few for pass@k or cons@k with '
        f'k={largest}; raise eval.samples or lower eval.ks and eval.votes'
      )
    ways = sharding.row_ways(pol.mesh, pol.rules['sample'])
    self.batch = layout.round_up(min(e.batch_prompts, self.count), ways)
    self.sample = programs.sampler(
      pol,
      group_size=e.samples,
      max_completion_length=cfg.sample.max_completion_length,
      chunk=cfg.sample.chunk,
      temperature=e.temperature,
      top_k=e.top_k,
      top_p=e.top_p,
      min_p=e.min_p,
    )

  def run(self, params: PyTree, *, progress: bool) -> dict:
    """Measures of published `params`; see `summarise`.

    The same questions and the same noise each time, whatever the batch size:
    question i is example i of the task.
    """
    examples = [self.questions.task.example(i) for i in range(self.count)]
    rows = sharding.rows(self.policy.mesh, self.policy.rules['sample'])
    completions, finished, lengths = [], [], []
    starts = range(0, self.count, self.batch)
    for start in tqdm(starts, desc='evaluate', disable=not progress):
      part = examples[start : start + self.batch]
      # The last batch is filled up so that it compiles to the same program.
      filled = part + [part[-1]] * (self.batch - len(part))
      prompts = sharding.put(self.questions.encode(filled), rows)
      key = programs.stream(self.cfg.seed, 'eval', 0)
      got = self.sample(params, prompts, key, first=start)
      texts, done = rollout.read_texts(
        got,
        decode=functools.partial(
          self.policy.tokenizer.decode, skip_special=False
        ),
        stop_ids=self.policy.stop_ids,
      )
      completions += texts[: len(part)]
      finished.append(done[: len(part)])
      lengths.append(np.asarray(got.mask).sum(-1)[: len(part)])
    return summarise(
      self.questions.task,
      examples,
      completions,
      np.concatenate(finished),
      np.concatenate(lengths),
      ks=self.cfg.eval.ks,
      votes=self.cfg.eval.votes,
    )


def summarise(
  task, examples, completions, finished, lengths, *, ks, votes
) -> dict:
  """Measures of completions [Q][n] to Q examples.

  Returns:
    'pass@k' (strict: the answer in its tags), each with '_stderr'; 'lenient'
    (pass@1 of whatever looks like a final answer); 'cons@k'; lengths in
    tokens, also of right and wrong answers; 'truncated'; per-problem pass@1.
  """

  def judge(extract):
    answers = [[extract(c) for c in row] for row in completions]
    right = [
      [not text.is_empty(a) and task.verify(a, ex) for a in row]
      for row, ex in zip(answers, examples, strict=True)
    ]
    return answers, np.array(right, bool)

  answers, strict = judge(text.tags)
  _, lenient = judge(text.lenient)
  canonical = [[' '.join(a.split()).lower() for a in row] for row in answers]
  result = {}

  def add(name, per_problem):
    result[name] = float(np.mean(per_problem))
    result[f'{name}_stderr'] = measures.standard_error(per_problem)

  add('pass@1', strict.mean(1))
  for k in ks:
    add(f'pass@{k}', measures.pass_at_k(strict, k))
  for k in votes:
    add(f'cons@{k}', measures.cons_at_k(canonical, strict, k))
  add('lenient', lenient.mean(1))
  for name, chosen in (('right', strict), ('wrong', ~strict)):
    mean = lengths[chosen].mean() if chosen.any() else 0.0
    result[f'mean_length_{name}'] = float(mean)
  result |= {
    'mean_length': float(lengths.mean()),
    'truncated': float(1 - finished.mean()),
    'answered': float(np.mean([bool(a) for row in answers for a in row])),
    'problems': len(examples),
    'samples': lengths.shape[1],
    'per_problem': strict.mean(1).tolist(),
    'examples': [
      {
        'prompt': example.prompt,
        'answer': example.answer,
        'completion': row[0],
        'right': bool(right[0]),
      }
      for example, row, right in zip(
        examples[:10], completions, strict, strict=False
      )
    ],
  }
  return result


def scalars(result: dict) -> dict[str, float]:
  """The single numbers of a result."""
  return {k: v for k, v in result.items() if isinstance(v, int | float)}


if __name__ == '__main__':
  cli.main(run)
