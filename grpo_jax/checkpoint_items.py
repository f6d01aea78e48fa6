"""One checkpoint on disk: what it holds, how it is read, how damage shows.

Below `checkpoints`, which decides when. A folder `<step>/` holds three items:

  params   the policy
  rest     step, optimizer state, reference policy and critic
  info     JSON: the caller's `extra`, metrics, a checksum of every array

It is `<step>.orbax-checkpoint-tmp` while it is written, and `<step>.corrupt`
once moved aside. On a mounted bucket, where renaming a folder is copying file
after file, it has its name from the start and is finished once a last file,
`commit_success.txt`, is there.
"""

from collections.abc import Iterator
import contextlib
import errno
import functools
import inspect
import itertools
import json
import os
import sys
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from grpo_jax import hosts, offload
from grpo_jax.structs import Array, PyTree, TrainState

_ORBAX = f'{os.sep}orbax{os.sep}'
_UNDER_WAY, _LAST_FILE = '.orbax-checkpoint-tmp', 'commit_success.txt'
_MOUNTS = '/proc/self/mounts'
# A limit on file sizes (EFBIG) is one more way to have no room.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Storage that refuses or stalls is not damage: an older step would not help.
_STORAGE = (
  'PERMISSION_DENIED', 'UNAUTHENTICATED', 'UNAVAILABLE', 'DEADLINE_EXCEEDED',
  'RESOURCE_EXHAUSTED', 'ABORTED', 'CANCELLED',
)  # fmt: skip


class Damaged(Exception):
  """What is on disk is not what was saved."""


def folder(workdir: str | os.PathLike) -> epath.Path:
  """Where a run's checkpoints are; absolute, as orbax asks."""
  return epath.Path(workdir).resolve() / 'checkpoints'


def finished(directory: epath.Path) -> list[int]:
  """Steps whose save came to its end, ascending."""
  done, _ = _sorted_out(directory)
  return sorted(int(path.name) for path in done)


def newest_first(directory: epath.Path) -> Iterator[int]:
  """Finished steps, the same on every process; each must go on alike.

  A step that only some of them see is among these.
  """
  seen = finished(directory)
  while True:
    step = hosts.agree(max(seen, default=-1), what='which checkpoint to read')
    if step < 0:
      return
    yield step
    seen = [s for s in seen if s < step]


def unfinished(directory: epath.Path) -> list[epath.Path]:
  """Folders of saves that did not."""
  _, left = _sorted_out(directory)
  return sorted(left)


def is_mounted_bucket(directory: epath.Path) -> bool:
  """Whether it lies on what gcsfuse, or GKE's driver of it, has mounted."""
  try:
    with open(_MOUNTS, encoding='utf-8', errors='surrogateescape') as file:
      mounts = [line.split(' ')[1:3] for line in file]
  except OSError:  # no Linux
    return False
  above = [str(p) for p in (directory, *directory.parents)]
  # The table writes a space as \040; the last mount on a folder is on top.
  kinds = {at.replace(r'\040', ' '): kind for at, kind in mounts}
  kind = next((kinds[at] for at in above if at in kinds), '')
  return kind in ('fuse.gcsfuse', 'fuse')


def atomicity(directory: epath.Path) -> ocp.options.AtomicityOptions:
  """How orbax is to tell there that a save has come to its end."""
  modes = ocp.options.AtomicityMode
  by_file = is_mounted_bucket(directory)
  mode = modes.COMMIT_FILE if by_file else modes.ATOMIC_RENAME
  return ocp.options.AtomicityOptions(mode=mode)


def step_of(path: epath.Path) -> int:
  """The step of a finished or unfinished folder."""
  return ocp.path.step.step_from_checkpoint_name(path.name)


def move_aside(path: epath.Path) -> epath.Path:
  """Renames to `<step>.corrupt`, `<step>.corrupt2`, ..."""
  step = step_of(path)
  names = (f'{step}.corrupt{"" if i == 1 else i}' for i in itertools.count(1))
  free = (path.parent / name for name in names)
  return path.rename(next(p for p in free if not p.exists()))


def split(state: TrainState) -> dict[str, PyTree]:
  """The items that hold arrays."""
  rest = {
    'step': state.step,
    'opt_state': state.opt_state,
    'ref_params': state.ref_params,
    'critic': state.critic,
  }
  return {'params': state.params, 'rest': rest}


def checksums(tree: PyTree) -> dict[str, Array]:
  """Sum of each array's bits as integers, mod 2^32: the same on any mesh."""

  def one(x):
    if isinstance(x, jax.Array) and offload.is_resting(x):
      # TPUs compute on their own memory alone, where one array has room.
      x = offload.at(x, 'device')
    x = x.astype('uint8') if x.dtype == bool else x
    bits = x.view(f'uint{8 * x.dtype.itemsize}')
    # One at a time: with more in flight than XLA allows a device (32), a device
    # may wait for room while the others wait for it in the sum, for ever.
    return jax.block_until_ready(bits.sum(dtype='uint32'))

  return {name: one(x) for name, x in _flat(tree).items()}


def read_info(path: epath.Path) -> dict[str, Any]:
  """The item `info`; raises OSError or ValueError if it is damaged."""
  try:
    return json.loads((path / 'info' / 'metadata').read_text())
  except ValueError as error:
    raise ValueError(f'info/metadata is no JSON: {error}') from None


