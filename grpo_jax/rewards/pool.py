"""Worker processes that can be killed, for graders that may hang.

Math-Verify stops itself with signals, which work in the main thread only, and
a tower of powers ignores even those; some scorers of reasoning-gym run the
answer as Python code. So they run in child processes with a wall-time bound:
whatever exceeds it is killed with its process and graded as wrong, and a new
process takes its place. What a child is kept from is told in `worker.py`.

The children are started as programs, never forked: JAX is multithreaded, and
`multiprocessing` would import the main module, and with it JAX, in each.
"""

import ast
import contextlib
import json
import os
import pathlib
import pickle
import queue
import secrets
import selectors
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import weakref

from grpo_jax.rewards.fault_counts import record

_LONGEST_REPLY = 1 << 20  # bytes
_SCRIPT = pathlib.Path(__file__).with_name('worker.py')
_START_SECONDS = 120.0  # importing sympy on a busy machine


class Pool:
  """At most `workers` processes, started when first needed.

  Args:
    name: of the judge, a function of `worker.py`; killed workers are counted
      under it, see `rewards.faults`.
    workers: processes.
    seconds: wall time that one item may take.
    **arguments: the judge's own, as Python literals.

  Raises:
    ValueError: workers or seconds not positive, or an argument is no literal.
  """

  def __init__(self, *, name: str, workers: int, seconds: float, **arguments):
    if workers < 1 or seconds <= 0:
      raise ValueError(
        f'{name}: workers={workers} and seconds={seconds} must be positive'
      )
    self.name, self.seconds = name, seconds
    self._judge = repr((name, arguments))
    try:
      ast.literal_eval(self._judge)
    except (ValueError, SyntaxError):
      raise ValueError(
        f'{name}: {arguments} must be numbers, texts and lists of them'
      ) from None
    # Last in, first out: one caller at a time needs one process, not all.
    self._slots: queue.LifoQueue = queue.LifoQueue()
    for _ in range(workers):
      self._slots.put(None)  # a place whose process is not started yet
    self._running: set = set()
    self._lock = threading.Lock()
    # At exit, and when the reward that owns the pool is dropped.
    weakref.finalize(self, _kill_all, self._running, self._lock)

  def grade(self, *question) -> bool:
    """Whether the worker says yes in time. Blocks; any thread may call.

    Args:
      *question: what the judge takes, such as a gold and a given answer.

    Raises:
      RuntimeError: no worker can be started.
    """
    process = self._slots.get()
    try:
      if process is not None and process.poll() is not None:
        self._kill(process)  # died while idle
        process = None
      if process is None:
        process = self._start()
      reply = self._ask(process, question)
      if reply is None:
        record(
          f'{self.name}/killed', f'no verdict in {self.seconds} s; graded wrong'
        )
        self._kill(process)
        process = None
        return False
      if reply['fault']:
        record(
          f'{self.name}/{reply["fault"]}',
          'the judge could not read it; graded wrong',
        )
      return reply['right']
    finally:
      self._slots.put(process)

  def close(self):
    """Ends every worker; the next `grade` would start new ones."""
    _kill_all(self._running, self._lock)

  def _start(self):
    # -P keeps this folder off the child's import path.
    command = [sys.executable, '-P', str(_SCRIPT), self._judge]
    # The folder is gone when the first answer comes: a relative path leads
    # nowhere.
    with tempfile.TemporaryDirectory() as folder:
      process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_environment(),
        start_new_session=True,  # no part of what a terminal ends
      )
      with self._lock:
        self._running.add(process)
      started = _read(process, _START_SECONDS) is not None
    if not started:
      self._kill(process)
      raise RuntimeError(
        f'{self.name}: a grading process did not start; run '
        f'`{shlex.join(command)} </dev/null` to see why'
      )
    return process

  def _ask(self, process, question: tuple) -> dict | None:
    token = secrets.token_hex(8)
    # The child's own bound, behind ours: for when we are no more.
    request = pickle.dumps((token, self.seconds + 1.0, question))
    try:
      process.stdin.write(request)
      process.stdin.flush()
    except OSError:
      return None  # it died since
    reply = _read(process, self.seconds)
    # Without the token it is not the worker's: the answer wrote it.
    if reply is None or reply.get('token') != token:
      return None
    return reply

  def _kill(self, process):
    with self._lock:
      self._running.discard(process)
    _end(process)


def _environment() -> dict[str, str]:
  """What Python needs to start and to find the same packages, no more."""
  needed = ('LD_LIBRARY_PATH', 'PYTHONHOME')
  kept = {name: os.environ[name] for name in needed if name in os.environ}
  # One thread each: numpy's pool of them would not fit the memory limit.
  kept |= {'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}
  # Absolute, as the worker starts in another folder.
  paths = os.environ.get('PYTHONPATH', '').split(os.pathsep)
  paths = [os.path.abspath(path) for path in paths if path]
  return kept | ({'PYTHONPATH': os.pathsep.join(paths)} if paths else {})


def _read(process, seconds: float) -> dict | None:
  """One reply; None without one in time, or when the process is gone."""
  deadline, line = time.monotonic() + seconds, b''
  # Not select(): it fails for descriptors above 1023.
  with selectors.DefaultSelector() as selector:
    selector.register(process.stdout, selectors.EVENT_READ)
    while not line.endswith(b'\n'):
      # Not readline(): what an answer wrote may not end.
      ready = selector.select(max(0.0, deadline - time.monotonic()))
      part = os.read(process.stdout.fileno(), 1 << 16) if ready else b''
      line += part
      # What never ends its line is no reply, however fast it comes.
      late = time.monotonic() > deadline
      if not part or len(line) > _LONGEST_REPLY or late and line[-1:] != b'\n':
        return None
  try:
    reply = json.loads(line)
  except (ValueError, RecursionError):
    return None
  return reply if isinstance(reply, dict) else None


def _kill_all(running: set, lock):
  with lock:
    processes = list(running)
    running.clear()
  for process in processes:
    _end(process)


def _end(process):
  process.kill()
  process.wait()
  process.stdout.close()
  # An unsent request may fail to go down the pipe; it is dropped with it.
  with contextlib.suppress(OSError):
    process.stdin.close()
