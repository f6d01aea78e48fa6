"""Reinforcement learning: `python -m grpo_jax.train --config=... --workdir=...`

One step: ask (1), lay out (2), publish (3), sample (4), grade (5) while the
reference scores (6), advantages and filters (7), one optimizer update a
minibatch (8); then `loop` reports, evaluates and saves (9).
"""

import dataclasses
import functools
import logging
import pathlib

import numpy as np

from grpo_jax import (
  bucketed,
  cli,
  critic,
  files,
  grader,
  hosts,
  offload,
  policy,
  programs,
  questions,
  reference,
  rewards,
  rollout,
  samplers,
  sharding,
  shared_rows,
  tasks,
  training,
  validation_rl,
)  # fmt: skip
from grpo_jax.loop import Loop
from grpo_jax.outcome import Outcome
from grpo_jax.rollout import Collected
from grpo_jax.structs import Batch, Prompts

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
  validation_rl.of_training(cfg, ways=pol.ways())
  stages = Stages(cfg, pol)
  trainer = stages.learner.policy
  loop = Loop(cfg, workdir, pol, trainer, job='train', shown=SHOWN)
  stages.go_on(loop.extra)
  for hint in validation_rl.hints(cfg):
    logging.warning('%s', hint)
  loop.run(
    prepare=stages.prepare,
    step=stages.step,
    publish=stages.publish,
    extra=stages.extra,
  )


@dataclasses.dataclass(frozen=True)
class Asked:
  """The questions of a rollout, on the device and off it."""

  indices: np.ndarray
  examples: list
  prompts: Prompts
  given: Batch | None  # a teacher's traces


