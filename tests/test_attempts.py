"""Pairs to be found by trying: questions, thoughts and answers, by hand."""

import re

import pytest

from grpo_jax import tasks
from grpo_jax.tasks.attempts import ALPHABET
from grpo_jax.tasks.common import Example

TRY = re.compile(r'(\d)\+(\d)=(\d\d)( no)?')


def examples(**changed):
  task = tasks.attempts(**(dict(split='train', size=200) | changed))
  return task, [task.example(i) for i in range(len(task))]


def answer_of(e):
  return re.search('<answer>(.*)</answer>', e.completion).group(1)


def test_a_thought_tries_pairs_and_stops_at_the_first_that_fits():
  task, found = examples(repair_share=0.0)
  for e in found:
    listed, target = e.data['listed'], e.data['target']
    assert e.prompt == f'{" ".join(map(str, listed))}={target}'
    assert set(e.prompt + e.completion) <= set(ALPHABET + '<>/')
    tried = TRY.findall(e.completion)
    assert all(int(a) + int(b) == int(t) for a, b, t, _ in tried)
    fits = [int(t) == target for _, _, t, _ in tried]
    # It says no to all that do not fit, and goes no further than one that does.
    assert [not no for *_, no in tried] == fits
    assert not any(fits[:-1])
    assert task.verify(answer_of(e), e) == fits[-1]
    assert task.verify(e.answer, e)


def test_thoughts_of_the_corpus_are_short():
  _, found = examples(size=1000, kind='lookup', repair_share=0.0)
  mean = sum(len(TRY.findall(e.completion)) for e in found) / 1000
  # Geometric: mean 1/0.65 = 1.54, standard deviation 0.91.
  assert abs(mean - 1.54) < 5 * 0.91 / 1000**0.5


def test_in_lookup_the_answer_stands_in_the_question():
  task, found = examples(kind='lookup')
  for e in found:
    assert int(answer_of(e)) == e.data['listed'][e.data['target'] - 1]
    assert task.verify(answer_of(e), e)


def test_a_wrong_sum_is_taken_back():
  _, found = examples(repair_share=1.0, size=20)
  for e in found:
    for wrong, pair, right in re.findall(
      r'=(\d\d) wait, (\d\+\d)=(\d\d)', e.completion
    ):
      assert int(right) == sum(map(int, pair.split('+'))) != int(wrong)
    assert 'wait' in e.completion


@pytest.mark.parametrize(
  'answer, right',
  [
    ('2+9', True), ('9+2', True), (' 2+9 ', True), ('3+8', True),
    ('4+7', False), ('2+8', False), ('11', False), ('2+9+0', False),
    ('', False), ('a+b', False), ('99999999+1', False), ('²+9', False),
  ],
)  # fmt: skip
def test_any_pair_of_listed_numbers_with_that_sum_is_right(answer, right):
  task, _ = examples(size=1)
  facts = {'kind': 'search', 'listed': (3, 8, 5, 2, 9, 4), 'target': 11}
  assert task.verify(answer, Example('', '2+9', data=facts)) is right


def test_a_number_is_used_once():
  task, _ = examples(size=1)
  facts = {'kind': 'search', 'listed': (5, 4, 6), 'target': 10}
  assert not task.verify('5+5', Example('', '4+6', data=facts))


def problems(kind, **of):
  """What must be told apart: in `search`, numbers in any order."""
  found = [e.data for e in examples(kind=kind, size=2000, **of)[1]]
  order = sorted if kind == 'search' else tuple
  return {(tuple(order(e['listed'])), e['target']) for e in found}


@pytest.mark.parametrize('kind', ['search', 'lookup'])
def test_splits_and_parts_share_no_problem(kind):
  train, test = (problems(kind, split=split) for split in ('train', 'test'))
  assert train and test and not train & test
  corpus, asked = (problems(kind, part=p) for p in ('corpus', 'questions'))
  assert corpus and asked and not corpus & asked


@pytest.mark.parametrize(
  'changed, saying',
  [
    ({'kind': 'find'}, "kind='find' must be one of"),
    ({'numbers': 2}, 'numbers=2 must be 3 .. 9'),
    ({'stop_share': -0.1}, 'stop_share=-0.1 must be between 0 and 1'),
  ],
)
def test_an_impossible_task_is_refused(changed, saying):
  with pytest.raises(ValueError, match=re.escape(saying)):
    examples(**changed)
