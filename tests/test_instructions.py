"""Instructions that a program checks: by hand, and their own completions."""

import numpy as np
import pytest
import tiny

from grpo_jax import accuracy, evaluate, tasks
from grpo_jax.rewards import rules, text
from grpo_jax.tasks import checkers, common


@pytest.mark.parametrize(
  'kind, value, followed, broken',
  [
    ('at_most_words', 3, 'one two three', 'one two three four'),
    ('at_least_words', 3, 'one two three', 'one two'),
    ('starts_with', 'Here it is', '"here it is": a list', 'See: here it is'),
    ('starts_with', 'so', 'So, yes', 'some'),
    ('ends_with', 'That is all', 'Yes. That is ALL."', 'That is all I know'),
    ('ends_with', 'all', 'after all!', 'a ball'),
    ('lowercase', None, 'no capital, 12', 'One capital'),
    ('lowercase', None, 'a', '12'),  # no letter is no small letter
    ('capitals', None, 'SHOUT 12', 'SHOUt'),
    ('includes', 'stone', 'A Stone.', 'stones'),
    ('excludes', 'stone', 'stones', 'one stone'),
    ('bullets', 2, 'List:\n- a\n* b', '- a\n-b\n- c\n- d'),
    ('bullets', 1, '- a - b', '-- a'),
    ('no_commas', None, 'a; b', 'a, b'),
  ],
)
def test_an_instruction_is_followed_or_broken(kind, value, followed, broken):
  assert checkers.follows(followed, {kind: value}) == {kind: True}
  assert checkers.follows(broken, {kind: value}) == {kind: False}


@pytest.mark.parametrize('kind', checkers.CHECKERS)
def test_an_empty_answer_follows_nothing(kind):
  assert checkers.follows(' \n', {kind: 'x' if 'with' in kind else 0}) == {
    kind: False
  }


@pytest.mark.parametrize('split', ['train', 'test'])
def test_reference_completions_follow_their_own_instructions(split):
  task = tasks.instructions(split=split, size=300, fewest=1, most=7)
  kinds = set()
  for i in range(300):
    example = task.example(i)
    assert task.verify(example.completion, example), example
    kinds |= set(example.data['instructions'])
    assert common.split_of(example.prompt) == split
  assert kinds == set(checkers.CHECKERS)


def test_all_of_a_prompts_instructions_must_be_followed():
  task = tasks.instructions(split='train', size=1)
  example = tasks.Example(
    '', '', data={'instructions': {'no_commas': None, 'lowercase': None}}
  )
  assert task.verify('yes; no', example)
  assert not task.verify('yes, no', example)
  assert not task.verify('Yes; no', example)


def test_the_thought_is_no_part_of_what_is_checked():
  task = tasks.instructions(split='train', size=1)
  example = tasks.Example('', '', data={'instructions': {'no_commas': None}})
  completion = '<think>a, b, c</think>\n<answer>done</answer>'
  assert task.verify(text.reply(completion), example)
  assert not task.verify(text.reply('<think>a b c'), example)


def test_examples_are_a_function_of_seed_and_index():
  first, again, other = (
    tasks.instructions(split='train', size=20, seed=seed) for seed in (0, 0, 1)
  )
  prompts = [[t.example(i).prompt for i in range(20)] for t in (first, again)]
  assert prompts[0] == prompts[1]
  assert prompts[0] != [other.example(i).prompt for i in range(20)]


def test_kinds_can_be_chosen():
  task = tasks.instructions(
    split='train', size=50, most=2, kinds=('lowercase', 'no_commas')
  )
  asked = [task.example(i).data['instructions'] for i in range(50)]
  assert {kind for each in asked for kind in each} == {'lowercase', 'no_commas'}


def test_an_unknown_kind_and_impossible_counts_are_refused():
  with pytest.raises(ValueError, match="kinds=.'rhyme'.* are unknown.*bullets"):
    tasks.instructions(split='train', size=1, kinds=('rhyme',))
  with pytest.raises(ValueError, match='most=2: needs .*<= 1'):
    tasks.instructions(split='train', size=1, most=2, kinds=('lowercase',))


def test_an_evaluation_of_instructions_reads_the_reply():
  cfg = tiny.get_config()
  asked = evaluate.of_instructions(cfg)
  assert asked.task.to_dict() == cfg.eval.instructions.to_dict()
  assert rules.extractors_of(asked.rewards)[''] == 'reply'
  # The format is still that of the run.
  assert asked.rewards.format == cfg.rewards.format
  assert asked.eval.file == 'instructions_eval.json'
  assert (cfg.task.name, cfg.eval.file) == ('arithmetic', 'eval.json')


def test_replies_that_follow_are_right():
  task = tasks.instructions(split='test', size=2)
  examples = [task.example(i) for i in range(2)]
  rows = [
    [f'<think>so</think>{e.completion}', e.completion, '<think>so', '']
    for e in examples
  ]
  found = accuracy.summarise(
    task, examples, rows, np.ones((2, 4), bool), np.full((2, 4), 9), ks=(1,),
    votes=(), extract={'': text.reply}, texts=lambda *_: {},
  )  # fmt: skip
  assert found['pass@1'] == found['lenient'] == 0.5
