"""Rewards, tasks and verifiers that a config names as 'module:function'."""

import json
import sys

import pytest

from grpo_jax import config, rewards, tasks

MINE = """
from grpo_jax import tasks

def longest(completion, example):
  return min(len(completion), 10) / 10 + (completion == example.answer)

def same_end(answer, example):
  return answer.endswith(example.answer)

def doubles(*, split, top):
  return tasks.Task(
    top, lambda i: tasks.Example(f'{i}+{i}=', str(2 * i)), same_end
  )

def nothing(*, split):
  return None
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
  (tmp_path / 'own_things.py').write_text(MINE)
  monkeypatch.syspath_prepend(str(tmp_path))
  yield
  sys.modules.pop('own_things', None)


def test_a_reward_is_a_function_of_completion_and_example():
  spec = dict(name='function', path='own_things:longest')
  reward = config.pick(rewards, spec, task=None)()
  example = tasks.Example('how?', 'so')
  assert reward('so', example) == 1.2
  assert reward('0123456789ab', example) == 1.0


def test_a_task_is_what_a_function_returns():
  spec = dict(name='function', split='train', path='own_things:doubles', top=4)
  task = config.pick(tasks, spec)()
  assert len(task) == 4 and task.example(3).prompt == '3+3='
  assert task.verify('it is 6', task.example(3))
  assert not task.verify('7', task.example(3))


def test_a_file_is_verified_by_a_function(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text(json.dumps({'q': 'Who?', 'a': 'me'}) + '\n')
  task = tasks.jsonl(
    path=str(path), prompt_field='q', answer_field='a',
    verifier='own_things:same_end',
  )  # fmt: skip
  assert task.verify('only me', task.example(0))
  assert not task.verify('you', task.example(0))


@pytest.mark.parametrize(
  'make, told',
  [
    (
      lambda: rewards.function(task=None, path='own_things:absent'),
      "path of the reward function='own_things:absent'",
    ),
    (
      lambda: tasks.function(split='train', path='own_things:nothing'),
      'returns a NoneType, no tasks.Task',
    ),
    (
      lambda: tasks.function(split='train', path='own_things:nothing', top=3),
      "task.path='own_things:nothing': got an unexpected keyword .*'top'",
    ),
    (
      lambda: tasks.function(split='train', path='no colon'),
      "task.path='no colon' must be 'module:function'",
    ),
  ],
)
def test_a_mistake_is_told_in_one_line(make, told):
  with pytest.raises(ValueError, match=told):
    make()
