"""Stacked parameters to and from the tensors of a checkpoint.

Below hf.py and gguf.py. A checkpoint has one tensor a layer and folds heads
and head_dim into one axis; parameters are stacked over layers with the two
apart. Nothing is transposed.
"""

from collections.abc import Callable
import dataclasses
import math

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from grpo_jax.models.params import is_param, Param
from grpo_jax.models.params import name as path_name
from grpo_jax.structs import PyTree

Read = Callable[[str, int | None, tuple[slice, ...]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where a checkpoint's tensor is in the parameters.

  Attributes:
    path: of the parameter, as 'layers/q'.
    layer: its layer, None if not stacked.
    shape: in the checkpoint.
  """

  path: str
  layer: int | None
  shape: tuple[int, ...]

  def nbytes(self, dtype) -> int:
    return math.prod(self.shape) * np.dtype(dtype).itemsize


def plan(declared: PyTree, names: dict[str, str]) -> dict[str, Tensor]:
  """The tensors of a checkpoint by name.

  Args:
    declared: `Param` leaves; those under 'layers' are stacked.
    names: path -> name, with {} for the layer.
  """
  out = {}
  leaves = jax.tree_util.tree_leaves_with_path(declared, is_leaf=is_param)
  for path, param in leaves:
    path = path_name(path)
    stacked = path.startswith('layers/')
    shape = _tensor_shape(param, stacked=stacked)
    for layer in range(param.shape[0]) if stacked else (None,):
      out[names[path].format(layer)] = Tensor(path, layer, shape)
  return out


def assemble(
  declared: PyTree, read: Read, *, shardings: PyTree = None, dtype
) -> PyTree:
  """Builds each parameter from slices of a checkpoint's tensors.

  Args:
    declared: `Param` leaves; those under 'layers' are stacked over tensors.
    read: (path, layer or None, index) -> that slice of the tensor, in the
      checkpoint's shape, where heads and head_dim are one axis.
    shardings, dtype: as in `load`.
  """

  def build(path, param, sharding):
    path = path_name(path)
    seen = {}

    def fetch(index):
      # Devices that hold copies ask for the same slice one after the other.
      key = str(index)
      if key not in seen:
        seen[key] = _fetch(path, param, index, read, np.dtype(dtype))
      return seen[key]

    if sharding is None:
      array = jnp.asarray(fetch((slice(None),) * len(param.shape)))
    else:
      array = jax.make_array_from_callback(param.shape, sharding, fetch)
    # Host copies of this parameter go before those of the next are made.
    return jax.block_until_ready(array)

  if shardings is None:
    shardings = jax.tree.map(lambda _: None, declared, is_leaf=is_param)
  return jax.tree_util.tree_map_with_path(
    build, declared, shardings, is_leaf=is_param
  )


def to_host(params: PyTree, tensor: Tensor, *, dtype) -> np.ndarray:
  """One tensor of a checkpoint; every process must ask when there are many."""
  array = params
  for key in tensor.path.split('/'):
    array = array[key]
  if tensor.layer is not None:
    array = array[tensor.layer]
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    array = multihost_utils.process_allgather(array, tiled=True)
  array = np.asarray(array).reshape(tensor.shape)
  return np.ascontiguousarray(array.astype(np.dtype(dtype), copy=False))


def _fetch(path, param, index, read, dtype):
  """The slice `index` of a parameter, stacked if it is a layer's."""
  index = [
    slice(*s.indices(n)) for s, n in zip(index, param.shape, strict=True)
  ]
  out = np.empty([s.stop - s.start for s in index], dtype)
  if not path.startswith('layers/'):
    out[...] = _piece(param.shape, param.axes, index, path, None, read)
    return out
  shape, axes = param.shape[1:], param.axes[1:]
  for i, layer in enumerate(range(index[0].start, index[0].stop)):
    out[i] = _piece(shape, axes, index[1:], path, layer, read)
  return out


def _piece(shape, axes, index, path, layer, read):
  """A slice of one tensor, with heads and head_dim apart."""
  outer, local, inner = [], [], []
  for i, (size, part) in enumerate(zip(shape, index, strict=True)):
    if _joins(axes, i):
      # Only whole heads are contiguous: head_dim is cut after reading.
      whole = outer[-1]
      outer[-1] = slice(whole.start * size, whole.stop * size)
      local.append(size)
      inner.append(part)
    else:
      outer.append(part)
      local.append(part.stop - part.start)
      inner.append(slice(None))
  return read(path, layer, tuple(outer)).reshape(local)[tuple(inner)]


def _joins(axes, i):
  """Whether a checkpoint folds axis i into the one before it."""
  return (
    i > 0 and axes[i] == 'head_dim' and axes[i - 1] in ('heads', 'kv_heads')
  )


def _tensor_shape(param: Param, *, stacked: bool):
  shape, axes = param.shape[stacked:], param.axes[stacked:]
  out = []
  for i, size in enumerate(shape):
    if _joins(axes, i):
      out[-1] *= size
    else:
      out.append(size)
  return tuple(out)
