"""What every measured system shares: requests, clocks, answers.

Standard library and numpy alone, since each system has an environment of its
own.
"""

from collections.abc import Callable, Mapping
import json
import sys
import time
from typing import Any

import numpy as np


class Clock:
  """Seconds of each run of each part but its first, which compiles."""

  def __init__(self, *, wait: Callable = lambda result: None):
    """Args:
    wait: blocks until what a part returned is there.
    """
    self.seconds, self.first = {}, {}
    self._wait = wait

  def __call__(self, part: str, work: Callable) -> Any:
    """What `work` returns."""
    begin = time.perf_counter()
    result = work()
    self._wait(result)
    taken = time.perf_counter() - begin
    if part in self.first:
      self.seconds[part].append(taken)
    else:
      self.first[part], self.seconds[part] = taken, []
    return result


def reward(text: str) -> float:
  """A reward that costs nothing and differs within a group."""
  return float(sum(map(ord, text)) % 7)


def read(argv: list[str]) -> dict:
  """The request in the file that the command line names."""
  with open(argv[0], encoding='utf-8') as file:
    return json.load(file)


def arrays(request: Mapping) -> tuple[np.ndarray, np.ndarray]:
  """Prompt ids [Q P] and completion lengths [Q G] of a request."""
  with np.load(request['arrays']) as stored:
    return stored['prompts'], stored['lengths']


def answer(found: dict, *, versions: dict, begin: float) -> None:
  """Prints what was found, in one line.

  Args:
    found: 'seconds' by part, and what else is known.
    versions: of what was measured.
    begin: `time.perf_counter` when the system began to load its model.
  """
  print(
    json.dumps(
      found
      | {
        'versions': {'python': sys.version.split()[0]} | versions,
        'peak_bytes': peak_bytes(),
        'whole_s': time.perf_counter() - begin,
      }
    ),
    flush=True,
  )


def peak_bytes() -> int:
  """The most memory that this process has had.

  Not `ru_maxrss`, which starts at that of the process it was forked from.
  """
  with open('/proc/self/status', encoding='ascii') as file:
    lines = dict(line.split(':', 1) for line in file)
  return int(lines['VmHWM'].split()[0]) * 1024
