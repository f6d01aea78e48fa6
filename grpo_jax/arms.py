"""Arms of an experiment, each run with several seeds: one table.

What evaluations left in the runs' workdirs (`stage_table.measured`), and of
their curves (metrics.jsonl)
  reach@0.8       the first step at which the mean of reward/correct over five
                  is that high
  first:METRIC    the mean of the first five steps
  last:METRIC     the mean of the last tenth
  peak:METRIC     the highest mean of five in a row
or a difference of two, 'cons@64 - pass@1': mean and standard error over the
seeds, and the p-value of Welch's t-test, which takes no variance to be equal,
against the arm that an arm is to be compared with. R1's own threshold is
p < 0.01 (2501.12948v2, D.1).
"""

from collections.abc import Mapping, Sequence
import math
import pathlib

import numpy as np
from scipy import stats

from grpo_jax import files, metrics, runs, stage_table
from grpo_jax.measures import standard_error

# What a finding's curves are kept of.
CURVES = (
  'reward/mean', 'reward/correct', 'reward/format', 'reward/language',
  'reward/lexicon', 'reward/gold', 'reward/model', 'reward/score',
  'length/mean', 'length/clipped_share', 'zero_variance_share', 'entropy',
  'kl', 'nll', 'accuracy', 'eval/pass@1', 'eval/mean_length', 'time/step',
)  # fmt: skip


def measured(
  arms: Mapping[str, Sequence[pathlib.Path]], measures: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
  """arm -> measure -> [seeds], of runs that have been evaluated.

  Raises:
    ValueError: a file is damaged, or lacks a measure.
  """
  found = {}
  for arm, workdirs in arms.items():
    results = [
      _measures(path, measures)
      for path in workdirs
      if (path / files.EVALUATION).exists()
    ]
    if results:
      found[arm] = {
        name: np.array([row[name] for row in results], float)
        for name in measures
      }
  return found


def table(
  arms: Mapping[str, Sequence[pathlib.Path]],
  measures: Sequence[str],
  against: Mapping[str, str],
) -> str:
  """Arms in rows, measures in columns: mean +- standard error (p); seeds.

  Args:
    arms: the runs of each, one a seed.
    measures: names.
    against: what an arm is compared with; the others with the first.
  """
  found = measured(arms, measures)
  first = next(iter(found), None)
  lines = [
    f'{"arm":16s}{"p against":>16s}{"seeds":>6s}'
    + ''.join(f'{m:>26s}' for m in measures)
  ]
  for arm, values in found.items():
    other = against.get(arm, first)
    other = other if other != arm and other in found else ''
    seeds = len(next(iter(values.values())))
    cells = [
      _cell(values[m], found[other][m] if other else None) for m in measures
    ]
    lines.append(
      f'{arm:16s}{other:>16s}{seeds:6d}' + ''.join(f'{c:>26s}' for c in cells)
    )
  return '\n'.join(lines)


def values(
  arms: Mapping[str, Sequence[pathlib.Path]], measures: Sequence[str]
) -> str:
  """What `table` shows the means of, as CSV: arm, seed, measure, value."""
  lines = ['arm,seed,measure,value']
  for arm, of_arm in measured(arms, measures).items():
    for name, row in of_arm.items():
      lines += [f'{arm},{seed},{name},{v:.6g}' for seed, v in enumerate(row)]
  return '\n'.join(lines) + '\n'


def curves(arms: Mapping[str, Sequence[pathlib.Path]]) -> str:
  """The runs' curves as CSV: a row a step, and a column a metric of CURVES.

  Four digits of each, so that those of a finding may be kept beside its page.
  """
  rows, known = [], set()
  for arm, workdirs in arms.items():
    for seed, workdir in enumerate(workdirs):
      if not (workdir / metrics.METRICS).exists():
        continue
      found = runs.open_run(workdir).metrics
      known |= found.keys()
      for i, step in enumerate(found['step']):
        values = {k: v[i] for k, v in found.items() if not np.isnan(v[i])}
        rows.append(values | {'arm': arm, 'seed': seed, 'step': int(step)})
  columns = [name for name in CURVES if name in known]
  lines = [','.join(('arm', 'seed', 'step', *columns))]
  for row in rows:
    cells = [f'{row[c]:.4g}' if c in row else '' for c in columns]
    if any(cells):
      lines.append(
        f'{row["arm"]},{row["seed"]},{row["step"]},{",".join(cells)}'
      )
  return '\n'.join(lines) + '\n'


def p_value(one: np.ndarray, other: np.ndarray) -> float:
  """Of Welch's t-test, two-sided; NaN with fewer than two of either."""
  if min(len(one), len(other)) < 2 or np.ptp(one) == np.ptp(other) == 0:
    return math.nan
  return float(stats.ttest_ind(one, other, equal_var=False).pvalue)


def _cell(values, reference):
  known = values[~np.isnan(values)]
  if not len(known):
    return 'never'
  text = f'{known.mean():.3f}'
  if len(known) > 1:
    text += f' +- {standard_error(known):.3f}'
  if len(known) < len(values):
    return f'{text} ({len(known)} of {len(values)})'
  p = math.nan if reference is None else p_value(values, reference)
  return text if math.isnan(p) else f'{text} (p {p:.1g})'


def _measures(workdir, measures):
  evaluated = stage_table.measured(workdir)

  def one(name):
    kind, of_curve, rest = name.replace('@', ':').partition(':')
    if of_curve and kind in _OF_CURVES:
      return _OF_CURVES[kind](runs.open_run(workdir).metrics, rest)
    if name not in evaluated:
      raise ValueError(
        f'no {name!r} among the evaluations in {workdir}; evaluate it anew'
      )
    return evaluated[name]

  found = {}
  for name in measures:
    first, *less = map(one, name.split(' - '))
    found[name] = first - sum(less)
  return found


def _reach(curves, level):
  """The first step whose trailing mean is high enough; NaN if none is."""
  values = _curve(curves, 'reward/correct')
  if len(values) < _STEPS:
    return math.nan
  high = np.flatnonzero(_trailing(values) >= float(level))
  return float(high[0] + _STEPS) if len(high) else math.nan


def _first(curves, name):
  return float(_curve(curves, name)[:_STEPS].mean())


def _peak(curves, name):
  values = _curve(curves, name)
  return float(_trailing(values).max()) if len(values) >= _STEPS else math.nan


def _trailing(values):
  return np.convolve(values, np.ones(_STEPS) / _STEPS, 'valid')


def _last(curves, name):
  values = _curve(curves, name)
  return float(values[-max(1, len(values) // 10) :].mean())


def _curve(curves, name):
  if name not in curves:
    raise ValueError(f'no metric {name!r} in the run; it has {list(curves)}')
  values = curves[name]
  return values[~np.isnan(values)]


_STEPS = 5  # that are averaged
_OF_CURVES = {
  'reach': _reach, 'first': _first, 'last': _last, 'peak': _peak
}  # fmt: skip
