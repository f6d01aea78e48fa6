"""Judges: which of two answers to an instruction is better.

A judge is `judge(pairs) -> [n]` preferences in [0, 1] for `output` against
`reference`: 1.0 better, 0.5 a tie, NaN where it could not tell. `by_score`
makes one of a reward model, `by_function` of the user's Python,
`by_annotations` of judgements already made; `endpoint.Endpoint` asks a language
model. `decide` is what all share.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math

import numpy as np

from grpo_jax.hooks import load


@dataclasses.dataclass(frozen=True)
class Pair:
  """An instruction and the two answers to compare."""

  instruction: str
  reference: str
  output: str


Judge = Callable[[Sequence[Pair]], np.ndarray]
# Prompts and as many responses -> [n] scores, higher is better.
Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def decide(judge: Judge, pairs: Sequence[Pair]) -> np.ndarray:
  """Preferences of all pairs; equal answers are a tie and cost nothing.

  Raises:
    ValueError: the judge gave other numbers than it may.
  """
  found = np.full(len(pairs), 0.5)
  differ = [i for i, p in enumerate(pairs) if p.output != p.reference]
  if differ:
    told = np.asarray(judge([pairs[i] for i in differ]), float)
    if told.shape != (len(differ),):
      raise ValueError(
        f'the judge gave numbers of shape {told.shape} for {len(differ)} pairs'
      )
    known = told[~np.isnan(told)]
    if np.any((known < 0) | (known > 1)):
      raise ValueError(
        f'the judge gave {known[(known < 0) | (known > 1)][0]}; a preference '
        'is the probability in [0, 1] that the output beats the reference'
      )
    found[differ] = told
  return found


def by_score(score: Score) -> Judge:
  """The judge that a reward model is: sigmoid(score - reference's score).

  That is the probability by which such a model is trained on pairs (Bradley and
  Terry), as a language model's judgement is weighed by its logprobs.
  """

  def judge(pairs):
    instructions = [pair.instruction for pair in pairs]
    scores, references = (
      np.asarray(score(instructions, [getattr(p, name) for p in pairs]), float)
      for name in ('output', 'reference')
    )
    return np.exp(-np.logaddexp(0, references - scores))

  return judge


def by_function(path: str) -> Judge:
  """The judge `module:function` of the user's.

  The function takes (instruction, reference, output) and returns a preference
  in [0, 1] for the output; True and False will do, None where it cannot tell.

  Raises:
    ValueError: it cannot be imported; in judging, it raises, or returns what is
      no number.
  """
  function = load(path, field='win_rate.judge')

  def preference(pair):
    try:
      told = function(pair.instruction, pair.reference, pair.output)
      return math.nan if told is None else float(told)
    except Exception as error:
      raise ValueError(
        f'win_rate.judge={path} failed on the instruction '
        f'{pair.instruction[:60]!r}: {type(error).__name__}: {error}'
      ) from error

  return lambda pairs: np.array([preference(pair) for pair in pairs])


def by_annotations(rows: Sequence[Mapping]) -> Judge:
  """The judge whose annotations these are, in AlpacaEval's format.

  Args:
    rows: with 'instruction', 'output_1' (the reference), 'output_2' and
      'preference' from 1 (the first is better) to 2; 0 is a tie, None unknown.

  Raises:
    ValueError: a row without a field; in judging, a pair that none is of.
  """
  known = {}
  for number, row in enumerate(rows):
    try:
      pair = Pair(row['instruction'], row['output_1'], row['output_2'])
      preference = row['preference']
    except KeyError as error:
      raise ValueError(f'annotation {number} has no field {error}') from None
    preference = math.nan if preference is None else float(preference)
    known[pair] = preference - 1 if preference else 0.5

  def judge(pairs):
    unknown = [pair for pair in pairs if pair not in known]
    if unknown:
      raise ValueError(
        f'no annotation of {len(unknown)} of {len(pairs)} pairs, first of '
        f'{unknown[0].instruction[:60]!r}'
      )
    return np.array([known[pair] for pair in pairs])

  return judge
