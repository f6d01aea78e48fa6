"""The share of a thought's words that are in the target language."""

import dataclasses
import itertools
import random
import re
import time
import types

import numpy as np
import pytest
from thoughts import THOUGHTS

from grpo_jax import rewards, tasks
from grpo_jax.rewards import languages, text

pytest.importorskip('py3langid')

EXAMPLE = types.SimpleNamespace(answer='5', prompt='?')


def share(thought, target='en', min_words=1):
  reward = rewards.language(task=None, target=target, min_words=min_words)
  return reward(f'<think>{thought}</think><answer>5</answer>', EXAMPLE)


# Equation 7


def test_reward_is_target_words_over_words():
  # 4 English words, 6 of German.
  mixed = 'we add both numbers. Dann teilen wir beide durch drei.'
  assert share(mixed, 'en') == pytest.approx(4 / 10)
  assert share(mixed, 'de') == pytest.approx(6 / 10)
  assert share(mixed, 'fr') == 0.0


def test_chinese_counts_two_characters_as_a_word():
  # 8 characters are 4 words; 'the answer is' are 3.
  mixed = '把两个数字相加 the answer is 四'
  assert share(mixed, 'zh') == pytest.approx(4 / 7)
  assert share(mixed, 'en') == pytest.approx(3 / 7)


@pytest.mark.parametrize('language', THOUGHTS)
def test_thought_in_one_language_is_wholly_in_it(language):
  thought = ' '.join(THOUGHTS[language])
  assert share(thought, language) == 1.0
  for other in THOUGHTS:
    if other != language:
      assert share(thought, other) == 0.0


@pytest.mark.parametrize(
  ('language', 'thought'),
  [
    ('ja', '二つの数を足して三で割る。答えは五です。'),
    ('ko', '두 수를 더하면 합은 다섯이다.'),
    ('ru', 'Сложим два числа и разделим сумму на три, ответ равен пяти.'),
    ('el', 'Προσθέτουμε τους δύο αριθμούς και διαιρούμε με το τρία.'),
    ('hi', 'दोनों संख्याओं को जोड़कर तीन से भाग देते हैं।'),
    (
      'nl',
      'Eerst tellen we de twee getallen bij elkaar op en delen door drie.',
    ),
    ('pl', 'Najpierw dodajemy obie liczby, a potem dzielimy wynik przez trzy.'),
  ],
)
def test_other_languages_are_told_too(language, thought):
  assert share(thought, language) == 1.0
  assert share(thought, 'en') == 0.0


# What is measured: words of sentences of two languages, mixed


def mixtures(seed, count=60):
  """(a sentence of one language, the language) by six, two languages each."""
  draw = random.Random(seed)
  names = [name for name in THOUGHTS if name != 'zh']
  for _ in range(count):
    first, second = draw.sample(names, 2)
    yield [
      (draw.choice(THOUGHTS[name]), name)
      for name in draw.choices((first, second), k=6)
    ]


def latin_words(sentence):
  found = languages._sentences(languages._prose(sentence))
  return [w for s in found for script, w in s if script == 'latin' and w[1:]]


def test_words_of_mixed_sentences_are_told_at_95_percent():
  right = []
  for parts in mixtures(seed=0):
    words = [(w, i) for i, (s, _) in enumerate(parts) for w in latin_words(s)]
    truth = [name for s, name in parts for _ in latin_words(s)]
    found = languages._labels(words, 'latin')
    right += [a == b for a, b in zip(found, truth, strict=True)]
  assert len(right) > 2000
  # 99.5 % when written; on sentences of Django's translations 98 %.
  assert np.mean(right) >= 0.95


def test_reward_of_mixed_sentences_is_near_the_true_share():
  off = []
  for parts in mixtures(seed=1):
    target = parts[0][1]
    counts = [(len(latin_words(s)), name == target) for s, name in parts]
    true = sum(n for n, same in counts if same) / sum(n for n, _ in counts)
    off.append(share(' '.join(s for s, _ in parts), target) - true)
  assert np.mean(np.abs(off)) < 0.03


def test_switch_within_a_sentence_is_seen():
  thought = (
    'Then we divide both sides by three, also kosten vier Äpfel acht Euro '
    'und das sieht nicht richtig aus, so the answer must be smaller.'
  )
  assert share(thought, 'de') == pytest.approx(12 / 24, abs=2 / 24)


def test_names_take_the_language_around_them():
  assert share('Natalia sold clips to Weng and Randall in April.') == 1.0
  paid = 'In total Karan has to pay $3650 + $365 = $4015.'
  assert share(paid) == 1.0
  ran = 'Amber ran 8 miles. Micah ran 28 miles. Ahito ran the rest of them.'
  assert share(ran) == 1.0


# What is no word


