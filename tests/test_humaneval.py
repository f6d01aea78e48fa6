"""HumanEval: its rows, its splits, and what passes its tests."""

import gzip
import json

import pytest

from grpo_jax import rewards, tasks
from grpo_jax.rewards import sandbox_modes


def humaneval(data_folder, **arguments):
  folder = data_folder / 'humaneval'
  if not folder.exists():
    pytest.skip(f'no {folder}')
  return tasks.humaneval(folder=str(folder), **arguments)


def scores(task, completions, mode):
  try:
    sandbox_modes.active(mode)
  except ValueError as error:
    pytest.skip(str(error))
  reward = rewards.code(task=task, mode=mode)
  examples = [task.example(i) for i in range(len(task))]
  graded = rewards.grade(
    [
      [completion(example)]
      for example in examples
      for completion in completions
    ],
    [example for example in examples for _ in completions],
    {'code': reward},
  )
  return graded['code'].reshape(len(examples), len(completions))


@pytest.mark.parametrize('mode', ['bubblewrap', 'rlimits'])
def test_all_canonical_solutions_of_humaneval_pass(data_folder, mode):
  task = humaneval(data_folder, split='test', test_share=0.0)
  assert len(task) == 164
  assert scores(task, [lambda e: e.completion], mode).sum() == 164


def test_no_empty_function_passes_humaneval(data_folder):
  task = humaneval(data_folder, split='test', test_share=0.0)
  stub = lambda e: f'```\n{e.data["prefix"]}    pass\n```'
  assert scores(task, [stub], 'auto').sum() == 0


def test_humaneval_has_two_splits_without_common_functions(data_folder):
  names = {
    split: [task.example(i).data['entry_point'] for i in range(len(task))]
    for split in ('train', 'test')
    for task in [humaneval(data_folder, split=split)]
  }
  assert len(names['train']) + len(names['test']) == 164
  assert not set(names['train']) & set(names['test'])
  assert 20 < len(names['test']) < 50


def test_humaneval_verifies_an_extracted_answer(data_folder):
  task = humaneval(data_folder, split='train')
  example = task.example(0)
  answer = rewards.text.tags(example.completion)
  assert task.verify(answer, example)
  assert not task.verify('pass', example)
  assert not task.verify('', example)
  # What a base model writes: it goes on where the prompt ends.
  body = example.completion.split('"""\n')[-1].removesuffix('\n</answer>')
  assert task.verify(f'```\n{body}', example)


ROW = {
  'task_id': 'a', 'prompt': 'def f():\n', 'entry_point': 'f',
  'canonical_solution': '  return 1\n', 'test': 'assert f() == 1',
}  # fmt: skip


def test_humaneval_reads_a_file_packed_or_not(tmp_path):
  content = json.dumps(ROW).encode() + b'\n\n'
  (tmp_path / 'HumanEval.jsonl').write_bytes(content)
  (tmp_path / 'other.gz').write_bytes(gzip.compress(content))
  for path in (tmp_path, tmp_path / 'HumanEval.jsonl', tmp_path / 'other.gz'):
    task = tasks.humaneval(split='test', folder=str(path), test_share=0.0)
    assert task.example(0).data['entry_point'] == 'f'


@pytest.mark.parametrize(
  'content, message',
  [
    (b'{', ':1: not JSON'),
    (b'{"task_id": "a"}', ":1: no text in the field 'prompt'"),
    (b'[]', ":1: no text in the field 'task_id'"),
    (b'\x1f\x8bxx', 'damaged'),
    (b'\xff', 'damaged'),
    (b'', 'leaves no test example among 0 rows'),
  ],
)
def test_damaged_humaneval_files_are_named(tmp_path, content, message):
  (tmp_path / 'HumanEval.jsonl').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    tasks.humaneval(split='test', folder=str(tmp_path))
  with pytest.raises(FileNotFoundError, match='no such file'):
    tasks.humaneval(split='test', folder=str(tmp_path / 'none'))
