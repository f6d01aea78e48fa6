"""Python files that a user writes, and the flags of a config: one-line errors.

Sweeps and recipes are such files; what they override is a config's field.
"""

from collections.abc import Callable, Iterator, Mapping
import difflib
import importlib.util
import math
import traceback

from absl import flags
from ml_collections import config_flags, ConfigDict


def call(path: str, fn: Callable, *args):
  """fn(*args) of the file at `path`; what it raises as one line."""
  try:
    return fn(*args)
  except SyntaxError as error:
    raise ValueError(f'{error.filename}:{error.lineno}: {error.msg}') from None
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [str(f.lineno) for f in frames if f.filename == path]
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    where = ':'.join((path, *lines[-1:]))
    raise ValueError(f'{where}: {kind}{error}') from None


def is_module(name: str) -> bool:
  """Whether there is a module of this name.

  Packages above it are imported, and may raise what they will: see `call`.
  """
  try:
    return importlib.util.find_spec(name) is not None
  except ImportError as error:
    # A package that is there may need one that is not.
    if error.name and not name.startswith(error.name):
      raise
    return False


def parse(path: str, given: tuple[str, ...], overrides: Mapping) -> ConfigDict:
  """The config as the job will read it from these flags.

  Raises:
    ValueError: an unknown field, or a value that it cannot have.
  """
  argv, values = [path, *given], flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, '', flag_values=values, sys_argv=argv
  )
  try:
    if overrides:
      _refuse_unknown(path, overrides, parse(path, given[:1], {}))
    values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
    # Of an error in the config file, ml_collections quotes the traceback.
    text = str(error).strip().splitlines()[-1].strip()
    raise ValueError(f'{path}: {text}') from None
  return values.config


def flag_text(value) -> str:
  """The value as a flag's."""
  return value if isinstance(value, str) else _literal(value)


def names(tree, prefix='') -> Iterator[str]:
  """Every field by its whole name, sections among them."""
  for name, value in tree.items():
    yield prefix + name
    if isinstance(value, dict):
      yield from names(value, f'{prefix}{name}.')


def _refuse_unknown(path, overrides, cfg):
  known = list(names(cfg.to_dict()))
  for field in overrides:
    if field in known:
      continue
    # Of one that lacks its section, all that it may be.
    close = [n for n in known if n.endswith(f'.{field}')]
    close = close or difflib.get_close_matches(field, known, n=1)
    remedy = f'; did you mean {" or ".join(close)}?' if close else ''
    raise ValueError(f'{path}: the config has no field {field!r}{remedy}')


def _literal(value):
  """As `repr`, but for infinity, which literals have no word for."""
  if isinstance(value, Mapping):
    inside = (f'{k!r}: {_literal(v)}' for k, v in value.items())
    return f'{{{", ".join(inside)}}}'
  if isinstance(value, (list, tuple)):
    inside = ''.join(f'{_literal(v)}, ' for v in value)
    return f'({inside.removesuffix(" ") if len(value) == 1 else inside[:-2]})'
  if isinstance(value, float) and math.isinf(value):
    return '1e999' if value > 0 else '-1e999'
  return repr(value)
