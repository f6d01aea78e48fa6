"""Mesh, logical rules, and the shardings read off them.

Parameters and arrays name their axes logically ('embed', 'prompts', ...); a
dict of rules in the config maps each name to mesh axes. Everything here is
bookkeeping: no numbers change with the mesh beyond fp32 rounding.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from grpo_jax.models.params import is_param, name
from grpo_jax.structs import Array, has_samples, PyTree

AXES = ('data', 'fsdp', 'context', 'tensor')
# Of the arrays of a batch, in this order.
_ROWS = ('prompts', 'samples', 'positions')


def make_mesh(shape: Mapping[str, int], devices=None) -> Mesh:
  """A mesh over `devices` (all by default) with axes `AXES`.

  Several TPU slices lie along `data`, the axis with the least to send: between
  them is the network of the data centre.

  Args:
    shape: size of each axis, 1 where it is not named; one of them may be -1
      for 'the rest'.
    devices: to lay out; `jax.devices()` when None.

  Raises:
    ValueError: the sizes do not multiply to the number of devices, or `data`
      does not divide over the slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [shape.get(axis, 1) for axis in AXES]
  given = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) == 1 and given and len(devices) % given == 0:
    sizes[sizes.index(-1)] = len(devices) // given
  if math.prod(sizes) != len(devices) or min(sizes) < 1:
    raise ValueError(
      f'mesh {dict(shape)} does not cover {len(devices)} devices; set '
      f'{", ".join(f"mesh.{axis}" for axis in AXES)} so that they multiply to '
      f'{len(devices)} (one may be -1 for the rest)'
    )
  # Auto: shardings inside jit are inferred by the compiler from the arguments.
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(_laid_out(sizes, devices), AXES, axis_types=types)


def _laid_out(sizes, devices):
  slices = len({getattr(d, 'slice_index', 0) for d in devices})
  # An axis of the mesh need not be whole axes of the torus: 32 of 4x4x4.
  split = dict(allow_split_physical_axes=True)
  if slices == 1:
    return mesh_utils.create_device_mesh(sizes, devices, **split)
  data, *inner = sizes
  if data % slices:
    raise ValueError(
      f'mesh.data={data} does not divide over {slices} slices; set mesh.data '
      f'to a multiple of {slices}'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, *inner),
    (slices, 1, 1, 1),
    devices,
    **split,
  )


def on_tpu(mesh: Mesh) -> bool:
  """Whether its devices are TPUs, also ones that only the compiler knows."""
  return mesh.devices.flat[0].platform == 'tpu'


def keep_up(tree: PyTree, mesh: Mesh) -> PyTree:
  """Waits for these arrays, where devices are several of one CPU.

  A loop that dispatches more than a few programs hands each what it returns.
  XLA's CPU client has a thread a device, or a core. Of a device with 32
  programs under way the next one holds a thread until one ends, and if that is
  in a collective, its partner may find no thread: both then wait for ever.
  """
  if mesh.devices.flat[0].platform == 'cpu' and mesh.size > 1:
    jax.block_until_ready(tree)
  return tree


def spec(axes: tuple[str | None, ...], rules: Mapping) -> PartitionSpec:
  """PartitionSpec of an array with these logical axes.

  Raises:
    ValueError: an unknown logical or mesh axis, or a mesh axis used twice.
  """
  used, entries = [], []
  for axis in axes:
    if axis is None:
      entries.append(None)
      continue
    if axis not in rules:
      raise ValueError(
        f'no rule for logical axis {axis!r}; rules name {sorted(rules)}'
      )
    target = rules[axis]
    target = axes_of(target)
    for mesh_axis in target:
      if mesh_axis not in AXES:
        raise ValueError(
          f'rule {axis!r} names mesh axis {mesh_axis!r}; there are {AXES}'
        )
      if mesh_axis in used:
        raise ValueError(
          f'rules shard {axes} over mesh axis {mesh_axis!r} twice; change the '
          f'rule of {axis!r}'
        )
      used.append(mesh_axis)
    entries.append(target if len(target) != 1 else target[0])
  return PartitionSpec(*(e if e else None for e in entries))


def axes_of(rule: str | Sequence[str] | None) -> tuple[str, ...]:
  """The mesh axes of a rule."""
  return (rule,) if isinstance(rule, str) else tuple(rule or ())


def param_shardings(declared: PyTree, mesh: Mesh, rules: Mapping) -> PyTree:
  """A NamedSharding per `Param`.

  Raises:
    ValueError: a dimension does not divide over its mesh axes.
  """

  def one(path, param):
    partition = spec(param.axes, rules)
    for size, axis, entry in zip(
      param.shape, param.axes, partition, strict=True
    ):
      ways = _ways(mesh, entry)
      if size % ways:
        raise ValueError(
          f'parameter {name(path)}: {axis}={size} does not divide over '
          f'{ways} devices ({entry}); change the mesh or the rule of {axis!r}'
        )
    return NamedSharding(mesh, partition)

  return jax.tree_util.tree_map_with_path(one, declared, is_leaf=is_param)


