"""Prompts: templates, worked examples, conversations."""

import pytest

from grpo_jax import prompts


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
