"""Rewards: total functions, strict and lenient answers, grading in order."""

import math
import os
import pathlib
import re
import subprocess
import sys
import time
import types

from hypothesis import given, settings, strategies
import numpy as np
import pytest
import tiny

from configs import base
from grpo_jax import grader, questions, rewards, tasks
from grpo_jax.rewards import pool, text

TAGGED = '<think>1+2=3</think><answer>3</answer>'


def example(answer='3', prompt='1+2='):
  return types.SimpleNamespace(answer=answer, prompt=prompt)


class NumberTask:
  """A task whose answers are numbers."""

  def verify(self, answer, example):
    return text.same_number(answer, example.answer)


class AgreeableTask:
  """A task that accepts any answer."""

  def verify(self, answer, example):
    return True


@pytest.mark.parametrize(
  ('completion', 'answer'),
  [
    (TAGGED, '3'),
    ('<answer> 3 \n</answer>\n', '3'),
    ('so <answer>-5</answer>', '-5'),
    ('3', ''),
    ('', ''),
    ('<answer>3', ''),
    ('3</answer>', ''),
    ('</answer>3<answer>', ''),
    ('<answer>3</answer> or 4', ''),
    ('<answer>1</answer><answer>3</answer>', ''),
    ('<answer><answer>3</answer>', ''),
    ('<think><answer>3</answer>', ''),
    ('<think>a<answer>3</answer></think>', ''),
    ('<answer><think>3</think></answer>', ''),
    ('by the prompt</think><answer>3</answer>', '3'),
  ],
)
def test_strict_answer_is_the_single_pair_in_its_place(completion, answer):
  assert text.tags(completion) == answer