def read(
  path: epath.Path, targets: dict[str, PyTree | None]
) -> tuple[dict[str, PyTree], dict[str, Any]]:
  """Reads and verifies items of a checkpoint; every process calls it alike.

  Args:
    path: the folder of a step.
    targets: by item, ShapeDtypeStructs with shardings, or None for numpy.

  Returns:
    Items, and the caller's `extra`.

  Raises:
    Damaged: a file is missing or its content has changed, for any process.
    ValueError: whole, but not the shapes or dtypes of the target.
  """
  arrays = _reader(ocp.StandardCheckpointHandler())
  with _telling_damage_to_all(path):
    info = read_info(path)
    extra, expected = info['extra'], info['checksums']
    stored = {item: _stored(arrays, path / item) for item in targets}
  for item, target in targets.items():
    if target is not None:
      _compare(path, {item: stored[item]}, {item: target})
  with _telling_damage_to_all(path):
    found = {}
    for item, target in targets.items():
      if target is None:
        found[item] = _read_on_host(path / item, stored[item])
      else:
        args = ocp.args.StandardRestore(target)
        found[item] = arrays.restore(path / item, args=args)
  with _telling_damage_to_all(path):
    # Orbax does not notice bytes that changed inside an array.
    for name, value in jax.device_get(checksums(found)).items():
      if int(value) != expected[name]:
        raise ValueError(f'{name} differs from what was saved')
  return found, extra


def is_disk_full(error: BaseException) -> bool:
  """Whether there was no room on disk; tensorstore tells it in words only."""
  return any(
    (isinstance(e, OSError) and e.errno in _DISK_FULL)
    or any(os.strerror(number) in str(e) for number in _DISK_FULL)
    for e in _chain(error)
  )


@functools.cache
def mute_orbax():
  """Drops what orbax prints: all that matters reaches us as an exception."""
  logging.get_absl_logger().addFilter(
    lambda record: _ORBAX not in record.pathname
  )
  sys.unraisablehook = functools.partial(_print_others, sys.unraisablehook)


def _sorted_out(directory):
  """Folders of finished saves, and of those that are not."""
  done, left = [], []
  by_file = is_mounted_bucket(directory)
  for path in directory.iterdir() if directory.exists() else ():
    if path.name.isdecimal() and path.is_dir():
      finished = not by_file or (path / _LAST_FILE).exists()
      (done if finished else left).append(path)
    elif _UNDER_WAY in path.name:
      left.append(path)
  return done, left


def _reader(handler):
  """Reads without waiting for other processes, which may have met damage.

  Orbax's barriers are named alike for each step: one that is at the step before
  would meet those that wait at this one.
  """
  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}
  )
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _stored(arrays, path):
  """Shapes and dtypes of an item."""
  found = arrays.metadata(path).item_metadata
  if found is None:
    raise FileNotFoundError(f'{path.name}/_METADATA is missing')
  return found.tree


def _read_on_host(path, stored):
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  args = jax.tree.map(lambda _: as_numpy, stored)
  return _reader(ocp.PyTreeCheckpointHandler()).restore(
    path, args=ocp.args.PyTreeRestore(restore_args=args)
  )


def _compare(path, stored, target):
  stored, target = _flat(stored), _flat(target)

  def describe(x):
    return 'absent' if x is None else f'{np.dtype(x.dtype)}{list(x.shape)}'

  for name in [*target, *stored]:
    found, wanted = describe(stored.get(name)), describe(target.get(name))
    if found != wanted:
      raise ValueError(
        f'{path}: {name} is {found} in the checkpoint and {wanted} in the '
        'config; use the config of that run, or another workdir'
      )


def _flat(tree):
  """{'params/layers/q': leaf, ...}"""
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {name(path): leaf for path, leaf in leaves}


@contextlib.contextmanager
def _telling_damage() -> Iterator[None]:
  """Turns what a damaged file raises into Damaged."""
  try:
    yield
  except Exception as error:
    cause = _chain(error)[-1]
    reason = f'{type(cause).__name__}: {cause}'.splitlines()[0][:160]
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    ours = (MemoryError, jax.errors.JaxRuntimeError)
    if isinstance(cause, ours) or any(code in reason for code in _STORAGE):
      raise
    if isinstance(cause, OSError) and not isinstance(cause, missing):
      raise
    raise Damaged(reason) from error


@contextlib.contextmanager
def _telling_damage_to_all(path) -> Iterator[None]:
  """The same, once every process has come here: Damaged for one is for all."""
  told = {}
  try:
    with _telling_damage():
      yield
  except Damaged as damage:
    # Its words alone: it holds what was read so far.
    told[str(damage)] = 1
  told = hosts.total(told, what=f'reading checkpoint {path.name}')
  if told:
    raise Damaged(next(iter(told)))


def _chain(error):
  """An error, its cause, the cause of that, ..."""
  chain = []
  while error is not None:
    chain.append(error)
    context = None if error.__suppress_context__ else error.__context__
    error = error.__cause__ or context
  return chain


def _print_others(previous, event):
  # A read that fails leaves the reads beside it without an event loop.
  loop = str(event.exc_value) == 'Event loop is closed'
  coroutine = inspect.iscoroutine(event.object)
  if not (loop or coroutine and _ORBAX in event.object.cr_code.co_filename):
    previous(event)
