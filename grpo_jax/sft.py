"""Supervised fine-tuning and pretraining: `python -m grpo_jax.sft ...`

The same trunk and branches as RL, with one given completion a prompt and
token-mean cross entropy. `sft.loss_on='everything'` trains on prompts too:
language-model pretraining. `sft.epochs` counts passes over the task in place
of `steps`.
"""

import logging
import math
import pathlib

from grpo_jax import (
  cli,
  hosts,
  policy,
  programs,
  questions,
  training,
  validation,
)  # fmt: skip
from grpo_jax.loop import Loop
from grpo_jax.outcome import one_update

SHOWN = {'nll': 'nll', 'tok/s': 'tokens_per_s/step', 'pass@1': 'eval/pass@1'}


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Fine-tunes from `cfg.init_from`, or goes on where `workdir` stopped."""
  workdir = cli.need_workdir(workdir)
  pol = policy.open_policy(cfg).for_groups_of(1)
  rows = pol.rows('train')
  validation.of_sft(cfg, ways=rows.ways)
  ask = questions.questions(cfg, pol.tokenizer, evaluation=False)
  everything = cfg.sft.loss_on == 'everything'
  lengths = ask.try_completions(everything=everything)
  cfg = with_steps(cfg, examples=len(ask.task))
  if hosts.is_first():
    questions.warn_of_cuts(lengths, 'sft.max_length', cfg.sft.max_length)
    if cfg.eval.every:
      for hint in validation.shared_questions(cfg):
        logging.warning('%s', hint)
  trainer = training.sft_trainer(pol, cfg)

  def prepare(step):
    chosen = ask.indices(step, cfg.sft.batch_size)
    examples = ask.read(chosen, rows.here(cfg.sft.batch_size))
    host = ask.with_completions(
      examples,
      everything=everything,
      max_length=cfg.sft.max_length,
      multiple=cfg.updates.length_multiple,
    )
    return rows.put(host), None

  loop = Loop(cfg, workdir, pol, trainer, job='sft', shown=SHOWN)
  loop.run(
    prepare=prepare, step=one_update(trainer), publish=programs.publish(pol)
  )


def with_steps(cfg, *, examples: int):
  """The config with the `steps` that make up its epochs, if it counts these."""
  if not cfg.sft.epochs:
    return cfg
  cfg = cfg.copy_and_resolve_references()
  cfg.steps = math.ceil(cfg.sft.epochs * examples / cfg.sft.batch_size)
  return cfg


if __name__ == '__main__':
  cli.main(run)
