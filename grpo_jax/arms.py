"""Arms of an experiment, each run with several seeds: one table.

What `evaluate` left in the runs' workdirs: mean and standard error over the
seeds, and the p-value of Welch's t-test against the first arm, which takes no
variance to be equal. R1's own threshold is p < 0.01 (2501.12948v2, D.1).
"""

from collections.abc import Mapping, Sequence
import json
import math
import pathlib

import numpy as np
from scipy import stats

EVALUATION = 'eval.json'


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
      _read(path / EVALUATION, measures)
      for path in workdirs
      if (path / EVALUATION).exists()
    ]
    if results:
      found[arm] = {
        name: np.array([row[name] for row in results], float)
        for name in measures
      }
  return found


def table(
  arms: Mapping[str, Sequence[pathlib.Path]], measures: Sequence[str]
) -> str:
  """Arms in rows, measures in columns: mean +- standard error (p); seeds."""
  found = measured(arms, measures)
  lines = [f'{"arm":12s}{"seeds":>6s}' + ''.join(f'{m:>26s}' for m in measures)]
  first = next(iter(found), None)
  for arm, values in found.items():
    seeds = len(next(iter(values.values())))
    cells = [
      _cell(values[m], None if arm == first else found[first][m])
      for m in measures
    ]
    lines.append(f'{arm:12s}{seeds:6d}' + ''.join(f'{c:>26s}' for c in cells))
  return '\n'.join(lines)


def p_value(one: np.ndarray, other: np.ndarray) -> float:
  """Of Welch's t-test, two-sided; NaN with fewer than two of either."""
  if min(len(one), len(other)) < 2 or np.ptp(one) == np.ptp(other) == 0:
    return math.nan
  return float(stats.ttest_ind(one, other, equal_var=False).pvalue)


def _cell(values, reference):
  text = f'{values.mean():.3f}'
  if len(values) > 1:
    error = values.std(ddof=1) / math.sqrt(len(values))
    text += f' +- {error:.3f}'
  p = math.nan if reference is None else p_value(values, reference)
  return text if math.isnan(p) else f'{text} (p {p:.1g})'


def _read(path, measures):
  try:
    row = json.loads(path.read_text(encoding='utf-8'))
    return {name: row[name] for name in measures}
  except KeyError as error:
    raise ValueError(f'{path} has no {error}; evaluate that run anew') from None
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from None
