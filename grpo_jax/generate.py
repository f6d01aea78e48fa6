"""Answers to prompts: `python -m grpo_jax.generate --prompt='3+4=' ...`

From the run in --workdir, or from --init_from (a run, a Hugging Face folder or
a .gguf file). Without --prompt, the evaluation questions of the config's task
are answered. Writes a JSON line for each answer to --out.

With --keep=verified, --out is a folder of records to learn from: see `keep`.
With --chat, a conversation in the terminal: see `chat`.
"""

import pathlib
import sys

from absl import flags

from grpo_jax import (
  answers,
  chat,
  cli,
  config,
  files,
  hosts,
  keep,
  policy,
  programs,
  questions,
  validation,
)
from grpo_jax.tasks import of_prompts, shares

_prompts = flags.DEFINE_multi_string(
  'prompt', [], 'A prompt to answer; may be given several times.'
)
_out = flags.DEFINE_string(
  'out', '', 'JSONL file of the answers; standard output when empty.'
)
_keep = flags.DEFINE_string(
  'keep', 'all', "'verified' writes a folder of right answers to --out."
)
_chat = flags.DEFINE_bool(
  'chat', False, 'Talk to it: questions from the terminal or from a pipe.'
)


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Generates and writes."""
  out = cli.folder('out', _out.value)
  cfg = cli.from_workdir(cfg, workdir)
  config.one_of('--keep', _keep.value, ('all', 'verified'))
  if _keep.value == 'verified':
    if not out or _prompts.value or _chat.value:
      raise ValueError(
        '--keep=verified asks the questions of the task: it needs --out=FOLDER '
        'and neither --prompt nor --chat'
      )
    keep.run(cfg, pathlib.Path(out))
    return
  if _chat.value:
    if _prompts.value or out:
      raise ValueError('--chat goes with neither --prompt nor --out')
    chat.run(cfg)
    return
  validation.of_answers(cfg, 'generate')
  pol = policy.open_policy(cfg)
  if _prompts.value:
    # The config's task has no say: it may not even be complete.
    task = of_prompts(_prompts.value)
    ask = questions.questions_of(task, cfg, pol.tokenizer)
    asked = range(len(task))
  else:
    ask = questions.questions(cfg, pol.tokenizer, evaluation=True)
    asked = shares.first_of_each(ask.task, cfg.generate.prompts)
  examples = [ask.task.example(i) for i in asked]
  answerer = answers.of_section(pol, ask, cfg, 'generate', count=len(examples))
  params = programs.publish(pol)(pol.params())
  parts = answerer.run(params, examples, seed=cfg.seed)
  if not out:
    _write(parts, ask, sys.stdout if hosts.is_first() else files.nowhere())
    return
  path = pathlib.Path(out)
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.once(path) as file:
    _write(parts, ask, file)
  if hosts.is_first():
    print(f'{len(examples)} prompts answered in {path}')


def _write(parts, ask, file):
  for part in parts:
    for q, example in enumerate(part.examples):
      for g, completion in enumerate(part.completions[q]):
        row = {
          'prompt': ask.text(example.prompt),
          'completion': completion,
          'answer': example.answer,
          'length': int(part.lengths[q, g]),
          'finished': bool(part.finished[q, g]),
          'logprob': float(part.logprobs[q, g]),
        }
        file.write(files.as_line(row))
    file.flush()


if __name__ == '__main__':
  cli.main(run)
