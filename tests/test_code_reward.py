"""The code reward: what is a program, and what is right."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_jax import rewards, tasks
from grpo_jax.rewards import code_execution, text
from tests import attacks

TESTED = {'test': attacks.TEST, 'entry_point': 'double'}
SUMS = {'inputs': ['1 2', '20 22', '5 5'], 'outputs': ['3', '42', '10\n']}


def task_of(**data):
  example = tasks.Example('Write it.', '', data=data)
  return tasks.Task(1, lambda i: example, lambda *_: False)


def reward_of(completion, data, **arguments):
  task = task_of(**data)
  return rewards.code(task=task, **arguments)(completion, task.example(0))


def fenced(source):
  return f'Like this:\n```python\n{source}\n```\nDone.'


@pytest.mark.parametrize(
  'completion, program',
  [
    ('<answer>x = 1</answer>', 'x = 1'),
    # The body of a function goes on where the prompt ended.
    ('<answer>\n    y = 1\n    return y\n</answer>', '    y = 1\n    return y'),
    ('<answer>\n```python\nx = 1\n```\n</answer>', 'x = 1'),
    ('```\nx = 0\n```\n<answer>x = 1</answer>', 'x = 1'),
    ('```py\nx = 0\n```\nor\n~~~\n  x = 1\ny\n~~~\n', '  x = 1\ny'),
    ('````\n```\n````', '```'),
    ('```python\nx = 1', ''),
    ('x = 1', ''),
    ('``` one ``` line', ''),
    ('', ''),
    ('<answer></answer>', ''),
  ],
)
def test_the_program_is_in_the_answer_or_the_last_fence(completion, program):
  assert text.program(completion) == program


def test_a_program_follows_its_prefix_or_continues_it():
  prefix = 'import math\ndef f(x):\n  "doc"\n'
  joined = code_execution.joined
  assert joined(prefix, '  return 1\n', 'f') == prefix + '  return 1\n'
  whole = 'def f(x): return 1'
  assert joined(prefix, whole, 'f') == f'{prefix}\n\n{whole}'
  for future in (
    'from __future__ import annotations\n',
    'from __future__ import (\n  annotations,\n  division,\n)\n',
  ):
    after = f'{future}{prefix}\n\n{whole}'
    assert joined(prefix, future + whole, 'f') == after


def test_a_right_program_scores_1_and_a_wrong_one_0():
  assert reward_of(fenced(attacks.RIGHT), TESTED) == 1.0
  assert reward_of(f'<answer>{attacks.RIGHT}</answer>', TESTED) == 1.0
  assert reward_of(fenced('def double(x): return 3 * x'), TESTED) == 0.0
  assert reward_of(attacks.RIGHT, TESTED) == 0.0  # no code block


def test_limits_may_be_whole_floats():
  limits = {'cpu_seconds': 2.0, 'memory_mb': 256.0, 'processes': 4.0}
  assert reward_of(fenced(attacks.RIGHT), TESTED, **limits) == 1.0


def test_a_function_may_raise_what_its_test_asks_for():
  test = """
def check(candidate):
  try: candidate(-1)
  except ValueError: return
  assert False
