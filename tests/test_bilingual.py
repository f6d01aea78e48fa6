"""Word problems in two toy languages, and the reward for one, by hand."""

import re

import pytest

from grpo_jax import rewards, tasks
from grpo_jax.tasks.bilingual import ALPHABET, LANGUAGES, rewrite
from grpo_jax.tasks.common import Example

PROMPT = {
  'en': re.compile(
    r'(tom|ann|bob|sue) has \d (figs|nuts|eggs|pies)'
    r'(, (gets|eats) \d){2}\?'
  ),
  'it': re.compile(
    r'(leo|pia|ugo|eva) ha \d (noci|pere|mele|uova)(, (trae|cede) \d){2}\?'
  ),
}
THOUGHT = {
  'en': re.compile(r'<think>\d then \d is \d\d, then \d is \d\d</think>'),
  'it': re.compile(
    r'<think>\d (piu|via) \d fa \d\d, (piu|via) \d fa \d\d</think>'
  ),
}


def bilingual(**changed):
  given = dict(split='train', size=200) | changed
  return tasks.bilingual(**given)


def examples(**changed):
  task = bilingual(**changed)
  return [task.example(i) for i in range(len(task))]


def total(prompt):
  """What a question comes to, by its verbs."""
  first, *rest = re.findall(r'(?:(gets|eats|trae|cede) )?(\d)', prompt)
  more = {'gets': 1, 'trae': 1, 'eats': -1, 'cede': -1}
  return int(first[1]) + sum(more[verb] * int(n) for verb, n in rest)


def sum_of(prompt):
  verbs = re.findall('gets|eats|trae|cede', prompt)
  return (
    tuple(verb in ('gets', 'trae') for verb in verbs),
    tuple(re.findall(r'\d', prompt)),
  )


def test_the_languages_share_no_word_and_can_be_written():
  en, it = (LANGUAGES[name].words for name in ('en', 'it'))
  assert not en & it
  assert set(''.join(en | it)) <= set(ALPHABET)
  # No word of one is within a word that the reward would split.
  assert all(re.fullmatch('[a-z]+', word) for word in en | it)


def test_questions_and_answers_are_of_the_grammar_and_right():
  for e in examples():
    name = e.data['language']
    assert PROMPT[name].fullmatch(e.prompt), e.prompt
    assert int(e.answer) == total(e.prompt)
    thought, _, answer = e.completion.partition('<answer>')
    assert THOUGHT[name].fullmatch(thought), thought
    assert answer == f'{int(e.answer):02d}</answer>'
    # The last running total is the answer; no total leaves 0..99.
    totals = re.findall(r'\b\d\d\b', thought)
    assert totals[-1] == f'{int(e.answer):02d}'


def test_both_languages_are_asked():
  found = [e.data['language'] for e in examples()]
  # Five standard deviations of 200 coins are 35.
  assert abs(found.count('en') - 100) < 35
  only = examples(languages=('it',))
  assert {e.data['language'] for e in only} == {'it'}


def test_a_written_example_stays_as_it_is():
  # Written down once: data must not change under a resumed run.
  assert bilingual().example(0) == bilingual().example(0)
  assert bilingual(size=50).example(7) == bilingual(size=500).example(7)
  assert bilingual(seed=1).example(0) != bilingual(seed=2).example(0)


def test_splits_and_parts_share_no_sum():
  found = {
    (split, part): {
      sum_of(e.prompt) for e in examples(split=split, part=part, size=1500)
    }
    for split, part in (
      ('train', 'corpus'), ('train', 'questions'), ('test', ''),
    )
  }  # fmt: skip
  corpus, questions, test = found.values()
  assert not corpus & questions and not corpus & test and not questions & test
  assert min(len(corpus), len(questions)) > 400


