"""Prompts: templates, worked examples, conversations."""

import dataclasses
import json
import re

import numpy as np
import pytest

from configs import base
from grpo_jax import grader, prompts, questions, rollout, tasks, tokenizer
from grpo_jax.rewards import text
from grpo_jax.structs import Rollout


class Recorder:
  """Stands in for a tokenizer: keeps the turns it is asked to render."""

  def chat(self, messages, *, add_generation_prompt):
    assert add_generation_prompt
    self.messages = messages
    return 'rendered'


def test_plain_prompt_is_unchanged():
  assert prompts.render('1+2=') == '1+2='


def test_braces_in_a_prompt_mean_nothing():
  prompt = 'the set {1, {x}} and {prompt} {'
  assert prompts.render(prompt, template='Q: {prompt} A:') == f'Q: {prompt} A:'


def test_r1_template_is_the_published_one():
  text = prompts.render('What is 1+2?', template='r1')
  assert text.startswith('A conversation between User and Assistant. The user')
  assert text.endswith(
    'tags, respectively, i.e., <think> reasoning process here </think> '
    '<answer> answer here </answer>. User: What is 1+2?. Assistant:'
  )


def test_shots_are_literal_text_before_the_prompt():
  text = prompts.render(
    '5+6=',
    template='Q {prompt}',
    system='Add.',
    shots=[('1+2=', '<answer>3</answer>'), ('{prompt}', 'x')],
  )
  assert text == 'Add.\n\nQ 1+2=<answer>3</answer>\n\nQ {prompt}x\n\nQ 5+6='


def test_shots_are_turns_of_a_conversation():
  recorder = Recorder()
  text = prompts.render(
    'c',
    tokenizer=recorder,
    template='answer_tags',
    chat=True,
    system='s',
    shots=[('a', 'b')],
  )
  assert text == 'rendered'
  roles = [turn['role'] for turn in recorder.messages]
  assert roles == ['system', 'user', 'assistant', 'user']
  contents = [turn['content'] for turn in recorder.messages]
  assert (contents[0], contents[2]) == ('s', 'b')
  assert contents[1] == prompts.TEMPLATES['answer_tags'].replace(
    '{prompt}', 'a'
  )
  assert contents[3].startswith('c\n')


def test_no_system_means_no_system_turn():
  recorder = Recorder()
  prompts.render('a', tokenizer=recorder, chat=True)
  assert recorder.messages == [{'role': 'user', 'content': 'a'}]


def test_template_without_a_place_for_the_prompt_is_refused():
  with pytest.raises(ValueError, match='answer_tags'):
    prompts.render('a', template='r2')


# Questions: the prompts of a task, as token ids


def file_config(folder, *asked):
  """A config whose task is a file with these questions, all answered 1."""
  path = folder / 'rows.jsonl'
  path.write_text(''.join(json.dumps({'q': q, 'a': 1}) + '\n' for q in asked))
  c = base.get_config()
  c.task = dict(
    name='jsonl', path=str(path), prompt_field='q', answer_field='a'
  )
  c.eval.task = {}
  c.sample.max_prompt_length = 70
  return c


TOKENIZER = tokenizer.char(alphabet='0123456789+=')


def test_prompt_too_long_is_named_by_its_text():
  task = tasks.arithmetic(split='train', size=1, min_ops=1, max_ops=1)
  ask = questions.questions_of(task, base.get_config(), TOKENIZER)
  examples = [tasks.Example('1+2=', '3'), tasks.Example('1+' * 80 + '1=', '81')]
  with pytest.raises(ValueError) as caught:
    ask.encode(examples)
  assert str(caught.value) == (
    f"a prompt ('{'1+' * 30}') has 162 tokens, over the limit of 128; raise "
    'sample.max_prompt_length or drop the prompt'
  )


def test_a_prompt_as_long_as_the_limit_is_asked():
  c = base.get_config()
  c.sample.max_prompt_length = 4
  task = tasks.arithmetic(split='train', size=1, min_ops=1, max_ops=1)
  ask = questions.questions_of(task, c, TOKENIZER)
  assert ask.encode([tasks.Example('1+2=', '3')]).last.tolist() == [13]


def test_an_empty_prompt_is_refused():
  task = tasks.arithmetic(split='train', size=1, min_ops=1, max_ops=1)
  ask = questions.questions_of(task, base.get_config(), TOKENIZER)
  with pytest.raises(ValueError, match=r"a prompt \(''\) has no tokens"):
    ask.encode([tasks.Example('1+2=', '3'), tasks.Example('', '3')])


@pytest.mark.parametrize(
  ('late', 'saying'),
  [
    ('1+' * 40, 'has 80 tokens, over the limit of 70; raise sample.max'),
    ('1+x=', "no token for the character 'x'.*add it to the alphabet"),
  ],
)
def test_prompt_of_a_file_that_cannot_be_asked_fails_at_the_start(
  late, saying, tmp_path
):
  c = file_config(tmp_path, '1+0=', '0+1=', late)
  for evaluation in (False, True):
    with pytest.raises(ValueError) as caught:
      questions.questions(c, TOKENIZER, evaluation=evaluation)
    assert re.fullmatch(
      rf'{c.task.path}: prompt 2 \({re.escape(repr(late[:60]))}\).*{saying}.*',
      str(caught.value),
    )


