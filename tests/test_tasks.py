"""Tasks: right answers, disjoint splits, batches as a function of the step."""

import functools
import http.server
import json
import pathlib
import re
import subprocess
import sys
import threading
import time

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from grpo_jax import rewards, tasks
from grpo_jax.tasks.common import Example, part_of
from grpo_jax.tasks.countdown import evaluate
from grpo_jax.tasks.gsm8k import Gsm8kBuilder
from grpo_jax.tasks.mawps import normalise, tidy

DATA = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'


def examples_of(task):
  return [task.example(i) for i in range(len(task))]


def need_data(name):
  if not (DATA / name).is_dir():
    pytest.skip(f'{DATA / name} is absent')
  return str(DATA / name)


# Batches and splits


def test_every_epoch_visits_every_example_once():
  size, batch = 10, 4
  seen = np.concatenate(
    [tasks.batch_indices(size, batch, seed=0, step=s) for s in range(5)]
  )
  first, second = seen[:10], seen[10:]
  assert sorted(first) == sorted(second) == list(range(10))
  assert list(first) != list(second)


def test_batch_is_a_function_of_seed_and_step_only():
  ask = functools.partial(tasks.batch_indices, 100, 8)
  forwards = [ask(seed=3, step=s) for s in range(40)]
  backwards = [ask(seed=3, step=s) for s in reversed(range(40))]
  np.testing.assert_array_equal(forwards, backwards[::-1])
  assert not np.array_equal(ask(seed=3, step=0), ask(seed=4, step=0))
  # Written down once: a new numpy or Python must not reorder a resumed run.
  np.testing.assert_array_equal(
    tasks.batch_indices(10, 4, seed=0, step=2), [2, 4, 7, 3]
  )


def test_batch_larger_than_the_task_goes_round():
  indices = tasks.batch_indices(3, 8, seed=0, step=1)
  assert indices.shape == (8,)
  # Positions 8..15: the last of epoch 2, epochs 3 and 4, one of epoch 5.
  assert sorted(indices[1:4]) == sorted(indices[4:7]) == [0, 1, 2]


@pytest.mark.parametrize(
  ('size', 'batch', 'step'), [(0, 1, 0), (1, 0, 0), (1, 1, -1)]
)
def test_impossible_batch_is_refused(size, batch, step):
  with pytest.raises(ValueError, match='must be positive'):
    tasks.batch_indices(size, batch, seed=0, step=step)


def test_split_is_a_fixed_share_of_all_texts():
  found = [tasks.split_of(str(i)) for i in range(5000)]
  # Five standard deviations of 5000 draws at 0.1 are 106.
  assert abs(found.count('test') - 500) < 106
  assert found == [tasks.split_of(str(i)) for i in range(5000)]


# Arithmetic


def test_arithmetic_answers_are_right_and_totals_stay_in_bounds():
  task = tasks.arithmetic(split='train', size=300, min_ops=1, max_ops=12)
  for example in examples_of(task):
    total, shown = 0, re.findall(r'[+-]?\d', example.prompt)
    assert ' '.join(shown) + '=' == example.prompt
    for term in shown:
      total += int(term)
      assert 0 <= total <= 99
    assert example.answer == str(total)


def test_arithmetic_completion_writes_out_every_step():
  task = tasks.arithmetic(split='train', size=100, min_ops=3, max_ops=3)
  for example in examples_of(task):
    terms = re.findall(r'[+-]?\d', example.prompt)
    totals = np.cumsum([int(t) for t in terms])
    steps = [f'{total:02d}' for total in totals[1:]]
    assert example.completion == (
      f'<think>{";".join(steps)}</think><answer>{steps[-1]}</answer>'
    )


def test_arithmetic_terms_stay_within_the_largest():
  task = tasks.arithmetic(
    split='train', size=100, min_ops=4, max_ops=4, max_number=3
  )
  terms = {d for e in examples_of(task) for d in re.findall(r'\d', e.prompt)}
  assert terms == {'1', '2', '3'}


def test_arithmetic_shares_of_steps_and_wrong_answers_are_as_asked():
  task = tasks.arithmetic(
    split='train',
    size=2000,
    min_ops=2,
    max_ops=4,
    steps_share=0.25,
    wrong_share=0.5,
  )
  worked = wrong = 0
  for example in examples_of(task):
    answer = re.search('<answer>(.*)</answer>', example.completion).group(1)
    right = task.verify(answer, example)
    assert 0 <= int(answer) <= 99
    if example.completion.startswith('<think>'):
      worked += 1
      assert right
    wrong += not right
  # Five standard deviations: 97 of 2000 at 0.25, 108 at 0.375.
  assert abs(worked - 500) < 97
  assert abs(wrong - 750) < 108


