"""Supervised fine-tuning and pretraining: `python -m grpo_jax.sft ...`

The same trunk and branches as RL, with one given completion a prompt and
token-mean cross entropy. `sft.loss_on='everything'` trains on prompts too:
language-model pretraining.
"""

import pathlib

from grpo_jax import (
  cli,
  config,
  losses,
  objectives,
  policy,
  programs,
  questions,
  training,
)  # fmt: skip
from grpo_jax.loop import Loop, Outcome

SHOWN = {'nll': 'nll', 'tok/s': 'tokens_per_s/step', 'pass@1': 'eval/pass@1'}


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Fine-tunes from `cfg.init_from`, or goes on where `workdir` stopped."""
  workdir = cli.need_workdir(workdir)
  pol = policy.open_policy(cfg).for_groups_of(1)
  rows = pol.rows('train')
  validate(cfg, row_ways=rows.ways[0])
  trainer = training.trainer(
    pol,
    cfg,
    objective=objectives.supervised,
    weigh=losses.token_mean,
    # Temperature 1: the likelihood itself.
    scoring=programs.score(
      pol,
      temperature=1.0,
      remat=cfg.updates.remat,
      logits_chunk=cfg.updates.logits_chunk,
    ),
    updates=cfg.steps,
  )
  ask = questions.questions(cfg, pol.tokenizer, evaluation=False)

  def prepare(step):
    chosen = ask.indices(step, cfg.sft.batch_size)
    examples = ask.read(chosen, rows.here(cfg.sft.batch_size))
    host = ask.with_completions(
      examples,
      everything=cfg.sft.loss_on == 'everything',
      max_length=cfg.sft.max_length,
      multiple=cfg.updates.length_multiple,
    )
    return rows.put(host)

  def step(state, index, batch, timers):
    rate = trainer.learning_rate(state.step)
    with timers('update'):
      state, update = trainer.update(state, batch)
    values = {'learning_rate': rate}
    return Outcome(
      state=state, updates={'': [update]}, tokens=None, values=values
    )

  loop = Loop(cfg, workdir, pol, trainer, shown=SHOWN)
  loop.run(prepare=prepare, step=step, publish=programs.publish(pol))


def validate(cfg, *, row_ways: int) -> None:
  """ValueError for numbers that do not fit together."""
  config.one_of('sft.loss_on', cfg.sft.loss_on, ('completion', 'everything'))
  config.positive(
    cfg,
    'steps',
    'sft.batch_size',
    'sft.max_length',
    'sample.max_prompt_length',
    'sample.trunk_multiple',
    'updates.logits_chunk',
    'updates.length_multiple',
    'updates.microbatches',
    'updates.max_nonfinite',
    'checkpoint.every',
  )
  config.divides(
    cfg.sft.batch_size,
    {'updates.microbatches': cfg.updates.microbatches, 'devices': row_ways},
    field='sft.batch_size',
  )


if __name__ == '__main__':
  cli.main(run)
