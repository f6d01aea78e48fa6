"""Verifiers of files: mathematics, options, tests; and where answers stand."""

import importlib
import json
import types

import ml_collections
import numpy as np
import pytest

from grpo_jax import accuracy, grader, questions, rewards, tasks
from grpo_jax.rewards import rules, sandbox_modes, symbolic, text
from grpo_jax.tasks import shares
from grpo_jax.verified import record_set

OPTIONS = ['red', 'green', 'blue']


def file_of(folder, *rows, **more):
  path = folder / 'rows.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return dict(path=str(path), prompt_field='q') | more


def task_of(folder, *rows, **more):
  return tasks.jsonl(**file_of(folder, *rows, **more))


# The package has a function of the module's name.
JSONL = importlib.import_module('grpo_jax.tasks.jsonl')


def need_math():
  pytest.importorskip('math_verify')


@pytest.fixture(scope='module')
def patient():
  """The checker of mathematics, with room for a busy machine."""
  need_math()
  return symbolic.checker(workers=1, seconds=60.0)


@pytest.fixture
def math(patient, monkeypatch):
  monkeypatch.setattr(JSONL, '_math', lambda: patient)


# Mathematics


MATH = dict(answer_field='a', verifier='math')


@pytest.mark.parametrize(
  'answer, right',
  [
    (r'\frac12', True),
    ('0.5', True),
    ('2/4', True),
    (r'$\dfrac{1}{2}$', True),
    (r'\frac13', False),
    ('', False),
    ('None', False),
  ],
)
def test_equal_mathematics_is_right(tmp_path, math, answer, right):
  task = task_of(tmp_path, {'q': 'half?', 'a': '1/2'}, **MATH)
  assert task.verify(answer, task.example(0)) is right


def test_the_verifier_agrees_with_the_reward(tmp_path, math):
  rows = [('x^2-1', '(x-1)(x+1)'), ('Monday', 'monday'), ('\\{1,2\\}', '{2,1}'),
          ('5', '5 miles'), ('x', 'y'), ('(1,2)', '(2,1)')]  # fmt: skip
  task = task_of(tmp_path, *({'q': a, 'a': a} for a, _ in rows), **MATH)
  examples = [task.example(i) for i in range(len(rows))]
  completions = [[f'<answer>{b}</answer>'] for _, b in rows]
  graded = rewards.grade(
    completions,
    examples,
    dict(
      reward=rewards.math_verify(task=task, workers=1, seconds=60.0),
      task=rewards.correct(task=task),
    ),
  )
  np.testing.assert_array_equal(graded['reward'], graded['task'])
  assert {0.0, 1.0} == set(graded['task'].ravel().tolist())


HOSTILE = (
  '10^{10^{10^{10}}}', '(' * 1000, '\\frac' * 300, '{' * 900 + '}' * 900,
  '\ud800', '\0', '1' * 1999, 'x' * 100_000, '\\boxed{', '$', '$$', '\\',
  "__import__('os').system('true')", '9' * 300 + '!',
)  # fmt: skip


@pytest.mark.parametrize('verifier', ['math', 'option', 'exact', 'number'])
def test_no_text_makes_a_verifier_raise(tmp_path, verifier):
  need_math()
  row = {'q': 'which?', 'a': '7', 'options': {'7': 'a', 'B': 'b'}}
  if verifier == 'option':
    row['a'] = 'B'
  task = task_of(
    tmp_path, row, answer_field='a', verifier=verifier, data_fields=('options',)
  )
  example = task.example(0)
  assert [task.verify(a, example) for a in HOSTILE] == [False] * len(HOSTILE)
  assert task.verify(row['a'], example)


def test_a_verified_set_can_be_judged_by_mathematics(math, monkeypatch):
  rows = [dict(prompt=b'half?', answer=b'1/2', completion=b'so', source=b's')]
  monkeypatch.setattr(record_set, 'open_set', lambda path: rows)
  task = tasks.verified(path='set', verifier='math')
  assert task.verify(r'\frac{1}{2}', task.example(0))
  assert not task.verify('2', task.example(0))
  with pytest.raises(ValueError, match="verifier='code' needs tests"):
    tasks.verified(path='set', verifier='code')