def test_arithmetic_prompts_do_not_depend_on_the_style_of_completions():
  make = functools.partial(
    tasks.arithmetic, split='train', size=50, min_ops=1, max_ops=5
  )
  direct = examples_of(make(steps_share=0.0, wrong_share=1.0))
  worked = examples_of(make())
  assert [e.prompt for e in direct] == [e.prompt for e in worked]
  assert all(int(e.completion[8:-9]) != int(e.answer) for e in direct)


def test_arithmetic_operations_are_uniform():
  task = tasks.arithmetic(split='test', size=1500, min_ops=1, max_ops=3)
  counts = np.bincount(
    [len(re.findall('[+-]', e.prompt)) for e in examples_of(task)]
  )
  # Five standard deviations of 1500 draws at a third are 92.
  assert np.all(np.abs(counts[1:] - 500) < 92)


def test_arithmetic_splits_share_no_prompt_even_across_seeds():
  make = functools.partial(tasks.arithmetic, size=500, min_ops=1, max_ops=2)
  train = {e.prompt for e in examples_of(make(split='train', seed=0))}
  test = {e.prompt for e in examples_of(make(split='test', seed=1))}
  assert train and test and not train & test


def test_arithmetic_alphabet_covers_every_completion():
  from grpo_jax.tasks.arithmetic import ALPHABET

  task = tasks.arithmetic(split='train', size=200, min_ops=1, max_ops=9)
  for example in examples_of(task):
    content = example.prompt + example.completion
    for special in tasks.SPECIALS:
      content = content.replace(special, '')
    assert set(content) <= set(ALPHABET)


def test_index_outside_a_task_is_an_index_error():
  task = tasks.arithmetic(split='test', size=5, min_ops=1, max_ops=1)
  for i in (-1, 5):
    with pytest.raises(IndexError):
      task.example(i)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'split': 'dev'}, "split='dev'"),
    ({'size': 0}, 'size=0'),
    ({'min_ops': 3}, 'min_ops=3'),
    ({'steps_share': 1.5}, 'steps_share=1.5'),
    ({'max_number': 10}, 'max_number=10'),
  ],
)
def test_arithmetic_refuses_impossible_arguments(change, message):
  arguments = {'split': 'test', 'size': 5, 'min_ops': 1, 'max_ops': 2}
  with pytest.raises(ValueError, match=message):
    tasks.arithmetic(**{**arguments, **change})


@pytest.mark.parametrize('max_number', [1, 2, 3])
def test_arithmetic_without_a_prompt_of_the_split_fails_at_the_start(
  max_number,
):
  make = functools.partial(
    tasks.arithmetic, size=5, min_ops=1, max_ops=2, max_number=max_number
  )
  with pytest.raises(ValueError, match='no test prompt.*raise min_ops'):
    make(split='test')
  assert len(examples_of(make(split='train'))) == 5


# Countdown


@pytest.mark.parametrize('style', ['words', 'short'])
@pytest.mark.parametrize('numbers', [2, 4])
def test_countdown_is_solved_by_its_own_completion(style, numbers):
  task = tasks.countdown(split='train', size=100, numbers=numbers, style=style)
  for example in examples_of(task):
    answer = re.search('<answer>(.*)</answer>', example.completion).group(1)
    assert task.verify(answer, example)
    assert len(example.data['numbers']) == numbers
    assert 1 <= example.data['target'] <= 100
    assert str(example.data['target']) in example.prompt
    content = example.prompt + example.completion
    for special in tasks.SPECIALS:
      content = content.replace(special, '')
    assert style == 'words' or set(content) <= set(tasks.ALPHABET)


def countdown_example(use='all'):
  facts = {'numbers': (3, 7, 25), 'target': 46, 'use': use}
  return Example('', '(25-3)+7', data=facts)


