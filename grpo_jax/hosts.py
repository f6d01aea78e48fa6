"""Several processes as one: how they start, agree and see each other's arrays.

Every process runs the same program on its own devices. Each reads and grades
the prompts whose rows its devices hold; only arrays of numbers cross hosts. A
decision that changes what is compiled or saved must be the same everywhere, so
it is made from arrays that all have (`everywhere`) or agreed on (`agree`).
"""

import collections
from collections.abc import Mapping
import json
import os

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
import numpy as np

from grpo_jax.structs import Array, PyTree

# As `launch.local` sets them; on TPU pods JAX finds its own.
COORDINATOR, PROCESSES, PROCESS = (
  'GRPO_JAX_COORDINATOR', 'GRPO_JAX_PROCESSES', 'GRPO_JAX_PROCESS'
)  # fmt: skip
# Seconds without a sign of life after which a process counts as dead, and that
# a process waits for the others to start.
_HEARTBEAT, _START = 40, 300
_MESSAGE = 1 << 14  # bytes


def start(*, distributed: bool) -> None:
  """Joins the other processes, before any device is used.

  Args:
    distributed: on a TPU pod, where JAX knows who the others are. Without it,
      only where the environment names a coordinator.

  Raises:
    ValueError: the others did not come, or the environment is incomplete.
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
  try:
    jax.distributed.initialize(
      **given,
      initialization_timeout=_START,
      heartbeat_timeout_seconds=_HEARTBEAT,
    )
  except RuntimeError as error:
    who = given.get('coordinator_address', 'the pod')
    raise ValueError(
      f'the other processes of {who} did not come within {_START} s: '
      f'{" ".join(str(error).split())[:200]}'
    ) from None


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def are_several() -> bool:
  """Whether there are other processes."""
  return jax.process_count() > 1


def agree(number: int) -> int:
  """The largest of all processes' numbers; each must call this."""
  if not are_several():
    return number
  return int(multihost_utils.process_allgather(np.int32(number)).max())


def total(counts: Mapping[str, int]) -> dict[str, int]:
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
  for row in multihost_utils.process_allgather(padded):
    summed.update(json.loads(row.tobytes()))
  return dict(summed)


def wait_for_all(what: str) -> None:
  """Returns once every process has come here; `what` names it in errors."""
  if are_several():
    multihost_utils.sync_global_devices(what)


def here(sharding: NamedSharding, shape: tuple[int, ...]) -> np.ndarray:
  """Which elements of an array lie on this process's devices, as bools."""
  found = np.zeros(shape, bool)
  for index in sharding.addressable_devices_indices_map(shape).values():
    found[index] = True
  return found


def holds(x: Array | np.ndarray) -> np.ndarray:
  """Which elements this process has, as bools."""
  if _is_whole(x):
    return np.ones(x.shape, bool)
  return here(x.sharding, x.shape)


def local(x: Array | np.ndarray) -> np.ndarray:
  """The elements that this process has; zeros for the others."""
  if _is_whole(x):
    return np.asarray(x)
  found = np.zeros(x.shape, x.dtype)
  for shard in x.addressable_shards:
    found[shard.index] = np.asarray(shard.data)
  return found


def everywhere(tree: PyTree) -> PyTree:
  """Device arrays as numpy arrays, whole, on every process. For small ones."""
  if are_several():
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)


def _is_whole(x):
  if isinstance(x, np.ndarray):
    return True
  return x.is_fully_addressable or x.is_fully_replicated
