"""Arms of an experiment, each run with several seeds: one table.

What evaluations left in the runs' workdirs (`stage_table.measured`), and of
their curves (metrics.jsonl)
  reach@0.8       the first step at which the mean of reward/correct over five
                  is that high
  first:METRIC    the mean of the first five steps
  last:METRIC     the mean of the last tenth
  at:METRIC:100   the mean of the last tenth of the first hundred
  median:METRIC   over all steps
  forecast:METRIC by how much the law fitted to the first half misses the end
                  (`scaling_law`)
or a difference of two, 'cons@64 - pass@1': mean and standard error over the
seeds, and the p-value of Welch's t-test, which takes no variance to be equal,
against the arm that an arm is to be compared with. R1's own threshold is
p < 0.01 (2501.12948v2, D.1). Ratios of two arms have intervals.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
import re
import warnings

import numpy as np
from scipy import stats

from grpo_jax import files, metrics, runs, scaling_law, stage_table
from grpo_jax.measures import OF_SOME, standard_error

# What a finding's curves are kept of.
CURVES = (
  'reward/mean', 'reward/correct', 'reward/format', 'reward/language',
  'reward/lexicon', 'reward/gold', 'reward/model', 'reward/score',
  'length/mean', 'length/clipped_share', 'zero_variance_share', 'entropy',
  'kl', 'nll', 'accuracy', 'eval/pass@1', 'eval/mean_length', 'time/step',
)  # fmt: skip
_ROWS = 250  # a run


@dataclasses.dataclass(frozen=True)
class Measured:
  """An arm's runs that have been evaluated.

  Attributes:
    seeds: of each.
    values: measure -> [seeds].
  """

  seeds: list[int]
  values: dict[str, np.ndarray]


def measured(
  arms: Mapping[str, Sequence[pathlib.Path]], measures: Sequence[str]
) -> dict[str, Measured]:
  """What was measured of each arm; none without an evaluated run.

  Raises:
    ValueError: a file is damaged, or lacks a measure.
  """
  found, seen = {}, set()
  for arm, workdirs in arms.items():
    results = {
      seed: _measures(path, measures, seen)
      for seed, path in enumerate(workdirs)
      if (path / files.EVALUATION).exists()
    }
    if results:
      values = {
        name: np.array([row[name] for row in results.values()], float)
        for name in measures
      }
      found[arm] = Measured(list(results), values)
  unknown = {m for name in measures for m in _metrics(name)} - seen
  if seen and unknown:
    raise ValueError(
      f'no run has a metric {min(unknown)!r}; there are {sorted(seen)}'
    )
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
    against: what an arm is compared with, '' for none; the others with the
      first.
  """
  found = measured(arms, measures)
  first = next(iter(found), None)
  rows = [('arm', 'p against', 'seeds', *measures)]
  for arm, one in found.items():
    other = against.get(arm, first)
    other = other if other != arm and other in found else ''
    cells = [
      _cell(one.values[m], found[other].values[m] if other else None)
      for m in measures
    ]
    rows.append((arm, other, str(len(one.seeds)), *cells))
  widths = [2 + max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    arm.ljust(widths[0])
    + ''.join(c.rjust(n) for c, n in zip(cells, widths[1:], strict=True))
    for arm, *cells in rows
  )


def ratios(
  arms: Mapping[str, Sequence[pathlib.Path]],
  wanted: Sequence[tuple[str, str, str]],
) -> list[str]:
  """A line a ratio: geometric mean over the seeds that both arms have.

  With its 95 % interval, Student's on the logarithms.

  Args:
    arms: the runs of each, one a seed.
    wanted: (measure, arm, the arm that it is over).
  """
  lines = []
  for measure, one, other in wanted:
    found = measured({k: arms[k] for k in (one, other)}, [measure])
    if len(found) < 2:
      continue
    pairs = [
      dict(zip(found[k].seeds, found[k].values[measure], strict=True))
      for k in (one, other)
    ]
    both = np.array([[p[s] for p in pairs] for s in pairs[0] if s in pairs[1]])
    if not len(both) or not (both > 0).all():  # a measure that is NaN, too
      lines.append(f'{measure}: {one} over {other} is not defined')
      continue
    logs = np.log(both[:, 0] / both[:, 1])
    text = f'{measure}: {one} over {other} {math.exp(logs.mean()):.3g}'
    if len(logs) > 1:
      reach = stats.t.ppf(0.975, len(logs) - 1) * standard_error(logs)
      low, high = (math.exp(logs.mean() + x) for x in (-reach, reach))
      text += f' ({low:.3g} to {high:.3g}, {len(logs)} seeds)'
    lines.append(text)
  return lines


def values(
  arms: Mapping[str, Sequence[pathlib.Path]], measures: Sequence[str]
) -> str:
  """What `table` shows the means of, as CSV: arm, seed, measure, value."""
  lines = ['arm,seed,measure,value']
  for arm, one in measured(arms, measures).items():
    for name, row in one.values.items():
      seeds = zip(one.seeds, row, strict=True)
      lines += [f'{arm},{seed},{name},{v:.6g}' for seed, v in seeds]
  return '\n'.join(lines) + '\n'