@pytest.mark.parametrize(
  ('answer', 'right'),
  [
    ('25+7*3', True),
    (' 3 * 7 + 25 ', True),
    ('25--7*3', True),
    ('7×3+25', True),
    ('25+7+3', False),
    ('46', False),
    ('25+21', False),
    ('25+7*3+7-7', False),
    ('25+7*3=46', False),
    ('25+7*3.0', False),
    ('25+7*03', False),
    ('(25+7*3', False),
    ('25+7*3)(', False),
    ('7**3', False),
    ('25//7*3', False),
    ('3/(7-7)', False),
    ('__import__("os").system("false")', False),
    ('', False),
    ('(' * 5000, False),
    ('-' * 199 + '3', False),
    ('9' * 5000, False),
    ('3\0', False),
  ],
)
def test_countdown_accepts_any_valid_expression_and_nothing_else(answer, right):
  task = tasks.countdown(split='train', size=1)
  assert task.verify(answer, countdown_example()) is right


def test_countdown_uses_exact_fractions():
  facts = {'numbers': (8, 3, 8, 3), 'target': 24, 'use': 'all'}
  task = tasks.countdown(split='train', size=1)
  # The classic: in floats 8/(3-8/3) is 23.99...
  assert task.verify('8/(3-8/3)', Example('', '', data=facts))


def test_countdown_may_allow_numbers_to_be_left_out():
  task = tasks.countdown(split='train', size=1, use='any')
  facts = {'numbers': (3, 7, 25), 'target': 21, 'use': 'any'}
  assert task.verify('3*7', Example('', '', data=facts))
  assert not task.verify('3*7', Example('', '', data={**facts, 'use': 'all'}))
  assert not task.verify('3*7*1', Example('', '', data=facts))


@settings(max_examples=200, deadline=None)
@given(strategies.text('0123456789+-*/() \0²x', max_size=30))
def test_countdown_verdict_never_raises(answer):
  task = tasks.countdown(split='train', size=1)
  assert task.verify(answer, countdown_example()) in (True, False)
  assert evaluate(answer) is None or len(evaluate(answer)) == 2


def test_countdown_without_a_problem_of_the_split_fails_at_the_start():
  # The only problems are 1 and 1, 1 and 2, 2 and 2 with a target up to 2.
  with pytest.raises(ValueError, match='no test problem.*raise max_number'):
    tasks.countdown(split='test', size=5, numbers=2, max_number=2, max_target=2)


def test_countdown_splits_share_no_problem_in_any_order():
  make = functools.partial(tasks.countdown, size=300, numbers=2, max_number=9)

  def problems(task):
    return {
      (tuple(sorted(e.data['numbers'])), e.data['target'])
      for e in examples_of(task)
    }

  train, test = problems(make(split='train')), problems(make(split='test'))
  assert train and test and not train & test


# JSON lines


def write_rows(path, *rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


FIELDS = {'prompt_field': 'q', 'answer_field': 'a'}


def test_jsonl_reads_texts_and_numbers(tmp_path):
  path = write_rows(
    tmp_path / 'x.jsonl',
    {'q': 'one?', 'a': 1.0, 'c': 'it is 1'},
    {'q': 'two\u2028?', 'a': '2', 'c': 'it is 2'},
  )
  task = tasks.jsonl(path=path, completion_field='c', **FIELDS)
  assert examples_of(task) == [
    Example('one?', '1', 'it is 1'),
    Example('two\u2028?', '2', 'it is 2'),
  ]
  assert task.verify('1.0', task.example(0))
  assert not task.verify('2', task.example(0))


def test_jsonl_exact_verifier_ignores_only_whitespace(tmp_path):
  path = write_rows(tmp_path / 'x.jsonl', {'q': 'day?', 'a': 'Monday  morning'})
  task = tasks.jsonl(path=path, verifier='exact', **FIELDS)
  assert task.verify(' Monday morning\n', task.example(0))
  assert not task.verify('monday morning', task.example(0))
  assert not task.verify('', task.example(0))


@pytest.mark.parametrize('answer', ['None', ' none'])
def test_jsonl_answer_that_reads_like_a_failed_extraction_is_refused(
  answer, tmp_path
):
  # No reward takes it for an answer, so the row would never be right.
  rows = [{'q': 'who came?', 'a': 'Ann'}, {'q': 'who left?', 'a': answer}]
  path = write_rows(tmp_path / 'x.jsonl', *rows)
  with pytest.raises(ValueError, match=r'x.jsonl:2: a=.*another way'):
    tasks.jsonl(path=path, verifier='exact', **FIELDS)


def test_jsonl_split_is_by_hash_and_complete(tmp_path):
  path = write_rows(
    tmp_path / 'x.jsonl', *({'q': f'{i % 150}?', 'a': i} for i in range(300))
  )
  make = functools.partial(tasks.jsonl, path=path, test_share=0.3, **FIELDS)
  train, test = (examples_of(make(split=s)) for s in ('train', 'test'))
  assert len(train) + len(test) == 300
  assert not {e.prompt for e in train} & {e.prompt for e in test}


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"q": "a", "a": 1}\n\n{"q": "b"}\n', r"x.jsonl:3: no field 'a'.*\['q'\]"),
    ('{"q": "a", "a": 1}\n{"q": ', 'x.jsonl:2: not JSON'),
    ('[1]\n', 'x.jsonl:1: a list'),
    ('{"q": "a", "a": "red"}\n', "x.jsonl:1: a='red' is no number.*exact"),
    ('{"q": "a", "a": NaN}\n', 'x.jsonl:1: a=nan'),
    ('{"q": "a", "a": null}\n', 'x.jsonl:1: a=None'),
    ('{"q": "", "a": 1}\n', "x.jsonl:1: q=''"),
    ('\n', 'x.jsonl: no train example'),
    (b'\xff\xfe', 'x.jsonl: byte 0 is not UTF-8'),
  ],
)
def test_damaged_jsonl_is_one_line_with_file_and_row(
  content, message, tmp_path
):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match=message) as caught:
    tasks.jsonl(path=str(path), **FIELDS)
  assert '\n' not in str(caught.value)


