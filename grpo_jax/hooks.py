"""Functions of the user's own, named in a config as 'module:function'."""

from collections.abc import Callable
import importlib


def load(path: str, *, field: str) -> Callable:
  """The function.

  Args:
    path: 'package.module:function', importable from the working folder.
    field: of the config, for errors.

  Raises:
    ValueError: no such module or function.
  """
  module, colon, name = path.partition(':')
  if not (module and colon and name):
    raise ValueError(
      f"{field}={path!r} must be 'module:function', as in 'mine.judges:exact'"
    )
  try:
    found = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'{field}={path!r}: {error}; the module must be importable from here '
      '(its folder on PYTHONPATH)'
    ) from None
  if not callable(found):
    kind = type(found).__name__
    raise ValueError(f'{field}={path!r} is no function but a {kind}')
  return found
