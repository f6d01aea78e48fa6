"""Files that jobs leave: their names, and how they are written.

A reader finds a file whole or not at all, and of several processes that have
the same to write one writes it. Needs no JAX until there may be several.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
from typing import Any, IO

# In a workdir, of those that several modules name.
CONFIG = 'config.json'
EVALUATION = 'eval.json'
EVALUATIONS = f'*{EVALUATION}'  # what the report knows them by
INSTRUCTIONS = 'instructions_eval.json'
WIN_RATE = 'win_rate.json'
REWARD_MODEL = 'reward_model.json'  # once its training is done
STAGE = 'stage.json'  # of a recipe's stage: what was begun there, and when
MODEL = 'model'  # a Hugging Face folder without weights: configs and tokenizer


@contextlib.contextmanager
def whole(path: pathlib.Path, mode: str = 'w') -> Iterator[IO]:
  """A file that has its name only once it is complete.

  An error within leaves nothing of it, and what had the name before has it
  still.

  Args:
    path: whose folder is there.
    mode: 'w' for text in UTF-8, 'wb' for bytes.
  """
  partial = path.with_name(path.name + '.partial')
  encoding = None if 'b' in mode else 'utf-8'
  try:
    with partial.open(mode, encoding=encoding) as file:
      yield file
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def once(path: pathlib.Path) -> Iterator[IO[str]]:
  """`whole`, where every process comes with the same: the first writes it.

  What the others write goes nowhere. All return once the file has its name.
  """
  # Here: the tools of launch/ write files and have no other process.
  from grpo_jax import hosts

  with whole(path) if hosts.is_first() else nowhere() as file:
    yield file
  hosts.wait_for_all(f'writing {path.name}')


def nowhere() -> IO[str]:
  """A text file that keeps nothing."""
  return open(os.devnull, 'w', encoding='utf-8')


def write(path: pathlib.Path, content: str | bytes) -> None:
  """Writes it `whole`."""
  with whole(path, 'wb' if isinstance(content, bytes) else 'w') as file:
    file.write(content)


def read_text(path: pathlib.Path) -> str:
  """Of a user's file: UTF-8, with or without a mark of it.

  Raises:
    FileNotFoundError, ValueError: no such file, or not UTF-8.
  """
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file')
  try:
    return path.read_text('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path}: byte {error.start} is not UTF-8; convert the file'
    ) from None


def read_json(path: pathlib.Path) -> Any:
  """What a job wrote; ValueError where it is damaged."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}') from None


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes it `whole`, for people to read too."""
  write(path, as_json(content))


def as_json(content: Any) -> str:
  """Of a file: indented, with an end of line."""
  return json.dumps(content, indent=2) + '\n'


def plain(value: Any) -> Any:
  """As it is once it was in a file: a tuple is a list, ready to compare."""
  return json.loads(json.dumps(value))


def as_line(row: dict[str, Any]) -> str:
  """Of a file of JSON lines."""
  return json.dumps(row, ensure_ascii=False) + '\n'
