"""One compiled program of a step, with the shapes that it will get."""

from collections.abc import Callable
import dataclasses
import math

import jax

from grpo_jax import offload
from grpo_jax.structs import PyTree


@dataclasses.dataclass(frozen=True)
class Program:
  """One program of a step.

  Attributes:
    name: as in the table.
    fn: jitted.
    args: ShapeDtypeStructs with shardings.
    times: how often a step runs it; 0 for once a token.
    beside: bytes on each device that are not among its arguments.
    caches: bytes on each device of its arguments' branch caches.
    unread: and of those that a run reads a few rows of.
    head_dim: of a model that is not the job's own; 0 of that.
  """

  name: str
  fn: Callable
  args: tuple
  times: float
  beside: int = 0
  caches: int = 0
  unread: int = 0
  head_dim: int = 0


def bytes_of(tree: PyTree) -> int:
  """On each device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if not offload.is_resting(x)
  )
