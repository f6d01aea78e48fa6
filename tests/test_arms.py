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
    (folder / 'metrics.jsonl').write_text(''.join(f'{x}\n' for x in rows))
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
  np.testing.assert_array_equal(values['rl'].values['pass@1'], [0.5])


def test_a_run_keeps_its_seed_where_another_is_missing(run, tmp_path):
  found = {'rl': [tmp_path / 'nowhere', run('a', {'pass@1': 0.5})]}
  assert arms.values(found, ['pass@1']).splitlines()[1:] == ['rl,1,pass@1,0.5']


def test_ratios_are_of_the_same_seeds_with_students_interval(run, tmp_path):
  found = {
    'one': [run('o0', {'a': 0.4}), tmp_path / 'no', run('o2', {'a': 0.2})],
    'two': [run(f't{i}', {'a': v}) for i, v in enumerate((0.1, 0.5, 0.1))],
    'zero': [run('z', {'a': 0.0})],
  }
  wanted = [('a', 'one', 'two'), ('a', 'one', 'zero')]
  # 4 and 2: logs 1.5 ln 2 +- 0.5 ln 2; t of one degree of freedom 12.706.
  low, high = (2**1.5 * 2 ** (s * 0.5 * 12.7062) for s in (-1, 1))
  assert arms.ratios(found, wanted) == [
    f'a: one over two 2.83 ({low:.3g} to {high:.3g}, 2 seeds)',
    'a: one over zero is not defined',
  ]


def test_a_run_without_the_metric_has_a_gap_and_no_run_with_it_is_an_error(run):
  found = {'rl': [run('a', {}, [1.0] * 5)], 'base': [run('b', {})]}
  values = arms.measured(found, ['last:reward/correct'])
  assert values['rl'].values['last:reward/correct'][0] == 1.0
  assert math.isnan(values['base'].values['last:reward/correct'][0])
  with pytest.raises(ValueError, match="no run has a metric 'reward/corect'"):
    arms.measured(found, ['last:reward/corect'])


def test_what_only_some_answers_have_may_be_missing(run):
  found = {'a': [run('a', {'pass@1': 1.0, 'mean_length_right': 3.0})]}
  values = arms.measured(found, ['mean_length_right', 'mean_length_wrong'])['a']
  assert values.values['mean_length_right'][0] == 3.0
  assert math.isnan(values.values['mean_length_wrong'][0])


def test_curves_are_a_row_a_step(run, tmp_path):
  found = {
    'rl': [run('a', {}, [0.0, 1 / 3]), run('b', {}, [1.0])],
    'no': [tmp_path / 'nowhere'],
  }
  assert arms.curves(found).splitlines() == [
    'arm,seed,step,reward/correct', 'rl,0,1,0', 'rl,0,2,0.3333', 'rl,1,1,1'
  ]  # fmt: skip


def test_long_curves_are_means_over_equal_numbers_of_steps(run):
  folder = run('a', {}, list(range(600)))
  _, *rows = arms.curves({'rl': [folder]}).splitlines()
  assert rows[0] == 'rl,0,3,1' and rows[-1] == 'rl,0,600,598'
  assert len(rows) == 200


def test_measures_of_curves(run):
  # Means of five: 0.2, 0.4, 0.6, 0.8, 1.0 at steps 6 to 10.
  curve = [0.0] * 5 + [1.0] * 15
  folder = run('a', {'pass@1': 1.0}, curve)
  names = [
    'reach@0.5',
    'reach@1',
    'first:reward/correct',
    'last:reward/correct',
    'at:reward/correct:10',
    'median:reward/correct',
  ]
  values = arms.measured({'a': [folder]}, names)['a'].values
  assert [values[name][0] for name in names] == [8, 10, 0.0, 1.0, 1.0, 1.0]
  later = ['at:reward/correct:21', 'last:reward/correct - at:reward/correct:5']
  found = arms.measured({'a': [folder]}, later)['a'].values
  assert math.isnan(found[later[0]][0]) and found[later[1]][0] == 1.0


def test_a_metric_of_evaluations_is_read_off_its_curve_too(run):
  folder = run('a', {})
  rows = ({'step': i + 1, 'eval/pass@1': i / 10} for i in range(10))
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'metrics.jsonl').write_text(text)
  names = ['last:eval/pass@1', 'at:eval/pass@1:5']
  values = arms.measured({'a': [folder]}, names)['a'].values
  assert [values[name][0] for name in names] == [0.9, 0.4]


def test_a_forecast_that_is_right_misses_by_little(run):
  steps = np.arange(1, 101)
  curve = 0.1 + 0.8 / (1 + (20 / steps) ** 2)
  folder = run('a', {}, curve.tolist())
  name = 'forecast:reward/correct'
  missed = arms.measured({'a': [folder]}, [name])['a'].values[name][0]
  assert 0 <= missed < 0.01


def test_a_forecast_that_is_wrong_misses_by_a_size_and_needs_enough_steps(run):
  steps = np.arange(1, 101)
  curve = 0.1 + 0.8 / (1 + (20 / steps) ** 2)
  name = 'forecast:reward/correct'

  def missed(folder):
    return arms.measured({'a': [folder]}, [name])['a'].values[name][0]

  falls = np.where(steps > 50, 0.1, curve).tolist()
  rises = np.where(steps > 50, 1.0, curve).tolist()
  assert missed(run('falls', {}, falls)) > 0.3
  assert missed(run('rises', {}, rises)) > 0.05
  assert math.isnan(missed(run('short', {}, falls[:15])))


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
  assert b.split() == ['b', 'a', '1', '-']


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
