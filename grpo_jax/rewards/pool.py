"""Worker processes that can be killed, for graders that may hang.

Math-Verify stops itself with signals, which work in the main thread only, and
a tower of powers ignores even those. So it runs in child processes with a
wall-time bound: whatever exceeds it is killed with its process and graded as
wrong, and a new process takes its place.

The children are started as programs, never forked: JAX is multithreaded, and
`multiprocessing` would import the main module, and with it JAX, in each.
"""

import contextlib
import json
import pathlib
import queue
import selectors
import subprocess
import sys
import threading
import weakref

from grpo_jax.rewards.fault_counts import record

_SCRIPT = pathlib.Path(__file__).with_name('worker.py')
_START_SECONDS = 120.0  # importing sympy on a busy machine


class Pool:
  """At most `workers` processes, started when first needed.

  Args:
    name: under which killed workers are counted, see `rewards.faults`.
    workers: processes.
    seconds: wall time that one item may take.
  """

  def __init__(self, *, name: str, workers: int, seconds: float):
    if workers < 1 or seconds <= 0:
      raise ValueError(
        f'{name}: workers={workers} and seconds={seconds} must be positive'
      )
    self.name, self.seconds = name, seconds
    self._slots: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(workers):
      self._slots.put(None)  # a place whose process is not started yet
    self._running: set = set()
    self._lock = threading.Lock()
    # At exit, and when the reward that owns the pool is dropped.
    weakref.finalize(self, _kill_all, self._running, self._lock)

  def grade(self, gold: str, answer: str) -> bool:
    """Whether the worker says yes in time. Blocks; any thread may call."""
    process = self._slots.get()
    try:
      if process is not None and process.poll() is not None:
        self._kill(process)  # died while idle
        process = None
      if process is None:
        process = self._start()
      right = self._ask(process, gold, answer)
      if right is None:
        record(
          f'{self.name}/killed', f'no verdict in {self.seconds} s; graded wrong'
        )
        self._kill(process)
        process = None
      return bool(right)
    finally:
      self._slots.put(process)

  def close(self):
    """Ends every worker; the next `grade` would start new ones."""
    _kill_all(self._running, self._lock)

  def _start(self):
    # -P keeps this folder off the child's import path.
    process = subprocess.Popen(
      [sys.executable, '-P', str(_SCRIPT)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    with self._lock:
      self._running.add(process)
    if _read(process, _START_SECONDS) is None:
      self._kill(process)
      raise RuntimeError(
        f'{self.name}: a grading process did not start; run '
        f'`{sys.executable} -P {_SCRIPT} </dev/null` to see why'
      )
    return process

  def _ask(self, process, gold: str, answer: str) -> bool | None:
    request = {
      'gold': gold,
      'answer': answer,
      # The child's own bound, behind ours: for when we are no more.
      'seconds': self.seconds + 1.0,
    }
    try:
      process.stdin.write(json.dumps(request).encode('ascii') + b'\n')
      process.stdin.flush()
    except OSError:
      return None  # it died since
    reply = _read(process, self.seconds)
    return None if reply is None else reply['right']

  def _kill(self, process):
    with self._lock:
      self._running.discard(process)
    _end(process)


def _read(process, seconds: float) -> dict | None:
  """One reply; None when the time is up or the process is gone."""
  # Not select(): it fails for descriptors above 1023.
  with selectors.DefaultSelector() as selector:
    selector.register(process.stdout, selectors.EVENT_READ)
    ready = selector.select(seconds)
  # A reply is one short write, so a readable pipe holds a whole line, unless
  # the process died: then it ends without a newline.
  line = process.stdout.readline() if ready else b''
  return json.loads(line) if line.endswith(b'\n') else None


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
