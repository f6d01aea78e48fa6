"""Measures of what answers are like, by hand."""

import numpy as np
import pytest

from grpo_jax import text_measures
from grpo_jax.rewards import text
from grpo_jax.tasks import Example

ENGLISH = 'the house stands at the end of the street near the old church'
GERMAN = 'das Haus steht am Ende der Straße neben der alten Kirche im Dorf'


@pytest.mark.parametrize(
  'completion, words',
  [
    ('<think>Wait, but errors? CHECK.</think> wrong', ['wait', 'but', 'check']),
    ('<think>re-evaluate however</think>', ['evaluate', 'however']),
    ('<answer>wait</answer>', []),
    ('checked buttons', []),
  ],
)
def test_reflective_words_are_whole_words_of_the_thought(completion, words):
  assert text_measures.reflective_words(completion) == words


@pytest.mark.parametrize(
  'completion, gibberish',
  [
    ('', False),
    ('<think>08;06;15</think><answer>15</answer>', False),
    ('<answer>15</answer>', False),
    ('so it is 4</think> 4', False),  # the prompt has opened the thought
    ('<think>cut in the midd', False),
    ('<think>a</think><think>b</think>', True),
    ('</answer><answer>4', True),
    ('<think>a<answer>4</answer>', True),
    ('<think>a</think><answer>4</answer><answer>5</answer>', True),
    ('4\ufffd', True),
    ('a\x00b', True),
    ('line\n\ttext\r\n', False),
    # 20 units are 17 4-grams, one of them distinct.
    ('ha ' * 20, True),
    # 18 units are 15 4-grams, too few to be sure.
    ('ha ' * 18, False),
    # 20 words are 17 distinct 4-grams; twice that, 20 of 37: more than half.
    (' '.join(f'w{chr(97 + i)}' for i in range(20)) * 1, False),
    (' '.join([f'w{chr(97 + i)}' for i in range(20)] * 2), False),
    # Three times, 20 of 57.
    (' '.join([f'w{chr(97 + i)}' for i in range(20)] * 3), True),
  ],
)
def test_gibberish_repeats_itself_or_cannot_be_parsed(completion, gibberish):
  assert text_measures.is_gibberish(completion) == gibberish


def measure(completions, right, lengths=None, data=()):
  return text_measures.of_answers(
    completions,
    [Example(str(q), '', data=dict(data)) for q in range(len(completions))],
    np.full(np.shape(right), 10) if lengths is None else np.array(lengths),
    np.array(right),
    count_tokens=len,
    follows_format=lambda c, _: float(text.well_formed(c, thought=True)),
    language='en',
  )


def test_thinking_is_measured_for_right_and_wrong_answers_apart():
  found = measure(
    [
      ['<think>1234</think><answer>1</answer>', '<answer>1</answer>'],
      ['<think>12345678</think><answer>1</answer>', '<think>123456'],
    ],
    [[True, True], [False, False]],
  )
  assert found['thinking_length_right'] == 2.0  # of 4 and 0
  assert found['thinking_length_wrong'] == 7.0  # of 8 and 6
  assert found['thinking_length'] == 4.5
  # Means of the questions are 2 and 7: sqrt(12.5 / 2).
  assert found['thinking_length_stderr'] == pytest.approx(2.5)
  assert found['format'] == 0.5  # the first of each


def test_there_is_no_thinking_of_wrong_answers_where_none_is_wrong():
  found = measure([['<think>1</think>']], [[True]])
  assert 'thinking_length_wrong' not in found
  assert found['thinking_length_right'] == 1.0


def test_reflective_words_are_told_three_ways():
  found = measure(
    [['<think>wait wait</think>', '<think>no</think>'],
     ['<think>but</think>', '<think></think>']],
    [[True, False], [False, False]],
    lengths=[[50, 100], [40, 10]],
  )  # fmt: skip
  assert found['reflective_words'] == 0.75  # three in four answers
  assert found['reflective_per_1k'] == pytest.approx(1000 * 3 / 200)
  assert found['reflective_share'] == 0.5
  # The first question is right with such words and wrong without; the second's
  # two answers are wrong.
  assert found['reflective_gain'] == 0.5


def test_what_reflection_gains_is_told_of_questions_with_both_kinds():
  found = measure(
    [['<think>wait</think>', '<think>no</think>', '<think>so</think>'],
     ['<think>but</think>'] * 3],
    [[False, True, False], [True, True, True]],
  )  # fmt: skip
  assert found['reflective_gain'] == -0.5
  assert 'reflective_gain' not in measure([['a', 'b']], [[True, False]])


def test_language_consistency_is_of_thoughts_with_enough_words():
  mixed = f'{ENGLISH}. {GERMAN}.'
  found = measure(
    [[f'<think>{ENGLISH}</think>', '<think>4 + 4</think>'],
     [f'<think>{mixed}</think>', '<think>four</think>']],
    [[True, False], [False, False]],
  )  # fmt: skip
  # 13 words of 13, and 13 of 26.
  assert found['language_consistency'] == pytest.approx((1 + 0.5) / 2, abs=0.03)
  assert 'language_consistency' not in measure([['<think>4</think>']], [[True]])


def test_the_language_may_be_that_of_the_question():
  rows = [[f'<think>{ENGLISH}. {GERMAN}.</think>']]
  for code, share in (('de', 0.5), ('en', 0.5), ('zh', 0)):
    found = measure(rows, [[True]], data=dict(language=code))
    assert found['language_consistency'] == pytest.approx(share, abs=0.03)
  # Of what is no code nothing is said.
  for code in ('EN', 'zh-CN', None):
    found = measure(rows, [[True]], data=dict(language=code))
    assert 'language_consistency' not in found


def test_words_that_an_example_lists_are_its_language():
  # Three of four words, all of three; two are too few to judge.
  thoughts = ['3 piu 4 fa then dodo', 'piu 4 fa piu 5', 'piu 4 then']
  found = measure(
    [[f'<think>{thought}</think>' for thought in thoughts]],
    [[True] * 3],
    data=dict(words=frozenset(['piu', 'fa', 'dodo'])),
  )
  assert found['language_consistency'] == (0.75 + 1) / 2


@pytest.mark.parametrize(
  'completion, reply',
  [
    ('<think>a</think> b', 'b'),
    ('<think>a</think><answer>b</answer>', 'b'),
    ('<think>a</think>It is <answer>4</answer>.', 'It is 4.'),
    ('work <answer>4</answer>', '4'),  # what precedes an answer is a thought
    ('<think>a', ''),
    ('plain', 'plain'),
    ('a</think>b</think>c', 'c'),
  ],
)
def test_the_reply_is_what_follows_the_thought(completion, reply):
  assert text.reply(completion) == reply
