"""Rewards of length, repetition and choice; what grading logs and raises."""

import copy
import json
import logging
import math
import pickle
import threading
import time
import types

import numpy as np
import pytest

from configs import base
from grpo_jax import grader, rewards, rollout, tasks
from grpo_jax.rewards import completion, fault_counts, ngrams, text
from grpo_jax.structs import Rollout


class NumberTask:
  """A task whose answers are numbers."""

  def verify(self, answer, example):
    return text.same_number(answer, example.answer)


def example(answer='5', **data):
  return types.SimpleNamespace(answer=answer, prompt='which?', data=data)


def of_length(tokens, content='<answer>5</answer>', finished=True):
  return rewards.Completion(content, tokens=tokens, finished=finished)


# Completions


def test_completion_is_its_text_and_knows_its_tokens():
  found = of_length(np.int64(7), 'so 5', finished=np.bool_(False))
  assert found == 'so 5' and hash(found) == hash('so 5')
  assert json.dumps({'completion': found}) == '{"completion": "so 5"}'
  assert (found.tokens, found.finished) == (7, False)
  for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
    assert type(again) is rewards.Completion
    assert (again, again.tokens, again.finished) == ('so 5', 7, False)
  # A worker process unpickles answers without this package.
  assert type(found[:]) is type(found.strip()) is str


def test_texts_of_a_rollout_know_their_tokens_with_the_stop_token():
  targets = np.array([[[5, 6, 2, 0], [7, 8, 9, 5]]])
  mask = np.array([[[1, 1, 1, 0], [1, 1, 1, 1]]], bool)
  sampled = Rollout(inputs=targets, targets=targets, mask=mask, logprobs=None)
  ((stopped, cut),), finished = rollout.read_texts(
    sampled,
    [example()],
    opening=lambda prompt: '',
    decode=lambda ids: ' '.join(map(str, ids)),
    stop_ids=(2,),
  )
  assert (stopped, stopped.tokens, stopped.finished) == ('5 6', 3, True)
  assert (cut, cut.tokens, cut.finished) == ('7 8 9 5', 4, False)
  assert finished.tolist() == [[True, False]]


@pytest.mark.parametrize(
  'make',
  [
    lambda: rewards.soft_overlong(task=None, max_length=10, cache=4),
    lambda: rewards.cosine(task=NumberTask(), max_length=10),
  ],
)
def test_length_of_plain_text_is_an_error_and_not_a_count_of_characters(make):
  with pytest.raises(TypeError, match='counts tokens.*rewards.Completion'):
    make()('plain', example())
  # In grading too: a fault of all completions must not pass for a zero.
  with pytest.raises(completion.PlainTextError):
    rewards.grade([['plain']], [example()], {'length': make()})


# Length


def test_soft_overlong_grows_linearly_over_the_cache_and_has_a_floor():
  reward = rewards.soft_overlong(task=None, max_length=20, cache=8)
  values = [reward(of_length(n), example()) for n in (0, 12, 13, 16, 20, 50)]
  assert values == [0.0, 0.0, -1 / 8, -0.5, -1.0, -1.0]
  assert math.copysign(1, values[0]) == 1.0  # not -0.0


def test_soft_overlong_counts_tokens_whatever_the_characters():
  reward = rewards.soft_overlong(task=None, max_length=20, cache=8)
  assert reward(of_length(5, 'x' * 1000), example()) == 0.0
  assert reward(of_length(16, ''), example()) == -0.5


@pytest.mark.parametrize(('max_length', 'cache'), [(10, 0), (10, 11), (0, 0)])
def test_soft_overlong_without_a_sensible_cache_is_refused(max_length, cache):
  with pytest.raises(ValueError, match=f'cache={cache} .*{max_length}'):
    rewards.soft_overlong(task=None, max_length=max_length, cache=cache)


