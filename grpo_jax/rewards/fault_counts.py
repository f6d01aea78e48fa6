"""Counts of what went wrong while grading, for the metrics of a run.

Grading runs in threads and must not stop a step, so faults are counted here
and logged once a name instead of being raised.
"""

import collections
from collections.abc import Callable
import logging
import threading
from typing import Any

_counts: collections.Counter = collections.Counter()
_first: dict[str, str] = {}  # name -> message
_lock = threading.Lock()


def record(name: str, message: str, *, level: int = logging.WARNING):
  """Counts one fault of that name and logs the first."""
  with _lock:
    _counts[name] += 1
    first = _counts[name] == 1
    if first:
      _first[name] = message
  if first:
    logging.getLogger(__name__).log(level, '%s: %s', name, message)


def guarded(
  fn: Callable[..., Any], *, name: str, instead: Any, so: str
) -> Callable[..., Any]:
  """The function, or `instead` where it raises: a fault of that name.

  Args:
    fn: of a user's.
    name: as of `record`.
    instead: returned.
    so: what that means, for the log.
  """

  def total(*args):
    try:
      return fn(*args)
    except Exception as error:
      record(name, f'{type(error).__name__}: {error}; {so}')
      return instead

  return total


def no_answer(reward: str, extract: str) -> float:
  """0.0, the reward of a completion in which no answer was found; counts it.

  Policies begin so: the log has it as information, metrics how often.
  """
  message = f'none found by extract={extract!r}; graded 0'
  record(f'{reward}/no_answer', message, level=logging.INFO)
  return 0.0


def faults() -> collections.Counter:
  """Faults so far in this process: {'correct/raised': 3, ...}."""
  with _lock:
    return collections.Counter(_counts)


def told(prefix: str) -> list[str]:
  """The first message of each fault so far whose name begins so."""
  with _lock:
    return [m for name, m in _first.items() if name.startswith(prefix)]