def test_missing_jsonl_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere.jsonl'):
    tasks.jsonl(path=str(tmp_path / 'nowhere.jsonl'), **FIELDS)


# GSM8K and MAWPS


def test_gsm8k_splits_answer_from_rationale(tmp_path):
  folder = need_data('gsm8k')
  test = tasks.gsm8k(split='test', folder=folder, data_dir=str(tmp_path))
  assert len(test) == 1319
  train = tasks.gsm8k(split='train', folder=folder, data_dir=str(tmp_path))
  assert len(train) == 7473
  by_prompt = {e.prompt: e for e in examples_of(train)}
  (natalia,) = [e for p, e in by_prompt.items() if p.startswith('Natalia sold')]
  assert natalia.answer == '72'
  assert natalia.completion == (
    '<think>\nNatalia sold 48/2 = 24 clips in May.\n'
    'Natalia sold 48+24 = 72 clips altogether in April and May.\n</think>\n'
    '<answer>72</answer>'
  )
  everything = [*by_prompt.values(), *examples_of(test)]
  assert all(test.verify(e.answer, e) for e in everything)
  assert not any(',' in e.answer or '<<' in e.completion for e in everything)


def test_mawps_is_clean_and_its_splits_are_disjoint(tmp_path):
  folder = need_data('mawps')
  train, test = (
    tasks.mawps(split=s, folder=folder, data_dir=str(tmp_path))
    for s in ('train', 'test')
  )
  # 2065 rows, less duplicates and two questions with two answers.
  assert len(train) + len(test) == 1848
  assert len(test) > 300
  everything = examples_of(train) + examples_of(test)
  keys = [normalise(e.prompt) for e in everything]
  assert len(set(keys)) == len(keys)
  answers = {e.prompt: e.answer for e in everything}
  joan = [p for p in answers if p.startswith('Joan found 70 seashells')]
  assert {answers[p] for p in joan} == {'43'}

  def numbers(task):
    return {
      tuple(re.findall(r'\d+(?:\.\d+)?', normalise(e.prompt)))
      for e in examples_of(task)
    } - {()}

  assert not numbers(train) & numbers(test)
  for example in everything:
    assert train.verify(example.answer, example)
    assert not example.answer.endswith('.0')
    assert '  ' not in example.prompt and ' .' not in example.prompt


@pytest.mark.parametrize(
  ('raw', 'clean'),
  [
    (
      "Sara 's dog had 3 pups . she gave 1 away , to Tim .",
      "Sara's dog had 3 pups. She gave 1 away, to Tim.",
    ),
    (
      '20 M&amp;M\N{RIGHT SINGLE QUOTATION MARK}s  cost $ 5.',
      "20 M&M's cost $5.",
    ),
    ('at 5 a.m. he adds .5 cups', 'At 5 a.m. he adds .5 cups'),
  ],
)
def test_mawps_questions_are_tidied(raw, clean):
  assert tidy(raw) == clean


