"""Win rates: by hand, by scipy, by alpaca_eval's numbers, and as a job."""

import json
import math
import re

import alpaca_cases as cases
import judge_server
import numpy as np
import pytest
from scipy import optimize
import tiny

from grpo_jax import stage_table
from grpo_jax.alpaca import contests, difficulty, judges, length_control
from grpo_jax.rewards import text

# Judges are named by module and function; tests are on the path.
LONGER = 'test_win_rate:longer'


def longer(instruction, reference, output):
  """Prefers the longer answer, whatever it says."""
  return 0.5 + 0.5 * np.sign(len(output) - len(reference))


def test_win_rate_and_its_error_by_hand():
  found = length_control.win_rate(np.array([1.0, 0.5, 0.25, np.nan]))
  assert found == {
    'win_rate': pytest.approx(100 * 1.75 / 3),
    # Variance of (1, 1/2, 1/4): (25 + 1 + 16) / 144 / 2 * ... = 7/48.
    'standard_error': pytest.approx(100 * math.sqrt(7 / 48 / 3)),
    'discrete_win_rate': pytest.approx(50.0),
    'n_wins': 1,
    'n_wins_base': 1,
    'n_draws': 1,
    'n_total': 3,
  }


def test_nothing_judged_is_an_error():
  nothing = np.array([np.nan, np.nan])
  with pytest.raises(ValueError, match='all are unknown'):
    length_control.win_rate(nothing)
  with pytest.raises(ValueError, match='all are unknown'):
    length_control.length_controlled(
      nothing, np.ones(2), np.ones(2), difficulties=None
    )


@pytest.mark.parametrize('strength', [0.01, 0.3, 1e4])
def test_the_fit_is_the_minimum_that_scipy_finds(strength):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(40, 3))
  y, weights = rng.uniform(size=40), rng.uniform(0.1, 1.0, 40)

  def objective(both):  # b = both[:3] - both[3:], both not negative: smooth
    z = x @ (both[:3] - both[3:])
    losses = weights * (np.logaddexp(0, z) - y * z)
    return strength * losses.sum() + both.sum()

  found = optimize.minimize(
    objective, np.full(6, 0.1), bounds=[(0, None)] * 6, method='L-BFGS-B',
    options={'ftol': 1e-15, 'gtol': 1e-10, 'maxiter': 10_000},
  )  # fmt: skip
  np.testing.assert_allclose(
    length_control.fit(x, y, weights, strength=strength),
    found.x[:3] - found.x[3:],
    atol=1e-4,  # of scipy's numerical gradient
  )


def test_answers_as_long_as_the_references_keep_their_win_rate():
  preferences = np.array([1.0, 0.0, 1.0, 1.0] * 20)
  lengths = np.full(80, 100)
  found = length_control.length_controlled(
    preferences, lengths, lengths, difficulties=None
  )
  # Up to the penalty, 1 / (C n) of a logit.
  assert found['length_controlled_winrate'] == pytest.approx(75, abs=0.6)
  # Without other terms the error is that of a mean, with n for n - 1.
  plain = length_control.win_rate(preferences)['standard_error']
  assert found['length_controlled_stderr'] == pytest.approx(plain, rel=0.02)
  assert found['weights']['length'] == 0.0


def test_what_length_alone_has_won_is_taken_away():
  rng = np.random.default_rng(1)
  reference = rng.integers(100, 1000, 300)
  model = reference + rng.integers(-200, 800, 300)
  preferences = 1 / (1 + np.exp(-(model - reference) / 100.0))
  plain = length_control.win_rate(preferences)['win_rate']
  found = length_control.length_controlled(
    preferences, reference, model, difficulties=None
  )
  assert plain > 75
  assert found['length_controlled_winrate'] == pytest.approx(50, abs=4)


def test_the_standard_error_is_that_of_leaving_one_out():
  lengths = np.array(cases.synthetic_lengths())
  preferences = cases.preferences(lengths.tolist(), 'weighted')
  found = length_control.length_controlled(
    preferences, *lengths.T, difficulties=None
  )
  difference = lengths[:, 0] - lengths[:, 1]
  scaled = difference / difference.std(ddof=1)
  x = np.stack([np.tanh(scaled), np.ones(len(scaled))], axis=1)
  left = []
  for i in range(len(x)):
    keep = np.arange(len(x)) != i
    coef = length_control.fit(
      x[keep], preferences[keep], np.ones(len(x) - 1),
      strength=found['inverse_penalty'],
    )  # fmt: skip
    left.append(100 / (1 + math.exp(-coef[1])))
  n = len(left)
  jackknife = math.sqrt((n - 1) / n * np.sum((left - np.mean(left)) ** 2))
  # The jackknife is a little wide at 60 instructions.
  assert found['length_controlled_stderr'] == pytest.approx(jackknife, rel=0.1)


