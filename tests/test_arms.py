"""Arms over seeds: means, errors, tests, what is read off curves, by hand."""

import json
import math

import numpy as np
import pytest

from grpo_jax import arms


@pytest.fixture
def run(tmp_path):
  """Writes what a run and its evaluation leave; returns the workdir."""

  def run(name, result, curve=()):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'eval.json').write_text(json.dumps(result))
    (folder / 'config.json').write_text('{}')
    rows = (
      json.dumps({'step': i + 1, 'reward/correct': v})
      for i, v in enumerate(curve)
    )
    (folder / 'metrics.jsonl').write_text('\n'.join(rows) + '\n')
    return folder

  return run


def test_an_arm_is_its_mean_its_error_and_its_test_against_the_first(run):
  found = {
    'base': [run(f'b{i}', {'pass@1': v}) for i, v in enumerate((0.1, 0.2))],
    'rl': [run(f'r{i}', {'pass@1': v}) for i, v in enumerate((0.8, 0.9))],
  }
  header, base, rl = arms.table(found, ['pass@1'], {}).splitlines()
  assert header.split() == ['arm', 'p', 'against', 'seeds', 'pass@1']
  # Errors: 0.0707 / sqrt(2); t = 0.7 / 0.0707, 2 degrees of freedom.
  assert base.split() == ['base', '2', '0.150', '+-', '0.050']
  assert rl.split() == [
    'rl', 'base', '2', '0.850', '+-', '0.050', '(p', '0.01)'
  ]  # fmt: skip
  assert arms.values(found, ['pass@1']).splitlines()[-1] == 'rl,1,pass@1,0.9'


def test_an_arm_is_compared_with_another_one_if_asked(run):
  found = {
    'base': [run('b', {'a': 0.0, 'b': 0.0})],
    'one': [run(f'o{i}', {'a': v, 'b': 0.1}) for i, v in enumerate((0.1, 0.2))],
    'two': [run(f't{i}', {'a': v, 'b': 0.1}) for i, v in enumerate((0.8, 0.9))],
  }
  *_, two = arms.table(found, ['a - b'], {'two': 'one'}).splitlines()
  assert two.split() == [
    'two', 'one', '2', '0.750', '+-', '0.050', '(p', '0.01)'
  ]  # fmt: skip


def test_welchs_test_is_exact_for_two_degrees_of_freedom():
  # For equal variances and n = 2 each: df = 2, p = 1 - t / sqrt(t^2 + 2).
  t = 0.7 / np.sqrt(0.005 / 2 + 0.005 / 2)
  p = arms.p_value(np.array([0.1, 0.2]), np.array([0.8, 0.9]))
  assert p == pytest.approx(1 - t / math.sqrt(t**2 + 2), rel=1e-6)
  assert math.isnan(arms.p_value(np.array([0.1]), np.array([0.8, 0.9])))


def test_runs_that_are_not_evaluated_yet_are_left_out(run, tmp_path):
  found = {'rl': [run('a', {'pass@1': 0.5}), tmp_path / 'nowhere'], 'no': []}
  values = arms.measured(found, ['pass@1'])
  assert list(values) == ['rl']
  np.testing.assert_array_equal(values['rl']['pass@1'], [0.5])


def test_curves_are_a_row_a_step(run, tmp_path):
  found = {
    'rl': [run('a', {}, [0.0, 1 / 3]), run('b', {}, [1.0])],
    'no': [tmp_path / 'nowhere'],
  }
  assert arms.curves(found).splitlines() == [
    'arm,seed,step,reward/correct', 'rl,0,1,0', 'rl,0,2,0.3333', 'rl,1,1,1'
  ]  # fmt: skip


def test_measures_of_curves(run):
  # Means of five: 0.2, 0.4, 0.6, 0.8, 1.0 at steps 6 to 10.
  curve = [0.0] * 5 + [1.0] * 15
  folder = run('a', {'pass@1': 1.0}, curve)
  names = [
    'reach@0.5',
    'reach@1',
    'first:reward/correct',
    'last:reward/correct',
  ]
  values = arms.measured({'a': [folder]}, names)['a']
  assert [values[name][0] for name in names] == [8, 10, 0.0, 1.0]


def test_an_arm_that_seldom_gets_there_says_how_often(run):
  found = {
    'a': [
      run('low', {}, [0.0] * 10),
      run('high', {}, [1.0] * 10),
    ],
    'b': [run('never', {}, [0.0] * 10)],
  }
  _, a, b = arms.table(found, ['reach@0.5'], {}).splitlines()
  assert a.split() == ['a', '2', '5.000', '(1', 'of', '2)']
  assert b.split() == ['b', 'a', '1', 'never']


@pytest.mark.parametrize(
  'content, saying',
  [
    ('{', 'eval.json is damaged'),
    ('{}', "no 'pass@1' among the evaluations in"),
  ],
)
def test_a_file_without_the_measure_is_named(content, saying, run):
  folder = run('a', {})
  (folder / 'eval.json').write_text(content)
  with pytest.raises(ValueError, match=saying):
    arms.measured({'a': [folder]}, ['pass@1'])
