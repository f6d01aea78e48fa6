"""Reinforcement learning: `python -m grpo_jax.train --config=... --workdir=...`

One step: ask (1), lay out (2), publish (3), sample (4), grade (5) while the
reference scores (6), advantages (7), one optimizer update a minibatch (8);
then `loop` reports, evaluates and saves (9).
"""

import functools
import logging
import pathlib

import numpy as np

from grpo_jax import (
  cli,
  config,
  policy,
  programs,
  questions,
  rewards,
  rollout,
  sharding,
)  # fmt: skip
from grpo_jax.loop import Loop, Outcome

SHOWN = {
  'reward': 'reward/mean',
  'length': 'length/mean',
  'kl': 'kl',
  'tok/s': 'tokens_per_s/step',
  'pass@1': 'eval/pass@1',
}


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Trains from `cfg.init_from`, or goes on where `workdir` stopped."""
  workdir = cli.need_workdir(workdir)
  pol = policy.open_policy(cfg)
  config.validate(cfg, row_ways=sharding.row_ways(pol.mesh, pol.rules['train']))
  stages = Stages(cfg, pol)
  loop = Loop(cfg, workdir, pol, stages.trainer, shown=SHOWN)
  if cfg.updates.epochs * cfg.updates.minibatches == 1:
    logging.warning(
      'one update a rollout: the ratio is 1 and policy_loss stays near 0, as '
      'advantages of a group sum to 0 (but for lengths); watch reward/mean and '
      'grad_norm'
    )
  loop.run(prepare=stages.ask, step=stages.step, publish=stages.publish)


class Stages:
  """The stages of a GRPO step, bound to a config and a policy."""

  def __init__(self, cfg, pol: policy.Policy):
    self.cfg, self.policy = cfg, pol
    self.questions = questions.questions(cfg, pol.tokenizer, evaluation=False)
    self.trainer = programs.policy_trainer(pol, cfg)
    self.publish = programs.publish(pol)
    self.minibatch = programs.minibatch(pol)
    self.reference = None
    if cfg.algorithm.kl_coef > 0:
      self.reference = programs.reference_logprobs(pol, cfg)
    self.rows = sharding.rows(pol.mesh, pol.rules['train'])
    self.put = functools.partial(sharding.put, sharding=self.rows)
    self.collect = functools.partial(
      rollout.collect,
      sample=programs.sampler(
        pol,
        group_size=cfg.group_size,
        max_completion_length=cfg.sample.max_completion_length,
        chunk=cfg.sample.chunk,
        temperature=cfg.sample.temperature,
      ),
      texts=functools.partial(
        rollout.read_texts,
        decode=pol.decode,
        stop_ids=pol.stop_ids,
      ),
      grade=functools.partial(
        grade,
        fns=questions.reward_functions(cfg, self.questions.task),
        weights=questions.reward_weights(cfg),
        gate=cfg.reward_gate,
      ),
      advantages=programs.advantages(pol, cfg),
      put=self.put,
      length_multiple=cfg.updates.length_multiple,
    )

  def ask(self, step: int):
    """Stages 1 and 2: the step's examples and their prompts."""
    examples = self.questions.of_step(step, self.cfg.prompts_per_step)
    return examples, self.put(self.questions.encode(examples))

  def step(self, state, step: int, inputs, timers) -> Outcome:
    """Stages 3 to 8."""
    examples, prompts = inputs
    reference = None
    if self.reference is not None:
      reference = functools.partial(self.reference, state.ref_params)
    faults = rewards.faults()
    with timers('rollout'):
      got = self.collect(
        examples,
        prompts,
        self.publish(state.params),
        programs.stream(self.cfg.seed, 'rollout', step),
        reference=reference,
      )
    values = got.metrics()
    # What went wrong in grading this step; each kind is logged once.
    values |= {f'faults/{k}': n for k, n in (rewards.faults() - faults).items()}
    values['learning_rate'] = self.trainer.learning_rate(state.step)
    updates = []
    with timers('update'):
      for index in self._minibatches(step):
        part = self.minibatch(got.batch, self.put(index))
        state, update = self.trainer.update(state, part)
        updates.append(update)
    due = step == 0 or (step + 1) % self.cfg.log.samples_every == 0
    return Outcome(
      state=state,
      updates=updates,
      tokens=int(got.lengths.sum()),
      values=values,
      samples=self._samples(examples, got) if due else [],
    )

  def _minibatches(self, step):
    """Prompts of each update: all of them, in a new order each epoch."""
    cfg, parts = self.cfg, []
    for epoch in range(cfg.updates.epochs):
      order = np.arange(cfg.prompts_per_step, dtype=np.int32)
      if cfg.updates.minibatches > 1:
        np.random.default_rng((cfg.seed, step, epoch)).shuffle(order)
      parts += np.split(order, cfg.updates.minibatches)
    return parts

  def _samples(self, examples, got):
    rows = [
      {
        'prompt': self.questions.text(example.prompt),
        'completion': got.completions[q][g],
        'answer': example.answer,
        'reward': got.rewards[q, g],
        'rewards': {k: v[q, g] for k, v in got.components.items()},
        'advantage': got.advantages[q, g],
        'length': got.lengths[q, g],
        'finished': got.finished[q, g],
      }
      for q, example in enumerate(examples)
      for g in range(self.cfg.group_size)
    ]
    return rows[: self.cfg.log.samples]


def grade(completions, examples, *, fns, weights, gate):
  """Rewards [Q G] and their components, of completions [Q][G]."""
  components = rewards.grade(completions, examples, fns)
  return rewards.combine(components, weights=weights, gate=gate), components


if __name__ == '__main__':
  cli.main(run)
