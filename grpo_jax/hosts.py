"""Several processes as one: how they start, agree and see each other's arrays.

Every process runs the same program on its own devices. Each reads and grades
the prompts whose rows its devices hold; only arrays of numbers cross hosts. A
decision that changes what is compiled or saved must be the same everywhere, so
it is made from arrays that all have (`everywhere`) or agreed on (`agree`).

No process goes on alone: `waiting` tells what is waited for, and when another
is gone, or does not come, all end with one line. The same command,
started again for all, goes on from the last checkpoint.
"""

import collections
from collections.abc import Iterator, Mapping
import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from typing import Any

from absl import logging
import jax
from jax._src import distributed
from jax.experimental import multihost_utils
import numpy as np

from grpo_jax.structs import PyTree

# As `launch.local` sets them; on TPU pods JAX finds its own.
COORDINATOR, PROCESSES, PROCESS = (
  'GRPO_JAX_COORDINATOR', 'GRPO_JAX_PROCESSES', 'GRPO_JAX_PROCESS'
)  # fmt: skip
# Seconds that a process waits for the others where all are to come, before it
# ends: longer than one may compile, grade or write alone.
LIMIT = 1200
LOST = 75  # exit status, EX_TEMPFAIL: the same command may succeed
# Seconds without a sign of life after which a process counts as dead, that a
# process waits for the others to start and to end, and that a wait is silent.
_HEARTBEAT, _START, _END, _SILENT = 40, 300, 60, 20
# Seconds that the coordinator outlives an error of its own.
_LAST = 2
_MESSAGE = 1 << 14  # bytes
# What of an error tells that it is another process's: of gloo, whose
# connections end with a process, and of JAX's coordination service.
_SIGNS = ('gloo', 'coordination service', 'barrier', 'heartbeat')
# Before what XLA says in a ValueError; ours may quote a prompt with any word.
_STATUS = re.compile(r'\b[A-Z]{5,}(_[A-Z]+)*: ')
_doing = []  # what this process is at, outermost first
_ending = threading.Lock()
_agreed, _told = itertools.count(), itertools.count()  # calls, alike in all


def start(*, distributed: bool) -> None:
  """Joins the other processes and opens the devices, which nothing has yet.

  Where they do not come within `_START` seconds, this process ends with one
  line and status `LOST`: all may be started again.

  Args:
    distributed: on a TPU pod, where JAX knows who the others are. Without it,
      only where the environment names a coordinator.

  Raises:
    ValueError: the environment is incomplete.
  """
  given = {}
  if COORDINATOR in os.environ:
    try:
      given = dict(
        coordinator_address=os.environ[COORDINATOR],
        num_processes=int(os.environ[PROCESSES]),
        process_id=int(os.environ[PROCESS]),
      )
    except (KeyError, ValueError) as error:
      raise ValueError(
        f'{COORDINATOR} is set, so {PROCESSES} and {PROCESS} must be numbers: '
        f'{error}'
      ) from None
  elif not distributed:
    return
  who = given.get('coordinator_address', 'the pod')
  told = f'the other processes of {who} did not come within {_START} s'

  # JAX's client aborts then, in C++; where no name server knows the
  # coordinator, it raises.
  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def on_abort(_):
    _leave(f'{told}; the lines above say more')

  _handle_abort(on_abort)
  # It would take SIGTERM for itself, and a job that is not in its loop would
  # go on; `loop` has its own way to save and leave.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      **given,
      initialization_timeout=_START,
      heartbeat_timeout_seconds=_HEARTBEAT,
      shutdown_timeout_seconds=_END,
    )
  except RuntimeError as error:
    _leave(f'{told}: {" ".join(str(error).split())[:200]}')
  _handle_abort(_on_abort)
  # They may abort as they open, and libtpu's client puts its own in its place.
  with doing('opening the devices'):
    jax.devices()
  _handle_abort(_on_abort)


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def are_several() -> bool:
  """Whether there are other processes."""
  return jax.process_count() > 1


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
  """Where another process's end shows as an error within it, so does this one.

  With one line that names `what`, and status `LOST`.
  """
  _doing.append(what)
  try:
    yield
  # JAX raises some of them as ValueError; orbax, TimeoutError.
  except (jax.errors.JaxRuntimeError, TimeoutError, ValueError) as error:
    if are_several() and _is_of_others(error):
      sign = ' '.join(str(error).split())[:120]
      _leave(f'{_others()} is gone, noticed in {_at()} ({sign})')
    raise
  finally:
    _doing.pop()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
  """`doing`, where the others are to come: told after 20 s, ends after `LIMIT`.

  All arrays that it gathers must be there already: a computation that takes
  its time is no wait for others.
  """
  if not are_several():
    yield
    return
  over = threading.Event()
  threading.Thread(target=_watch, args=(over,), daemon=True).start()
  try:
    with doing(what):
      yield
  finally:
    over.set()


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
  """An error within it ends this process without waiting for the others.

  They may be waiting for it in a computation, and JAX's own exit for them.
  """
  try:
    yield
  except BaseException as error:
    status = error.code if isinstance(error, SystemExit) else 1
    together = status in (None, 0) or status > 128  # signals: all leave
    if together or not distributed.global_state.client or not are_several():
      raise
    if not isinstance(error, SystemExit):
      traceback.print_exc()
    if is_first():
      # The others may have the same error, and are told of this end first.
      time.sleep(_LAST)
    _end(status)


