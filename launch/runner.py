"""Runs commands on this machine, some at a time: trials of a sweep, or stages.

Each is a process of its own with its output in a log. A failing one stops
only those that need it. Ctrl-C and SIGTERM go on to what runs, which saves.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Protocol

from launch import processes

LOG = 'log.txt'
# How a process ends that was asked to: it saved, was done just then, had not
# yet begun, or was killed by a second signal.
_STOPPED = (0, 128 + signal.SIGTERM, 128 + signal.SIGKILL)
_POLL = 0.1  # seconds
_TOLD_EVERY = (1.0, 60.0)  # seconds between looks at progress; lines in a log


class Work(Protocol):
  """What can be run.

  Attributes:
    name: apart from all others.
    folder: of its log.
    needs: names of what must be finished before it begins.
  """

  name: str
  folder: pathlib.Path
  needs: tuple[str, ...]

  def command(self, python: str) -> list[str]:
    """What to run."""

  def begin(self) -> None:
    """Makes what the process expects, the folder too."""

  def missing(self, code: int) -> str:
    """After an exit status: '' where it is finished, or else what is wrong."""

  def progress(self) -> str:
    """How far it is, in a few characters; may be ''."""


@dataclasses.dataclass(frozen=True)
class Running:
  """Work under way."""

  work: Work
  process: subprocess.Popen
  log: pathlib.Path
  begin: int  # bytes of the log that are of starts before this one
  cpus: list[int]  # its own, to be given to who comes next

  def last_line(self) -> str:
    """Of what this start has written."""
    with open(self.log, 'rb') as file:
      file.seek(self.begin)
      lines = file.read().decode('utf-8', 'replace').split('\n')
    return next((x.strip() for x in reversed(lines) if x.strip()), '')


class Runner:
  """Runs what waits, some at a time."""

  def __init__(
    self, waiting: Sequence[Work], *, done: int, parallel: int, kind: str
  ):
    """Starts nothing yet.

    Args:
      waiting: to be run, in order.
      done: how many were finished before.
      parallel: at a time.
      kind: what they are called, in the plural.
    """
    self.waiting, self.done, self.parallel = list(waiting), done, parallel
    self.total, self.kind = done + len(waiting), kind
    self.running: list[Running] = []
    self.shares = processes.shares(parallel)  # of CPUs, those not in use
    self.failed: dict[str, str] = {}  # name -> what went wrong
    self.line = Line()

  def run(self) -> int:
    """Runs all; the exit status. A signal goes on to what runs."""
    with processes.noted_signals() as arrived:
      try:
        self._run(arrived)
      finally:
        # Some are left only after an error of our own, such as a full disk.
        for running in self.running:
          running.process.terminate()
          running.process.wait()
    self.line.close()
    if not arrived:
      for work in self.waiting:
        print(f'not begun: {work.name}, {self._blocked(work)}', file=sys.stderr)
    for text in self.failed.values():
      print(f'failed: {text}', file=sys.stderr)
    if arrived:
      print(
        f'stopped: {self.done} of {self.total} {self.kind} are finished; the '
        'same command goes on from there',
        file=sys.stderr,
      )
      return 128 + arrived[0]
    return 1 if self.failed else 0

  def _run(self, arrived):
    passed = 0
    while self.running or (self._next() is not None and not arrived):
      if passed < len(arrived):
        self._pass_on(arrived[passed], again=passed > 0)
        passed += 1
      while len(self.running) < self.parallel and not passed:
        work = self._next()
        if work is None:
          break
        self.waiting.remove(work)
        self.running.append(start(work, self.shares.pop()))
      time.sleep(_POLL)
      ended = [r for r in self.running if r.process.poll() is not None]
      for running in ended:
        self.running.remove(running)
        self.shares.append(running.cpus)
        self._ended(running, passed)
      self.line.show(self._told, now=bool(ended))

  def _next(self):
    """The first whose needs are finished."""
    return next((w for w in self.waiting if not self._blocked(w)), None)

  def _blocked(self, work):
    """What it waits for, in words."""
    under_way = {r.work.name for r in self.running}
    open_ones = {w.name for w in self.waiting} | under_way | set(self.failed)
    needed = [name for name in work.needs if name in open_ones]
    return f'which needs {", ".join(needed)}' if needed else ''

  def _pass_on(self, number, *, again):
    self.line.close()
    name = signal.Signals(number).name
    if again:
      print(f'{name}: killing what runs', file=sys.stderr)
    else:
      print(
        f'{name}: waiting for {len(self.running)} {self.kind} to save; again '
        'to kill them',
        file=sys.stderr,
      )
    for running in self.running:
      if again:
        processes.kill(running.process)
      else:
        running.process.terminate()

  def _ended(self, running, signalled):
    processes.clear(running.process)
    work, code = running.work, running.process.returncode
    missing = work.missing(code)
    if not missing:
      self.done += 1
    elif not signalled or processes.status(code) not in _STOPPED:
      last = running.last_line()
      self.failed[work.name] = (
        f'{work.name}: {missing}{": " if last else ""}{last} ({running.log})'
      )

  def _told(self):
    at = (f'{r.work.name} {r.work.progress()}'.strip() for r in self.running)
    failed = f', {len(self.failed)} failed' if self.failed else ''
    under_way = '  '.join(('', *at))
    return f'{self.done}/{self.total} finished{failed}{under_way}'


def start(work: Work, cpus: list[int]) -> Running:
  """Starts it on these CPUs, with its output in the log of its folder."""
  work.begin()
  log = work.folder / LOG
  with open(log, 'ab') as file:
    # Now, as the process shares the position.
    begin = file.tell()
    process = processes.start(
      work.command(sys.executable),
      cpus=cpus,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
    return Running(work, process, log, begin, cpus)


class Line:
  """Progress: one line of a terminal, or now and then a line of a log."""

  def __init__(self):
    self._live = sys.stderr.isatty()
    self._every = _TOLD_EVERY[0 if self._live else 1]
    self._last = time.monotonic()

  def show(self, text, *, now: bool):
    """Shows `text()` if it is time, or if something has happened."""
    if not now and time.monotonic() - self._last < self._every:
      return
    self._last, told = time.monotonic(), text()
    if self._live:
      width = shutil.get_terminal_size().columns - 1
      told = f'\r{told[:width]}\x1b[K'
    print(told, end='' if self._live else '\n', file=sys.stderr, flush=True)

  def close(self):
    """Leaves the line as it is."""
    if self._live:
      print(file=sys.stderr)