@pytest.mark.parametrize(
  ('tokens', 'right', 'wrong'),
  [
    # cos 0, pi/3, pi/2, pi: shares 1, 3/4, 1/2, 0 of the short value.
    (0, 1.0, -1.0),
    (4, 0.875, -0.875),
    (6, 0.75, -0.75),
    (12, 0.5, -0.5),
  ],
)
def test_cosine_prefers_short_right_and_long_wrong_answers(
  tokens, right, wrong
):
  reward = rewards.cosine(task=NumberTask(), max_length=12)
  # 1e-12: cos(pi/2) is 6e-17 in floats.
  assert reward(of_length(tokens), example('5')) == pytest.approx(right, 1e-12)
  assert reward(of_length(tokens), example('6')) == pytest.approx(wrong, 1e-12)


def test_cosine_of_what_was_cut_is_the_same_right_or_wrong():
  reward = rewards.cosine(task=NumberTask(), max_length=12, cut=-10.0)
  for tokens, finished in ((13, True), (12, False), (5, False)):
    for answer in ('5', '6'):
      given = of_length(tokens, finished=finished)
      assert reward(given, example(answer)) == -10.0
  assert reward(of_length(12), example('5')) == 0.5


def test_cosine_finds_the_answer_as_told_and_counts_where_there_is_none():
  given = of_length(12, r'\boxed{5}')
  boxed = rewards.cosine(task=NumberTask(), max_length=12, extract='boxed')
  assert boxed(given, example('5')) == 0.5
  before = rewards.faults()['cosine/no_answer']
  tags = rewards.cosine(task=NumberTask(), max_length=12)
  assert tags(given, example('5')) == -0.5
  assert rewards.faults()['cosine/no_answer'] == before + 1


@pytest.mark.parametrize(
  'settings',
  [{'right_long': 2.0}, {'wrong_short': 0.0}, {'max_length': 0}],
)
def test_cosine_that_pays_the_wrong_way_is_refused(settings):
  with pytest.raises(ValueError, match='cosine: '):
    rewards.cosine(task=NumberTask(), **({'max_length': 12} | settings))


# Repetition


@pytest.mark.parametrize(
  ('size', 'content', 'value'),
  [
    (2, '', 0.0),
    (2, 'one', 0.0),
    (2, 'one two three', 0.0),
    # one-two, two-one, one-two: 2 of 3 distinct.
    (2, 'one two One TWO', -1 / 3),
    # 5 times no-no, 1 distinct.
    (2, 'no no no no no no', -4 / 5),
    (1, 'a b a b', -1 / 2),
    # 1 + 1 + 1: 1-+-1 and +-1-+, then the first again.
    (3, '1+1+1', -1 / 3),
    # The two-grams of 5 characters: 对对 4 times.
    (2, '对对对对对', -3 / 4),
    (2, '我们相加', 0.0),
    # 'a' 120 times is 3 units of 40.
    (1, 'a' * 120, -2 / 3),
  ],
)
def test_repetition_is_the_share_of_repeated_ngrams(size, content, value):
  reward = rewards.repetition(task=None, size=size)
  assert reward(content, example()) == pytest.approx(value, 1e-12)
  half = rewards.repetition(task=None, size=size, max_penalty=0.5)
  assert half(content, example()) == pytest.approx(value / 2, 1e-12)


def test_units_are_words_marks_and_characters_of_scripts_without_spaces():
  assert ngrams.units("Don't, x2=设n为3。") == [
    *('don', "'", 't', ',', 'x2', '=', '设', 'n', '为', '3', '。')
  ]


@pytest.mark.parametrize('settings', [{'size': 0}, {'max_penalty': -1.0}])
def test_repetition_that_would_pay_is_refused(settings):
  with pytest.raises(ValueError, match='repetition: size='):
    rewards.repetition(task=None, **settings)


# Choice


OPTIONS = ['Paris', 'New  York', 'Vitamin C.', 'a bird']


