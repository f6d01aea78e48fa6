"""A task of one's own, without a change here."""

import inspect

from grpo_jax import hooks
from grpo_jax.tasks import common


def function(*, split: str, path: str, **arguments) -> common.Task:
  """The task that a function returns.

  Args:
    split: 'train' or 'test', handed on.
    path: 'module:function', importable from the working folder; called with
      `split` and the arguments, it returns a `tasks.Task`.
    **arguments: handed on.

  Raises:
    ValueError: no such function, or it returns something else.
  """
  common.check_arguments('function', split=split)
  make = hooks.load(path, field='task.path')
  try:
    inspect.signature(make).bind(split=split, **arguments)
  except TypeError as error:
    raise ValueError(f'task.path={path!r}: {error}') from None
  found = make(split=split, **arguments)
  if not isinstance(found, common.Task):
    raise ValueError(
      f'task.path={path!r} returns a {type(found).__name__}, no tasks.Task'
    )
  return found
