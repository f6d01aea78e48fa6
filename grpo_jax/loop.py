"""The loop of a training job: resume, step, report, evaluate, save, leave.

`train`, `sft` and `reward_model` differ in what a step is; all else is here.
While the device runs a step's update, the host writes the metrics of the step
before and makes the inputs of the next, so that the device never waits for it.
Then the host waits for the update: the sampler's loop looks at the device after
the first chunk anyway, and the update would count as `time/rollout`. What the
wait costs is the dispatch of one chunk.
"""

import collections
from collections.abc import Callable
import logging
import pathlib
import time
from typing import Any

import jax

from grpo_jax import (
  begun,
  checkpoints,
  cli,
  config,
  evaluate,
  hosts,
  metrics,
  runs,
  update,
)  # fmt: skip
from grpo_jax.outcome import Outcome
from grpo_jax.policy import Policy
from grpo_jax.trainer import Trainer

# Read at the first update of a step only: there the policy is the sampler's.
_AT_FIRST = {'logprob_gap': 'mean', 'logprob_gap_max': 'max'}


class Loop:
  """Steps of a job, from where its workdir stopped."""

  def __init__(
    self,
    cfg,
    workdir: pathlib.Path,
    policy: Policy,
    trainer: Trainer,
    *,
    job: str,
    shown: dict[str, str],
    evaluation: Any = None,
  ):
    """Opens the workdir, restores the newest checkpoint or makes a new state.

    Args:
      cfg: of the job.
      workdir: created if need be.
      policy: with the parameters to start from.
      trainer: of that policy.
      job: its name; a workdir of another is refused.
      shown: label -> metric of the progress line.
      evaluation: what is run every `eval.every` steps, like an
        `evaluate.Evaluation`; that of the config's task if None.
    """
    config.not_negative(cfg, 'eval.every', 'log.samples')
    self.cfg, self.workdir, self.job = cfg, workdir, job
    self.lock = cli.lock(workdir)
    self.policy, self.trainer, self.shown = policy, trainer, shown
    self.evaluation = None
    if cfg.eval.every and evaluation is None:
      evaluation = evaluate.Evaluation(cfg, policy)
    if cfg.eval.every:
      self.evaluation = evaluation
    self.publish = self.extra_of = None
    self.timers = metrics.Timers()
    self.nonfinite = collections.defaultdict(
      lambda: metrics.NonFinite(cfg.updates.max_nonfinite)
    )
    self.checkpoints = checkpoints.Checkpoints(
      workdir,
      measured=self._measured(),
      keep_last=cfg.checkpoint.keep_last,
      keep_best=cfg.checkpoint.keep_best,
      best_metric=self._best_metric(),
    )
    with hosts.doing('reading the workdir'):
      restored = self.checkpoints.restore(trainer.abstract)
    if restored is None:
      self.start, self.state, self.extra = 0, trainer.init(policy.params()), {}
    else:
      self.start, self.state, self.extra = restored
      begun.refuse_other_job(workdir, self.extra.get('job', job), job)
      changed = cli.changed_fields(cfg, workdir)
      logging.warning(
        '%s: resuming at step %d%s',
        workdir,
        self.start,
        f', with other values of {", ".join(changed)}' if changed else '',
      )
    hosts.wait_for_all('reading the workdir')
    self.writer = None
    if hosts.is_first():
      cli.save_config(cfg, workdir)
      policy.write_model(workdir)
      # Without a checkpoint nothing is kept, the evaluation of step 0 neither.
      self.writer = metrics.Writer(
        workdir,
        tensorboard=cfg.log.tensorboard,
        resume_step=-1 if restored is None else self.start,
      )

  def run(
    self,
    *,
    prepare: Callable[[int], Any],
    step: Callable[..., Outcome],
    publish: Callable,
    extra: Callable[[], dict] = dict,
    following: str = 'python -m grpo_jax.evaluate --workdir={workdir}',
  ) -> None:
    """Runs to `cfg.steps`. SIGTERM and Ctrl-C save before leaving.

    Args:
      prepare: step index -> its inputs; host work.
      step: (state, index, inputs, timers) -> Outcome, its updates dispatched.
      publish: params -> the sampler's.
      extra: what else a checkpoint keeps, as JSON; `self.extra` has it again
        after a restart.
      following: what one may do next, to be told at the end.

    Raises:
      cli.Stopped: a signal came; the state is saved.
    """
    self.publish, self.extra_of = publish, extra
    if hosts.is_first():
      self.progress = metrics.Progress(
        self.cfg.steps, start=self.start, shown=self.shown
      )
    try:
      with (
        cli.shutdown_requested() as requested,
        # Every transfer between host and device is asked for by name.
        jax.transfer_guard('disallow'),
      ):
        # All leave at the same step, whichever of them was asked to.
        self._steps(
          prepare,
          step,
          lambda: hosts.agree(requested(), what='whether to leave'),
        )
    finally:
      if self.writer is not None:
        self.progress.close()
        self.writer.close()
      self.checkpoints.close()
      self.lock.close()
    if not hosts.is_first():
      return
    print(
      f'{self.workdir}: {self.cfg.steps} steps done. Next: '
      + following.format(workdir=self.workdir)
    )

  def _steps(self, prepare, step, stopping):
    cfg = self.cfg
    # A run that begins again has dropped its rows.
    known = self.checkpoints.measured if self.start else {}
    evaluated = runs.is_evaluated(known.get(self.start, {}))
    if self._evaluates(self.start) and not evaluated:
      self._evaluate(self.start, stopping)
      if leaving := stopping():
        raise cli.Stopped(self._stopped_at(self.start), leaving)
    inputs = prepare(self.start) if self.start < cfg.steps else None
    pending = []
    for index in range(self.start, cfg.steps):
      begin = time.perf_counter()
      done, last = index + 1, index + 1 == cfg.steps
      with hosts.doing(f'step {done}'):
        outcome = step(self.state, index, inputs, self.timers)
        self.state = outcome.state
        # The device is busy with the update: pay what the host still owes.
        self._report(pending)
        inputs, trouble = None, None
        with self.timers('prepare'):
          try:
            inputs = None if last else prepare(done)
          except Exception as error:
            # The others of several processes would wait for this one to save.
            if hosts.are_several():
              raise
            trouble = error
        with self.timers('update'):
          # All of it: an update of the critic alone counts no step.
          jax.block_until_ready(self.state)
      times = {'time/step': time.perf_counter() - begin}
      pending.append((done, outcome, times | self.timers.flush()))
      leaving = stopping()
      ending = leaving or trouble is not None
      evaluating = self._evaluates(done)
      saving = done % cfg.checkpoint.every == 0 or last or ending
      if evaluating or saving:
        # Rows up to a checkpoint are on disk before it.
        self._report(pending)
      if saving:
        # Before an evaluation, which may take long.
        self._save(done)
      # When leaving, there may be no time: it is done when going on.
      if evaluating and not ending:
        self._evaluate(done, stopping)
        leaving = stopping()
      if leaving and not saving:
        self._save(done)
      if trouble is not None:
        self.checkpoints.wait()
        raise trouble
      if leaving and (evaluating or not last):
        self.checkpoints.wait()
        raise cli.Stopped(self._stopped_at(done), leaving)

  def _stopped_at(self, step):
    where = f'stopped at step {step} of {self.cfg.steps}'
    if step == 0:
      return f'{where}, nothing to save yet'
    return f'{where}, saved; the same command goes on from there'

  def _report(self, pending):
    while pending:
      step, outcome, times = pending.pop(0)
      all_updates, row = jax.device_get((outcome.updates, outcome.values))
      for prefix, updates in all_updates.items():
        for values in updates:
          self.nonfinite[prefix].check(step, values)
        for name in updates[0]:
          if name in _AT_FIRST:
            row[f'logprob_gap/{_AT_FIRST[name]}'] = updates[0][name]
          else:
            row[prefix + name] = update.mean(name, updates)
      row |= times
      tokens = row['tokens'] if outcome.tokens is None else outcome.tokens
      row['tokens_per_s/step'] = tokens / times['time/step']
      if 'time/rollout' in times:
        row['tokens_per_s/rollout'] = tokens / times['time/rollout']
      if self.writer is not None:
        self.writer.write(step, row | metrics.memory())
        self.writer.samples(step, outcome.samples)
        self.progress.update(step, row | self._evaluated(step))

  def _best_metric(self):
    """What the best checkpoint has most of."""
    named = self.cfg.checkpoint.best_metric
    if named or self.evaluation is None:
      return named
    return f'eval/{self.evaluation.measure}'

  def _measured(self):
    """step -> what its evaluation measured, as far as the run has come."""
    path = self.workdir / metrics.METRICS
    if not path.exists():
      return {}
    rows = metrics.read_rows(path)
    # A measure that is not finite is a text in the file.
    return {
      row['step']: {
        k: float(v) for k, v in row.items() if k.startswith('eval/')
      }
      for row in rows
      if runs.is_evaluated(row)
    }

  def _evaluated(self, step):
    """What the last evaluation up to `step` measured."""
    measured = self.checkpoints.measured
    last = max((s for s in measured if s <= step), default=None)
    return {} if last is None else measured[last]

  def _evaluates(self, step):
    return self.evaluation is not None and step % self.cfg.eval.every == 0

  def _evaluate(self, step, stopping):
    with self.timers('eval'), hosts.doing(f'evaluation at step {step}'):
      result = self.evaluation.run(
        self.publish(self.state.params), progress=False, stopping=stopping
      )
    if result is None:
      return
    # Each has graded all answers, and a verifier may have run out of time.
    scalars = hosts.of_first(evaluate.scalars(result), what='the evaluation')
    evaluated = {f'eval/{k}': v for k, v in scalars.items()}
    # By which it is kept, or not, once the next is saved.
    self.checkpoints.measured[step] = evaluated
    if self.cfg.checkpoint.keep_best:
      optional = (f'eval/{name}' for name in self.evaluation.optional)
      config.one_of(
        'checkpoint.best_metric',
        self._best_metric(),
        tuple({**evaluated, **dict.fromkeys(optional)}),
      )
    if self.writer is not None:
      self.writer.write(step, evaluated | self.timers.flush())

  def _save(self, step):
    # Orbax has its own ways to the host.
    with self.timers('save'), jax.transfer_guard('allow'):
      if self.writer is not None:
        self.writer.commit()
      self.checkpoints.save(
        step,
        self.state,
        extra={
          'job': self.job,
          'config': self.cfg.to_dict(),
        }
        | self.extra_of(),
      )
