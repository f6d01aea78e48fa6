"""The table of a recipe's stages: what each one's model can do, a row a stage.

Read off what `grpo_jax.evaluate` left in the stages' workdirs, as R1's table
of Zero, Dev1, Dev2, Dev3 and R1 (2501.12948v2, table 3).
"""

from collections.abc import Iterable, Mapping
import dataclasses
import pathlib
import re
from typing import Any

from grpo_jax import files

# What stands in win_rate.json -> its name in a row.
_WINS = {
  'win_rate': 'win_rate',
  'standard_error': 'win_rate_stderr',
  'length_controlled_winrate': 'lc_win_rate',
  'length_controlled_stderr': 'lc_win_rate_stderr',
}


@dataclasses.dataclass(frozen=True)
class Column:
  """How a measure is shown: 'share' of 1, 'percent', 'number' or 'count'."""

  pattern: str
  label: str  # '\\1' is what the pattern's group holds
  kind: str


COLUMNS = (
  Column(r'pass@(\d+)', r'pass@\1', 'share'),
  Column(r'pass@1/(.+)', r'pass@1 \1', 'share'),
  Column(r'cons@(\d+)', r'cons@\1', 'share'),
  Column('lenient', 'lenient', 'share'),
  Column('instruction_following', 'follows instructions', 'share'),
  Column('win_rate', 'win rate', 'percent'),
  Column('lc_win_rate', 'win rate, length-controlled', 'percent'),
  Column('format', 'format', 'share'),
  Column('language_consistency', 'language consistency', 'share'),
  Column('gibberish', 'gibberish', 'share'),
  Column('thinking_length', 'thought, tokens', 'number'),
  Column('thinking_length_right', 'thought when right', 'number'),
  Column('thinking_length_wrong', 'thought when wrong', 'number'),
  Column('reflective_words', 'reflective words an answer', 'number'),
  Column('reflective_per_1k', 'reflective words / 1k tokens', 'number'),
  Column('reflective_share', 'answers with reflective words', 'share'),
  Column('mean_length', 'mean length', 'number'),
  Column('truncated', 'truncated', 'share'),
  Column('problems', 'problems', 'count'),
  Column('samples', 'samples', 'count'),
)


def measured(workdir: pathlib.Path) -> dict[str, Any]:
  """All that evaluations left in a workdir; {} of none.

  The keys of eval.json; 'instruction_following', the pass@1 of
  `--task=instructions`; 'win_rate' and, where length control tells anything,
  'lc_win_rate' in percent.

  Raises:
    ValueError: a file is damaged.
  """
  found = dict(read(workdir / files.EVALUATION))
  followed = read(workdir / files.INSTRUCTIONS)
  for end in ('', '_stderr'):
    if f'pass@1{end}' in followed:
      found[f'instruction_following{end}'] = followed[f'pass@1{end}']
  won = read(workdir / files.WIN_RATE)
  found |= {new: won[old] for old, new in _WINS.items() if old in won}
  if not won.get('length_control_tells', True):
    # 50 by default is no measure.
    del found['lc_win_rate'], found['lc_win_rate_stderr']
  return found


def rows(stages: Iterable[tuple[str, pathlib.Path]]) -> list[dict[str, Any]]:
  """{'stage': name, measure: number, ...} of each; measures as `measured`."""
  return [
    {'stage': name, **measured(pathlib.Path(workdir))}
    for name, workdir in stages
  ]


def shown(
  found: Iterable[tuple[str, Mapping[str, Any]]],
) -> dict[str, list]:
  """{'columns': titles, 'rows': lists of strings} of what any row has.

  Args:
    found: name, and measures as `measured` gives them.
  """
  found = list(found)
  names = dict.fromkeys(name for _, row in found for name in row)
  # Errors stand in the cells of what they are of.
  names = [name for name in names if not name.endswith('_stderr')]
  columns = [
    (name, column)
    for column in COLUMNS
    for name in sorted(names, key=_number)
    if re.fullmatch(column.pattern, name)
  ]
  titles = [
    re.sub(column.pattern, column.label, name) for name, column in columns
  ]
  return {
    'columns': ['', *titles],
    'rows': [
      [told, *(_cell(row, name, column.kind) for name, column in columns)]
      for told, row in found
    ],
  }


def table(stages: Iterable[tuple[str, pathlib.Path]]) -> str:
  """The table as text for a terminal: measures down, stages across.

  Args:
    stages: name and workdir of each, in the recipe's order. A stage that has
      not been evaluated has empty cells.
  """
  cells = shown((row.pop('stage'), row) for row in rows(stages))
  across = [cells['columns'], *cells['rows']]
  widths = [max(map(len, column)) for column in across]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in zip(*across, strict=True)
  )


def _cell(row, name, kind):
  value = row.get(name)
  if value is None:
    return ''
  if kind == 'count':
    return str(value)
  error = row.get(f'{name}_stderr')
  if kind == 'number':
    digits = 1 if value >= 10 else 2
    return f'{value:.{digits}f}' + (
      '' if error is None else f' ± {error:.{digits}f}'
    )
  scale = 100 if kind == 'share' else 1
  return f'{scale * value:.1f}%' + (
    '' if error is None else f' ± {scale * error:.1f}'
  )


def _number(name):
  """pass@4 before pass@16."""
  return int((re.findall(r'@(\d+)', name) or ['0'])[0])


def read(path: pathlib.Path) -> dict[str, Any]:
  """What an evaluation wrote, {} without the file."""
  return files.read_json(path) if path.exists() else {}
