"""The arguments of a job: which config they are of, and what is wrong in them.

Part of `cli`, which every job shares.
"""

from collections.abc import Callable
import os
import pathlib
import runpy
import traceback

from absl import flags
from ml_collections import ConfigDict

from configs import base
from grpo_jax import files

# A config file that reads a run's config.json.
_FROM_RUN = pathlib.Path(__file__).parent / 'run_config.py'


def parse(argv: list[str], *, fail: Callable[[Exception], None]) -> list[str]:
  """Parses flags; returns what is left.

  Args:
    argv: the command line. Without --config, that of the run in --workdir, or
      else the base, is taken.
    fail: ends the job, with the error that a user is to see.
  """
  try:
    argv = _with_config(argv)
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:
    fail(_unknown_field(argv, error))
  except SyntaxError as error:
    fail(ValueError(f'{error.filename}:{error.lineno}: {error.msg}'))
  except (flags.Error, TypeError, ValueError, OSError) as error:
    fail(_in_config_file(argv, error))


def _with_config(argv):
  """Without --config: that of the run in --workdir, or else the base.

  Given as a flag, so that single fields of it can be overridden.
  """
  names = _positions(argv)
  if 'config' in names:
    file = _value(argv, names['config']).partition(':')[0]
    if not pathlib.Path(file).is_file():
      raise FileNotFoundError(
        f'--config={file}: no such file; those that come with it are in configs'
      )
    return argv
  default = base.__file__
  if 'workdir' in names:
    workdir = os.path.expanduser(_value(argv, names['workdir']))
    if (pathlib.Path(workdir) / files.CONFIG).exists():
      default = f'{_FROM_RUN}:{workdir}'
  return [argv[0], f'--config={default}', *argv[1:]]


def _positions(argv):
  """Name of a flag -> where it stands."""
  return {arg.split('=')[0].lstrip('-'): i for i, arg in enumerate(argv)}


def _value(argv, position):
  """Of `--flag=value` or `--flag value`."""
  following = argv[position + 1 : position + 2]
  return argv[position].partition('=')[2] or ''.join(following)


def _in_config_file(argv, error):
  """What the config file raised, where ml_collections quotes its traceback."""
  wrapped = error
  while not str(wrapped).startswith('Error whilst parsing config file'):
    wrapped = wrapped.__context__
    if wrapped is None:
      return error
  cause = wrapped.__context__
  file = _value(argv, _positions(argv)['config']).partition(':')[0]
  if file == str(_FROM_RUN):
    return cause  # names the run's file
  lines = _lines_of(file, cause)
  return ValueError(f'{":".join((file, *lines[-1:]))}: {cause}')


def _lines_of(file, error):
  """Where the error has passed through this file, outermost first."""
  path = pathlib.Path(file).resolve()
  frames = traceback.extract_tb(error.__traceback__)
  return [
    str(f.lineno) for f in frames if pathlib.Path(f.filename).resolve() == path
  ]


def _unknown_field(argv, error):
  """What ml_collections raises for a field it does not know, in full."""
  # It raises AttributeError(KeyError('name, then a suggestion')).
  cause = error.args[0] if isinstance(error.args[0], KeyError) else error
  text, _, suggestion = str(cause.args[0]).partition('\n')
  names = _positions(argv)
  file, _, argument = _value(argv, names['config']).partition(':')
  lines = _lines_of(file, error)
  if lines:
    told = text if cause is error else f'no {text}. {suggestion}'
    return ValueError(f'{file}:{lines[0]}: {told}')
  get_config = runpy.run_path(file).get('get_config')
  if get_config is None:
    return ValueError(f'{file}: no function get_config')
  cfg = get_config(*([argument] if argument else []))
  for name in names:
    fields = name.split('.')
    if fields.pop(0) != 'config':
      continue
    at, where = cfg, 'config'
    for field in fields:
      valid = list(at) if isinstance(at, ConfigDict) else []
      if field not in valid:
        told = f'It has: {", ".join(valid)}' if valid else 'It is a value.'
        return ValueError(
          ' '.join((f'{where} has no field {field!r}.', suggestion, told))
        )
      at, where = at[field], f'{where}.{field}'
  return error
