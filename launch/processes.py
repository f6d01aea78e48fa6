"""Processes that a tool starts: signals are passed on, nothing is left behind.

Each has a group of its own, so that Ctrl-C reaches the tool alone, which sends
one SIGTERM. That goes to the process, not to its group: a job's workers are to
live until it has saved.
"""

from collections.abc import Iterable, Iterator
import contextlib
import os
import signal
import subprocess
import time


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
  """Within it, SIGTERM, SIGHUP and Ctrl-C only go into the list it gives."""
  arrived = []
  numbers = [signal.SIGTERM, signal.SIGINT]
  # Ignored under nohup, and to stay so.
  if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    numbers.append(signal.SIGHUP)
  before = [
    signal.signal(number, lambda got, _: arrived.append(got))
    for number in numbers
  ]
  try:
    yield arrived
  finally:
    for number, handler in zip(numbers, before, strict=True):
      signal.signal(number, handler)


def start(
  command: list[str], *, cpus: Iterable[int] = (), **options
) -> subprocess.Popen:
  """Starts it in a group of its own, without input, on these CPUs if any."""
  process = subprocess.Popen(
    command, stdin=subprocess.DEVNULL, start_new_session=True, **options
  )
  if cpus:
    # Before it has threads, which inherit it; it may have ended, too.
    with contextlib.suppress(ProcessLookupError):
      os.sched_setaffinity(process.pid, cpus)
  return process


def shares(parts: int) -> list[list[int]]:
  """The CPUs of this process in so many parts, empty ones for all of them.

  XLA makes a pool of a thread for each CPU that a process may use. Of two
  processes on two CPUs, each with such a pool, either waits for the other: a
  step of the quickstart takes 2.5 s, and 2.2 s with a CPU each.
  """
  cpus = []
  if hasattr(os, 'sched_getaffinity'):  # of Linux
    cpus = sorted(os.sched_getaffinity(0))
  if not 1 < parts <= len(cpus):
    return [[]] * parts
  return [
    cpus[i * len(cpus) // parts : (i + 1) * len(cpus) // parts]
    for i in range(parts)
  ]


def wait(process: subprocess.Popen, arrived: list[int]) -> int:
  """Waits for its end, while signals that arrive go on to it; its status."""
  passed = 0
  while process.poll() is None:
    if passed < len(arrived):
      process.send_signal(arrived[passed])
      passed += 1
    time.sleep(0.1)
  clear(process)
  return status(process.returncode)


def kill(process: subprocess.Popen) -> None:
  """SIGKILL to it and all of its group."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(process.pid, signal.SIGKILL)


def clear(process: subprocess.Popen, *, grace: float = 5.0) -> None:
  """Ends what a process that is over has left in its group.

  Args:
    process: its end has been seen.
    grace: seconds between SIGTERM and SIGKILL.
  """
  try:
    os.killpg(process.pid, signal.SIGTERM)
    last = time.monotonic() + grace
    while time.monotonic() < last:
      os.killpg(process.pid, 0)
      time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
  except (ProcessLookupError, PermissionError):
    pass  # nothing is left; macOS refuses where only the dead are


def status(code: int) -> int:
  """What a shell would say of `Popen.returncode`."""
  return 128 - code if code < 0 else code


def told(code: int) -> str:
  """The same in words."""
  if code >= 0:
    return f'exit status {code}'
  return f'killed by {signal.Signals(-code).name}'