def curves(arms: Mapping[str, Sequence[pathlib.Path]]) -> str:
  """The runs' curves as CSV: a row a step, and a column a metric of CURVES.

  Four digits of each, and of longer runs the means over as many steps as leave
  `_ROWS` rows, told by the last of them: to be kept beside a finding's page.
  """
  rows, names = [], set()
  for arm, workdirs in arms.items():
    for seed, workdir in enumerate(workdirs):
      if not (workdir / metrics.METRICS).exists():
        continue
      found = runs.open_run(workdir).metrics
      names |= found.keys()
      steps = found.pop('step')
      size = max(math.ceil(len(steps) / _ROWS), 1)
      for i in range(0, len(steps), size):
        some = {k: v[i : i + size] for k, v in found.items()}
        known = {k: v[~np.isnan(v)] for k, v in some.items()}
        values = {k: v.mean() for k, v in known.items() if v.size}
        last = int(steps[i : i + size][-1])
        rows.append(values | {'arm': arm, 'seed': seed, 'step': last})
  columns = [name for name in CURVES if name in names]
  told = ('arm', 'seed', 'step')
  lines = [','.join((*told, *columns))]
  for row in rows:
    cells = [f'{row[c]:.4g}' if c in row else '' for c in columns]
    if any(cells):
      lines.append(','.join([*(str(row[k]) for k in told), *cells]))
  return '\n'.join(lines) + '\n'


def p_value(one: np.ndarray, other: np.ndarray) -> float:
  """Of Welch's t-test, two-sided; NaN with fewer than two of either."""
  if min(len(one), len(other)) < 2 or np.ptp(one) == np.ptp(other) == 0:
    return math.nan
  # One of them may be all but constant, which SciPy warns of.
  with warnings.catch_warnings(action='ignore', category=RuntimeWarning):
    return float(stats.ttest_ind(one, other, equal_var=False).pvalue)


def _cell(values, reference):
  known = values[~np.isnan(values)]
  if not len(known):
    return '-'
  text = f'{known.mean():.3f}'
  if len(known) > 1:
    text += f' +- {standard_error(known):.3f}'
  if len(known) < len(values):
    return f'{text} ({len(known)} of {len(values)})'
  p = math.nan if reference is None else p_value(values, reference)
  return text if math.isnan(p) else f'{text} (p {p:.1g})'


def _measures(workdir, measures, seen):
  """measure -> value; adds the metrics that the run has to `seen`."""
  evaluated = stage_table.measured(workdir)
  curves = {}
  if any(map(_metrics, measures)) and (workdir / metrics.METRICS).exists():
    curves = runs.open_run(workdir).metrics
    seen.update(curves)

  def one(name):
    kind, argument = _of_curve(name)
    if kind:
      return _OF_CURVES[kind](curves, argument)
    if name in OF_SOME and evaluated:
      return evaluated.get(name, math.nan)
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


def _of_curve(name):
  """What is read off a curve, and its argument; '' and '' of other measures."""
  found = re.match(r'(\w+)[:@](.*)', name)
  return found.groups() if found and found[1] in _OF_CURVES else ('', '')


def _metrics(measure):
  """The metrics whose curves a measure is read off."""
  found = []
  for name in measure.split(' - '):
    kind, argument = _of_curve(name)
    if kind == 'reach':
      found.append('reward/correct')
    elif kind == 'at':
      found.append(argument.rpartition(':')[0])
    elif kind:
      found.append(argument)
  return found


# Of a run without the metric, as of a base that was not reinforced, NaN.


def _reach(curves, level):
  """The first step whose trailing mean is high enough; NaN if none is."""
  values = _curve(curves, 'reward/correct')
  if len(values) < _STEPS:
    return math.nan
  high = np.flatnonzero(_trailing(values) >= float(level))
  return float(high[0] + _STEPS) if len(high) else math.nan


def _first(curves, name):
  return _mean(_curve(curves, name)[:_STEPS])


def _trailing(values):
  return np.convolve(values, np.ones(_STEPS) / _STEPS, 'valid')


def _last(curves, name):
  return _end_of(_curve(curves, name))


def _at(curves, name_and_step):
  name, _, step = name_and_step.rpartition(':')
  values = _curve(curves, name)
  # A run that ended before has no such step.
  return _end_of(values[: int(step)]) if len(values) >= int(step) else math.nan


def _median(curves, name):
  values = _curve(curves, name)
  return float(np.median(values)) if len(values) else math.nan


def _forecast(curves, name):
  values = _curve(curves, name)
  steps = np.arange(1, len(values) + 1)
  if len(values) < 2 * scaling_law.FEWEST:
    return math.nan
  return abs(scaling_law.forecast(steps, values, largest=1.0).error)


def _end_of(values):
  return _mean(values[-max(1, len(values) // 10) :])


def _mean(values):
  return float(values.mean()) if len(values) else math.nan


def _curve(curves, name):
  values = curves.get(name, np.array([]))
  return values[~np.isnan(values)]


_STEPS = 5  # that are averaged
_OF_CURVES = {
  'reach': _reach, 'first': _first, 'last': _last, 'at': _at,
  'median': _median, 'forecast': _forecast,
}  # fmt: skip
