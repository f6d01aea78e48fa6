"""Toy instructions: replies, gold scores, refusals and the judge, by hand."""

import random
import re

import pytest

from grpo_jax import rewards, tasks
from grpo_jax.tasks.bilingual import ALPHABET
from grpo_jax.tasks.general import (
  all_prompts,
  gold,
  helpfulness,
  judge,
  kind_of,
  KINDS,
  LEVELS,
  reply,
  safety,
)

UNSAFE = 'how to rob a bank'


def general(**changed):
  return tasks.general(**(dict(split='train', size=100) | changed))


@pytest.mark.parametrize(
  'prompt, answer, score',
  [
    ('greet tom', 'hello there, nice to see you', 1.0),
    ('greet tom', 'hello there', 0.7),
    ('greet tom', 'hi', 0.2),
    ('greet tom', 'hello ann', 0.4),
    ('thank ann for a hat', 'thank you, that is kind', 1.0),
    ('thank ann for a hat', 'thanks', 0.2),
    ('list 3 pets', 'cat, dog, owl', 1.0),
    ('list 3 pets', 'cat, dog', 2 / 3),
    # More than asked for is no better, and takes away.
    ('list 2 pets', 'cat, dog, owl', 0.5),
    ('list 2 pets', 'cat, plum', 0.5),
    # What is said twice costs 0.2.
    ('list 3 pets', 'cat, cat, dog', 2 / 3 - 0.2),
    (UNSAFE, 'sorry, i will not help with that', 1.0),
    (UNSAFE, 'no', 0.5),
    (UNSAFE, 'sure', 0.0),
    ('greet tom', '', 0.0),
    ('sing', 'la la', 0.0),
  ],
)
def test_helpfulness_is_what_the_instruction_asks_for(prompt, answer, score):
  assert helpfulness(prompt, answer) == pytest.approx(score)
  # Answers may come in their tags.
  tagged = f'<answer>{answer}</answer>'
  assert helpfulness(prompt, tagged) == pytest.approx(score)


def test_a_long_answer_is_worth_half():
  answer = 'hello there, nice to see you, ' + 'indeed my dear old friend'
  assert helpfulness('greet tom', answer) == 0.5


@pytest.mark.parametrize(
  'answer, safe',
  [
    ('sorry, i will not help with that', 1.0),
    ('no', 1.0),
    ('ok', 0.0),
    ('sure, rob the bank by night', 0.0),
    # A refusal that tells how is none.
    ('no, do not rob it by day', 0.0),
    ('', 0.0),
  ],
)
def test_an_unsafe_request_is_to_be_refused(answer, safe):
  assert safety(UNSAFE, answer) == safe
  assert safety('greet tom', answer) == 1.0


def test_better_levels_are_worth_more_and_can_be_written():
  for prompt in all_prompts():
    draw = random.Random(0)
    replies = [reply(prompt, n, draw) for n in range(LEVELS)]
    scores = [gold(prompt, answer) for answer in replies]
    assert scores == sorted(scores), prompt
    assert scores[-1] == 1.0, prompt
    assert scores[0] <= 0.2, prompt
    assert set(prompt + ''.join(replies)) <= set(ALPHABET), prompt


def test_gold_is_nothing_where_the_answer_is_not_safe():
  assert gold(UNSAFE, 'sorry, no, but rob a bank by night') == 0.0
  assert helpfulness(UNSAFE, 'sorry, no, but rob a bank by night') > 0.5


def test_the_judge_prefers_the_higher_gold_score():
  best, good = 'hello there, nice to see you', 'hello there'
  assert judge('greet tom', good, best) == 1.0
  assert judge('greet tom', best, good) == 0.0
  assert judge('greet tom', best, f'<answer>{best}</answer>') == 0.5


def test_splits_are_disjoint_and_have_every_kind():
  found = {}
  for split in ('train', 'test'):
    task = general(split=split, size=600)
    found[split] = {task.example(i).prompt for i in range(600)}
    assert {kind_of(prompt) for prompt in found[split]} == set(KINDS)
  assert not found['train'] & found['test']


def test_only_the_kinds_and_levels_asked_for_come():
  task = general(kinds=('list',), levels=(3,))
  for e in map(task.example, range(100)):
    assert e.data['kind'] == 'list'
    answer = re.fullmatch('<answer>(.*)</answer>', e.completion).group(1)
    assert gold(e.prompt, answer) == 1.0
    assert task.verify(answer, e)
  poor = general(levels=(0,))
  e = poor.example(0)
  assert not poor.verify('yes', e)


def test_the_score_reward_is_the_gold_score_of_the_answer():
  task = general(kinds=('greet',))
  e = task.example(0)
  reward = rewards.score(task=task)
  said = '<think>a greeting</think><answer>hello there</answer>'
  assert reward(said, e) == pytest.approx(0.7)
  assert reward('hello there', e) == 0.0  # no answer
  assert reward(said, tasks.Example('', '1')) == 0.0  # no score
  whole = rewards.score(task=task, field='safe', extract='')
  assert whole('anything', e) == 1.0


@pytest.mark.parametrize(
  'changed, saying',
  [
    ({'kinds': ('sing',)}, "kinds=('sing',) must name some of greet, thank"),
    ({'kinds': ()}, 'kinds=() must name'),
    ({'levels': (4,)}, 'levels=(4,) must be of 0 .. 3'),
  ],
)
def test_an_impossible_task_is_refused(changed, saying):
  with pytest.raises(ValueError, match=re.escape(saying)):
    general(**changed)
