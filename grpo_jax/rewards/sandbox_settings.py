"""What a sandbox is told: limits, layers, and bubblewrap's command line.

Stage 5 of a step; `sandbox` runs what is set here, `jail/confine.py` applies
it.
"""

import dataclasses
import math
import os
import pathlib
import sys

JAIL = pathlib.Path(__file__).with_name('jail')

_SYSTEM = ('/usr', '/lib', '/lib64', '/lib32', '/bin', '/nix/store')
_MB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one program may use.

  Attributes:
    wall_seconds: from its start to its last output.
    cpu_seconds: of each of its processes.
    memory_mb: address space of each process, and resident memory of all.
    output_bytes: written to stdout and stderr together, or returned by a call.
    processes: processes and threads at a time.
    file_mb: each file, and all together, which are at most 1000 files.
  """

  wall_seconds: float = 10.0
  cpu_seconds: int = 5
  memory_mb: int = 512
  output_bytes: int = 1 << 20
  processes: int = 32
  file_mb: int = 16

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      whole = field.name != 'wall_seconds'
      if not 0 < value < math.inf or (whole and value != int(value)):
        raise ValueError(
          f'{field.name}={value} must be positive{" and whole" * whole}'
        )


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """What works on this machine.

  Attributes:
    mode: 'bubblewrap' or 'rlimits'.
    bwrap: path of the program, or ''.
    layers: those of 'user', 'landlock', 'seccomp' and 'network namespace' that
      work without bubblewrap, where the test always runs.
    users: (first, how many pairs) of user ids to give away, or ().
  """

  mode: str
  bwrap: str
  layers: tuple[str, ...]
  users: tuple[int, ...]


def supervisor() -> list[str]:
  """The command of the process over one program."""
  return _command(sys.executable, JAIL, 'supervise')


def settings(sandbox: Sandbox, limits: Limits, folder: str) -> dict:
  """What `jail/supervise.py` reads first.

  Args:
    sandbox: what works here.
    limits: of program and test, each.
    folder: the program's under 'rlimits', else ''.
  """
  wrapped = sandbox.mode == 'bubblewrap'
  root = 'user' in sandbox.layers
  trusted = dict(
    cpu=int(limits.cpu_seconds),
    memory=int(limits.memory_mb * _MB),
    file=0,
    processes=1,
    uid=None,
    read_past=root and closed_to_others(),
    folder='',
    reads=[*_SYSTEM, *_interpreter(), str(JAIL)],
    layers=[x for x in sandbox.layers if x != 'network namespace'],
    same_user=not root,
  )
  confine = trusted | dict(
    file=int(limits.file_mb * _MB),
    processes=int(limits.processes),
    folder=folder,
    layers=list(sandbox.layers),
  )
  if wrapped:
    confine['layers'] = [x for x in sandbox.layers if x in ('user', 'seccomp')]
    confine |= {'same_user': False, 'read_past': False}
  return {
    'wall': limits.wall_seconds,
    'memory': trusted['memory'],
    'output': int(limits.output_bytes),
    'disk': confine['file'],
    'users': sandbox.users,
    'confine': confine,
    'checker': trusted | {'longest': int(limits.output_bytes)},
    'command': _bubblewrap(sandbox, limits) if wrapped else [],
    'env': environment(),
  }


def _bubblewrap(sandbox: Sandbox, limits: Limits) -> list[str]:
  command = [sandbox.bwrap, '--die-with-parent', '--new-session', '--clearenv']
  command += [f'--unshare-{x}' for x in ('pid', 'net', 'ipc', 'uts')]
  for name, value in environment().items():
    command += ['--setenv', name, value]
  command += ['--cap-drop', 'ALL']
  if 'user' in sandbox.layers:
    # To become the program's user, inside; these go with that.
    command += ['--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID']
  else:
    command += ['--unshare-user', '--uid', '65534', '--gid', '65534']
  for path in _SYSTEM:
    if os.path.islink(path):
      command += ['--symlink', os.readlink(path), path]
    elif os.path.isdir(path):
      command += ['--ro-bind', path, path]
  for path in _interpreter():
    for parent in reversed(pathlib.Path(path).parents[:-1]):
      command += ['--perms', '0755', '--dir', str(parent)]
    command += ['--ro-bind', path, path]
  for name in ('null', 'zero', 'urandom', 'random'):
    command += ['--dev-bind', f'/dev/{name}', f'/dev/{name}']
  command += ['--ro-bind', str(JAIL), '/jail']
  size = str(int(limits.file_mb * _MB))
  command += ['--perms', '0777', '--size', size, '--tmpfs', '/work']
  command += ['--chdir', '/work', '--remount-ro', '/']
  return command + _command(_executable(), '/jail', 'untrusted')


def _command(python: str, folder, module: str) -> list[str]:
  """Runs a module of the jail; the jail's folder is the last to import from.

  Not -I: it would ignore PYTHONHASHSEED.
  """
  code = f'import sys; sys.path.append(sys.argv[1]); import {module} as m; '
  return [
    python, '-P', '-s', '-S', '-c', code + 'm.main(sys.argv[1])', str(folder)
  ]  # fmt: skip


def environment() -> dict[str, str]:
  """What the interpreter needs to start; a program gets an empty one."""
  # Sets in one order: a reward is a function of the completion.
  kept = {'PYTHONHASHSEED': '0'}
  if 'LD_LIBRARY_PATH' in os.environ:
    kept['LD_LIBRARY_PATH'] = os.environ['LD_LIBRARY_PATH']
  return kept


def _executable() -> str:
  return os.path.realpath(sys.executable)


def _interpreter() -> list[str]:
  """The folders outside of the system's that the interpreter is made of."""
  folders = {
    os.path.realpath(folder)
    for folder in (
      sys.base_prefix,
      sys.base_exec_prefix,
      os.path.dirname(os.path.dirname(_executable())),
      *os.environ.get('LD_LIBRARY_PATH', '').split(os.pathsep),
    )
    if folder
  }
  return sorted(
    folder
    for folder in folders
    if os.path.isdir(folder)
    and not any(pathlib.Path(folder).is_relative_to(s) for s in _SYSTEM)
  )


def closed_to_others() -> bool:
  """Whether another user could not start this interpreter."""
  return any(
    not parent.stat().st_mode & 0o001
    for parent in pathlib.Path(_executable()).parents
  )
