"""Parts of a training state that wait in the host's memory.

The reference is read by stage 6 of a step alone, and moments by its updates;
sampling needs neither, and is what needs room on the devices, for its caches.
`updates.offload` names the parts that lie in pinned host memory in between.
"""

from collections.abc import Sequence

import jax

from grpo_jax.structs import PyTree, TrainState

PARTS = {'reference': 'ref_params', 'moments': 'opt_state'}


def rest(state: TrainState, names: Sequence[str]) -> TrainState:
  """The named parts in host memory, a critic's too; arrays or their shapes."""
  return _moved(state, names, 'pinned_host')


def bring(state: TrainState, names: Sequence[str]) -> TrainState:
  """The named parts on the devices."""
  return _moved(state, names, 'device')


def is_resting(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
  """Whether it takes none of the devices' memory."""
  return x.sharding.memory_kind == 'pinned_host'


def at(tree: PyTree, kind: str) -> PyTree:
  """Arrays, or their shapes, in memory of a kind: pinned_host or device."""
  return jax.tree.map(lambda x: _at(x, kind), tree)


def _moved(state, names, kind):
  parts = {PARTS[name]: at(getattr(state, PARTS[name]), kind) for name in names}
  critic = state.critic
  if isinstance(critic, TrainState):
    critic = _moved(critic, names, kind)
  return state.replace(**parts, critic=critic)


def _at(x, kind):
  sharding = x.sharding.with_memory_kind(kind)
  if isinstance(x, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.device_put(x, sharding)
