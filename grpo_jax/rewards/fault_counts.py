"""Counts of what went wrong while grading, for the metrics of a run.

Grading runs in threads and must not stop a step, so faults are counted here
and logged once a name instead of being raised.
"""

import collections
import logging
import threading

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
