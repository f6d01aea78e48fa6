"""Contests of a model's outputs with a reference's, in AlpacaEval's formats.

A prompt set and outputs to beat are read from files; `compare` has pairs judged
and makes win rates and annotations of it.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib

import numpy as np

from grpo_jax import files
from grpo_jax.alpaca import judges, length_control
from grpo_jax.alpaca.difficulty import Difficulties
from grpo_jax.tasks.jsonl import read_rows as read_lines


@dataclasses.dataclass(frozen=True)
class Contest:
  """A prompt set and the answers to beat."""

  rows: list[dict]  # of the prompt file, each with 'instruction'
  references: list[str]
  generator: str  # who wrote the references
  left_out: int = 0  # rows of the prompt file after these


def read(path: str, reference: str, *, count: int) -> Contest:
  """The first `count` prompts and their references.

  Args:
    path: JSON or JSON lines, objects with 'instruction', and 'output' where
      `reference` is ''.
    reference: such a file with outputs to the same instructions, in any order;
      in the same where one instruction has several outputs.

  Raises:
    FileNotFoundError, ValueError: naming the file and what is missing.
  """
  if not path:
    raise ValueError(
      'win_rate.path is not set: name a JSON or JSON lines file of objects '
      "with 'instruction' and 'output', as AlpacaEval's outputs are"
    )
  whole = read_rows(path)
  rows = whole[:count]
  _need(rows, 'instruction', path)
  if reference:
    others, told = _of_instructions(rows, reference), reference
  else:
    _need(rows, 'output', path)
    others, told = rows, path
  return Contest(
    rows,
    [row['output'] for row in others],
    _generator(others, told),
    left_out=len(whole) - len(rows),
  )


def outputs(contest: Contest, path: str, generator: str) -> list[dict]:
  """A file's outputs in the contest's order, as `compare` takes them.

  Args:
    contest: with the instructions.
    path: as `reference` of `read`.
    generator: their name; '' is the one that they bear.

  Raises:
    FileNotFoundError, ValueError: as `read`.
  """
  found = _of_instructions(contest.rows, path)
  generator = generator or _generator(found, path)
  return [
    {**row, 'output': other['output'], 'generator': generator}
    for row, other in zip(contest.rows, found, strict=True)
  ]


def read_rows(path: str) -> list[dict]:
  """The objects of a JSON list or of JSON lines.

  Raises:
    FileNotFoundError, ValueError: as `tasks.jsonl.read_rows`; no object.
  """
  rows, content = None, files.read_text(pathlib.Path(path).expanduser())
  if content.lstrip()[:1] == '[':
    try:
      rows = json.loads(content)
    except ValueError as error:
      raise ValueError(f'{path}: not JSON ({error})') from None
  else:
    rows = [row for _, row in read_lines(path)]
  if not rows or not all(isinstance(row, dict) for row in rows):
    raise ValueError(f'{path}: no list of objects with fields')
  return rows


def compare(
  outputs: Sequence[dict],
  contest: Contest,
  judge: judges.Judge,
  *,
  difficulties: Difficulties | None,
  annotator: str,
) -> tuple[dict, list[dict]]:
  """Win rates of outputs, and AlpacaEval's annotations.

  Args:
    outputs: rows with 'instruction', 'output', 'generator', in the contest's
      order.
    contest: of as many rows.
    judge: see `judges`.
    difficulties: see `length_control.length_controlled`.
    annotator: the judge's name.
  """
  pairs = [
    judges.Pair(row['instruction'], reference, row['output'])
    for row, reference in zip(outputs, contest.references, strict=True)
  ]
  preferences = judges.decide(judge, pairs)
  lengths = np.array([[len(p.reference), len(p.output)] for p in pairs])
  result = length_control.win_rate(preferences)
  result |= length_control.length_controlled(
    preferences, *lengths.T, difficulties=difficulties
  )
  result |= {
    'n_unjudged': int(np.isnan(preferences).sum()),
    # In characters, as AlpacaEval counts.
    'avg_length': float(lengths[:, 1].mean()),
    'avg_length_reference': float(lengths[:, 0].mean()),
    'generator': outputs[0]['generator'],
    'reference': contest.generator,
  }
  annotations = [
    {
      'index': i,
      'instruction': pair.instruction,
      'output_1': pair.reference,
      'generator_1': contest.generator,
      'output_2': pair.output,
      'generator_2': outputs[i]['generator'],
      'annotator': annotator,
      # From 1, the first is better, to 2.
      'preference': None if np.isnan(p) else 1 + float(p),
    }
    for i, (pair, p) in enumerate(zip(pairs, preferences, strict=True))
  ]
  return result, annotations


def _of_instructions(rows, path):
  """The rows of a file that answer these rows' instructions."""
  others = read_rows(path)
  _need(others, 'instruction', path)
  _need(others, 'output', path)
  asked = [row['instruction'] for row in rows]
  if asked == [row['instruction'] for row in others[: len(rows)]]:
    return others[: len(rows)]
  found, wanted = {}, set(asked)
  for number, row in enumerate(others, start=1):
    first = found.setdefault(row['instruction'], row)
    if row['output'] != first['output'] and row['instruction'] in wanted:
      raise ValueError(
        f'{path}: row {number} has another output for the instruction '
        f'{row["instruction"][:60]!r} than a row before; list the instructions '
        'in the order of win_rate.path, which tells what belongs to which'
      )
  missing = [r for r in rows if r['instruction'] not in found]
  if missing:
    raise ValueError(
      f'{path}: no output for {len(missing)} of {len(rows)} instructions, '
      f'first {missing[0]["instruction"][:60]!r}'
    )
  return [found[name] for name in asked]


def _generator(rows, path):
  return rows[0].get('generator') or pathlib.Path(path).stem


def _need(rows, field, path):
  for number, row in enumerate(rows, start=1):
    if not isinstance(row.get(field), str):
      raise ValueError(
        f'{path}: row {number} has no text {field!r}; it has {sorted(row)}'
      )