@pytest.mark.parametrize(
  ('completion', 'answer'),
  [
    (r'\boxed{3}', '3'),
    (r'\boxed{1} then \boxed{\frac{1}{2}}', r'\frac{1}{2}'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
    (r'\boxed{3', ''),
    ('3', ''),
  ],
)
def test_boxed_answer_has_balanced_braces(completion, answer):
  assert text.boxed(completion) == answer


@pytest.mark.parametrize(
  ('completion', 'answer'),
  [
    ('It is 12.', '12'),
    ('from 3 to -5', '-5'),
    ('10-5', '5'),
    ('$1,000.50!', '1000.50'),
    ('x = 3/4', '3/4'),
    ('\N{MINUS SIGN}7', '-7'),
    ('-$7', '-7'),
    ('none at all', ''),
  ],
)
def test_last_number_keeps_its_sign(completion, answer):
  assert text.last_number(completion) == answer


@pytest.mark.parametrize(
  ('completion', 'answer'),
  [
    ('<answer>1</answer> no: <answer>$12</answer> ok', '12'),
    ('<answer>-$1,200.</answer>', '-1200'),
    ('<answer>12 apples</answer>', '12'),
    ('<answer>x = **12**</answer>', '12'),
    (r'<answer>\boxed{12}</answer>', '12'),
    (r'\boxed{12\text{ cm}} 13', '12'),
    ('so 7 and then 12', '12'),
    ('<answer>12', '12'),
    ('<answer>Monday</answer>', 'Monday'),
    ('<answer>(3+5)*2</answer>', '(3+5)*2'),
    ('<answer>2x</answer>', '2x'),
    ("<answer>['4.5']</answer>", "['4.5']"),
    ('<answer>10 or 12</answer>', '10 or 12'),
  ],
)
def test_lenient_answer_drops_what_surrounds_one_number(completion, answer):
  assert text.lenient(completion) == answer


@pytest.mark.parametrize(
  ('answer', 'gold', 'same'),
  [
    ('3.0', '3', True),
    ('1,000', '1000', True),
    (' 5 ', '5', True),
    ('+5', '5', True),
    ('.5', '1/2', True),
    ('2/4', '0.5', True),
    ('-5', '5', False),
    ('5-', '5', False),
    ('$12', '12', False),
    ('1,00', '100', False),
    ('1e3', '1000', False),
    ('٣', '3', False),
    ('1/0', '1', False),
    ('0.6666666667', '2/3', False),
    ('9' * 5000, '9' * 5000, False),
    ('', '', False),
    ('None', 'None', False),
  ],
)
def test_numbers_are_equal_exactly(answer, gold, same):
  assert text.same_number(answer, gold) is same


@pytest.mark.parametrize(
  ('value', 'shown'),
  [
    (43.0, '43'),
    (43, '43'),
    (-2.50, '-2.5'),
    (0.6666666667, '2/3'),
    (0.30000000000000004, '0.3'),
    (0.72, '0.72'),
    (1e-7, '0.0000001'),
    (1e22, '10000000000000000000000'),
    (0, '0'),
  ],
)
def test_stored_numbers_are_shown_plainly(value, shown):
  assert text.format_number(value) == shown
  assert text.parse_number(shown) is not None


@pytest.mark.parametrize(
  ('completion', 'with_thought', 'alone'),
  [
    (TAGGED, 1.0, 1.0),
    (' <think>a</think>\n\n<answer>3</answer>\n', 1.0, 1.0),
    ('<answer>3</answer>', 0.0, 1.0),
    ('<think>a</think>', 0.0, 0.0),
    ('so ' + TAGGED, 0.0, 0.0),
    (TAGGED + ' done', 0.0, 0.0),
    ('<think>a</think> so <answer>3</answer>', 0.0, 0.0),
    (TAGGED + TAGGED, 0.0, 0.0),
    ('<think>a<answer>3</answer></think>', 0.0, 0.0),
    ('<answer>3</answer><think>a</think>', 0.0, 0.0),
    ('<think></think><answer>3</answer>', 0.0, 0.0),
    ('<think>a</think><answer> </answer>', 0.0, 0.0),
    ('</think><think><answer>3</answer>', 0.0, 0.0),
    ('', 0.0, 0.0),
  ],
)
def test_format_is_all_or_nothing(completion, with_thought, alone):
  strict = rewards.format(task=None)
  short = rewards.format(task=None, thought=False)
  assert strict(completion, example()) == with_thought
  assert short(completion, example()) == alone


def test_correct_asks_the_task():
  reward = rewards.correct(task=NumberTask())
  assert reward(TAGGED, example('3')) == 1.0
  assert reward(TAGGED, example('-3')) == 0.0
  assert reward('3', example('3')) == 0.0
  lenient = rewards.correct(task=NumberTask(), extract='lenient')
  assert lenient('it is $3.', example('3')) == 1.0


@pytest.mark.parametrize('answer', ['', '  ', 'None', ' none\n'])
@pytest.mark.parametrize('extract', ['tags', 'lenient'])
def test_empty_answer_is_never_right(answer, extract):
  reward = rewards.correct(task=AgreeableTask(), extract=extract)
  assert reward(f'<answer>{answer}</answer>', example(answer)) == 0.0


def test_unknown_extraction_lists_the_known_ones():
  with pytest.raises(ValueError, match="'boxed', 'last_number', 'lenient'"):
    rewards.correct(task=NumberTask(), extract='tag')


def all_rule_rewards():
  task = NumberTask()
  found = [rewards.correct(task=task, extract=name) for name in text.EXTRACTORS]
  found += [rewards.number(task=task), rewards.format(task=task)]
  found += [rewards.random(task=task), rewards.constant(task=task, value=0.5)]
  return found


@settings(max_examples=100, deadline=None)
@given(
  strategies.lists(
    strategies.one_of(
      strategies.text(max_size=8),
      strategies.text(
        strategies.characters(categories=['Cs', 'Nd']), max_size=3
      ),
      strategies.sampled_from(
        ['<think>', '</think>', '<answer>', '</answer>', '\\boxed{', '}', '$']
        + ['-', '/0', '1,000', '9' * 500, '\\', '\0']
      ),
    )
  ).map(''.join)
)
def test_any_text_gets_a_finite_reward(completion):
  for reward in all_rule_rewards():
    assert 0.0 <= reward(completion, example()) <= 1.0


@pytest.mark.parametrize(
  'piece', ['<answer>', '</answer>', '\\boxed{', '9', '1,', '-', '<think>$']
)
def test_huge_text_is_graded_in_linear_time(piece):
  completion = piece * (1_000_000 // len(piece))
  start = time.monotonic()
  for reward in all_rule_rewards():
    assert reward(completion, example()) in (0.0, 0.5, 1.0)
  # Seconds on a busy machine; a quadratic scan would take hours.
  assert time.monotonic() - start < 20


def test_random_reward_is_a_fair_coin_that_depends_on_the_prompt():
  reward = rewards.random(task=None, seed=1)
  drawn = [reward(f'text {i}', example()) for i in range(1000)]
  # Five standard deviations of 1000 fair coins are 79.
  assert abs(sum(drawn) - 500) < 80
  assert drawn == [reward(f'text {i}', example()) for i in range(1000)]
  other_prompt = [
    reward(f'text {i}', example(prompt='2+3=')) for i in range(1000)
  ]
  assert abs(np.mean(np.equal(drawn, other_prompt)) - 0.5) < 0.08
  always = rewards.random(task=None, p=1.0)
  assert always('a', example()) == 1.0


# Rewards that cannot judge a task


def need(task, **specs):
  c = base.get_config()
  c.rewards = {k: {'name': k, 'weight': 1.0, **v} for k, v in specs.items()}
  return grader.reward_functions(c, task)


def one_example(answer, **data):
  answered = tasks.Example('who?', answer, 'A completion.', data)
  return tasks.Task(1, lambda i: answered, lambda answer, example: True)


def test_task_without_answers_is_refused_by_rewards_that_need_them(tmp_path):
  path = tmp_path / 'sft.jsonl'
  path.write_text('{"q": "who?", "c": "me"}')
  task = tasks.jsonl(
    path=str(path), prompt_field='q', answer_field='', completion_field='c'
  )
  for name in ('correct', 'number'):
    with pytest.raises(ValueError, match="'who\\?'; name .*task.answer_field"):
      need(task, **{name: {}})
  # Evaluation asks for itself.
  with pytest.raises(ValueError, match='no answer to judge by'):
    questions.need_answers(task)
  assert set(need(task, format={}, random={})) == {'format', 'random'}


def test_task_may_judge_by_its_data_alone():
  assert 'correct' in need(one_example('', entry=1), correct={})


@pytest.mark.parametrize('answer', ['Monday', '3+4', ''])
def test_number_reward_of_answers_that_are_none_is_refused(answer):
  task = one_example(answer, entry=1)
  with pytest.raises(ValueError, match=f"'{re.escape(answer)}'; use .*correct"):
    need(task, number={})
  assert 'number' in need(one_example('-3.0'), number={})


def test_math_verify_without_an_answer_to_compare_is_refused():
  pytest.importorskip('math_verify')
  with pytest.raises(ValueError, match='math_verify: .*use .*correct'):
    need(one_example('', entry=1), math_verify={})


# Grading and composition


def test_grade_keeps_every_row_in_its_place():
  completions = [[f'{10 * q + g}' for g in range(4)] for q in range(5)]
  examples = [example(str(100 * q)) for q in range(5)]

  def slow(completion, ex):
    time.sleep(0.002 * (7 - int(completion) % 7))
    return float(completion) + float(ex.answer)

  graded = rewards.grade(completions, examples, {'slow': slow})
  assert graded['slow'].dtype == np.float32
  expected = [[110 * q + g for g in range(4)] for q in range(5)]
  np.testing.assert_array_equal(graded['slow'], expected)


def test_missing_reward_is_nan_and_zero_is_zero():
  def half(completion, ex):
    return {'none': None, 'nan': math.nan, 'zero': 0.0}[completion]

  graded = rewards.grade([['none', 'nan', 'zero']], [example()], {'half': half})
  np.testing.assert_array_equal(graded['half'], [[np.nan, np.nan, 0.0]])


def test_raising_reward_scores_zero_and_is_counted_and_logged_once(caplog):
  def broken(completion, ex):
    if completion == 'good':
      return 1.0
    raise KeyError(completion)

  graded = rewards.grade(
    [['bad', 'good', 'worse']], [example()], {'broken_fn': broken}
  )
  np.testing.assert_array_equal(graded['broken_fn'], [[0.0, 1.0, 0.0]])
  assert rewards.faults()['broken_fn/raised'] == 2
  assert caplog.text.count('broken_fn') == 1


def test_infinite_reward_scores_zero_and_is_counted():
  graded = rewards.grade(
    [['a']], [example()], {'endless': lambda c, e: math.inf}
  )
  np.testing.assert_array_equal(graded['endless'], [[0.0]])
  assert rewards.faults()['endless/raised'] == 1


HANGING = """
import threading
from types import SimpleNamespace
from grpo_jax import rewards

def hangs(completion, example):
  if completion == 'hangs':
    threading.Event().wait()
  return 1.0

# More of them than there are threads.
row = ['hangs', 'right'] * 20
asked = [SimpleNamespace(prompt='what?')]
found = rewards.grade([row], asked, {'mine': hangs}, patience=0.1, limit=0.5)
print(found['mine'].tolist() == [[0.0, 1.0] * 20], rewards.faults())
"""


def test_a_reward_that_hangs_is_named_and_scores_zero_and_the_job_ends():
  done = subprocess.run(
    [sys.executable, '-c', HANGING],
    cwd=tiny.REPO, capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout == "True Counter({'mine/late': 20})\n"
  told = "mine/late: not done after 0.5 s, the answer to 'what?'; graded 0"
  assert done.stderr.count(told) == 1
  assert re.search(r"awaited: mine: 3\d of 40, the first to 'what", done.stderr)


def test_ragged_groups_are_refused():
  with pytest.raises(ValueError, match=r'sizes \[1, 2\]'):
    rewards.grade([['a'], ['b', 'c']], [example(), example()], {})
  with pytest.raises(ValueError, match='1 groups'):
    rewards.grade([['a']], [example(), example()], {})


def test_components_add_up_by_weight():
  components = {'correct': 1.0, 'format': 0.5, 'seen': 7.0}
  weights = {'correct': 2.0, 'format': 0.2}
  assert rewards.combine(components, weights=weights) == pytest.approx(2.1)


def test_gate_pays_only_where_it_is_one():
  components = {
    'correct': np.array([[1.0, 1.0, 0.0]], np.float32),
    'format': np.array([[1.0, 0.5, 1.0]], np.float32),
  }
  total = rewards.combine(components, weights={'correct': 2.0}, gate='format')
  np.testing.assert_array_equal(total, [[2.0, 0.0, 0.0]])
  assert total.dtype == np.float32


def test_missing_component_makes_the_sum_missing_where_it_counts():
  components = {'correct': math.nan, 'format': 1.0}
  combine = rewards.combine
  assert math.isnan(combine(components, weights={'correct': 1.0}))
  assert combine(components, weights={'correct': 0.0, 'format': 1.0}) == 1.0
  assert math.isnan(
    combine(components, weights={'format': 1.0}, gate='correct')
  )


def test_weight_without_a_reward_is_refused():
  with pytest.raises(ValueError, match="'korrect'"):
    rewards.combine({'correct': 1.0}, weights={'korrect': 1.0})
  with pytest.raises(ValueError, match="'format'"):
    rewards.combine({'correct': 1.0}, weights={'correct': 1.0}, gate='format')


# Math-Verify, in its processes


@pytest.fixture(scope='module')
def symbolic():
  pytest.importorskip('math_verify')
  return rewards.math_verify(task=None, workers=2, seconds=4.0)


@pytest.mark.parametrize(
  ('answer', 'gold', 'right'),
  [
    ('0.5', r'\frac{1}{2}', 1.0),
    (r'\frac12', '1/2', 1.0),
    ('x**2 + 1', '1+x^2', 1.0),
    (r'$2\sqrt{3}$', r'\sqrt{12}', 1.0),
    ('5', '-5', 0.0),
    ('-5', '5', 0.0),
    ('1 or 5', '5', 0.0),
    ('', '', 0.0),
    ('None', 'None', 0.0),
    ('((({', '5', 0.0),
    ('\ud800\0', '5', 0.0),
    ('5' * 3000, '5', 0.0),
  ],
)
def test_math_verify_knows_equal_mathematics(symbolic, answer, gold, right):
  assert symbolic(f'<answer>{answer}</answer>', example(gold)) == right


def test_gold_comes_first_in_math_verify(symbolic):
  # The package takes an interval for a gold relation, not the reverse.
  assert symbolic('<answer>(1,2)</answer>', example('1<x<2')) == 1.0
  assert symbolic('<answer>1<x<2</answer>', example('(1,2)')) == 0.0


def test_tower_of_powers_is_wrong_in_bounded_time_and_holds_up_nobody(symbolic):
  before = rewards.faults().get('math_verify/killed', 0)
  completions = [
    [f'<answer>{a}</answer>' for a in ('9^{9^{9^{9}}}', '10**10**10', '5', '6')]
  ]
  start = time.monotonic()
  graded = rewards.grade(completions, [example('5')], {'math': symbolic})
  # One killed item of 4 s; the second tower may take as long.
  assert time.monotonic() - start < 20
  np.testing.assert_array_equal(graded['math'], [[0.0, 0.0, 1.0, 0.0]])
  assert rewards.faults()['math_verify/killed'] > before
  # The killed worker has been replaced.
  assert symbolic('<answer>5</answer>', example('5')) == 1.0


def test_worker_killed_from_outside_costs_one_item_and_is_replaced():
  pytest.importorskip('math_verify')
  before = rewards.faults().get('math_verify/killed', 0)
  workers = pool.Pool(name='math_verify', workers=1, seconds=30.0)
  assert workers.grade('5', '5')
  (process,) = workers._running
  process.kill()
  process.wait()
  assert workers.grade('5', '5')
  (process,) = workers._running
  # Killed behind the pool's back after the check: the write or read fails.
  process.poll = lambda: None
  os.kill(process.pid, 9)
  assert workers.grade('5', '5') is False
  assert rewards.faults()['math_verify/killed'] == before + 1
  assert workers.grade('5', '5')
  workers.close()
  assert not workers._running


def test_what_is_sent_to_all_processes_changes_no_verdict():
  """As a machine that shuts down sends it, while the job ends its step."""
  pytest.importorskip('math_verify')
  workers = pool.Pool(name='math_verify', workers=1, seconds=30.0)
  assert workers.grade('5', '5')
  (process,) = workers._running
  process.terminate()
  assert workers.grade('1/2', '0.5')
  assert workers._running == {process}
  workers.close()


def test_no_worker_starts_before_the_first_answer():
  workers = pool.Pool(name='math_verify', workers=2, seconds=1.0)
  assert not workers._running
  reward = rewards.math_verify(task=None)
  assert reward('no answer here', example('5')) == 0.0


def test_one_caller_starts_one_worker():
  pytest.importorskip('math_verify')
  workers = pool.Pool(name='math_verify', workers=2, seconds=30.0)
  assert workers.grade('5', '5') and workers.grade('6', '6')
  assert len(workers._running) == 1
  workers.close()


def test_worker_inherits_no_secret_and_has_no_folder(monkeypatch):
  pytest.importorskip('math_verify')
  monkeypatch.setenv('SECRET', 'mine')
  workers = pool.Pool(name='math_verify', workers=1, seconds=30.0)
  assert workers.grade('5', '5')
  (process,) = workers._running
  proc = pathlib.Path(f'/proc/{process.pid}')
  if not proc.is_dir():
    pytest.skip('no /proc on this system')
  assert b'SECRET' not in (proc / 'environ').read_bytes()
  assert os.readlink(proc / 'cwd').endswith('(deleted)')
  workers.close()


def test_worker_that_cannot_start_says_how_to_find_out():
  workers = pool.Pool(name='reasoning_gym', workers=1, seconds=1.0, dataset='?')
  with pytest.raises(RuntimeError, match=r'worker.py .* to see why'):
    workers.grade('', '5')
  assert not workers._running


def test_judge_takes_literals_only():
  with pytest.raises(ValueError, match='must be numbers, texts and lists'):
    pool.Pool(name='x', workers=1, seconds=1.0, settings={'a': object()})
