"""A table of references and answers through the `math_verify` reward."""

import itertools
import json
import logging
import time
import types

import math_cases
import numpy as np
import pytest

from grpo_jax import rewards
from grpo_jax.rewards import symbolic

pytest.importorskip('math_verify')

ROWS = list(itertools.chain(*math_cases.CASES.values()))


def graded(reward, rows):
  """The rewards of (reference, answer, ...) rows, as one step grades them."""
  examples = [
    types.SimpleNamespace(answer=row[0], prompt=f'row {i}')
    for i, row in enumerate(rows)
  ]
  completions = [[f'<answer>{row[1]}</answer>'] for row in rows]
  return rewards.grade(completions, examples, {'math': reward})['math'][:, 0]


def wrong_verdicts(reward, rows):
  found = graded(reward, rows)
  return [row for row, got in zip(rows, found, strict=True) if got != row[2]]


def faults(name):
  return rewards.faults().get(f'math_verify/{name}', 0)


@pytest.fixture(scope='module')
def reward():
  # Room for a busy machine: these rows take milliseconds.
  return rewards.math_verify(task=None, workers=1, seconds=30.0)


def test_table_is_long_and_has_no_row_twice():
  assert len(ROWS) >= 150
  assert len({row[:2] for row in ROWS + math_cases.KNOWN}) == len(ROWS) + len(
    math_cases.KNOWN
  )


@pytest.mark.parametrize('kind', math_cases.CASES)
def test_every_answer_of_the_table_gets_its_verdict(reward, kind):
  assert wrong_verdicts(reward, math_cases.CASES[kind]) == []


def test_known_oddities_of_math_verify_are_as_described(reward):
  assert wrong_verdicts(reward, math_cases.KNOWN) == []


def test_solutions_of_math500_are_right_and_their_neighbours_are_not(
  data_folder,
):
  path = data_folder / 'math500' / 'test.jsonl'
  if not path.is_file():
    pytest.skip(f'no {path}')
  rows = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
  answers = [row['answer'] for row in rows]
  boxed = rewards.math_verify(
    task=None, workers=1, seconds=30.0, extract='boxed'
  )
  for row in rows:
    assert boxed(row['solution'], types.SimpleNamespace(answer=row['answer']))
  neighbours = [
    (gold, other)
    for gold, other in itertools.pairwise(answers)
    if gold != other
    and boxed(rf'\boxed{{{other}}}', types.SimpleNamespace(answer=gold))
  ]
  assert neighbours == [('5', 'x=5')]  # which is right


def test_towers_of_powers_are_wrong_in_bounded_time_and_counted():
  reward = rewards.math_verify(task=None, workers=1, seconds=3.0)
  assert list(graded(reward, [('5', '5')])) == [1.0]  # a worker has started
  before = faults('killed') + faults('unread')
  rows = [('5', tower) for tower in math_cases.TOWERS]
  start = time.monotonic()
  # Each followed by a right answer, which must not move.
  mixed = [one for row in rows for one in (row, ('5', '5'))]
  np.testing.assert_array_equal(graded(reward, mixed), [0.0, 1.0] * len(rows))
  # Three seconds and a new worker each, on a machine several times slower.
  assert time.monotonic() - start < len(rows) * 30
  assert faults('killed') + faults('unread') > before


def test_deep_and_long_answers_end():
  reward = rewards.math_verify(task=None, workers=1, seconds=10.0)
  rows = [('7', answer) for answer in math_cases.DEEP]
  start = time.monotonic()
  np.testing.assert_array_equal(graded(reward, rows), [0.0] * len(rows))
  assert time.monotonic() - start < len(rows) * 40


def test_failed_extraction_is_counted_logged_once_and_moves_no_row(
  reward, caplog, monkeypatch
):
  # Earlier tests have logged these kinds.
  monkeypatch.setattr('grpo_jax.rewards.fault_counts._counts', _counter())
  caplog.set_level(logging.INFO)
  completions = [
    ['<answer>5</answer>', 'no tags: 5', '<answer></answer>', '<answer>5'],
    ['<answer>((({</answer>', '<answer>6</answer>', 'x', '<answer>7</answer>'],
  ]
  examples = [
    types.SimpleNamespace(answer=a, prompt='how many?') for a in ('5', '6')
  ]
  found = rewards.grade(completions, examples, {'math': reward})['math']
  np.testing.assert_array_equal(found, [[1, 0, 0, 0], [0, 1, 0, 0]])
  assert faults('no_answer') == 4
  assert faults('unread') == 1
  assert caplog.text.count('math_verify/no_answer') == 1
  assert caplog.text.count('math_verify/unread') == 1


def test_reference_that_cannot_be_read_is_a_fault_of_its_own(
  reward, monkeypatch
):
  monkeypatch.setattr('grpo_jax.rewards.fault_counts._counts', _counter())
  assert list(graded(reward, [('(((', '5')])) == [0.0]
  assert faults('unread_reference') == 1


def _counter():
  return type(rewards.faults())()


@pytest.mark.parametrize(
  ('written', 'read'),
  [
    (r'\$5', '5'),
    (r'$1\,000$', '1000'),
    (r'-12{,}345.60', '-12345.60'),
    ('1,00', '1,00'),
    ('1,234, 567', '1,234, 567'),
    ('-1.5e-3', r'-1.5 \times 10^{-3}'),
    ('2 3/4', r'2\frac{3}{4}'),
    ('2-3/4', '2-3/4'),
    ('5 miles per hour.', '5'),
    ('5 million dollars', '5 million dollars'),
    ('5 and six', '5 and six'),
    ('2 pi', '2 pi'),
    ('5 or 6', '5 or 6'),
    (r'\text{ Monday }', 'Monday'),
    ('$5$ and $6$', '$5$ and $6$'),
    (r'x^2 + \frac{1}{2}', r'x^2 + \frac{1}{2}'),
    ('', ''),
  ],
)
def test_notation_is_rewritten_only_as_whole_answers(written, read):
  assert symbolic.readable(written) == read
