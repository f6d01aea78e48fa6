"""How hard each instruction is, as AlpacaEval stores it."""

import csv
import dataclasses
import io
import math
import pathlib

import numpy as np

from grpo_jax import files


@dataclasses.dataclass(frozen=True)
class Difficulties:
  """What AlpacaEval stores of its instructions.

  Attributes:
    difficulty: [n] of instruction 0, 1, ...
    gamed: [m 3] rows (length, difficulty, 0) of baselines made to be verbose or
      concise, which say how much length alone is worth; m may be 0.
    gamed_preferences: [m].
  """

  difficulty: np.ndarray
  gamed: np.ndarray
  gamed_preferences: np.ndarray


def read(path: str | pathlib.Path) -> Difficulties:
  """Reads AlpacaEval's `df_gamed.csv`, or a file of one's own like it.

  Columns: `index` and `instruction_difficulty`; rows of gamed baselines have
  `not_gamed_baseline` False, and with it `std_delta_len` and `preference`.

  Raises:
    FileNotFoundError, ValueError: no such file, a column is missing, or a cell
      is no number.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f'{path}: no such file; difficulties are df_gamed.csv of the data set '
      "tatsu-lab/alpaca_eval, or '' for control without them"
    )
  rows = list(csv.DictReader(io.StringIO(files.read_text(path), newline='')))
  for column in ('index', 'instruction_difficulty'):
    if not rows or column not in rows[0]:
      raise ValueError(f'{path}: no column {column!r}, or no row')

  def number(line, row, column):
    try:
      value = float(row.get(column) or '')
    except ValueError:
      value = math.nan
    if not math.isfinite(value):
      raise ValueError(
        f'{path}: row {line}: {column}={row.get(column)!r} is no number'
      )
    return value

  known = {
    int(number(i, row, 'index')): number(i, row, 'instruction_difficulty')
    for i, row in reversed(list(enumerate(rows, start=1)))
  }
  if sorted(known) != list(range(len(known))):
    raise ValueError(f'{path}: indices are not 0 .. {len(known) - 1}')
  gamed = [
    (i, row)
    for i, row in enumerate(rows, start=1)
    if row.get('not_gamed_baseline') == 'False'
  ]
  length, difficulty, preference = (
    np.array([number(i, row, name) for i, row in gamed])
    for name in ('std_delta_len', 'instruction_difficulty', 'preference')
  )
  return Difficulties(
    difficulty=np.array([known[i] for i in range(len(known))]),
    gamed=np.stack(
      [np.tanh(length), difficulty, np.zeros_like(length)], axis=1
    ),
    gamed_preferences=preference,
  )


def check_count(difficulties: Difficulties, instructions: int) -> None:
  """ValueError for fewer difficulties than instructions."""
  if len(difficulties.difficulty) < instructions:
    raise ValueError(
      f'{len(difficulties.difficulty)} difficulties for {instructions} '
      'instructions; both must be of the same prompt set, in its order'
    )