def test_where_the_penalty_leaves_no_weight_the_error_does_not_vanish(caplog):
  rng = np.random.default_rng(3)
  lengths = rng.integers(20, 60, (2, 31))
  preferences = (np.arange(31) < 13).astype(float)
  found = length_control.length_controlled(
    preferences, *lengths, difficulties=None
  )
  assert not any(found['weights'].values())
  assert found['length_controlled_winrate'] == 50.0
  # Near that of a share of 31.
  plain = length_control.win_rate(preferences)['standard_error']
  assert 0.5 * plain < found['length_controlled_stderr'] < 2 * plain
  assert 'look at the plain one' in caplog.text
  assert not found['length_control_tells']


def test_a_fit_that_keeps_length_alone_is_no_measure(tmp_path, caplog):
  # Longer outputs win, shorter ones lose, and that is all there is.
  lengths = np.array([[30, 60], [60, 30]] * 20).T
  preferences = np.array([1.0, 0.0] * 20)
  found = length_control.length_controlled(
    preferences, *lengths, difficulties=None
  )
  assert found['weights']['length'] and not found['length_control_tells']
  assert 'look at the plain one' in caplog.text
  rates = length_control.win_rate(preferences)
  (tmp_path / 'win_rate.json').write_text(json.dumps(rates | found))
  assert stage_table.measured(tmp_path) == {
    'win_rate': 50.0, 'win_rate_stderr': rates['standard_error'],
  }  # fmt: skip


@pytest.mark.parametrize('control', cases.CONTROLS)
@pytest.mark.parametrize('kind', cases.KINDS)
def test_win_rates_are_those_of_alpaca_eval(kind, control, tmp_path):
  lengths = cases.synthetic_lengths()
  _check_reference('synthetic', lengths, kind, control, tmp_path)


@pytest.mark.parametrize('control', cases.CONTROLS)
def test_win_rates_of_alpaca_evals_own_outputs(control, tmp_path, data_folder):
  if not (data_folder / 'alpaca').exists():
    pytest.skip(f'no outputs of AlpacaEval in {data_folder}/alpaca')
  lengths = cases.alpaca_lengths(data_folder)
  _check_reference('alpaca', lengths, 'unknown', control, tmp_path)


def _check_reference(data, lengths, kind, control, folder):
  stored = json.loads(cases.REFERENCE.read_text())[data][kind][control]
  # Whose order of ties, in numpy's sort, depends on the processor.
  folds = np.array([int(digit) for digit in stored['converged']['folds']])
  found = cases.ours(
    cases.preferences(lengths, kind), lengths, control, folder, folds
  )
  cases.assert_equal(found, stored['converged'], points=1e-4)
  # The package's solver stops before its limit.
  cases.assert_equal(found, stored['package'], points=0.05)
  np.testing.assert_allclose(
    list(found['weights'].values()), stored['converged']['coef'], atol=1e-5
  )


def test_too_few_difficulties_and_strange_files_are_refused(tmp_path):
  path = tmp_path / 'difficulties.csv'
  path.write_text('index,instruction_difficulty\n0,0.5\n1,-1\n')
  known = difficulty.read(path)
  assert known.difficulty.tolist() == [0.5, -1.0]
  with pytest.raises(ValueError, match='2 difficulties for 3 instructions'):
    difficulty.check_count(known, 3)
  path.write_text('index,instruction_difficulty\n0,0.5\n2,-1\n')
  with pytest.raises(ValueError, match='indices are not 0 .. 1'):
    difficulty.read(path)
  path.write_text('index\n0\n')
  with pytest.raises(ValueError, match="no column 'instruction_difficulty'"):
    difficulty.read(path)
  head = 'index,instruction_difficulty,not_gamed_baseline'
  for content, told in (
    (f'{head}\n0,0.5,True\n1,nan,True', "row 2: .*_difficulty='nan' is no num"),
    (f'{head}\n0,,True\n', "row 1: instruction_difficulty='' is no number"),
    (f'{head}\n0,0.5,False', 'row 1: std_delta_len=None is no number'),
  ):
    path.write_text(content)
    with pytest.raises(ValueError, match=told):
      difficulty.read(path)
  path.write_bytes(f'{head}\n0,0.5,café\n'.encode('latin-1'))
  with pytest.raises(ValueError, match='byte 57 is not UTF-8'):
    difficulty.read(path)
  with pytest.raises(FileNotFoundError, match='df_gamed.csv'):
    difficulty.read(tmp_path / 'none.csv')