def test_prepared_data_of_one_folder_is_not_taken_for_another(tmp_path):
  def prepare(number):
    folder = tmp_path / str(number)
    folder.mkdir()
    row = {'question': 'q?', 'answer': f'{number}=<<{number}>>\n#### {number}'}
    for name in ('train.jsonl', 'test.jsonl'):
      write_rows(folder / name, row)
    return tasks.gsm8k(
      split='test', folder=str(folder), data_dir=str(tmp_path / 'prepared')
    ).example(0)

  assert [prepare(n).answer for n in (1, 2000)] == ['1', '2000']


def test_missing_original_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='train.jsonl: no such file'):
    tasks.gsm8k(split='test', folder=str(tmp_path), data_dir=str(tmp_path))


def test_row_without_an_answer_mark_is_named(tmp_path):
  for name in ('train.jsonl', 'test.jsonl'):
    write_rows(tmp_path / name, {'question': 'q', 'answer': '7'})
  with pytest.raises(ValueError, match='row 1 ends in no'):
    tasks.gsm8k(split='test', folder=str(tmp_path), data_dir=str(tmp_path))
  # Nothing half-written is left to be read next time.
  assert not list(tmp_path.rglob('*.array_record*'))


@pytest.fixture
def local_server(tmp_path):
  """Serves tmp_path/source on this machine."""
  (tmp_path / 'source').mkdir()
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / 'source')
  )
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


def test_gsm8k_is_downloaded_by_its_builder(
  local_server, tmp_path, monkeypatch
):
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(Gsm8kBuilder, 'SOURCE', local_server)
  for name in ('train.jsonl', 'test.jsonl'):
    row = {'question': f'{name}?', 'answer': 'so\n#### 1,234'}
    write_rows(tmp_path / 'source' / name, row)
  task = tasks.gsm8k(split='train', data_dir=str(tmp_path / 'prepared'))
  assert (task.example(0).prompt, task.example(0).answer) == (
    'train.jsonl?',
    '1234',
  )


def test_failed_download_says_how_to_do_without(
  local_server, tmp_path, monkeypatch
):
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  monkeypatch.setattr(Gsm8kBuilder, 'SOURCE', local_server + 'nowhere/')
  with pytest.raises(ValueError, match='set folder=') as caught:
    tasks.gsm8k(split='train', data_dir=str(tmp_path / 'prepared'))
  assert '\n' not in str(caught.value)


# reasoning-gym

GENERATORS = {
  'chain_sum': {'min_terms': 2, 'max_terms': 2, 'max_digits': 1},
  'products': {'min_terms': 2, 'max_terms': 2, 'max_digits': 1},
  'gcd': {'min_value': 1, 'max_value': 20},
  'number_filtering': {'min_numbers': 3, 'max_numbers': 3},
  'letter_counting': {'min_words': 3, 'max_words': 5},
  'calendar_arithmetic': {'tasks': ['weekday_offset']},
}


@pytest.mark.parametrize('name', GENERATORS)
def test_reasoning_gym_accepts_stored_answers_and_keeps_splits_apart(name):
  pytest.importorskip('reasoning_gym')
  make = functools.partial(
    tasks.reasoning_gym, dataset=name, size=60, **GENERATORS[name]
  )
  train, test = make(split='train'), make(split='test')
  again = make(split='train')
  for task in (train, test):
    for example in examples_of(task):
      assert task.verify(f' {example.answer}\n', example)
      assert not task.verify('', example)
      assert not task.verify('no answer', example)
  assert [again.example(i) for i in (59, 0)] == [
    train.example(i) for i in (59, 0)
  ]
  assert not {e.prompt for e in examples_of(train)} & {
    e.prompt for e in examples_of(test)
  }


# Asked again, the first would be another question: it goes through a set of
# texts, in the order of its process's hashes.
@pytest.mark.parametrize('name', ['polynomial_multiplication', 'n_queens'])
def test_reasoning_gym_judges_the_question_that_was_asked(name):
  pytest.importorskip('reasoning_gym')
  task = tasks.reasoning_gym(dataset=name, split='test', size=3)
  for example in examples_of(task):
    assert task.verify(example.answer, example)


def test_tower_of_powers_is_wrong_in_bounded_time_for_reasoning_gym():
  pytest.importorskip('reasoning_gym')
  task = tasks.reasoning_gym(dataset='countdown', split='test', size=1)
  before = rewards.faults().get('reasoning_gym/killed', 0)
  start = time.monotonic()
  assert task.verify('9**9**9**9', task.example(0)) is False
  # 5 s, and a process to start on a busy machine.
  assert time.monotonic() - start < 60
  assert rewards.faults()['reasoning_gym/killed'] == before + 1
  assert task.verify(task.example(0).answer, task.example(0)) is True


