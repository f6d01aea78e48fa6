"""Many calls in threads, of which none holds up the others for ever."""

import collections
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, wait
import contextlib
import threading
import time
from typing import TypeVar

T = TypeVar('T')


def in_threads(
  calls: Sequence[Callable[[], T]],
  *,
  threads: int,
  patience: float,
  waiting: Callable[[list[int]], None],
  limit: float,
  late: Callable[[int], T],
) -> list[T]:
  """What each returns, in their order; raises what the first of them raised.

  Python cannot end a thread: one whose call is over the limit is left behind,
  another takes its place, and none keeps the process from ending.

  Args:
    calls: without arguments.
    threads: that run at once.
    patience: seconds after which `waiting` is told.
    waiting: gets the numbers of the calls that are not done yet.
    limit: seconds that a call may run.
    late: number of a call that is over it -> what counts as its result.
  """
  results = [Future() for _ in calls]
  waiting_calls, begun = collections.deque(range(len(calls))), {}

  def work():
    with contextlib.suppress(IndexError, InvalidStateError):
      while True:
        i = waiting_calls.popleft()
        begun[i] = time.monotonic()
        try:
          value = calls[i]()
        except BaseException as error:
          results[i].set_exception(error)
        else:
          # InvalidStateError: it came too late, as did this thread.
          results[i].set_result(value)

  def start(count):
    for _ in range(count):
      threading.Thread(target=work, daemon=True).start()

  def left():
    return [i for i, result in enumerate(results) if not result.done()]

  try:
    start(min(threads, len(calls)))
    if wait(results, timeout=patience).not_done:
      waiting(left())
    while wait(results, timeout=min(limit / 4, 5.0)).not_done:
      over = time.monotonic() - limit
      for i in left():
        if begun.get(i, over) < over:
          with contextlib.suppress(InvalidStateError):
            results[i].set_result(late(i))
            start(1)
  finally:
    waiting_calls.clear()
  return [result.result() for result in results]
