"""Copies of the parameters along mesh axis `data`, each with its own rows.

Where parameters are whole along `data`, every copy sums the gradients of its
rows over all layers and microbatches by itself, and the sums cross `data` once
an update. Left to the compiler they cross once a layer and microbatch.
"""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from grpo_jax import sharding
from grpo_jax.structs import has_samples, PyTree

AXIS = 'data'


@dataclasses.dataclass(frozen=True)
class Replicas:
  """Which rows each copy has."""

  rows: sharding.Rows  # of one copy
  ways: tuple[int, int]  # over how many copies Q, and G, are split

  def apart(self, tree: PyTree) -> PyTree:
    """[Q ...] -> [q Q/q ...] and [Q G ...] -> [qg Q/q G/g ...], in blocks.

    Arrays without samples are the same for all copies of their groups.
    """
    q, g = self.ways

    def one(path, x):
      shape = (q, x.shape[0] // q)
      if has_samples(path, x):
        x = x.reshape(*shape, g, x.shape[1] // g, *x.shape[2:])
        x = jnp.moveaxis(x, 2, 1)
      else:
        x = x.reshape(*shape, *x.shape[1:])
        x = jnp.broadcast_to(x[:, None], (q, g, *x.shape[1:]))
      return x.reshape(q * g, *x.shape[2:])

    tree = jax.tree_util.tree_map_with_path(one, tree)
    first = jax.eval_shape(
      lambda tree: jax.tree.map(lambda x: x[0], tree), tree
    )
    places = jax.tree.map(
      lambda s: NamedSharding(s.mesh, PartitionSpec(AXIS, *s.spec)),
      self.rows.of(first),
    )
    return jax.lax.with_sharding_constraint(tree, places)


def of(declared: PyTree, mesh: Mesh, rules: Mapping) -> Replicas | None:
  """The copies that training has, or None if there is but one.

  Args:
    declared: parameters, as `Param` leaves.
    mesh: of the devices.
    rules: of training.
  """
  split = [
    AXIS in sharding.axes_of(rules[name])
    for name in ('prompts', 'samples', 'positions')
  ]
  stored = jax.tree.leaves(sharding.param_shardings(declared, mesh, rules))
  whole = not any(
    AXIS in sharding.axes_of(entry) for s in stored for entry in s.spec
  )
  size = mesh.shape[AXIS]
  if size == 1 or split[2] or not any(split) or not whole:
    return None
  return Replicas(
    rows=sharding.Rows(mesh, of_one(rules)),
    ways=(size, 1) if split[0] else (1, size),
  )


def of_one(rules: Mapping) -> dict:
  """The rules of a copy: of the axes that rows are split over, the others."""
  changed = {
    name: tuple(a for a in sharding.axes_of(rules[name]) if a != AXIS)
    for name in ('prompts', 'samples')
  }
  return dict(rules) | changed
