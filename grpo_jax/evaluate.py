"""Evaluation: `python -m grpo_jax.evaluate --workdir=RUN [--config=...]`

Samples answers to held-out questions and writes `eval.json`. Without
`--init_from`, the newest checkpoint of the run in the workdir is evaluated.
`--task=instructions` asks for checkable instructions to be followed
(`instructions_eval.json`), `--task=win_rate` compares answers with a reference
by a judge (`win_rate.json`, see `win_rate.py`).
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib

from absl import flags, logging
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from grpo_jax import (
  accuracy,
  answers,
  cli,
  config,
  files,
  grader,
  hosts,
  measures,
  policy,
  programs,
  questions,
  rewards,
  runs,
  text_measures,
  validation,
)  # fmt: skip
from grpo_jax.rewards import languages, rules, text
from grpo_jax.structs import PyTree
from grpo_jax.tasks import Example, shares


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Evaluates and prints; writes `workdir/eval.json`."""
  workdir = cli.need_workdir(workdir)
  name = cfg.eval.file
  if '/' in name or not name.endswith(files.EVALUATION):
    raise ValueError(
      f'eval.file={name!r}: the report knows evaluations by their end, call it '
      f'..._{files.EVALUATION}'
    )
  cfg = cli.from_workdir(cfg, workdir)
  pol = policy.open_policy(cfg)
  evaluation = Evaluation(cfg, pol)
  step, params = pol.checkpoint()
  if step is not None:  # of a run
    trained = runs.open_run(cfg.init_from).config.task.to_dict()
    for hint in validation.shared_questions(cfg, trained):
      logging.warning('%s', hint)
  result = evaluation.run(
    programs.publish(pol)(params), progress=hosts.is_first()
  )
  # What was evaluated, as the file may outlive the run's config.
  result['settings'] = {
    'init_from': cfg.init_from,
    'step': step,
    'seed': cfg.seed,
    'task': cfg.task.to_dict() | cfg.eval.task.to_dict(),
    'prompt': cfg.prompt.to_dict(),
    'eval': cfg.eval.to_dict(),
  }
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / name
  with files.once(path) as file:
    file.write(files.as_json(result))
  if not hosts.is_first():
    return
  for name, value in scalars(result).items():
    print(f'{name:28s} {value:.4f}')
  print(f'written to {path}')


def of_instructions(cfg):
  """The config that asks `eval.instructions` and reads the final summary."""
  cfg = cfg.copy_and_resolve_references()
  # Whole dicts: fields of another task or reward would not fit.
  cfg.task, cfg.eval.task = cfg.eval.instructions, ConfigDict()
  rewards_of = {
    k: v for k, v in cfg.rewards.items() if v.get('name') == 'format'
  }
  cfg.rewards = ConfigDict(
    dict(follows=dict(name='correct', weight=1.0, extract='reply')) | rewards_of
  )
  cfg.eval.file = files.INSTRUCTIONS
  # Texts are not voted on.
  cfg.eval.votes = ()
  return cfg


class Evaluation:
  """The evaluation of a config, to be run on any parameters."""

  measure = 'pass@1'  # of what the best has most
  optional = measures.OF_SOME

  def __init__(self, cfg, pol: policy.Policy):
    e = cfg.eval
    validation.of_answers(cfg, 'eval')
    languages.check_target(e.language)
    self.cfg = cfg
    self.questions = questions.questions(cfg, pol.tokenizer, evaluation=True)
    task = self.questions.task
    if task.parts:
      # Of a mixture, what has answers; the rest is for reward models.
      task = shares.checkable(task)
      if task is None:
        raise ValueError(
          'no part of the mixture has answers to evaluate by; set '
          'eval.every=0, or eval.task to a task that has'
        )
      self.questions = dataclasses.replace(self.questions, task=task)
    questions.need_answers(task)
    self.extract = {
      domain: text.extractor(name)
      for domain, name in rules.extractors_of(cfg.rewards).items()
    }
    self.asked = shares.first_of_each(task, e.prompts)
    self.count = len(self.asked)
    self.texts = functools.partial(
      text_measures.of_answers,
      count_tokens=lambda t: len(pol.tokenizer.encode(t, start=False)),
      follows_format=_format(cfg, self.questions.task),
      language=e.language,
    )
    largest = max((*e.ks, *e.votes), default=1)
    for name in ('ks', 'votes'):
      if min(e[name], default=1) < 1:
        raise ValueError(f'eval.{name}={e[name]} must be at least 1 each')
    if largest > e.samples:
      raise ValueError(
        f'eval.samples={e.samples} is too few for pass@k or cons@k with '
        f'k={largest}; raise eval.samples or lower eval.ks and eval.votes'
      )
    self.answerer = answers.of_section(
      pol, self.questions, cfg, 'eval', count=self.count
    )

  def run(
    self,
    params: PyTree,
    *,
    progress: bool,
    stopping: Callable[[], object] = lambda: False,
  ) -> dict | None:
    """Measures of published `params`, always on the same questions and noise.

    Args:
      params: published.
      progress: show a bar.
      stopping: asked after every batch whether to leave.

    Returns:
      See `accuracy.summarise`; None if it left.
    """
    examples = [self.questions.task.example(i) for i in self.asked]
    bar = tqdm(total=self.count, desc='evaluate', disable=not progress)
    parts = []
    for part in self.answerer.run(params, examples, seed=self.cfg.seed):
      parts.append(part)
      bar.update(len(part.examples))
      if stopping():
        return None
    bar.close()
    return accuracy.summarise(
      self.questions.task,
      examples,
      [row for part in parts for row in part.completions],
      np.concatenate([part.finished for part in parts]),
      np.concatenate([part.lengths for part in parts]),
      ks=self.cfg.eval.ks,
      votes=self.cfg.eval.votes,
      extract=self.extract,
      texts=self.texts,
    )


def _format(cfg, task) -> Callable[[str, Example], float]:
  """The run's first format reward that judges an example's domain.

  Without one, the first that judges all, or else thought and answer in tags.
  """
  specs = {}
  for reward in cfg.rewards.values():
    if reward.get('name') == 'format':
      for domain in reward.get('domains', ()) or ('',):
        specs.setdefault(domain, grader.arguments_of(reward))
  specs.setdefault('', dict(name='format'))
  forms = {
    domain: config.pick(rewards, spec, task=task)()
    for domain, spec in specs.items()
  }

  def follows(completion, example):
    return forms.get(example.domain, forms[''])(completion, example)

  return follows


def scalars(result: dict) -> dict[str, float]:
  """The single numbers of a result."""
  return {k: v for k, v in result.items() if isinstance(v, int | float)}


def _main(cfg, workdir):
  task = _task.value
  if task == 'win_rate':
    from grpo_jax import win_rate

    win_rate.run(cfg, workdir)
  elif task == 'instructions':
    run(of_instructions(cli.from_workdir(cfg, workdir)), workdir)
  else:
    run(cfg, workdir)


if __name__ == '__main__':
  # Here, as other jobs import this module and have no such flag.
  _task = flags.DEFINE_enum(
    'task',
    'questions',
    ['questions', 'instructions', 'win_rate'],
    "What is asked: the config's own questions, eval.instructions, or the "
    'prompts of win_rate.',
  )
  cli.main(_main)