def agree(number: int, *, what: str) -> int:
  """The largest of all processes' numbers; each must call this.

  By the coordinator, not by the devices: these may be at work, and what waits
  for them is no wait for others.
  """
  if not are_several():
    return number
  client = distributed.global_state.client
  call = next(_agreed)
  key = f'grpo_jax/agree/{call}'
  client.key_value_set(f'{key}/of/{jax.process_index()}', str(number))
  with waiting(what):
    client.wait_at_barrier(key, LIMIT * 1000)
    if is_first():
      told = client.key_value_dir_get(f'{key}/of')
      client.key_value_set(f'{key}/most', str(max(int(x) for _, x in told)))
      # All are here, so all know what was agreed before.
      client.key_value_delete(f'grpo_jax/agree/{call - 1}')
    return int(client.blocking_key_value_get(f'{key}/most', LIMIT * 1000))


def total(counts: Mapping[str, int], *, what: str) -> dict[str, int]:
  """Sums of all processes' counts, whose names may differ; each calls this."""
  if not are_several():
    return dict(counts)
  told = json.dumps(counts).encode()
  if len(told) > _MESSAGE:
    raise ValueError(
      f'{len(told)} bytes of counts; {_MESSAGE} are sent at most'
    )
  padded = np.frombuffer(told.ljust(_MESSAGE), np.uint8)
  summed = collections.Counter()
  with waiting(what):
    told = _gather(padded)
  for row in told:
    summed.update(json.loads(row.tobytes()))
  return dict(summed)


def wait_for_all(what: str) -> None:
  """Returns once every process has come here; `what` names it."""
  if are_several():
    with waiting(what), jax.transfer_guard('allow'):
      multihost_utils.sync_global_devices(what)


def of_first(value: Any, *, what: str, patient: bool = False) -> Any:
  """The first process's value, as JSON has it, on all; each calls this.

  `patient` waits however long, for what the first does alone: at their ends,
  JAX takes a process that is a minute late for dead.
  """
  if not are_several():
    return value
  client, key = distributed.global_state.client, f'grpo_jax/told/{next(_told)}'
  if is_first():
    client.key_value_set(key, json.dumps(value))
    return value
  with doing(what) if patient else waiting(what):
    limit = 7 * 86_400_000 if patient else LIMIT * 1000
    return json.loads(client.blocking_key_value_get(key, limit))


def everywhere(tree: PyTree, *, what: str) -> PyTree:
  """Device arrays as numpy arrays, whole, on every process. For small ones."""
  if not are_several():
    return jax.device_get(tree)
  jax.block_until_ready(tree)
  with waiting(what):
    return _gather(tree, tiled=True)


def _gather(tree, **options):
  # Asked for by name, so no transfer in it is by mistake.
  with jax.transfer_guard('allow'):
    return multihost_utils.process_allgather(tree, **options)


def _watch(over):
  """In a thread: tells of a wait, and ends it."""
  if over.wait(_SILENT):
    return
  logging.warning('waiting for all processes: %s', _at())
  if not over.wait(LIMIT - _SILENT):
    _leave(f'not all processes came within {LIMIT} s: {_at()}')


def _handle_abort(handler):
  ctypes.CDLL(None).signal(signal.SIGABRT, handler)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_):
  """In C++'s place. JAX's client aborts when the others' end reaches it.

  It does so in a thread of its own, and calls nothing in Python before.
  """
  me = f'process {distributed.global_state.process_id}'
  _leave(
    f'{me} was ended by JAX in {_at()}, most likely as {_others()} is gone; '
    'the lines above say more'
  )


def _is_of_others(error):
  """Whether an error tells of another process."""
  if isinstance(error, ValueError) and not _STATUS.search(str(error)):
    return False
  told = ''
  while error is not None:
    told += str(error).lower()
    error = error.__cause__
  return any(sign in told for sign in _SIGNS)


def _others():
  # Not `jax.process_count`, which opens the devices if nothing has yet.
  here = distributed.global_state
  if here.num_processes == 2:
    return f'process {1 - here.process_id} of 2'
  return f'one of the other {here.num_processes - 1} processes'


def _at():
  return ': '.join(_doing) or 'the start'


def _leave(told):
  """Ends this process, by whichever thread comes first."""
  if not _ending.acquire(blocking=False):
    threading.Event().wait()
  print(
    f'error: {told}; start the same command again for all: it goes on from '
    'the last checkpoint',
    file=sys.stderr,
  )
  _end(LOST)


def _end(status):
  """Without JAX's exit, which waits for the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
