"""One declaration per parameter: its shape, logical axes and init.

Init, shardings, the checkpoint's restore target and the parameter count are
all read off the same tree of `Param`.
"""

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp

from grpo_jax.structs import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Param:
  """A parameter before it exists.

  Attributes:
    shape: sizes, in the order of `axes`.
    axes: a logical axis name per dimension, resolved by the sharding rules.
    init: standard deviation of a normal, or 'zeros' or 'ones'.
  """

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: float | str

  def __post_init__(self):
    if len(self.shape) != len(self.axes):
      raise ValueError(f'ranks of {self.shape} and {self.axes} differ')


def init(declared: PyTree, key: Array, *, dtype=jnp.float32) -> PyTree:
  """Draws every parameter; each from its own path, so order is immaterial."""

  def draw(path, param):
    if param.init == 'zeros':
      return jnp.zeros(param.shape, dtype)
    if param.init == 'ones':
      return jnp.ones(param.shape, dtype)
    own = jax.random.fold_in(key, zlib.crc32(name(path).encode()))
    return param.init * jax.random.normal(own, param.shape, dtype)

  return jax.tree_util.tree_map_with_path(draw, declared, is_leaf=is_param)


def abstract(declared: PyTree, *, dtype=jnp.float32) -> PyTree:
  """ShapeDtypeStruct of every parameter."""
  return jax.tree.map(
    lambda p: jax.ShapeDtypeStruct(p.shape, dtype), declared, is_leaf=is_param
  )


def count(declared: PyTree) -> int:
  """Number of scalars."""
  leaves = jax.tree.leaves(declared, is_leaf=is_param)
  return sum(math.prod(p.shape) for p in leaves)


def is_param(x) -> bool:
  return isinstance(x, Param)


def name(path) -> str:
  """'layers/q' for a tree path of dict keys."""
  return '/'.join(str(entry.key) for entry in path)