def test_only_prompts_that_will_be_asked_must_fit(tmp_path):
  c = file_config(tmp_path, '1+0=', '1+' * 40)
  c.eval.prompts = 1
  questions.questions(c, TOKENIZER, evaluation=True)
  # Pretraining cuts, and trains on the rest.
  c.sft.loss_on = 'everything'
  questions.questions(c, TOKENIZER, evaluation=False)


def test_a_huge_file_is_not_read_through_at_every_start(tmp_path, monkeypatch):
  monkeypatch.setattr(questions, '_MOST_TRIED', 1)
  c = file_config(tmp_path, '1+0=', '1+' * 40)
  ask = questions.questions(c, TOKENIZER, evaluation=False)
  with pytest.raises(ValueError, match='a prompt'):
    ask.encode([ask.task.example(1)])


@pytest.mark.parametrize(
  'late, saying',
  [('', 'a/set gives no completion to learn for'), ('é', "the character 'é'")],
)
def test_completions_are_tried_before_the_first_step(late, saying):
  texts = ['2', '22'] * 600 + [late]
  task = tasks.Task(
    len(texts),
    lambda i: tasks.Example('1+1=', '2', texts[i]),
    lambda answer, example: True,
    source='a/set',
  )
  ask = questions.questions_of(task, base.get_config(), TOKENIZER)
  with pytest.raises(ValueError, match=saying):
    ask.try_completions()
  # The prompt but for the first token, the completion, and its EOS.
  texts.pop()
  ask = dataclasses.replace(ask, task=dataclasses.replace(task, size=1200))
  assert ask.try_completions(everything=True)[:2] == [5, 6]


def test_a_judge_that_cannot_work_fails_at_the_start():
  def check(answer, example):
    raise ValueError('no sandbox works here')

  task = tasks.Task(1, lambda i: tasks.Example('1+1=', '2'), check)
  with pytest.raises(ValueError, match='^no sandbox works here$'):
    grader.reward_functions(base.get_config(), task)


# Prompts whose last words open the thought, as some chat templates have it


LETTERS = tokenizer.char(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)


def opening_with(template):
  """Questions of that template."""
  c = base.get_config()
  c.prompt.template = template
  return questions.questions_of(
    tasks.arithmetic(split='train', size=1, min_ops=1, max_ops=1), c, LETTERS
  )


@pytest.mark.parametrize(
  ('template', 'opening'),
  [
    ('{prompt}', ''),
    ('{prompt}<think>', '<think>'),
    ('{prompt}<think>\n', '<think>\n'),
    ('<think>{prompt}', ''),
    ('<think></think>{prompt}', ''),
    ('{prompt}<think></think>', ''),
  ],
)
def test_what_a_prompt_has_of_the_completion(template, opening):
  assert opening_with(template).opening('1+2=') == opening


def test_texts_of_an_opened_thought_are_whole():
  ask = opening_with('{prompt}<think>')
  said = '1+2=3</think><answer>3</answer>'
  ids = [*LETTERS.encode(said, start=False), LETTERS.eos_ids[0]]
  targets = np.array([[ids, ids[:4] + [0] * (len(ids) - 4)]])
  mask = np.array([[[True] * len(ids), [i < 4 for i in range(len(ids))]]])
  ((whole, cut),), _ = rollout.read_texts(
    Rollout(inputs=targets, targets=targets, mask=mask, logprobs=None),
    [tasks.Example('1+2=', '3')],
    opening=ask.opening,
    decode=lambda ids: LETTERS.decode(ids, skip_special=False),
    stop_ids=LETTERS.eos_ids,
  )
  assert whole == '<think>' + said and text.well_formed(whole, thought=True)
  # The tag of the prompt was not sampled.
  assert (whole.tokens, cut.tokens) == (len(ids), 4)
  # Else a thought without an end would pass for the answer.
  assert cut == '<think>1+2=' and text.reply(cut) == ''


@pytest.mark.parametrize('begin', ['<think>', ''])
def test_an_opened_thought_is_learned_with_one_tag(begin):
  ask = opening_with('{prompt}<think>')
  rest = '1+2=3</think><answer>3</answer>'
  host = ask.with_completions(
    [tasks.Example('1+2=', '3', begin + rest)],
    everything=False,
    max_length=64,
    multiple=1,
  )
  told = LETTERS.decode(host.targets[0, 0][host.mask[0, 0]].tolist())
  assert told == rest
  # The prompt's last token is the branch's first input.
  assert LETTERS.decode(host.inputs[0, 0, :1].tolist()) == '<think>'


def test_white_space_after_an_opening_tag_is_the_prompts():
  begun = prompts.opening('1+2=<think>\n')
  cut = prompts.after_opening(begun, '<think>\na</think>b')
  assert cut == 'a</think>b'
  assert prompts.after_opening(begun, ' a</think>b') == ' a</think>b'
