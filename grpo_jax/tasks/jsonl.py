"""Examples from any JSON lines file: one object a line."""

from collections.abc import Callable, Sequence
import functools
import json
import pathlib

from grpo_jax import files, hooks
from grpo_jax.rewards import choice, code_execution, symbolic, text
from grpo_jax.tasks import common


def jsonl(
  *,
  path: str,
  prompt_field: str,
  answer_field: str = '',
  completion_field: str = '',
  data_fields: Sequence[str] = (),
  verifier: str = 'number',
  split: str = 'train',
  test_share: float = 0.0,
) -> common.Task:
  """The rows of a file, in its order.

  Args:
    path: a UTF-8 file; blank lines are skipped.
    prompt_field: the field with the question.
    answer_field: the field with the answer; '' for a file without: of
      completions for supervised fine-tuning, or of prompts for a reward model.
      Then no answer is right.
    completion_field: the field with a reference completion, or ''.
    data_fields: fields that rewards and verifiers read, as they are: 'options'
      (verifier and reward `option`), 'inputs' and 'outputs', or 'test' and
      'entry_point' (`code`), 'language' (`language` with target='prompt').
    verifier: 'number' (exactly equal numbers), 'exact' (equal texts, apart
      from whitespace), 'math' (equal mathematics, as `math_verify` has it),
      'option' (the same option, as of the reward), 'code' (a program that
      passes its row's tests; needs no answer), or 'module:function' of one's
      own, (answer, example) -> bool.
    split: 'train' or 'test'.
    test_share: share of the prompts, by hash, that are 'test'. 0: the whole
      file, whatever the split (one file a split).

  Raises:
    FileNotFoundError, ValueError: naming the file, the line and the remedy.
  """
  common.check_arguments('jsonl', split=split)
  check = verifier_of('jsonl', verifier)
  check_share('jsonl', test_share)

  examples = []
  for number, row in read_rows(path):
    where = f'{path}:{number}'
    answer = _text(row, answer_field, where)
    if answer_field and verifier == 'number' and not _is_number(answer):
      raise ValueError(
        f'{where}: {answer_field}={answer[:40]!r} is no number, so no answer '
        "could be right; correct the row or set verifier='exact'"
      )
    if answer_field and text.is_empty(answer):
      raise ValueError(
        f'{where}: {answer_field}={answer!r} reads like a failed extraction, '
        "which is never right; write it another way, such as 'nobody'"
      )
    prompt = _text(row, prompt_field, where)
    completion = _text(row, completion_field, where)
    data = {name: _value(row, name, where) for name in data_fields}
    example = common.Example(prompt, answer, completion, data)
    _check_reference(verifier, example, where)
    if test_share and common.split_of(prompt, test_share=test_share) != split:
      continue
    examples.append(example)
  if not examples:
    raise ValueError(
      f'{path}: no {split} example among its rows; the file is empty or '
      f'test_share={test_share} leaves nothing'
    )
  return common.Task(
    len(examples),
    examples.__getitem__,
    check,
    source=path,
    judged=bool(answer_field) or verifier == 'code' or ':' in verifier,
  )


def verifier_of(task: str, name: str) -> Callable[[str, common.Example], bool]:
  """The check of that name; ValueError, in the task's name, for others."""
  if ':' in name:
    return hooks.load(name, field=f'{task}: verifier')
  if name not in _VERIFIERS:
    raise ValueError(
      f'{task}: verifier={name!r} must be one of {sorted(_VERIFIERS)}, or '
      "'module:function'"
    )
  return _VERIFIERS[name]


def check_share(task: str, test_share: float) -> None:
  """ValueError for a share that leaves nothing to train on."""
  if not 0.0 <= test_share < 1.0:
    raise ValueError(f'{task}: test_share={test_share} must be in [0, 1)')


def read_rows(path: str) -> list[tuple[int, dict]]:
  """(line number, object) of every row of a JSON lines file."""
  rows = []
  # Lines end at \n alone: JSON strings may hold other line separators.
  lines = files.read_text(pathlib.Path(path).expanduser()).split('\n')
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{path}:{number}: not JSON ({error})') from None
    if not isinstance(row, dict):
      raise ValueError(
        f'{path}:{number}: a {type(row).__name__}, not an object with fields'
      )
    rows.append((number, row))
  return rows


def _text(row: dict, field: str, where: str) -> str:
  """The field as text; '' where no field is asked for."""
  if not field:
    return ''
  value = _value(row, field, where)
  if isinstance(value, int | float) and not isinstance(value, bool):
    try:
      return text.format_number(value)
    except ValueError:  # JSON as Python reads it knows NaN and Infinity
      raise ValueError(f'{where}: {field}={value} is no number') from None
  if not isinstance(value, str) or not value.strip():
    raise ValueError(
      f'{where}: {field}={value!r} must be a number or a text that is not empty'
    )
  return value


def _value(row: dict, field: str, where: str):
  if field not in row:
    raise ValueError(f'{where}: no field {field!r}; the row has {sorted(row)}')
  return row[field]


def _check_reference(verifier, example, where):
  """ValueError for a row whose own answer could not be right."""
  if verifier == 'code':
    try:
      code_execution.tests_of(example)
    except ValueError as error:
      raise ValueError(
        f'{where}: {error}; name their fields in data_fields'
      ) from None
  options = example.data.get('options', {})
  if verifier == 'option' and example.answer:
    listed = isinstance(options, dict | list)
    if not listed or not choice.same_option(example.answer, example):
      raise ValueError(
        f'{where}: the answer {example.answer[:40]!r} is none of the options '
        f'{options!r:.80}; they are texts in the order of their letters, or '
        'letter: text'
      )


def _is_number(answer: str) -> bool:
  return text.parse_number(answer) is not None


def _same_text(answer: str, example: common.Example) -> bool:
  words = answer.split()
  return bool(words) and words == example.answer.split()


@functools.cache
def _math() -> Callable[[str, str], bool]:
  # One for all tasks, not before it is needed: its workers load sympy.
  return symbolic.checker()


def _same_mathematics(answer: str, example: common.Example) -> bool:
  return _math()(answer, example.answer)


_VERIFIERS = {
  'number': common.same_number,
  'exact': _same_text,
  'math': _same_mathematics,
  'option': choice.same_option,
  'code': code_execution.verifier(),
}