def write(path, rows, *, lines=False):
  text = '\n'.join(map(json.dumps, rows)) if lines else json.dumps(rows)
  path.write_text(text)
  return str(path)


@pytest.mark.parametrize('name', ['rows.json', 'rows.jsonl'])
def test_rows_that_are_not_utf8_are_refused_in_one_line(tmp_path, name):
  path = tmp_path / name
  path.write_bytes('[{"instruction": "café"}]'.encode('latin-1'))
  with pytest.raises(ValueError, match='byte 21 is not UTF-8'):
    contests.read_rows(str(path))


def test_a_character_that_was_lost_before_is_text_like_others(tmp_path):
  path = tmp_path / 'rows.json'
  path.write_text('[{"output": "\ufffd"}]', encoding='utf-8')
  assert contests.read_rows(str(path)) == [{'output': '\ufffd'}]


def test_references_are_found_by_instruction(tmp_path):
  asked = write(
    tmp_path / 'asked.jsonl', [{'instruction': 'b'}, {'instruction': 'a'}],
    lines=True,
  )  # fmt: skip
  outputs = write(
    tmp_path / 'outputs.json',
    [{'instruction': x, 'output': x * 2, 'generator': 'twice'} for x in 'abc'],
  )
  found = contests.read(asked, outputs, count=5)
  assert found.references == ['bb', 'aa']
  assert found.generator == 'twice'
  assert contests.read(outputs, '', count=2).references == ['aa', 'bb']


def test_an_instruction_asked_twice_has_the_output_of_its_own_row(tmp_path):
  rows = [dict(instruction=i, output=o) for i, o in ('ax', 'by', 'az')]
  path = write(tmp_path / 'sums.json', rows)
  contest = contests.read(path, path, count=3)
  assert contest.references == ['x', 'y', 'z']
  found = contests.outputs(contest, path, '')
  assert [row['output'] for row in found] == ['x', 'y', 'z']
  # Of the first of them, too.
  assert contests.read(path, path, count=2).references == ['x', 'y']
  other = write(tmp_path / 'other.json', rows[::-1][1:] + rows[2:])
  with pytest.raises(ValueError, match="other.json: row 3 has another .*'a'"):
    contests.read(path, other, count=3)
  equal = write(tmp_path / 'equal.json', [rows[0], rows[0], rows[1]])
  assert contests.read(path, equal, count=3).references == ['x', 'y', 'x']


def test_a_contest_that_cannot_be_held_says_why(tmp_path):
  asked = write(tmp_path / 'asked.json', [{'instruction': 'a'}])
  others = write(
    tmp_path / 'others.json', [{'instruction': 'b', 'output': 'x'}]
  )
  with pytest.raises(ValueError, match='win_rate.path is not set'):
    contests.read('', '', count=1)
  with pytest.raises(
    ValueError, match="asked.json: row 1 has no text 'output'"
  ):
    contests.read(asked, '', count=1)
  with pytest.raises(ValueError, match="no output for 1 of 1 .*first 'a'"):
    contests.read(asked, others, count=1)
  with pytest.raises(FileNotFoundError, match='none.json'):
    contests.read(str(tmp_path / 'none.json'), '', count=1)
  (tmp_path / 'bad.json').write_text('[{]')
  with pytest.raises(ValueError, match='bad.json: not JSON'):
    contests.read(str(tmp_path / 'bad.json'), '', count=1)


def test_a_comparison_leaves_alpaca_evals_annotations():
  contest = contests.Contest(
    [{'instruction': 'a'}, {'instruction': 'b'}, {'instruction': 'c'}],
    ['long', 'x', 'same'],
    'base',
  )
  outputs = [
    {'instruction': i, 'output': o, 'generator': 'mine'}
    for i, o in (('a', 'no'), ('b', 'yes'), ('c', 'same'))
  ]
  result, annotations = contests.compare(
    outputs, contest, judges.by_function(LONGER), difficulties=None,
    annotator='longer',
  )  # fmt: skip
  assert result['win_rate'] == 50.0
  assert result['avg_length'] == pytest.approx((2 + 3 + 4) / 3)
  # From 1, the reference is better, to 2.
  assert [row['preference'] for row in annotations] == [1.0, 2.0, 1.5]
  assert annotations[0] == {
    'index': 0, 'instruction': 'a', 'output_1': 'long', 'generator_1': 'base',
    'output_2': 'no', 'generator_2': 'mine', 'annotator': 'longer',
    'preference': 1.0,
  }  # fmt: skip


