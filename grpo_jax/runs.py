"""Opens the workdir of a run, under way or over, for notebooks and reports.

  run = open_run('runs/countdown')
  run.config.algorithm.kl_coef
  plt.plot(run.metrics['step'], run.metrics['reward/mean'])
  best = sorted(run.samples(), key=lambda row: -row['advantage'])

A workdir holds config.json, model/ (a Hugging Face folder without weights),
checkpoints/, metrics.jsonl, samples.jsonl and, once evaluated, eval.json.
Nothing here writes. Every access reads the files anew.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import re
from typing import Any

import ml_collections
import numpy as np

from configs import base
from grpo_jax import checkpoints, files, metrics
from grpo_jax.structs import PyTree

# Made of functions or of fields of one, though without a name themselves.
_FUNCTIONS = ('rewards', 'eval.task')


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run has left in its workdir."""

  workdir: pathlib.Path

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The whole config that the run was started with, locked.

    Fields that did not exist then have the defaults of `configs.base`.
    """
    saved = _tuples(files.read_json(self.workdir / files.CONFIG))
    whole = _overlay(base.get_config().to_dict(), saved)
    return ml_collections.ConfigDict(whole).lock()

  @property
  def metrics(self) -> dict[str, np.ndarray]:
    """Curves: 'step' int64 [n], and float64 [n] by name, NaN where missing.

    Rows of the same step are merged, the later one overwriting.
    """
    by_step = {}
    for row in metrics.read_rows(self._file(metrics.METRICS)):
      by_step.setdefault(row['step'], {}).update(row)
    rows = [by_step[step] for step in sorted(by_step)]
    names = dict.fromkeys(name for row in rows for name in row)
    curves = {
      name: np.array([_number(row.get(name)) for row in rows], np.float64)
      for name in names
      if name != 'step'
    }
    return {'step': np.array(sorted(by_step), np.int64), **curves}

  def samples(self, step: int | None = None) -> list[dict[str, Any]]:
    """Sampled completions with their rewards, of one step or of all."""
    rows = metrics.read_rows(self._file(metrics.SAMPLES))
    return [r for r in rows if step is None or r['step'] == step]

  @property
  def steps(self) -> list[int]:
    """Steps of the checkpoints, ascending."""
    return checkpoints.steps(self.workdir)

  def params(self, step: int | None = None) -> PyTree:
    """Parameters as numpy arrays; of the newest checkpoint by default.

    Raises:
      FileNotFoundError: no checkpoint, or not that step.
    """
    return checkpoints.restore_params(self.workdir, step=step)[1]

  def tokenizer(self):
    """The run's `tokenizer.Tokenizer`."""
    # Here and below: curves do not need the packages that these import.
    from grpo_jax import tokenizer

    return tokenizer.from_folder(self.workdir / files.MODEL)

  def model_config(self):
    """The run's `models.transformer.Config`."""
    from grpo_jax.models import hf

    return hf.read_config(self.workdir / files.MODEL)

  @property
  def eval(self) -> dict[str, Any] | None:
    """What `grpo_jax.evaluate` found, or None if it has not run."""
    path = self.workdir / files.EVALUATION
    return files.read_json(path) if path.exists() else None

  def _file(self, name):
    path = self.workdir / name
    if not path.exists():
      raise FileNotFoundError(
        f'{path} does not exist: the run has not come to its first step, or '
        'it ran elsewhere'
      )
    return path


def open_run(workdir: str | os.PathLike) -> Run:
  """Opens a run.

  Raises:
    FileNotFoundError: no such folder, or it is not a run's.
  """
  path = pathlib.Path(workdir).expanduser().resolve()
  if not path.is_dir():
    raise FileNotFoundError(f'{path}: no such folder')
  if not (path / files.CONFIG).exists():
    inside = sorted(p.parent.name for p in path.glob(f'*/{files.CONFIG}'))
    remedy = f'; did you mean one of {inside}?' if inside else ''
    raise FileNotFoundError(
      f'{path} is not the workdir of a run: it has no {files.CONFIG}{remedy}'
    )
  return Run(path)


def _overlay(below, above, prefix=''):
  """`below` with `above` over it, field by field.

  A dict that selects a function is taken whole: arguments belong to the name.
  """
  merged = dict(below)
  for name, value in above.items():
    old, path = below.get(name), prefix + name
    fields = isinstance(old, dict) and isinstance(value, dict)
    if fields and 'name' not in old and path not in _FUNCTIONS:
      value = _overlay(old, value, f'{path}.')
    merged[name] = value
  return merged


def _tuples(value):
  """Tuples for the lists that JSON made of them: lists cannot be overridden."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _number(value):
  # Non-finite values are written by name: 'nan', 'inf', '-inf'.
  return np.nan if value is None else float(value)


def reached(workdir: pathlib.Path) -> int:
  """The newest step in a run's metrics; 0 before the first."""
  try:
    with open(workdir / metrics.METRICS, 'rb') as file:
      # Cheap, as it is asked every second: a row is a kilobyte or two.
      file.seek(-min(file.seek(0, 2), 1 << 16), 2)
      found = re.findall(rb'^{"step": (\d+),', file.read(), re.MULTILINE)
  except FileNotFoundError:
    return 0
  return int(found[-1]) if found else 0


def is_evaluated(row: Mapping[str, Any]) -> bool:
  """Whether a row of metrics holds an evaluation, or a part of one."""
  return any(name.startswith('eval/') for name in row)
