"""The table of stages, of files as evaluations leave them."""

import json

import pytest

from grpo_jax import stage_table


@pytest.fixture
def stages(tmp_path):
  """Zero with all evaluations, Dev1 with one, Dev2 with none."""
  files = {
    'zero/eval.json': {
      'pass@1': 0.5, 'pass@1_stderr': 0.01, 'pass@16': 0.9, 'pass@4': 0.7,
      'cons@16': 0.75, 'thinking_length': 123.4, 'thinking_length_right': 9.5,
      'gibberish': 0.02, 'truncated': 0.0, 'problems': 200, 'samples': 16,
      'per_problem': [0.5],
    },
    'zero/instructions_eval.json': {'pass@1': 0.25, 'pass@1_stderr': 0.05},
    'zero/win_rate.json': {
      'win_rate': 24.7, 'standard_error': 1.5,
      'length_controlled_winrate': 30.0, 'length_controlled_stderr': 2.0,
    },
    'dev1/eval.json': {'pass@1': 1.0, 'problems': 50},
  }  # fmt: skip
  for name, content in files.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
  return [(n, tmp_path / n.lower()) for n in ('Zero', 'Dev1', 'Dev2')]


def test_a_row_holds_all_that_was_evaluated(stages):
  zero, dev1, dev2 = stage_table.rows(stages)
  assert (zero['stage'], zero['pass@1'], zero['problems']) == ('Zero', 0.5, 200)
  assert zero['instruction_following'] == 0.25
  assert zero['instruction_following_stderr'] == 0.05
  assert (zero['win_rate'], zero['win_rate_stderr']) == (24.7, 1.5)
  assert (zero['lc_win_rate'], zero['lc_win_rate_stderr']) == (30.0, 2.0)
  assert dev1 == {'stage': 'Dev1', 'pass@1': 1.0, 'problems': 50}
  assert dev2 == {'stage': 'Dev2'}


def test_the_text_has_a_line_a_measure_and_a_column_a_stage(stages):
  lines = stage_table.table(stages).splitlines()
  assert lines[0].split() == ['Zero', 'Dev1', 'Dev2']
  cells = {line[:28].strip(): line[28:].split('  ') for line in lines[1:]}
  shown = {name: [c.strip() for c in row if c] for name, row in cells.items()}
  assert list(shown) == [
    'pass@1', 'pass@4', 'pass@16', 'cons@16', 'follows instructions',
    'win rate', 'win rate, length-controlled', 'gibberish', 'thought, tokens',
    'thought when right', 'truncated', 'problems', 'samples',
  ]  # fmt: skip
  assert shown['pass@1'] == ['50.0% ± 1.0', '100.0%']
  assert shown['win rate'] == ['24.7% ± 1.5']
  assert shown['thought, tokens'] == ['123.4']
  assert shown['thought when right'] == ['9.50']
  assert shown['problems'] == ['200', '50']


def test_an_error_of_a_domain_stands_by_its_mean_and_is_no_measure():
  found = {'pass@1/math': 0.5, 'pass@1/math_stderr': 0.02}
  assert stage_table.shown([('Zero', found)]) == {
    'columns': ['', 'pass@1 math'], 'rows': [['Zero', '50.0% ± 2.0']],
  }  # fmt: skip


def test_no_stage_is_an_empty_table():
  assert stage_table.table([]) == ''


def test_a_damaged_file_is_named(tmp_path):
  (tmp_path / 'eval.json').write_text('{')
  with pytest.raises(ValueError, match='eval.json is damaged'):
    stage_table.rows([('Zero', tmp_path)])
