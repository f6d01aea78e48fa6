"""Rows that several processes know differently, as one of them does.

Where `tensor` or `context` spans hosts, several hold the same rows and grade
them. Verdicts may hang on a clock, as one that came too late does, and what all
learn from must be the same.
"""

import functools

import jax
import numpy as np

from grpo_jax import hosts, sharding
from grpo_jax.structs import PyTree


def agreed(rows: sharding.Rows, tree: PyTree, *, what: str) -> PyTree:
  """Arrays of rows [Q ...], whole, on every process.

  Each element is that of the device with the lowest id among those that hold
  it.

  Args:
    rows: where the rows lie.
    tree: numpy arrays; of rows that lie elsewhere nothing is read.
    what: names what is waited for.
  """
  if not hosts.are_several():
    return tree
  where = rows.of(tree)
  parts = jax.tree.map(_put_of_lowest, tree, where)
  program = _sums_of_copies(tuple(jax.tree.leaves(where)))
  with hosts.waiting(what):
    summed = jax.block_until_ready(program(parts))
  return hosts.everywhere(summed, what=what)


def _put_of_lowest(x, where):
  """A global array whose copies of an element are all zeros but one."""
  lowest = _lowest(where, x.shape)
  places = where.addressable_devices_indices_map(x.shape)
  pieces = [
    x[i] if device in lowest else np.zeros_like(x[i])
    for device, i in places.items()
  ]
  parts = jax.device_put(pieces, list(places))
  return jax.make_array_from_single_device_arrays(x.shape, where, parts)


@functools.lru_cache(maxsize=64)
def _lowest(where, shape):
  """For each part of an array, the device of lowest id that has it."""
  found = {}
  for device, index in where.devices_indices_map(shape).items():
    key = tuple((s.start, s.stop) for s in index)
    if key not in found or device.id < found[key].id:
      found[key] = device
  return frozenset(found.values())


@functools.lru_cache(maxsize=64)
def _sums_of_copies(shardings):
  """A program: arrays by these -> the sum of each element's copies."""

  def one(x, where):
    used = {a for entry in where.spec for a in sharding.axes_of(entry)}
    rest = tuple(a for a in where.mesh.axis_names if a not in used)
    number = x.astype(np.int32) if x.dtype == bool else x
    return jax.shard_map(
      lambda part: jax.lax.psum(part, rest),
      mesh=where.mesh,
      in_specs=where.spec,
      out_specs=where.spec,
      check_vma=False,
    )(number).astype(x.dtype)

  def fn(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(map(one, leaves, shardings))

  return jax.jit(fn)