def test_shares_make_the_corpus():
  corpus = examples(
    size=1000, steps_share=0.2, wrong_share=0.9, mixed_share=0.5,
    filler_share=0.5, part='corpus',
  )  # fmt: skip
  task = bilingual()
  worked = [e for e in corpus if '<think>' in e.completion]
  blurted = [e for e in corpus if '<think>' not in e.completion]
  # Five standard deviations of 1000 draws at 0.2 are 63.
  assert abs(len(worked) - 200) < 63
  right = [task.verify(rewards_answer(e), e) for e in blurted]
  assert abs(sum(right) - 0.1 * len(blurted)) < 43
  assert all(task.verify(rewards_answer(e), e) for e in worked)
  fillers = [e for e in worked if re.search('well|bene', e.completion)]
  assert abs(len(fillers) - len(worked) / 2) < 36
  language = rewards.lexicon(task=task)
  mixed = [e for e in worked if language(e.completion, e) < 1]
  # Half are mixed, and of two clauses both are in the asker's 1 of 4 times.
  assert abs(len(mixed) - 0.375 * len(worked)) < 36


def rewards_answer(e):
  return re.search('<answer>(.*)</answer>', e.completion).group(1)


def test_a_wrong_answer_is_the_first_two_terms_read_as_one():
  for e in examples(steps_share=0.0, wrong_share=1.0, size=50):
    first, second = re.findall(r'\d', e.prompt)[:2]
    shown = int(rewards_answer(e))
    assert shown == int(first + second) or int(e.answer) == int(first + second)
    assert shown != int(e.answer)


@pytest.mark.parametrize(
  'answer, right',
  [
    ('05', True), ('5', True), ('5.0', True), ('six', False), ('', False),
    ('4', False), ('5 5', False),
  ],
)  # fmt: skip
def test_the_number_alone_is_right(answer, right):
  assert bilingual().verify(answer, Example('', '5')) is right


def test_a_trace_is_rewritten_with_a_summary_of_the_asker():
  e = Example('leo ha 4 noci, trae 3, cede 2?', '5')
  trace = '<think>4 piu 3 fa 07, via 2 fa 05 </think><answer>05</answer>'
  assert rewrite(trace, e) == (
    '<think>4 piu 3 fa 07, via 2 fa 05</think>leo ha 05 noci<answer>05</answer>'
  )
  # What has a summary already is left as it is.
  assert rewrite(rewrite(trace, e), e) == rewrite(trace, e)
  assert rewrite('<answer>05</answer>', e) == ''
  assert rewrite('<think>4 piu 3</think>', e) == ''


def test_summaries_are_what_rewriting_makes():
  for e in examples(summary_share=1.0, size=20):
    assert rewrite(e.completion, e) == e.completion


@pytest.mark.parametrize(
  'thought, share',
  [
    ('4 then 3 is 07, then 2 is 05', 1.0),
    ('4 piu 3 is 07, via 2 is 05', 0.5),
    ('4 piu 3 fa 07, via 2 fa 05', 0.0),
    ('then then zzz', 2 / 3),
    # Two words are too few to judge; so is nothing.
    ('4 then 3 is 07', 0.0),
    ('', 0.0),
  ],
)
def test_the_language_reward_is_the_share_of_the_askers_words(thought, share):
  e = Example('', '5', data={'words': LANGUAGES['en'].words})
  reward = rewards.lexicon(task=None)
  completion = f'<think>{thought}</think>tom ha 05 noci<answer>05</answer>'
  assert reward(completion, e) == pytest.approx(share)
  assert reward(completion, Example('', '5')) == 0.0


@pytest.mark.parametrize(
  'changed, saying',
  [
    ({'ops': 0}, 'ops=0 must be at least 1'),
    ({'max_number': 10}, 'max_number=10 must be 1 .. 9'),
    ({'languages': ('fr',)}, "languages=('fr',) must name some of en, it"),
    ({'part': 'half'}, "part='half' must be one of"),
    ({'mixed_share': 2.0}, 'mixed_share=2.0 must be between 0 and 1'),
    (
      {'ops': 1, 'max_number': 1, 'part': 'corpus', 'split': 'test'},
      'no sum of ops=1 and max_number=1',
    ),
  ],
)
def test_an_impossible_task_is_refused(changed, saying):
  with pytest.raises(ValueError, match=re.escape(saying)):
    bilingual(**changed)


def test_a_language_reward_of_no_word_is_refused():
  with pytest.raises(ValueError, match='min_words=0 must be at least 1'):
    rewards.lexicon(task=None, min_words=0)