def test_without_the_package_it_is_told_before_anything_is_judged(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(symbolic.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(JSONL, '_math', symbolic.checker)
  task = task_of(tmp_path, {'q': 'half?', 'a': '1/2'}, **MATH)
  with pytest.raises(ValueError, match='pip install math-verify'):
    questions.need_answers(task)


SPELLINGS = [
  ['4', '04', '4.0', '+4', '$4$', '4 apples', r'\text{4}'],
  ['1/2', '0.5', r'\frac12', r'$\dfrac{1}{2}$', r'\tfrac{1}2', r'\frac 1 2'],
  ['-1/2', r'-\frac12', r'\frac{-1}{2}', '-.5'],
  [r'3\frac12', '3 1/2', r'3\frac{1}{2}'],
  ['(1,2)', '( 1, 2 )', r'\left(1,\, 2\right)'],
  [r'2\sqrt{3}', r'2 \sqrt {3}'],
  ['1000', '1,000', r'1{,}000'],
  ['monday', 'Monday', r'\text{Monday}'],
  ['3 4'],
  ['34'],
  ['31/2'],
  [r'\frac{1}{0}'],
  # Equal, and told apart: texts are compared.
  ['2(x+1)', '2 (x + 1)'],
  ['2x+2'],
]


def test_votes_count_one_answer_however_it_is_spelt():
  found = [{symbolic.spelling(a) for a in group} for group in SPELLINGS]
  assert [len(group) for group in found] == [1] * len(SPELLINGS)
  assert len(set.union(*found)) == len(SPELLINGS)
  for answer in HOSTILE:
    assert isinstance(symbolic.spelling(answer), str)
  assert symbolic.spelling('') == symbolic.spelling(' ') == ''


def summary(task, examples, rows, *, votes=(), extract=None):
  n = len(rows[0])
  return accuracy.summarise(
    task, examples, rows, np.ones((len(rows), n), bool),
    np.ones((len(rows), n), int), ks=(1,), votes=votes,
    extract={'': text.boxed} if extract is None else extract,
    texts=lambda *_: {},
  )  # fmt: skip


def test_evaluation_grades_and_votes_by_mathematics(tmp_path, math):
  task = task_of(tmp_path, {'q': 'half?', 'a': '1/2'}, **MATH)
  rows = [[rf'\boxed{{{a}}}' for a in (r'\frac12', '0.5', '3', '3', '1/2')]]
  found = summary(task, [task.example(0)], rows, votes=(5,))
  assert found['pass@1'] == found['lenient'] == 3 / 5
  assert found['cons@5'] == 1.0


# Options and tests


def test_options_are_matched_by_letter_or_text(tmp_path):
  rows = [
    {'q': 'sky?', 'a': 'C', 'options': OPTIONS},
    {'q': 'grass?', 'a': 'green', 'options': dict(zip('ABC', OPTIONS,
                                                      strict=True))},
  ]  # fmt: skip
  task = task_of(
    tmp_path, *rows, answer_field='a', verifier='option',
    data_fields=('options',),
  )  # fmt: skip
  sky, grass = map(task.example, range(2))
  assert sky.data == {'options': OPTIONS}
  for answer in ('C', '(c)', 'blue', r'\text{C}', 'C) blue'):
    assert task.verify(answer, sky), answer
  for answer in ('A', 'C) red', 'B or C', '', 'D'):
    assert not task.verify(answer, sky), answer
  assert task.verify('B', grass) and not task.verify('C', grass)


CODE = dict(verifier='code', data_fields=('inputs', 'outputs'))
ECHO = {'q': 'echo', 'inputs': ['a\n', 'b\n'], 'outputs': ['a', 'b']}


def need_sandbox():
  try:
    sandbox_modes.active()
  except ValueError as error:
    pytest.skip(str(error))


def test_options_of_latex_are_met_by_their_own_text(tmp_path):
  options = [r'5\text{ m}', r'6\text{ m}']
  row = {'q': 'how far?', 'a': 'A', 'options': options}
  task = task_of(
    tmp_path, row, answer_field='a', verifier='option',
    data_fields=('options',),
  )  # fmt: skip
  example = task.example(0)
  for answer in ('A', options[0], f'(A) {options[0]}', '5 m'):
    assert task.verify(answer, example), answer
  for answer in ('B', options[1], f'(A) {options[1]}'):
    assert not task.verify(answer, example), answer


def test_programs_of_a_mixture_are_asked_of_parts_that_have_tests(tmp_path):
  need_sandbox()
  code = file_of(tmp_path, ECHO, name='jsonl', **CODE) | dict(share=1)
  sums = dict(name='arithmetic', seed=0, min_ops=1, max_ops=1, size=4, share=1)
  rewards.code(task=tasks.mixture(parts=dict(a=code)))
  with pytest.raises(ValueError, match='an example has no tests'):
    rewards.code(task=tasks.mixture(parts=dict(a=code, b=sums)))


def test_programs_pass_the_tests_of_their_row(tmp_path):
  need_sandbox()
  task = task_of(tmp_path, ECHO, **CODE)
  questions.need_answers(task)
  right = rewards.correct(task=task, extract='program')
  example = task.example(0)
  for program, paid in (('print(input())', 1), ('print("a")', 0), ('', 0)):
    completion = f'so\n```python\n{program}\n```'
    assert right(completion, example) == paid, program
  assert task.verify('', example) is False


@pytest.mark.parametrize(
  'row, more, told',
  [
    ({'q': 'x', 'a': 'E', 'options': OPTIONS}, dict(verifier='option'),
     "rows.jsonl:2: the answer 'E' is none of the options"),
    ({'q': 'x', 'a': 'A', 'options': 3}, dict(verifier='option'),
     "rows.jsonl:2: the answer 'A' is none of the options 3"),
    ({'q': 'x', 'a': 'A'}, dict(verifier='option'),
     "rows.jsonl:2: no field 'options'"),
    ({'q': 'x', 'a': 'A', 'options': []}, dict(verifier='code'),
     'rows.jsonl:2: reward code: an example has no tests.*data_fields'),
  ],
)  # fmt: skip
def test_a_row_that_could_not_be_right_is_named(tmp_path, row, more, told):
  good = {'q': 'sky?', 'a': 'C', 'options': OPTIONS}
  fields = dict(answer_field='a', data_fields=('options',))
  if more['verifier'] == 'code':
    good, row = ECHO | {'a': 'A'}, ECHO | row | {'inputs': ['a', 1]}
    fields['data_fields'] = ('inputs', 'outputs')
  with pytest.raises(ValueError, match=told) as caught:
    task_of(tmp_path, good, row, **fields, **more)
  assert '\n' not in str(caught.value)


def as_numbers(answer, example):
  """As a user writes it: no answer that is asked is empty."""
  return float(answer) == float(example.answer)


def of_nothing(answer, example):
  return answer[0] == example.data['none']


def test_a_verifier_is_tried_on_the_reference_and_told_in_one_line(tmp_path):
  rows = dict(answer_field='a', verifier=f'{__name__}:as_numbers')
  questions.need_answers(task_of(tmp_path, {'q': '1+1', 'a': '2'}, **rows))
  rows['verifier'] = f'{__name__}:of_nothing'
  task = task_of(tmp_path, {'q': '1+1', 'a': '2'}, **rows)
  told = "the verifier of '1.1', given the reference answer '2', raised KeyErr"
  with pytest.raises(ValueError, match=told):
    questions.need_answers(task)


def test_prompts_with_facts_but_no_answers_are_not_judged(tmp_path):
  rows = {'q': 'hi', 'language': 'en'}
  chat = file_of(tmp_path, rows, data_fields=('language',), name='jsonl')
  task = tasks.jsonl(**{k: v for k, v in chat.items() if k != 'name'})
  assert not shares.has_answers(task)
  with pytest.raises(ValueError, match='gives no answer to judge by'):
    questions.need_answers(task)
  mixed = tasks.mixture(parts=dict(chat=chat | dict(share=1)))
  assert shares.checkable(mixed) is None


# Where answers stand


def two_domains():
  """Sums in domain x, and y, whose answers are fenced."""
  spec = dict(name='arithmetic', seed=0, min_ops=1, max_ops=1, size=40)
  return tasks.mixture(
    parts=dict(x=spec | dict(share=1), y=spec | dict(share=1))
  )


def rewards_of(**fields):
  return ml_collections.ConfigDict(fields)


def test_extractors_are_of_the_reward_that_judges_a_domain():
  of = lambda **fields: rules.extractors_of(rewards_of(**fields))
  assert of(format=dict(name='format')) == {'': 'tags'}
  assert of(a=dict(name='math_verify', extract='boxed')) == {'': 'boxed'}
  # In the order of names the code is first: it is not that of all.
  both = of(
    code=dict(name='code', domains=('c',)),
    math=dict(name='math_verify', extract='boxed', domains=('m', 'n')),
  )
  assert both == {'': 'program', 'c': 'program', 'm': 'boxed', 'n': 'boxed'}
  rest = of(
    code=dict(name='code', domains=('c',)),
    math=dict(name='math_verify', extract='boxed'),
  )
  assert rest == {'': 'boxed', 'c': 'program'}
  own = of(
    correct=dict(name='correct', extract='boxed', extract_in=dict(c='program'),
                 domains=('c', 'm'))
  )  # fmt: skip
  assert own == {'': 'boxed', 'c': 'program', 'm': 'boxed'}


def test_a_reward_that_names_no_extractor_reads_tags():
  of = lambda **fields: rules.extractors_of(rewards_of(**fields))
  boxed = dict(name='correct', extract='boxed', domains=('m',))
  sums = dict(name='correct', domains=('s',))
  assert of(m=boxed, s=sums) == {'': 'boxed', 'm': 'boxed', 's': 'tags'}
  inside = dict(name='correct', extract_in=dict(c='program'))
  assert of(a=inside) == {'': 'tags', 'c': 'program'}
  # What judges no answer has no say beside one that does.
  style = dict(name='score', extract='reply')
  assert of(a=style, b=sums) == {'': 'tags', 's': 'tags'}
  assert of(a=style) == {'': 'reply'}


def test_training_and_evaluation_read_the_answers_of_a_domain_alike():
  task = two_domains()
  examples = [task.example(0), task.example(40)]
  assert [e.domain for e in examples] == ['x', 'y']
  fields = rewards_of(
    correct=dict(name='correct', weight=1.0, extract='boxed',
                 extract_in=dict(y='program')),
  )  # fmt: skip
  boxed, fenced = r'\boxed{%s}', '```\n%s\n```'
  rows = [[one % e.answer for one in (boxed, fenced)] for e in examples]
  cfg = types.SimpleNamespace(rewards=fields)
  [right] = grader.reward_functions(cfg, task).values()
  graded = rewards.grade(rows, examples, {'right': right})['right']
  np.testing.assert_array_equal(graded, [[1, 0], [0, 1]])
  names = rules.extractors_of(fields).items()
  found = summary(
    task, examples, rows, extract={k: text.extractor(v) for k, v in names}
  )
  assert found['pass@1/x'] == found['pass@1/y'] == 0.5
  # A program is found in one way; of the others whatever looks like an answer.
  assert found['lenient'] == 0.75


def test_an_extractor_of_a_domain_that_is_not_there_is_refused():
  from configs import base

  c = base.get_config()
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract_in=dict(z='program'))
  )
  with pytest.raises(ValueError, match="correct.extract_in names 'z', and the"):
    grader.check(c, two_domains())