"""
  data = {'test': test, 'entry_point': 'f'}
  raising = 'def f(x):\n  class E({}): pass\n  raise {}'
  assert reward_of(fenced('def f(x): raise ValueError'), data) == 1.0
  assert reward_of(fenced('def f(x): raise TypeError'), data) == 0.0
  assert reward_of(fenced(raising.format('ValueError', 'E')), data) == 0.0
  assert reward_of(fenced('def f(x): exit()'), data) == 0.0


@pytest.mark.parametrize(
  'test, score',
  [
    # A test that swallows everything, one that never calls, one that a silent
    # end of its loop would pass; and assertions without a function around.
    ('def check(c):\n  try: c(1)\n  except BaseException: pass', 0.0),
    ('def check(c): pass', 0.0),
    ('def check(c): assert all(map(c, [1, 2]))', 0.0),
    ('assert f(1) == 1', 0.0),
    ('try: f(1)\nexcept StopIteration: assert False', 0.0),
  ],
)
def test_a_test_is_passed_by_answers_only(test, score):
  dying = 'def f(x):\n  if x == 1: raise StopIteration\n  return True'
  assert reward_of(fenced(dying), {'test': test, 'entry_point': 'f'}) == score


@pytest.mark.parametrize('prefix', ['def double(x):\n', 'import math\n', ''])
def test_a_prefix_may_end_where_the_program_goes_on(prefix):
  body = '  return 2 * x' if 'def' in prefix else 'def double(x): return 2 * x'
  data = {'test': 'assert double(4) == 8', 'entry_point': 'double'}
  assert reward_of(fenced(body), data | {'prefix': prefix}) == 1.0
  wrong = body.replace('2', '3')
  assert reward_of(fenced(wrong), data | {'prefix': prefix}) == 0.0


def test_bare_assertions_are_a_test():
  data = {'test': 'assert double(4) == 8', 'entry_point': 'double'}
  assert reward_of(fenced(attacks.RIGHT), data) == 1.0


def test_all_pairs_or_the_share_of_them():
  right, silly = fenced(attacks.ADDS), fenced('print(3)')
  most = fenced(attacks.ADDS.replace('a + b', 'min(a + b, 12)'))
  assert [reward_of(c, SUMS) for c in (right, most, silly)] == [1, 0, 0]
  assert reward_of(right, SUMS, partial=True) == 1.0
  assert reward_of(most, SUMS, partial=True) == pytest.approx(2 / 3)


def test_pairs_that_the_prompt_shows_earn_nothing():
  shown = SUMS | {'visible': 1}
  assert reward_of(fenced('print(3)'), SUMS, partial=True) > 0
  assert reward_of(fenced('print(3)'), shown, partial=True) == 0.0
  assert reward_of(fenced(attacks.ADDS), shown, partial=True) == 1.0
  # Then there is nothing to earn.
  shown = SUMS | {'visible': 3}
  assert reward_of(fenced(attacks.ADDS), shown, partial=True) == 0.0


def test_the_order_of_pairs_does_not_matter_where_one_is_too_slow():
  slow = fenced(
    'import time\nn = int(input())\nif n == 2: time.sleep(9)\nprint(n)'
  )
  for given in (['1', '2', '3'], ['2', '1', '3']):
    pairs = {'inputs': given, 'outputs': given}
    share = reward_of(slow, pairs, partial=True, wall_seconds=1.0)
    assert share == pytest.approx(2 / 3)


def test_many_slow_pairs_end_and_those_not_reached_are_wrong(monkeypatch):
  monkeypatch.setattr(code_execution, '_ALL_PAIRS', 0.2)
  slow = fenced('import time\ntime.sleep(0.5)\nprint(3)')
  pairs = {'inputs': [''] * 40, 'outputs': ['3'] * 40}
  assert 0 < reward_of(slow, pairs, partial=True) < 1


@pytest.mark.parametrize(
  'given, expected, same',
  [
    (b' 1 \r\n2\n\n', '1\n2', True),
    (b'1\n\n2', '1\n2', False),
    (b'1 2', '1  2', False),
    (b'', '', False),
    (b' \n', '', False),
    (b'\xff', '1', False),
  ],
)
def test_outputs_are_compared_by_lines(given, expected, same):
  assert code_execution.same_output(given, expected) is same


@pytest.mark.parametrize(
  'data', [{}, {'test': 'x'}, {'inputs': ['1'], 'outputs': []}]
)
def test_a_task_without_tests_is_refused_at_the_start(data):
  with pytest.raises(ValueError, match='has no tests'):
    rewards.code(task=task_of(**data))


@pytest.mark.parametrize('name', ['wall_seconds', 'processes', 'file_mb'])
def test_a_limit_of_nothing_is_refused_at_the_start(name):
  with pytest.raises(ValueError, match=f'{name}=0 must be positive'):
    rewards.code(task=task_of(**TESTED), **{name: 0})


@pytest.mark.parametrize(
  'source', ['\ud800', '\0', 'x' * (1 << 21), '\N{SNOWMAN}', 'def double(x): "']
)
def test_any_text_scores_a_number(source):
  assert reward_of(fenced(source), TESTED) == 0.0


def test_many_programs_are_graded_at_once_in_order():
  task = task_of(**TESTED)
  reward = rewards.code(task=task)
  with ThreadPoolExecutor(max_workers=16) as pool:
    wrong = fenced('def double(x): return 0')
    given = [fenced(attacks.RIGHT) if i % 3 else wrong for i in range(60)]
    found = pool.map(lambda c: reward(c, task.example(0)), given)
    assert list(found) == [float(i % 3 > 0) for i in range(60)]