def test_the_real_outputs_compare_as_their_lengths_do(data_folder, tmp_path):
  folder = data_folder / 'alpaca'
  if not folder.exists():
    pytest.skip(f'no outputs of AlpacaEval in {folder}')
  flags = (
    f'--workdir={tmp_path}',
    f'--config.win_rate.path={folder / "gpt4_1106_preview.json"}',
    f'--config.win_rate.outputs={folder / "text_davinci_003.json"}',
    '--config.win_rate.prompts=200',
  )
  done = tiny.job(
    'evaluate', '--task=win_rate', f'--config.win_rate.judge={LONGER}', *flags
  )
  assert done.code == 0, done.err
  result = json.loads((tmp_path / 'win_rate.json').read_text())
  lengths = cases.alpaca_lengths(data_folder)
  wins = np.mean([(1 + np.sign(m - r)) / 2 for r, m in lengths[:200]])
  assert result['win_rate'] == pytest.approx(100 * wins)
  assert (result['n_total'], result['n_unjudged']) == (200, 0)
  assert result['generator'] == 'text_davinci_003'
  assert result['reference'] == 'gpt4_1106_preview'
  # The shorter writer is better off when lengths are taken away.
  assert result['length_controlled_winrate'] > result['win_rate'] + 20
  # What was annotated can be read again, and says the same.
  kept = (tmp_path / 'annotations.json').rename(tmp_path / 'kept.json')
  done = tiny.job(
    'evaluate', '--task=win_rate', f'--config.win_rate.judge={kept}', *flags
  )
  assert done.code == 0, done.err
  again = json.loads((tmp_path / 'win_rate.json').read_text())
  assert {k: v for k, v in again.items() if k != 'settings'} == {
    k: v for k, v in result.items() if k != 'settings'
  }


@pytest.mark.parametrize(
  'completion, summary',
  [
    ('<think>long</think>\n\nShort.', 'Short.'),
    ('<think>a</think><answer>4</answer>', '4'),
    ('no tags', 'no tags'),
    ('<think>never ends', ''),
    ('ends</think> 4', '4'),
  ],
)
def test_only_the_final_summary_is_compared(completion, summary):
  assert text.reply(completion) == summary


def test_what_is_left_out_and_an_unknown_price_are_told(tmp_path):
  rows = [dict(instruction=i, output='no') for i in 'abc']
  path = write(tmp_path / 'refs.json', rows)
  mine = write(tmp_path / 'mine.json', [r | dict(output='yes!') for r in rows])

  def job(server, *more):
    w = dict(path=path, outputs=mine, judge=server.url, prompts=2)
    done = tiny.job(
      'evaluate', '--task=win_rate', f'--workdir={tmp_path / "w"}',
      '--config.win_rate.endpoint.key_from=',
      *(f'--config.win_rate.{k}={v}' for k, v in w.items()), *more,
    )  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads((tmp_path / 'w' / 'win_rate.json').read_text())
    return done.out, result['cost']

  with judge_server.running() as server:
    out, cost = job(server)
    assert '2 of 3 prompts' in out
    assert '4 requests (0 more were known, 0 refused), 400 tokens in' in out
    assert 'out: price not set' in out and cost['dollars'] is None
    price = '--config.win_rate.endpoint.price_in=10'
    out, cost = job(server, price, '--config.win_rate.prompts=3')
  # Of the one prompt that was not known: 200 x $10 a million.
  assert ' of 3 prompts' not in out and '$0.0020' in out
  assert cost['dollars'] == pytest.approx(0.002)


@pytest.mark.parametrize(
  'flags, told',
  [
    ((), 'win_rate.path is not set'),
    (('path={path}',), "win_rate.judge='' names no judge"),
    (('path={path}', 'judge=test_win_rate:none'), "no attribute 'none'"),
    (('path={path}', 'judge=http://x', 'endpoint.key_from=NO_KEY'), 'NO_KEY'),
    (
      ('path={path}', 'judge=http://x', 'endpoint.orders=one'),
      'endpoint.orders=.one. is not one of both, random',
    ),
    (('path={path}', f'judge={LONGER}', 'prompts=0'), 'prompts=0 must be'),
  ],
)
def test_what_is_missing_is_said_before_any_work(flags, told, tmp_path):
  path = write(tmp_path / 'sums.json', [{'instruction': '1 +1=', 'output': ''}])
  done = tiny.job(
    'evaluate', '--task=win_rate', f'--workdir={tmp_path / "w"}',
    '--init_from=none',
    *(f'--config.win_rate.{flag.format(path=path)}' for flag in flags),
  )  # fmt: skip
  assert done.code == 2
  [line] = done.err.strip().splitlines()
  assert re.search(told, line), line