class Stages:
  """The stages of a GRPO step, bound to a config and a policy."""

  def __init__(self, cfg, pol: policy.Policy):
    self.cfg, self.policy = cfg, pol
    self.questions = questions.questions(cfg, pol.tokenizer, evaluation=False)
    self.retired: set[int] = set()  # examples that are not asked again
    if cfg.algorithm.teacher_traces:
      lengths = self.questions.try_completions()
      for field in ('early', 'max') if cfg.sample.early_steps else ('max',):
        field = f'{field}_completion_length'
        questions.warn_of_cuts(lengths, f'sample.{field}', cfg.sample[field])
    self.grader = grader.Grader(cfg, self.questions.task)
    self.learner = critic.learner(pol, cfg)
    self.publish = programs.publish(pol)
    self.credit = training.assign_credit(pol, cfg)
    self.join = training.join(pol)
    self.teacher = reference.of_config(pol, cfg)
    given = None if self.teacher is None else self.teacher.logprobs
    self.score = training.add_logprobs(pol, cfg, reference=given)
    # Arguments that make no sense fail here rather than after a rollout.
    training.trace_credit(self.credit, cfg)
    self.put = pol.rows('train').put
    self.whole = sharding.replicated(pol.mesh)
    self.here = pol.rows_read(
      cfg.prompts_per_step,
      # With traces, `append` moves them.
      0 if cfg.algorithm.teacher_traces else cfg.group_size,
    )
    self.sampler = samplers.sampler(
      pol,
      group_size=cfg.group_size - cfg.algorithm.teacher_traces,
      max_completion_length=cfg.sample.max_completion_length,
      chunk=cfg.sample.chunk,
      seats=cfg.sample.seats,
      temperature=cfg.sample.temperature,
    )
    self.decoded = samplers.decoded(pol, cfg)
    self.samples = functools.partial(
      rollout.samples, text=self.questions.text, most=cfg.log.samples
    )
    self.collect = functools.partial(
      rollout.collect,
      append=training.append(pol),
      lengths=bucketed.lengths_of,
      share=functools.partial(
        shared_rows.agreed, pol.rows('train'), what='rewards'
      ),
      texts=functools.partial(
        rollout.read_texts,
        opening=self.questions.opening,
        decode=pol.decode,
        stop_ids=pol.stop_ids,
      ),
      length_multiple=cfg.updates.length_multiple,
    )

  def extra(self) -> dict:
    """What a checkpoint keeps of them."""
    told = {} if self.teacher is None else {'teacher': self.teacher.fingerprint}
    return told | {'retired': sorted(self.retired)}

  def go_on(self, extra: dict) -> None:
    """From a checkpoint's `extra`, {} without one."""
    # They are rows of a task: of another they would be other questions.
    task = extra.get('config', {}).get('task')
    if self.cfg.filters.retire_above < 1 and task == files.plain(
      self.cfg.task.to_dict()
    ):
      self.retired = set(extra['retired'])
    if self.teacher is not None:
      self.teacher.check(extra.get('teacher'))

  def prepare(self, step: int) -> Asked:
    """Stages 1 and 2, of the step's first rollout."""
    return self._ask(step * self.cfg.filters.rounds)

  def step(self, state, step: int, first: Asked, timers) -> Outcome:
    """Stages 3 to 8."""
    faults = rewards.faults()
    with timers('rollout'):
      got, seen = self._gather(state, step, first)
      batch, more = self.credit(
        got.batch,
        self.put(got.rewards),
        self.put(got.finished),
        self.put(self._counted(got)),
      )
    for collected in seen:
      self._retire(collected)
    values = rollout.metrics(
      seen,
      decoded=functools.partial(self.decoded, max_length=self._limit(step)),
    )
    values |= self._filter_metrics(seen) | more
    # What went wrong in grading this step; each kind is logged once.
    faults = hosts.total(rewards.faults() - faults, what='faults')
    values |= {f'faults/{k}': n for k, n in faults.items()}
    values['learning_rate'] = self.learner.policy.learning_rate(state.step)
    with timers('update'):
      state, updates = self._update(state, step, batch)
    due = step == 0 or (step + 1) % self.cfg.log.samples_every == 0
    return Outcome(
      state=state,
      updates=updates,
      tokens=sum(collected.tokens for collected in seen),
      values=values,
      samples=self.samples(got, batch.advantages) if due else [],
    )

  def _update(self, state, step, batch):
    """Stage 8: (state, metrics of every update by kind)."""
    cfg, updates = self.cfg, {}
    away = set(cfg.updates.offload)
    state = offload.bring(state, away & {'moments'})
    lengths = []
    if cfg.updates.length_buckets:
      # Once, so that no update waits for the one before.
      lengths = [bucketed.lengths_of(batch.mask)]

    def passes(update, name, numbers):
      nonlocal state
      for index in self._minibatches(step, numbers):
        part = self.join([batch], self.put(index))
        state = sharding.keep_up(state, self.policy.mesh)
        state, metrics = update(state, part, *(x[index] for x in lengths))
        updates.setdefault(name, []).append(metrics)

    if self.learner.critic is not None:
      passes(self.learner.update_critic, 'critic/', cfg.critic)
    learned = step + 1 - training.critic_warmup(cfg)
    if learned > 0:
      passes(self.learner.policy.update, '', cfg.updates)
      every = cfg.algorithm.reference_every
      if every and learned * len(updates['']) % every == 0:
        state = offload.bring(state, away)
        state = self.learner.policy.reset_reference(state)
    return offload.rest(state, away), updates

  def _ask(self, draw: int) -> Asked:
    """Questions of the run's rollout number `draw`."""
    indices = self.questions.indices(
      draw,
      self.cfg.prompts_per_step,
      without=self.retired,
      rounds=self.cfg.filters.rounds,
    )
    examples = self.questions.read(indices, self.here)
    given = None
    if self.cfg.algorithm.teacher_traces:
      given = self.put(
        self.questions.with_completions(
          examples,
          everything=False,
          max_length=self._limit(draw // self.cfg.filters.rounds),
          multiple=self.cfg.updates.length_multiple,
        )
      )
    prompts = self.put(self.questions.encode(examples))
    return Asked(indices, examples, prompts, given)

  def _rollouts(self, state, step, first):
    """Stages 3 to 6, up to as many times as a step may sample."""
    rounds = self.cfg.filters.rounds
    published = self.publish(state.params)
    sample = functools.partial(self.sampler, max_length=self._limit(step))
    for draw in range(step * rounds, (step + 1) * rounds):
      asked = first if draw == step * rounds else self._ask(draw)
      yield self.collect(
        asked.indices,
        asked.examples,
        asked.prompts,
        asked.given,
        published,
        programs.stream(self.cfg.seed, 'rollout', draw, self.whole),
        sample=sample,
        score=functools.partial(self._score, state),
        grade=functools.partial(self.grader.grade, step),
      )

  def _limit(self, step: int) -> int:
    """Tokens of a completion that is sampled at this step."""
    s = self.cfg.sample
    early = step < s.early_steps
    return s.early_completion_length if early else s.max_completion_length

  def _gather(self, state, step, first):
    """The groups to learn from, and every rollout that was made for them."""
    rollouts = self._rollouts(state, step, first)
    if self.cfg.filters.rounds == 1:
      seen = list(rollouts)
      return seen[0], seen
    return rollout.refill(
      rollouts,
      signal=self.cfg.filters.signal,
      join=lambda batches, rows: self.join(batches, self.put(rows)),
    )

  def _counted(self, got: Collected) -> np.ndarray:
    """[Q] groups that are learned from."""
    filters = self.cfg.filters
    counted = np.ones(len(got.examples), bool)
    if filters.drop_zero_variance:
      counted &= rollout.has_signal(got.rewards)
    if filters.rounds > 1:
      # Of those that fill a batch, a shaped reward alone is no signal.
      counted &= rollout.has_signal(got.components[filters.signal])
    return counted

  def _score(self, state, batch):
    batch = self.score(state, batch)
    if self.learner.values is not None:
      batch = batch.replace(values=self.learner.values(state, batch))
    return batch

  def _retire(self, collected: Collected):
    """Takes prompts that the policy has learned out of those asked."""
    filters = self.cfg.filters
    if filters.retire_above >= 1:
      return
    rates = collected.rates(filters.signal)
    learned = collected.indices[rates > filters.retire_above]
    # As many as a step needs stay.
    room = len(self.questions.task) - self.cfg.prompts_per_step
    for i in sorted(set(learned.tolist()) - self.retired):
      if len(self.retired) < room:
        self.retired.add(i)

  def _filter_metrics(self, seen):
    filters, values = self.cfg.filters, {}
    if filters.rounds > 1:
      worth = [rollout.has_signal(c.components[filters.signal]) for c in seen]
      values['filters/rounds'] = len(seen)
      values['filters/signal_share'] = float(np.mean(worth))
    if filters.retire_above < 1:
      values['filters/retired'] = len(self.retired)
    return values

  def _minibatches(self, step, numbers):
    """Prompts of each update: all of them, in a new order each epoch."""
    cfg, parts = self.cfg, []
    for epoch in range(numbers.epochs):
      order = np.arange(cfg.prompts_per_step, dtype=np.int32)
      if numbers.minibatches > 1:
        tasks.random(cfg.seed, step, epoch).shuffle(order)
      parts += np.split(order, numbers.minibatches)
    return parts


if __name__ == '__main__':
  cli.main(run)
