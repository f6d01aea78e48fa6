"""Checkpoints of a run: save, restore onto any mesh, fall back when damaged.

Stage 9 of a step, on orbax's CheckpointManager. A save appears under its final
name once all of it is on disk. A step that was damaged later, or a save that a
kill cut short, is moved aside as `<step>.corrupt`, and the step before it is
used. What is in a step's folder: `checkpoint_items`.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import errno
import json
import math
import os
import types
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp

from grpo_jax import checkpoint_items as on_disk
from grpo_jax import hosts
from grpo_jax.structs import PyTree, TrainState


class Checkpoints:
  """Writes and restores a run's checkpoints; every process calls it alike."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    keep_last: int,
    keep_best: int = 0,
    best_metric: str | None = None,
    measured: Mapping[int, Mapping[str, float]] = types.MappingProxyType({}),
    asynchronous: bool = True,
  ):
    """Opens `<workdir>/checkpoints`, which is created if need be.

    Args:
      workdir: the run's folder.
      keep_last: newest checkpoints to keep, at least 1.
      keep_best: checkpoints to keep, last or not, for the highest
        `best_metric`; of equal ones the newer.
      best_metric: a name in what `measured` has, needed if `keep_best` > 0.
      measured: step -> its metrics, host floats; the attribute of that name
        takes more. A checkpoint without `best_metric`, or where it is not
        finite, is kept as one of the last only.
      asynchronous: write behind the next steps. The state may be donated as
        soon as `save` returns; what goes wrong comes up in the next call.

    Raises:
      ValueError: a number out of range, or no metric to choose the best by.
    """
    for field, value, least in (
      ('keep_last', keep_last, 1),
      ('keep_best', keep_best, 0),
    ):
      if value < least:
        raise ValueError(f'checkpoint.{field}={value}: must be >= {least}')
    if keep_best and best_metric is None:
      raise ValueError(
        f'checkpoint.keep_best={keep_best} needs checkpoint.best_metric, the '
        'name of the metric to choose by'
      )
    on_disk.mute_orbax()
    self.directory = on_disk.folder(workdir)
    self._pending = None  # The step that is being written.
    self.measured = dict(measured)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=_Keep(
          last=keep_last,
          best=keep_best,
          metric=best_metric,
          metrics=self.measured,
        ),
        enable_async_checkpointing=asynchronous,
        async_options=ocp.AsyncOptions(timeout_secs=hosts.LIMIT),
        atomicity_options=on_disk.atomicity(self.directory),
      ),
    )

  def save(
    self, step: int, state: TrainState, *, extra: Mapping[str, Any]
  ) -> bool:
    """Begins to save.

    Args:
      step: names the checkpoint.
      state: arrays of any sharding.
      extra: what JSON can hold, e.g. the config and the data position.

    Returns:
      Whether a save began; False where this step is saved already.

    Raises:
      OSError: ENOSPC, the disk is full, now or in the asynchronous save before.
        The unfinished files are removed and the older checkpoints intact.
    """
    self.wait()
    if step in self._manager.all_steps():
      return False
    items = on_disk.split(state)
    sums = jax.device_get(on_disk.checksums(items))
    info = {
      'extra': dict(extra),
      'checksums': {k: int(v) for k, v in sums.items()},
    }
    json.dumps(info)  # A TypeError comes here, not in the writing thread.
    self._pending = step
    with hosts.waiting(f'checkpoint {step}'), self._explain_full_disk():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(items['params']),
          rest=ocp.args.StandardSave(items['rest']),
          info=ocp.args.JsonSave(info),
        ),
        force=True,
      )
    return True

  def restore(
    self, target: TrainState
  ) -> tuple[int, TrainState, dict[str, Any]] | None:
    """Restores the newest checkpoint that is whole.

    Args:
      target: ShapeDtypeStructs with the sharding that each array is to have.

    Returns:
      Step, state and `extra`, or None without any checkpoint. Steps that are
      damaged or unfinished are moved to `<step>.corrupt`, with one warning.

    Raises:
      ValueError: the checkpoint's arrays are not those of `target`, or there
        are checkpoints and none can be read (then nothing is moved).
    """
    self.wait()
    damaged = {}
    for step in on_disk.newest_first(self.directory):
      path = self.directory / str(step)
      try:
        items, extra = on_disk.read(path, on_disk.split(target))
      except on_disk.Damaged as damage:
        damaged[path] = f'is damaged ({damage})'
        continue
      self._set_aside(damaged, f'resuming from step {step}')
      return step, TrainState(params=items['params'], **items['rest']), extra
    if damaged:
      broken = '; '.join(f'{path.name} {why}' for path, why in damaged.items())
      raise ValueError(
        f'{self.directory}: no checkpoint can be read: {broken}; bring one '
        'back from a copy, or remove them to start from scratch'
      )
    self._set_aside({}, 'starting from scratch')
    return None

  def wait(self):
    """Blocks until the last save is on disk; raises what went wrong in it."""
    step = '' if self._pending is None else f' {self._pending}'
    with hosts.waiting(f'checkpoint{step}'), self._explain_full_disk():
      self._manager.wait_until_finished()
    self._pending = None

  def close(self):
    """Waits, then ends orbax's threads."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _set_aside(self, damaged, outcome):
    why = {}
    if hosts.is_first():  # Once for all: the others read no folder meanwhile.
      left = on_disk.unfinished(self.directory)
      why = dict.fromkeys(left, 'was not finished')
      why |= {path: reason for path, reason in damaged.items() if path.exists()}
    if why:
      told = '; '.join(
        f'checkpoint {on_disk.step_of(path)} {reason}, moved to '
        f'{on_disk.move_aside(path).name}'
        for path, reason in why.items()
      )
      logging.warning('%s: %s; %s', self.directory, told, outcome)
    hosts.wait_for_all('checkpoints set aside')
    self._manager.reload()

  @contextlib.contextmanager
  def _explain_full_disk(self):
    try:
      yield
    except Exception as error:
      if not on_disk.is_disk_full(error):
        raise
      step, self._pending = self._pending, None
      if jax.process_index() == 0:
        # Our own unfinished write, in the way of the next attempt.
        for path in on_disk.unfinished(self.directory):
          if on_disk.step_of(path) == step:
            path.rmtree(missing_ok=True)
      self._manager.reload()
      last = max(on_disk.finished(self.directory), default=None)
      raise OSError(
        errno.ENOSPC,
        f'no space for checkpoint {step} in {self.directory}; free some, or '
        'lower checkpoint.keep_last, and start again: '
        + ('nothing is saved' if last is None else f'step {last} is intact'),
      ) from None


def restore_params(
  workdir: str | os.PathLike,
  target: PyTree | None = None,
  *,
  step: int | None = None,
) -> tuple[int, PyTree]:
  """Reads parameters, without their moments; changes nothing on disk.

  Every process calls it alike and gets the same step.

  Args:
    workdir: the run's folder.
    target: ShapeDtypeStructs with shardings; None for numpy arrays.
    step: which checkpoint; None for the newest that is whole.

  Returns:
    Step and parameters.

  Raises:
    FileNotFoundError: no checkpoint, or not that step.
    ValueError: damaged, or other arrays than `target`.
  """
  on_disk.mute_orbax()
  directory = on_disk.folder(workdir)
  saved = on_disk.finished(directory)
  if not saved or (step is not None and step not in saved):
    raise FileNotFoundError(
      f'{directory}: no checkpoint{"" if step is None else f" of step {step}"};'
      f' there are: {", ".join(map(str, saved)) or "none"}'
    )
  for candidate in on_disk.newest_first(directory) if step is None else [step]:
    path = directory / str(candidate)
    try:
      items, _ = on_disk.read(path, {'params': target})
    except on_disk.Damaged as damage:
      problem = f'checkpoint {path} is damaged ({damage})'
      logging.warning('%s', problem)
      continue
    return candidate, items['params']
  raise ValueError(f'{problem}; there are: {", ".join(map(str, saved))}')


def steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the finished checkpoints, ascending."""
  return on_disk.finished(on_disk.folder(workdir))


@dataclasses.dataclass
class _Keep:
  """Which steps stay: an orbax PreservationPolicy."""

  last: int
  best: int
  metric: str | None
  metrics: Mapping[int, Mapping[str, float]]

  def should_preserve(self, checkpoints, *, context):
    del context
    saved = sorted(c.step for c in checkpoints)
    values = {s: self.metrics.get(s, {}).get(self.metric) for s in saved}
    ranked = sorted(
      (v, s) for s, v in values.items() if v is not None and math.isfinite(v)
    )
    best = [s for _, s in ranked[max(len(ranked) - self.best, 0) :]]
    kept = {*saved[-self.last :], *best}
    return [c.step in kept for c in checkpoints]