@pytest.mark.parametrize(
  ('answer', 'alone', 'with_options'),
  [
    ('B', 1.0, 1.0),
    ('b', 1.0, 1.0),
    ('(B)', 1.0, 1.0),
    ('(b)', 1.0, 1.0),
    ('B.', 1.0, 1.0),
    ('B)', 1.0, 1.0),
    ('B:', 1.0, 1.0),
    (r'\text{B}', 1.0, 1.0),
    (r'\text{(B)}', 1.0, 1.0),
    ('B) New York', 1.0, 1.0),
    ('(B) new york.', 1.0, 1.0),
    ('B. New York', 1.0, 1.0),
    ('New York', 0.0, 1.0),
    ('new   york', 0.0, 1.0),
    ('B) Paris', 1.0, 0.0),
    ('Paris', 0.0, 0.0),
    ('A', 0.0, 0.0),
    ('E', 0.0, 0.0),
    ('', 0.0, 0.0),
    ('None', 0.0, 0.0),
    ('2', 0.0, 0.0),
    ('BB', 0.0, 0.0),
    ('A B', 0.0, 0.0),
    ('B or C', 0.0, 0.0),
    ('B) or C', 0.0, 0.0),
    ('B) or C)', 0.0, 0.0),
    ('B, C', 0.0, 0.0),
    ('(A) (B)', 0.0, 0.0),
    ('B. C. D.', 0.0, 0.0),
    ('B) C', 0.0, 0.0),
    ('The answer is B', 0.0, 0.0),
    ('B New York', 0.0, 0.0),
    ('Bird', 0.0, 0.0),
  ],
)
def test_option_is_one_letter_or_its_text_and_nothing_else(
  answer, alone, with_options
):
  reward = rewards.option(task=None)
  given = f'<answer>{answer}</answer>'
  assert reward(given, example('B')) == alone
  assert reward(given, example('(B)')) == alone
  assert reward(given, example('B', options=OPTIONS)) == with_options
  lettered = dict(zip('ABCD', OPTIONS, strict=True))
  assert reward(given, example('B', options=lettered)) == with_options
  assert reward(given, example('New York', options=OPTIONS)) == with_options


def test_a_letter_is_a_label_before_it_is_an_options_text():
  letters = example('A', options=['c', 'a', 'b', 'd'])
  reward = rewards.option(task=None)
  for answer, right in (('(A)', 1.0), ('A', 1.0), ('(B)', 0.0), ('a', 1.0)):
    assert reward(f'<answer>{answer}</answer>', letters) == right


def test_option_texts_may_look_like_labels_or_like_no_answer():
  reward = rewards.option(task=None)
  given = '<answer>C) Vitamin C</answer>'
  assert reward(given, example('C', options=OPTIONS)) == 1.0
  assert reward(given, example('C')) == 1.0
  none = example('B', options=['All', 'None'])
  assert reward('<answer>None</answer>', none) == 1.0
  for letter in 'AB':
    twice = example(letter, options=['same', 'same'])
    assert reward('<answer>same</answer>', twice) == 0.0


def test_option_without_an_answer_or_a_reference_is_zero():
  reward = rewards.option(task=None, extract='boxed')
  before = rewards.faults()['option/no_answer']
  assert reward('<answer>B</answer>', example('B')) == 0.0
  assert rewards.faults()['option/no_answer'] == before + 1
  assert reward(r'\boxed{B}', example('B')) == 1.0
  assert reward(r'\boxed{?}', example('?')) == 0.0


# Totality, and the log of grading


