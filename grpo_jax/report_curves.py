"""Curves as a report draws them: joined over seeds, thinned, rounded."""

from collections.abc import Sequence
import math

import numpy as np

# Of a file's numbers: more cannot be seen on a screen.
_DIGITS = 5


def join(
  runs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Mean, lowest and highest of several runs at each step that one has.

  Args:
    runs: steps, ascending, and values of each; values that are not finite are
      missing. A run that is behind the others drops out of the mean where it
      ends.

  Returns:
    steps, mean, low, high.
  """
  known = [_finite(steps, values) for steps, values in runs]
  steps = np.unique(np.concatenate([s for s, _ in known]))
  if not steps.size:
    return steps, *(np.zeros(0) for _ in range(3))
  values = np.full((len(known), steps.size), np.nan)
  for row, (at, found) in zip(values, known, strict=True):
    row[np.searchsorted(steps, at)] = found
  return (
    steps,
    np.nanmean(values, 0),
    np.nanmin(values, 0),
    np.nanmax(values, 0),
  )


def thin(low: np.ndarray, high: np.ndarray, points: int) -> np.ndarray:
  """Indices, ascending, of at most `points` that look like all of them.

  The ends stay, and so do the lowest `low` and the highest `high` of every
  stretch: a spike of one step is not lost.
  """
  size = low.size
  if size <= points:
    return np.arange(size)
  stretches = np.array_split(np.arange(1, size - 1), max((points - 2) // 2, 1))
  kept = [0, size - 1]
  for at in stretches:
    kept += [at[np.argmin(low[at])], at[np.argmax(high[at])]]
  return np.unique(kept)


def drawn(
  steps: np.ndarray,
  values: np.ndarray,
  low: np.ndarray | None = None,
  high: np.ndarray | None = None,
  *,
  points: int,
) -> dict[str, list]:
  """{'x', 'y'} and, with a band, {'low', 'high'}: plain lists for JSON."""
  band = low is not None and high is not None
  index = thin(low if band else values, high if band else values, points)
  found = {'x': [int(s) for s in steps[index]], 'y': rounded(values[index])}
  if band:
    found |= {'low': rounded(low[index]), 'high': rounded(high[index])}
  return found


def rounded(values: Sequence[float]) -> list[float | None]:
  """To a few digits; None where a value is not finite."""
  return [
    float(f'{v:.{_DIGITS}g}') if math.isfinite(v) else None for v in values
  ]


def _finite(steps, values):
  known = np.isfinite(values)
  return steps[known], values[known]
