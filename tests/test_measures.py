"""pass@k, votes and standard errors, against enumeration and by hand."""

import itertools

import numpy as np
import pytest

from grpo_jax import accuracy, measures, tasks
from grpo_jax.rewards import text


def no_texts(*_):
  return {}


@pytest.mark.parametrize('k', [1, 2, 3, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(k):
  correct = np.array([[i < c for i in range(6)] for c in range(7)])
  by_hand = [
    np.mean([any(subset) for subset in itertools.combinations(row, k)])
    for row in correct
  ]
  np.testing.assert_allclose(measures.pass_at_k(correct, k), by_hand)


def test_pass_at_1_is_the_mean():
  correct = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool)
  np.testing.assert_allclose(measures.pass_at_k(correct, 1), [0.5, 0.0])


def test_pass_at_k_of_many_samples_does_not_overflow():
  correct = np.zeros((1, 2000), bool)
  correct[0, 0] = True
  np.testing.assert_allclose(measures.pass_at_k(correct, 500), [0.25])


@pytest.mark.parametrize('k', [0, 5])
def test_k_beyond_the_samples_is_refused_with_the_numbers(k):
  correct = np.zeros((2, 4), bool)
  with pytest.raises(ValueError, match=f'pass@{k} .*there are 4.*eval.samples'):
    measures.pass_at_k(correct, k)
  with pytest.raises(ValueError, match=f'cons@{k} .*there are 4.*eval.samples'):
    measures.cons_at_k([[''] * 4] * 2, correct, k)


@pytest.mark.parametrize(
  'answers, index',
  [
    (['7', '3', '3'], 1),
    (['7', '3', '3', '7'], 0),  # a tie goes to the one seen first
    (['', '', '', '5'], 3),  # no answer is not an answer
    (['', ''], -1),
    ([], -1),
  ],
)
def test_the_vote_goes_to_the_majority_of_answers(answers, index):
  assert measures.vote(answers) == index


def test_cons_is_the_mean_over_disjoint_groups():
  answers = [
    ['1', '2', '2', '3', '3', '1', '9'],  # votes for 2, then 3; 9 is left over
    ['4', '4', '', '', '', '4', '4'],
    ['', '', '', '', '', '', '4'],
  ]
  right = np.array(
    [[a == '24'[q > 0] for a in row] for q, row in enumerate(answers)]
  )
  np.testing.assert_array_equal(
    measures.cons_at_k(answers, right, 3), [0.5, 1.0, 0.0]
  )
  # One vote of a single sample is its correctness.
  np.testing.assert_allclose(
    measures.cons_at_k(answers, right, 1), right.mean(1)
  )


def test_the_standard_error_is_over_problems():
  # Mean 0.5, squared deviations 1/4 each: sqrt(1/3) / 2.
  values = np.array([0.0, 1.0, 0.0, 1.0])
  assert measures.standard_error(values) == pytest.approx((1 / 12) ** 0.5)
  assert measures.standard_error(np.array([0.3])) == 0.0


def test_what_is_asked_twice_is_one_cluster():
  values = np.array([0.0, 1.0, 0.0, 1.0])
  each = measures.standard_error(values, clusters=['d', 'c', 'b', 'a'])
  assert each == measures.standard_error(values)
  # Sums off the mean: a -1, b 1/2, c 1/2. sqrt(3/2 * (1 + 1/4 + 1/4)) / 4.
  found = measures.standard_error(values, clusters=['a', 'b', 'a', 'c'])
  assert found == pytest.approx(1.5 / 4)
  # Twice all of it says no more than once.
  twice = measures.standard_error(np.tile(values, 2), clusters=[*'abcdabcd'])
  assert twice == pytest.approx(each)
  assert measures.standard_error(values, clusters=['a'] * 4) == 0.0


def test_a_vote_is_what_most_of_its_form_are():
  vote = lambda right: measures.cons_at_k([['5'] * 3], right, 3)
  assert vote(np.array([[False, True, True]])) == [1.0]
  assert vote(np.array([[True, False, False]])) == [0.0]
  # Of two of each, the first: with the third sample of another form.
  for first in (True, False):
    right = np.array([[first, not first, True]])
    assert measures.cons_at_k([['5', '5', '7']], right, 3) == [float(first)]


def test_a_vote_does_not_tell_the_spellings_of_a_number_apart():
  task = tasks.arithmetic(split='test', size=1, min_ops=1, max_ops=1)
  example = tasks.Example(prompt='2 +2=', answer='4')
  rows = [[f'<answer>{a}</answer>' for a in ('04', '7', '4.0', '7', '4')]]
  result = accuracy.summarise(
    task, [example], rows, np.ones((1, 5), bool), np.full((1, 5), 3),
    ks=(1,), votes=(5,), extract={'': text.tags}, texts=no_texts,
  )  # fmt: skip
  assert result['cons@5'] == 1.0
  assert result['pass@1'] == 3 / 5


def test_none_is_no_answer_to_vote_for():
  task = tasks.arithmetic(split='test', size=1, min_ops=1, max_ops=1)
  example = tasks.Example(prompt='2 +2=', answer='4')
  rows = [[f'<answer>{a}</answer>' for a in ('None', 'none', '4')]]
  result = accuracy.summarise(
    task, [example], rows, np.ones((1, 3), bool), np.full((1, 3), 3),
    ks=(1,), votes=(3,), extract={'': text.tags}, texts=no_texts,
  )  # fmt: skip
  assert (result['cons@3'], result['answered']) == (1.0, pytest.approx(1 / 3))


def test_a_program_is_judged_once():
  judged = []

  def verify(answer, example):
    judged.append(answer)
    return answer == 'good'

  example = tasks.Example(prompt='?', answer='')
  rows = [['```\ngood\n```', '```\nbad\n```', 'no program']]
  result = accuracy.summarise(
    tasks.Task(1, lambda i: example, verify), [example], rows,
    np.ones((1, 3), bool), np.full((1, 3), 3),
    ks=(1,), votes=(), extract={'': text.program}, texts=no_texts,
  )  # fmt: skip
  assert sorted(judged) == ['bad', 'good']
  assert result['pass@1'] == pytest.approx(1 / 3)
  assert result['lenient'] == pytest.approx(1 / 3)