def test_answer_that_is_code_leaves_nothing_behind(tmp_path):
  pytest.importorskip('reasoning_gym')
  task = tasks.reasoning_gym(dataset='n_queens', split='test', size=1)
  file = tmp_path / 'X'
  reply = '{"right": true}\\n'
  for answer in (
    f"__import__('os').system('touch {file}')",
    f"__import__('subprocess').run(['touch', '{file}'])",
    f"open('{file}', 'w')",
    f"__import__('os').mkdir('{file}')",
    # It may find the pipe of the verdicts, but not what they must repeat.
    f"[__import__('os').write(n, b'{reply}') for n in range(3, 9)]",
    'exit()',
  ):
    assert task.verify(answer, task.example(0)) is False
    assert not file.exists()
  assert task.verify(task.example(0).answer, task.example(0)) is True


def test_listing_a_reasoning_gym_task_starts_no_process(monkeypatch):
  pytest.importorskip('reasoning_gym')
  monkeypatch.setattr(subprocess, 'Popen', None)
  task = tasks.reasoning_gym(dataset='gcd', split='test', size=5)
  assert len(examples_of(task)) == 5
  assert not task.verify(' ', task.example(0))


def test_generator_without_a_stored_answer_has_none():
  pytest.importorskip('reasoning_gym')
  task = tasks.reasoning_gym(
    dataset='propositional_logic', split='test', size=1
  )
  # As the text 'None' it would pass for an answer.
  assert task.example(0).answer == ''


def test_partial_score_of_reasoning_gym_is_not_right():
  pytest.importorskip('reasoning_gym')
  task = tasks.reasoning_gym(
    dataset='calendar_arithmetic',
    split='test',
    size=1,
    tasks=['weekday_offset'],
  )
  days = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday']
  days += ['Saturday', 'Sunday']
  # A wrong weekday earns a tenth in the package.
  assert sum(task.verify(day, task.example(0)) for day in days) == 1


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'dataset': 'chain_sums'}, "no dataset 'chain_sums'.*chain_sum"),
    ({'dataset': 'gcd', 'max_valeu': 9}, "no setting 'max_valeu'.*max_value"),
    ({'dataset': 'gcd', 'min_value': 9, 'max_value': 3}, 'reasoning_gym gcd:'),
  ],
)
def test_reasoning_gym_mistakes_are_explained(arguments, message):
  pytest.importorskip('reasoning_gym')
  with pytest.raises(ValueError, match=message):
    tasks.reasoning_gym(split='train', size=5, **arguments)


def test_generator_without_enough_questions_fails_at_the_start():
  pytest.importorskip('reasoning_gym')
  few_questions = {'min_value': 7, 'max_value': 8}
  with pytest.raises(ValueError, match='too few differ'):
    tasks.reasoning_gym(
      dataset='gcd', split='test', size=5, test_share=1e-9, **few_questions
    )


def test_missing_package_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'reasoning_gym', None)
  with pytest.raises(ValueError, match='pip install reasoning-gym'):
    tasks.reasoning_gym(dataset='gcd', split='test', size=5)


def test_no_tensorflow_is_loaded():
  code = (
    'import sys; from grpo_jax import tasks, rewards, tokenizer, prompts; '
    "sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
  )
  root = pathlib.Path(__file__).resolve().parents[1]
  assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == 0


@pytest.mark.parametrize(
  'make',
  [
    functools.partial(tasks.arithmetic, min_ops=3, max_ops=3, max_number=5),
    functools.partial(tasks.attempts, kind='search'),
    functools.partial(tasks.attempts, kind='lookup'),
  ],
)
def test_rl_asks_nothing_that_a_corpus_has_shown(make):
  def prompts(**of):
    task = make(size=400, **of)
    return {task.example(i).prompt for i in range(len(task))}

  corpus, asked = (
    prompts(split='train', part=part) for part in ('corpus', 'questions')
  )
  assert corpus and asked and not corpus & asked
  assert not prompts(split='test', part='questions') & (corpus | asked)
  # Another hash than that of the splits: each has both parts.
  for split in ('train', 'test'):
    assert len({part_of(prompt) for prompt in prompts(split=split)}) == 2


def test_a_part_that_is_none_is_refused():
  with pytest.raises(ValueError, match="part='half' must be one of"):
    tasks.attempts(split='train', size=1, part='half')
