"""Inputs on which win rates are compared with the package alpaca_eval.

The annotations are synthetic: what AlpacaEval's judge said costs money, and the
data folder holds outputs only. A judge that likes what is longer and noise by
hash stands in. So do difficulties and gamed baselines (df_gamed.csv of
AlpacaEval's data set) with the columns of the original.
"""

import csv
import hashlib
import json
import math
import pathlib

import numpy as np

from grpo_jax.alpaca import difficulty as difficulty_file
from grpo_jax.alpaca import length_control

REFERENCE = pathlib.Path(__file__).parent / 'reference' / 'alpaca_eval.json'
# The names of the package's own models.
CONTROLS = (
  'length_controlled_v1', 'length_controlled_noreg',
  'length_controlled_minimal',
)  # fmt: skip
KINDS = ('weighted', 'binary', 'unknown')
SYNTHETIC = 60  # instructions


def uniform(*words) -> float:
  """In [0, 1), the same on every machine."""
  digest = hashlib.sha256(repr(words).encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def difficulty(i: int) -> float:
  return 4 * uniform('difficulty', i) - 2


def preferences(lengths: list[tuple[int, int]], kind: str) -> np.ndarray:
  """[n] in [0, 1] of (reference, model) lengths."""
  found = []
  for i, (reference, model) in enumerate(lengths):
    z = 1.5 * math.log((model + 1) / (reference + 1)) + 0.7
    z += 0.8 * difficulty(i) + 2 * uniform('noise', i) - 1
    p = 1 / (1 + math.exp(-z))
    if kind != 'weighted':
      # Wins, losses and some ties.
      p = 0.5 if uniform('tie', i) < 0.05 else float(p > uniform('coin', i))
    if kind == 'unknown' and uniform('unknown', i) < 0.1:
      p = math.nan
    found.append(p)
  return np.array(found)


def synthetic_lengths() -> list[tuple[int, int]]:
  return [
    tuple(int(50 + 2000 * uniform(who, i) ** 2) for who in ('ref', 'model'))
    for i in range(SYNTHETIC)
  ]


def alpaca_outputs(folder: pathlib.Path, name: str) -> list[dict]:
  return json.loads((folder / 'alpaca' / f'{name}.json').read_text('utf-8'))


def alpaca_lengths(folder: pathlib.Path) -> list[tuple[int, int]]:
  """Characters of AlpacaEval 2's reference and of text_davinci_003."""
  reference = alpaca_outputs(folder, 'gpt4_1106_preview')
  model = alpaca_outputs(folder, 'text_davinci_003')
  return [
    (len(r['output']), len(m['output']))
    for r, m in zip(reference, model, strict=True)
  ]


def write_gamed(path: pathlib.Path, count: int) -> None:
  """A df_gamed.csv of two baselines for `count` instructions."""
  fields = (
    'index', 'instruction_difficulty', 'std_delta_len', 'preference',
    'not_gamed_baseline', 'model',
  )  # fmt: skip
  with path.open('w', encoding='utf-8', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(fields)
    for model, shift in (('concise', 1.0), ('verbose', -1.0)):
      for i in range(count):
        length = shift + uniform(model, 'length', i) - 0.5
        p = 1 / (1 + math.exp(length + 0.5 * difficulty(i)))
        # Written in full, so that both readers have the same numbers.
        row = (i, repr(difficulty(i)), repr(length), repr(p), False, model)
        writer.writerow(row)


def without_gamed(path: pathlib.Path, to: pathlib.Path) -> None:
  """The same difficulties alone."""
  with path.open(encoding='utf-8', newline='') as file:
    rows = [row[:2] for row in csv.reader(file)]
  with to.open('w', encoding='utf-8', newline='') as file:
    csv.writer(file).writerows(rows)


def ours(preferences, lengths, control, folder, folds=None) -> dict:
  """What this library says, with `weights` in the package's order."""
  files = {
    'length_controlled_v1': 'df_gamed.csv',
    'length_controlled_noreg': 'difficulties.csv',
  }
  difficulties = None
  if control in files:
    gamed = folder / 'df_gamed.csv'
    write_gamed(gamed, len(lengths))
    without_gamed(gamed, folder / 'difficulties.csv')
    difficulties = difficulty_file.read(folder / files[control])
  found = length_control.length_controlled(
    preferences, *np.array(lengths).T, difficulties=difficulties, folds=folds
  )
  assert found['length_control'] == control
  return found | length_control.win_rate(preferences)


def assert_equal(found: dict, package: dict, *, points: float) -> None:
  """The same numbers of AlpacaEval's names; LC ones within these points."""
  controlled = ('length_controlled_winrate', 'lc_standard_error')
  for name in length_control.win_rate(np.array([0.5])):
    np.testing.assert_allclose(
      found[name], package[name], rtol=1e-12, err_msg=name
    )
  for name in controlled:
    np.testing.assert_allclose(
      found[name], package[name], atol=points, rtol=0, err_msg=name
    )