@dataclasses.dataclass(frozen=True)
class Rows:
  """Where the arrays of prompts and samples lie: [Q ...] and [Q G C ...]."""

  mesh: Mesh
  rules: Mapping

  @property
  def ways(self) -> tuple[int, int, int]:
    """Over how many devices Q, G and C are split."""
    return tuple(_ways(self.mesh, entry) for entry in spec(_ROWS, self.rules))

  def of(self, tree: PyTree) -> PyTree:
    """The sharding of each array; see `structs.has_samples`."""

    def one(path, x):
      axes = _ROWS[: x.ndim] if has_samples(path, x) else _ROWS[:1]
      return NamedSharding(self.mesh, spec(axes, self.rules))

    return jax.tree_util.tree_map_with_path(one, tree)

  def here(self, count: int) -> np.ndarray:
    """Which of so many prompts have a device in this process, [Q] bools."""
    return here(self.of(jax.ShapeDtypeStruct((count,), bool)), (count,))

  def owned(self, count: int) -> np.ndarray:
    """Which of so many prompts are this process's to judge, [Q] bools."""
    sharding = self.of(jax.ShapeDtypeStruct((count,), bool))
    return owned(sharding, (count,))

  def put(self, tree: PyTree) -> PyTree:
    """Host arrays to global device arrays; rows of others are not read."""
    tree = jax.tree.map(np.asarray, tree)
    return jax.tree.map(put, tree, self.of(tree))

  def constrain(self, tree: PyTree) -> PyTree:
    """The same arrays inside a program, kept where they belong."""
    return jax.lax.with_sharding_constraint(tree, self.of(tree))


def put(x: np.ndarray | np.generic, sharding: NamedSharding) -> Array:
  """A host array as a global device array; what others hold is not read."""
  places = sharding.addressable_devices_indices_map(x.shape)
  # Piece by piece, by name: `jax.make_array_from_callback` counts as implicit.
  parts = jax.device_put([x[i] for i in places.values()], list(places))
  return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)


def here(sharding: NamedSharding, shape: tuple[int, ...]) -> np.ndarray:
  """Which elements of an array lie on this process's devices, as bools."""
  found = np.zeros(shape, bool)
  for index in sharding.addressable_devices_indices_map(shape).values():
    found[index] = True
  return found


def owned(sharding: NamedSharding, shape: tuple[int, ...]) -> np.ndarray:
  """`here`, but of what several processes have, the lowest has it alone."""
  owner = np.full(shape, jax.process_count())
  for device, index in sharding.devices_indices_map(shape).items():
    owner[index] = np.minimum(owner[index], device.process_index)
  return owner == jax.process_index()


def holds(x: Array | np.ndarray) -> np.ndarray:
  """Which elements this process has, as bools."""
  if _is_whole(x):
    return np.ones(x.shape, bool)
  return here(x.sharding, x.shape)


def local(x: Array | np.ndarray) -> np.ndarray:
  """The elements that this process has; zeros for the others."""
  if _is_whole(x):
    return np.asarray(jax.device_get(x))
  found = np.zeros(x.shape, x.dtype)
  for shard in x.addressable_shards:
    found[shard.index] = jax.device_get(shard.data)
  return found


def of_one_layer(shardings: PyTree) -> PyTree:
  """The shardings of a decoder whose 'layers' are one, not a stack."""
  layers = jax.tree.map(
    lambda s: NamedSharding(s.mesh, PartitionSpec(*s.spec[1:])),
    shardings['layers'],
  )
  return shardings | {'layers': layers}


def placed(shapes: PyTree, shardings: PyTree) -> PyTree:
  """ShapeDtypeStructs of arrays that lie by these shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """On every device, whole."""
  return NamedSharding(mesh, PartitionSpec())


def opt_state_shardings(
  tx: optax.GradientTransformation,
  abstract_params: PyTree,
  shardings: PyTree,
  mesh: Mesh,
) -> PyTree:
  """Moments like their parameters, the rest replicated.

  `jit(tx.init)` would not inherit the parameters' shardings.
  """
  state = jax.eval_shape(tx.init, abstract_params)
  return optax.tree_utils.tree_map_params(
    tx,
    lambda _, sharding: sharding,
    state,
    shardings,
    transform_non_params=lambda _: replicated(mesh),
  )


def _ways(mesh, entry):
  return math.prod(mesh.shape[axis] for axis in axes_of(entry))


def _is_whole(x):
  if isinstance(x, np.ndarray):
    return True
  return x.is_fully_addressable or x.is_fully_replicated