@pytest.mark.parametrize(
  'piece',
  ['a', '1+', 'B)', '(B)', 'or B', '\\text{', '<answer>B', '对', '\ud800', '\0']
  + ['<answer>B</answer>', 'A ', '. ', "a'"],
)
def test_huge_text_is_graded_in_linear_time(piece):
  content = '<answer>' + piece * (300_000 // len(piece)) + '</answer>'
  given = of_length(300_000, content)
  fns = [
    rewards.option(task=None),
    rewards.repetition(task=None),
    rewards.soft_overlong(task=None, max_length=10, cache=5),
    rewards.cosine(task=NumberTask(), max_length=10),
  ]
  start = time.monotonic()
  assert all(-1.0 <= fn(given, example('B')) <= 0.0 for fn in fns)
  # Seconds on a busy machine; a quadratic scan would take hours.
  assert time.monotonic() - start < 20


@pytest.fixture
def no_faults(monkeypatch):
  """Faults as a new process has them, so that each kind is logged again."""
  monkeypatch.setattr(fault_counts, '_counts', type(rewards.faults())())


def test_answers_that_were_not_found_are_counted_and_logged_once(
  no_faults, caplog
):
  caplog.set_level(logging.INFO)
  completions = [['<answer>5</answer>', '5'], ['', '<answer>6</answer>']]
  fns = {
    'correct': rewards.correct(task=NumberTask()),
    'number': rewards.number(task=None),
  }
  found = rewards.grade(completions, [example('5'), example('6')], fns)
  for name in fns:
    np.testing.assert_array_equal(found[name], [[1, 0], [0, 1]])
    assert rewards.faults()[f'{name}/no_answer'] == 2
    assert caplog.text.count(f'{name}/no_answer') == 1


def test_log_names_what_grading_waits_for_once(caplog):
  release = threading.Event()

  def slow(given, ex):
    return float(given != 'stuck' or release.wait(60))

  def watch():
    while 'awaited' not in caplog.text:
      time.sleep(0.01)
    release.set()

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  found = rewards.grade(
    [['a', 'stuck', 'b', 'stuck']],
    [example()],
    {'slow': slow, 'fast': rewards.constant(task=None)},
    patience=0.2,
  )
  watcher.join(60)
  np.testing.assert_array_equal(found['slow'], [[1.0] * 4])
  assert "slow: 2 of 4, the first to 'which?'" in caplog.text
  assert 'fast' not in caplog.text
  assert caplog.text.count('awaited') == 1


def test_grading_that_is_done_in_time_logs_nothing(caplog):
  with caplog.at_level(logging.DEBUG):
    rewards.grade([['a']], [example()], {'c': rewards.constant(task=None)})
  assert 'awaited' not in caplog.text


def test_components_of_length_add_up_and_are_gated_like_any_other():
  fns = {
    'correct': rewards.correct(task=NumberTask()),
    'overlong': rewards.soft_overlong(task=None, max_length=20, cache=8),
  }
  given = [[of_length(12), of_length(16), of_length(16, '5'), of_length(30)]]
  components = rewards.grade(given, [example('5')], fns)
  weights = {'correct': 1.0, 'overlong': 0.5}
  total = rewards.combine(components, weights=weights)
  np.testing.assert_array_equal(total, [[1.0, 0.75, -0.25, 0.5]])
  gated = rewards.combine(components, weights=weights, gate='correct')
  np.testing.assert_array_equal(gated, [[1.0, 0.75, 0.0, 0.5]])


def test_config_chooses_these_rewards_by_name():
  c = base.get_config()
  c.rewards = {
    'short': dict(name='cosine', weight=1.0, max_length=64, extract='boxed'),
    'limit': dict(name='soft_overlong', weight=0.5, max_length=64, cache=16),
    'fresh': dict(name='repetition', weight=0.1, size=3),
    'chosen': dict(name='option', weight=0.0),
  }
  asked = tasks.Example('2+3=', '5')
  task = tasks.Task(1, lambda i: asked, lambda answer, example: False)
  fns = grader.reward_functions(c, task)
  given = of_length(56, 'no no no no no')
  values = {name: fn(given, example()) for name, fn in fns.items()}
  assert values == {
    # -0.5 - 0.5 (1 + cos(7 pi / 8)) / 2
    'short': pytest.approx(-0.5 - 0.25 * (1 - 0.92387953), 1e-8),
    'limit': -0.5,
    'fresh': pytest.approx(-2 / 3),
    'chosen': 0.0,
  }
  c.rewards['limit'] = dict(name='soft_overlong', weight=0.5, max_length=64)
  with pytest.raises(ValueError, match='soft_overlong needs cache'):
    grader.reward_functions(c, task)