@pytest.mark.parametrize(
  'noise',
  [
    ' 12 345,6 3/4 = < > × € ',
    ' `für und mit`',
    '\n```python\nfür und mit nicht = der\n```\n',
    r' $\frac{der}{nicht}$ ',
    r' $$ für und mit nicht $$ ',
    r' \begin{align*} für &= und \\ mit \end{align*} ',
    ' [asy] draw(für, und, mit, nicht); [/asy] ',
    '\n' + r'\[ für und mit nicht \]' + '\n',
    r' \(für und mit nicht\) ',
    r' \boxed{42} \alpha \text{}',
    ' https://beispiel.de/nicht/und/mit ',
    ' x y z n ',
    ' x1 H2O max_value 3rd der_2 ',
    ' sin(x) gcd(a, b) mod ',
  ],
)
def test_digits_code_and_mathematics_are_no_words(noise):
  thought = f'First we add both numbers{noise}and then we divide by three.'
  counts = languages.words_by_language(thought)
  assert counts == {'en': 11}


@pytest.mark.parametrize('mark', ['```', '$$', r'\[', r'\begin{x}'])
def test_a_mark_left_open_hides_nothing(mark):
  counts = languages.words_by_language(
    f'We run it: {mark} für und mit nicht noch einmal'
  )
  assert counts['en'] == 3 and counts['de'] >= 5


def test_many_combining_marks_take_no_time():
  start = time.monotonic()
  languages.words_by_language('We add a' + '\u0301\u0316' * 100_000)
  assert time.monotonic() - start < 5.0  # minutes, all at once


def test_prices_are_not_mathematics():
  counts = languages.words_by_language('It costs $5 and then it costs $6 more.')
  assert counts == {'en': 7}


def test_words_of_unknown_scripts_count_but_for_no_language():
  counts = languages.words_by_language('We add ჯამი to it')
  assert counts['en'] == 4 and counts[''] > 0


# The thought


def test_thought_shorter_than_min_words_scores_zero():
  ten = 'we add both numbers and then we divide by three'
  assert share(ten, min_words=10) == 1.0
  assert share(ten, min_words=11) == 0.0
  assert share('', min_words=1) == 0.0
  assert share('12 + 30 = 42', min_words=1) == 0.0


@pytest.mark.parametrize(
  ('completion', 'thought'),
  [
    ('<think>a</think><answer>b</answer>', 'a'),
    ('a</think><answer>b</answer>', 'a'),
    ('so <think>a', 'a'),
    ('a <answer>b</answer>', 'a '),
    ('a', 'a'),
    ('<think></think>b', ''),
    ('<think>a</think>b</think>', 'a'),
    ('', ''),
  ],
)
def test_thought_is_what_precedes_the_answer(completion, thought):
  assert text.thought(completion) == thought


def test_answer_in_another_language_does_not_count():
  reward = rewards.language(task=None, min_words=5)
  given = '<think>we add both of the numbers</think><answer>fünf und drei'
  assert reward(given, EXAMPLE) == 1.0


# The language of the question


def asked_in(code):
  data = {} if code is None else {'language': code}
  return tasks.Example('?', '5', data=data)


def task_in(code):
  return tasks.Task(1, lambda i: asked_in(code), lambda answer, example: True)


def test_the_language_may_be_that_of_each_question():
  reward = rewards.language(task=task_in('zh'), target='prompt', min_words=1)
  mixed = '<think>we add both numbers 我们先把两个数字加起来</think>'
  english, chinese = (reward(mixed, asked_in(code)) for code in ('en', 'zh'))
  # Four words, and eleven characters of two to a word.
  assert english == pytest.approx(4 / 9.5)
  assert chinese == pytest.approx(5.5 / 9.5)
  before = rewards.faults()['language/unknown']
  for code in (None, 'english', 3, ['en']):
    assert reward(mixed, asked_in(code)) == 0.0
  assert rewards.faults()['language/unknown'] == before + 4


def test_questions_without_a_language_are_refused_at_the_start():
  with pytest.raises(ValueError, match="'language' in data_fields"):
    rewards.language(task=task_in(None), target='prompt')
  with pytest.raises(ValueError, match="target='english' is not among en, "):
    rewards.language(task=task_in('english'), target='prompt')
  parts = tasks.Part('b', task_in(None), 'b', 1.0, 0)
  both = dataclasses.replace(task_in('en'), parts=(
    dataclasses.replace(parts, task=task_in('en')), parts,
  ))  # fmt: skip
  with pytest.raises(ValueError, match="'language' in data_fields"):
    rewards.language(task=both, target='prompt')


# Arguments and totality


@pytest.mark.parametrize(
  'settings', [{'target': 'english'}, {'target': ''}, {'min_words': 0}]
)
def test_settings_that_cannot_work_are_refused(settings):
  ((name, value),) = settings.items()
  with pytest.raises(ValueError, match=re.escape(f'{name}={value!r}')):
    rewards.language(task=None, **settings)


def test_every_language_has_one_script():
  names = list(itertools.chain(*languages.LANGUAGES.values()))
  assert len(names) == len(set(names))


@pytest.mark.parametrize(
  'piece',
  ['http', '`', '```', '$', '$a ', '\\[', '\\begin{', '<a', 'a_', "a'", ' a1']
  + ['中', 'の', '\ud800', '\0', '<think>', '</think>', 'é', '. ', 'la '],
)
def test_huge_text_is_graded_in_linear_time(piece):
  reward = rewards.language(task=None)
  start = time.monotonic()
  assert 0.0 <= reward(piece * (200_000 // len(piece)), EXAMPLE) <= 1.0
  # Seconds on a busy machine; a quadratic scan would take hours.
  assert time.monotonic() - start < 20
