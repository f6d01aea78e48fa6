"""Preferences from JSON lines: what a reward model learns from.

A row is a prompt and the responses to it that are scored together: a chosen
and a rejected one ({prompt, chosen, rejected}, maybe a margin), or one with a
label ({prompt, response, label}). Host side; `scorer` makes tokens of them.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from grpo_jax import tasks
from grpo_jax.rewards import text
from grpo_jax.tasks.jsonl import read_rows

FIELDS = {
  'pairwise': ('prompt', 'chosen', 'rejected'),
  'pointwise': ('prompt', 'response', 'label'),
}
BALANCES = ('none', 'drop', 'weigh')


@dataclasses.dataclass(frozen=True)
class Row:
  """A prompt and the responses that are scored together.

  Attributes:
    prompt: the question.
    responses: the chosen and the rejected one, or a single one; the part of
      them that is scored.
    wanted: of each: the margin of the pair and 0, or the label.
    where: file and line.
    weight: of the row in the loss.
  """

  prompt: str
  responses: tuple[str, ...]
  wanted: tuple[float, ...]
  where: str
  weight: float = 1.0


def read(
  path: str, *, kind: str, part: str, min_margin: float = 0.0
) -> list[Row]:
  """The rows of a file.

  Args:
    path: JSON lines.
    kind: of `FIELDS`: pairwise or pointwise.
    part: of the responses: see `text.part_of`.
    min_margin: pairs whose `margin` is not above it are left out (R1 keeps gaps
      above 1, 2501.12948v2, 3.1); 0 keeps all and needs no such field.

  Raises:
    FileNotFoundError, ValueError: naming the file, the line and the remedy.
  """
  rows = []
  for number, raw in read_rows(path):
    where = f'{path}:{number}'
    missing = [field for field in FIELDS[kind] if field not in raw]
    if missing:
      raise ValueError(
        f'{where}: no field {missing[0]!r}, which {kind} rows have; the row '
        f'has {sorted(raw)}'
      )
    margin = 0.0
    if kind == 'pairwise' and ('margin' in raw or min_margin):
      margin = _number(raw, 'margin', where, 0.0, math.inf)
      if min_margin and margin <= min_margin:
        continue
    if kind == 'pairwise':
      names, wanted = ('chosen', 'rejected'), (margin, 0.0)
    else:
      names = ('response',)
      wanted = (_number(raw, 'label', where, 0.0, 1.0),)
    responses = tuple(
      text.part_of(_text(raw, name, where), part) for name in names
    )
    rows.append(Row(_text(raw, 'prompt', where), responses, wanted, where))
  if not rows:
    why = f'no margin above {min_margin}' if min_margin else 'no rows'
    raise ValueError(f'{path}: nothing to learn from: {why}')
  return rows


def split(
  rows: Sequence[Row], *, test_share: float
) -> tuple[list[Row], list[Row]]:
  """(for training, held out), by a hash of the prompt.

  Raises:
    ValueError: one of them is empty.
  """
  if not 0 < test_share < 1:
    raise ValueError(
      f'reward_model.test_share={test_share} must be in (0, 1): accuracy is '
      'measured on held-out prompts'
    )
  parts = {'train': [], 'test': []}
  for row in rows:
    # Not the hash of tasks: of their train prompts, it holds out none.
    salted = f'preferences/{row.prompt}'
    parts[tasks.split_of(salted, test_share=test_share)].append(row)
  for name, part in parts.items():
    if not part:
      raise ValueError(
        f'reward_model.test_share={test_share} leaves no {name} row of '
        f'{len(rows)}; the split is by prompt, and there are '
        f'{len({row.prompt for row in rows})} different ones'
      )
  return parts['train'], parts['test']


def balance(rows: Sequence[Row], *, method: str, seed: int) -> list[Row]:
  """Pairs in which the chosen response is longer as often as shorter.

  Pairs are put in bins by the difference of their lengths in characters (1,
  2-3, 4-7, 8-15, ...), so that longer and shorter ones differ by about as much
  on either side. Within a bin, `drop` takes pairs at random from the larger
  side until both are equal; `weigh` keeps all and gives both sides the same
  sum of weights, of the bin's size. Pairs of equal length stay as they are. A
  bin with one side only has no counterpart: its pairs are dropped, with a
  weight of 0 under `weigh`. R1 balances its pairs and does not tell how
  (2501.12948v2, 3.1).

  Args:
    rows: pairs.
    method: of `BALANCES`.
    seed: of what is dropped.

  Returns:
    The rows left, in their order.

  Raises:
    ValueError: nothing is left.
  """
  if method == 'none':
    return list(rows)
  sides = {}
  for i, row in enumerate(rows):
    gap = len(row.responses[0]) - len(row.responses[1])
    if gap:
      level = int(math.log2(abs(gap)))
      sides.setdefault(level, ([], []))[gap < 0].append(i)
  weights = np.ones(len(rows))
  for level in sorted(sides):
    longer, shorter = sides[level]
    fewer = min(len(longer), len(shorter))
    for k, side in enumerate((longer, shorter)):
      if method == 'weigh':
        both = len(longer) + len(shorter)
        weights[side] = both / (2 * len(side)) if fewer and side else 0.0
      else:
        order = tasks.random(seed, level, k).permutation(len(side))
        weights[np.array(side, int)[order[fewer:]]] = 0.0
  kept = [
    dataclasses.replace(row, weight=float(w))
    for row, w in zip(rows, weights, strict=True)
    if w
  ]
  if not kept:
    raise ValueError(
      f'reward_model.balance_lengths={method!r} leaves no pair: the chosen '
      'response is always the longer, or always the shorter one'
    )
  return kept


def _text(raw, field, where):
  value = raw[field]
  if not isinstance(value, str) or (field == 'prompt' and not value.strip()):
    raise ValueError(f'{where}: {field}={value!r} must be a text')
  return value


def _number(raw, field, where, low, high):
  value = raw.get(field)
  # True and False are labels, and numbers to Python.
  if not isinstance(value, bool | int | float) or not low <= value <= high:
    raise ValueError(
      f'{where}: {field}={value!r} must be a number from {low:g} to {high:g}'
    )
  return float(value)
