"""The final metrics of a sweep's trials: a table, best first, and summary.csv.

Works while trials are under way: each is told as far as it is.
"""

import csv
import dataclasses
import io
import math
import pathlib
from typing import Any

import numpy as np

from grpo_jax import files, metrics, runs
from launch.config_files import flag_text
from launch.trials import Trial, value_text

# The first that any trial has is what they are ranked by.
DEFAULTS = ('eval/pass@1', 'reward/mean', 'loss')
SHOWN = ('eval/pass@1', 'reward/mean', 'length/mean', 'kl', 'loss')
FILE = 'summary.csv'
# Of metrics of every step: the share of steps, the last ones, to average over.
TAIL = 0.1


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run has come to."""

  name: str
  told: dict[str, Any]  # what it is told by, short field or title -> value
  step: int
  steps: int  # in all
  finished: bool
  final: dict[str, float]  # metric -> value

  def value(self, metric: str) -> float:
    """NaN where it is missing."""
    return self.final.get(metric, math.nan)


def summarise(
  trials: list[Trial], workdir: str, *, metric: str | None, lowest: bool
) -> str:
  """Writes `workdir/summary.csv` and returns the table.

  Args:
    trials: of the sweep.
    workdir: of the sweep.
    metric: to rank by; None takes the first of DEFAULTS that there is.
    lowest: rank the lowest value first.

  Raises:
    ValueError: no trial has that metric, or the workdir is elsewhere.
  """
  if '://' in workdir:
    raise ValueError(
      f'--summarise reads local folders; copy {workdir} to one (metrics.jsonl '
      'and checkpoints of each trial), and name it as --workdir'
    )
  metric, results = rank(
    [_of_trial(trial) for trial in trials], metric=metric, lowest=lowest
  )
  path = pathlib.Path(workdir) / FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write(path, _csv(results))
  how = 'last evaluation'
  if not metric.startswith('eval/'):
    how = f'mean of the last {TAIL:.0%} of steps'
  done = sum(r.finished for r in results)
  return '\n'.join((
    f'{metric} ({how}), {"lowest" if lowest else "highest"} first',
    *_aligned(table(results, metric)),
    f'{done} of {len(results)} trials finished; all metrics are in {path}',
  ))  # fmt: skip


def rank(
  results: list[Result], *, metric: str | None, lowest: bool
) -> tuple[str, list[Result]]:
  """The metric that is ranked by, and the results, best first.

  Raises:
    ValueError: no trial has that metric.
  """
  metric = _metric(results, metric)
  return metric, sorted(results, key=lambda r: _order(r.value(metric), lowest))


def table(results: list[Result], metric: str) -> list[list[str]]:
  """Rows for people, the first one titles: rank, metric, changed fields, ..."""
  titles = _titles(results)
  there = {name for r in results for name in r.final}
  others = [name for name in SHOWN if name in there and name != metric]
  # learning_rate, loss and kl are fields and metrics.
  named = {metric, *others}
  fields = [f'config.{t}' if t in named else t for t in titles]
  rows = [['', metric, *fields, 'step', *others]]
  for i, r in enumerate(results, 1):
    told = [value_text(r.told[t]) if t in r.told else '' for t in titles]
    rows.append([
      '' if math.isnan(r.value(metric)) else str(i),
      _number(r.value(metric)), *told, f'{r.step}/{r.steps}',
      *(_number(r.value(name)) for name in others),
    ])  # fmt: skip
  return rows


def result_of(
  folder: pathlib.Path,
  *,
  name: str,
  told: dict[str, Any],
  steps: int,
  finished: bool,
) -> Result:
  """Reads a workdir, which need not exist; see `Result`."""
  last, final = 0, {}
  if (folder / metrics.METRICS).exists():
    curves = runs.Run(folder).metrics
    done = curves.pop('step')
    final = {k: final_value(k, done, v) for k, v in curves.items()}
    last = int(done.max()) if done.size else 0
  return Result(name, told, last, steps, finished, final)


def final_value(name: str, steps: np.ndarray, values: np.ndarray) -> float:
  """Of an evaluation the last, of others the mean over the last steps.

  Args:
    name: of the metric.
    steps: ascending.
    values: at these steps; NaN where missing.
  """
  if not name.startswith('eval/'):
    begin = steps.max() - math.ceil(TAIL * steps.max())
    values = values[steps > begin]
  known = values[~np.isnan(values)]
  if not known.size:
    return math.nan
  return float(known[-1] if name.startswith('eval/') else known.mean())


def _of_trial(trial):
  return result_of(
    trial.folder,
    name=trial.name,
    told=trial.told,
    steps=trial.steps,
    finished=trial.finished(),
  )


def _metric(results, metric):
  there = sorted({name for r in results for name in r.final})
  if metric is None:
    return next((name for name in DEFAULTS if name in there), DEFAULTS[0])
  if metric not in there:
    raise ValueError(
      f'--metric={metric}: no trial has it; there are: '
      f'{", ".join(there) or "none yet"}'
    )
  return metric


def _order(value, lowest):
  return math.isnan(value), value if lowest else -value


def _titles(results):
  """Changed fields, in the order of the sweep file."""
  return list(dict.fromkeys(name for r in results for name in r.told))


def _aligned(rows):
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = (c.rjust(w) for c, w in zip(row, widths, strict=True))
    yield '  '.join(cells).rstrip()


def _csv(results):
  titles = _titles(results)
  names = sorted({name for r in results for name in r.final})
  text = io.StringIO()
  out = csv.writer(text, lineterminator='\n')
  columns = [f'config.{title}' for title in titles]
  out.writerow(['trial', *columns, 'step', 'steps', 'finished', *names])
  for r in results:
    values = [flag_text(r.told[t]) if t in r.told else '' for t in titles]
    row = [r.name, *values, r.step, r.steps, int(r.finished)]
    out.writerow([*row, *(r.final.get(name, '') for name in names)])
  return text.getvalue()


def _number(value):
  return '-' if math.isnan(value) else f'{value:.4g}'
