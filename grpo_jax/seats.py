"""What happens to seats on the device, for `continuous`: pure functions.

Seats are [U J]: rows of one prompt each, J of its branches. Those who wait, and
what has been sampled, are [Q G]. Both are divided over `ways` devices alike.
"""

from flax import struct
import jax
import jax.numpy as jnp

from grpo_jax.models import cache
from grpo_jax.structs import Array, Decoding, Prompts, Rollout, Trunk


@struct.dataclass
class Known:
  """What those who wait bring to their seats."""

  last: Array  # [Q] int32, the prompts' last tokens
  keys: Array  # [Q G] of the noise
  limits: Array  # [Q G] int32, tokens of a completion


def begin(
  prompts: Prompts, keys: Array, limits: Array, *, max_length: int
) -> tuple[Known, Rollout]:
  """Of Q prompts and keys [Q G]: nobody sits, nothing is sampled."""
  shape = (*keys.shape, max_length)
  known = Known(last=prompts.last, keys=keys, limits=limits)
  nothing = Rollout(
    inputs=jnp.zeros(shape, jnp.int32),
    targets=jnp.zeros(shape, jnp.int32),
    mask=jnp.zeros(shape, bool),
    logprobs=jnp.zeros(shape, jnp.float32),
  )
  return known, nothing


def trunks(trunk: Trunk, prompts: Array, *, ways: int) -> Trunk:
  """The trunk of each row [U], of prompts counted within its way."""
  kv = jax.tree.map(
    lambda x: jnp.moveaxis(_chosen(jnp.moveaxis(x, 1, 0), prompts, ways), 0, 1),
    trunk.kv,
  )
  mask, length = (_chosen(x, prompts, ways) for x in (trunk.mask, trunk.length))
  return Trunk(kv=kv, mask=mask, length=length)


def move(
  state: Decoding, sources: Array, oldest: Array, *, capacity: int, ways: int
) -> Decoding:
  """Everybody on other seats, with what they have so far and no slot before.

  Args:
    state: of [U J] seats before.
    sources: [U J] those seats, counted within a way; -1 for none.
    oldest: tokens of the oldest completion: the next slot.
    capacity: of the new caches.
    ways: devices that rows are divided over.
  """
  first = state.t - oldest  # the first slot that anybody needs
  places = jnp.maximum(sources, 0)

  def taken(x):
    return _chosen(x.reshape(-1, *x.shape[2:]), places, ways)

  def cut(x, axis):
    x = taken(x)
    widths = [(0, 0)] * x.ndim
    # So that a slice of the new size begins at any slot.
    widths[axis] = (0, capacity)
    return jax.lax.dynamic_slice_in_dim(
      jnp.pad(x, widths), first, capacity, axis
    )

  def resized(kv):
    kv = cache.spread(kv, (*state.token.shape, -1))
    return cache.compact(cache.along_slots(cut, kv))

  return state.replace(
    t=oldest,
    token=taken(state.token),
    done=taken(state.done),
    length=taken(state.length),
    start=taken(state.start) - first,
    limit=taken(state.limit),
    targets=cut(state.targets, 2),
    logprobs=cut(state.logprobs, 2),
    cache=[resized(kv) for kv in state.cache],
  )


def sit(
  state: Decoding,
  known: Known,
  prompts: Array,
  samples: Array,
  fresh: Array,
  *,
  ways: int,
) -> tuple[Decoding, Array]:
  """Those who waited begin, and nobody is on an empty seat.

  Args:
    state: of [U J] seats.
    known: of all who have ever waited.
    prompts: [U] of each row, counted within its way.
    samples: [U J] completions, as in `seating.Plan`.
    fresh: [U J] who begins.
    ways: devices that rows are divided over.
  """
  own = jnp.maximum(samples, 0)
  keys, limits = (
    _chosen(x.reshape(-1), own, ways) for x in (known.keys, known.limits)
  )
  last = _chosen(known.last, prompts, ways)[:, None]
  state = state.replace(
    token=jnp.where(fresh, last, state.token),
    done=jnp.where(fresh, False, state.done | (samples < 0)),
    length=jnp.where(fresh, 0, state.length),
    start=jnp.where(fresh, state.t, state.start),
    limit=jnp.where(fresh, limits, state.limit),
  )
  return state, keys


def collect(
  found: Rollout, state: Decoding, seats: Array, *, ways: int
) -> Rollout:
  """The rollout with the completions that have ended.

  Args:
    found: so far.
    state: of [U J] seats.
    seats: [Q G] where each sits that has ended, counted within its way; -1 for
      those who have not, or long ago.
    ways: devices that rows are divided over.
  """
  here = (seats >= 0)[:, :, None]
  places = jnp.maximum(seats, 0)
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  slots = jnp.arange(found.targets.shape[2])
  start = _chosen(flat(state.start), places, ways)[:, :, None]
  inside = jnp.minimum(start + slots, state.targets.shape[2] - 1)

  def own(x, before):
    rows = _chosen(flat(x), places, ways)
    return jnp.where(here, jnp.take_along_axis(rows, inside, 2), before)

  length = _chosen(flat(state.length), places, ways)[:, :, None]
  mask = jnp.where(here, slots < length, found.mask)
  return found.replace(
    targets=jnp.where(mask, own(state.targets, found.targets), 0),
    logprobs=jnp.where(mask, own(state.logprobs, found.logprobs), 0.0),
    mask=mask,
  )


def _chosen(x, places, ways):
  """Rows of x [M ...] at places [U ...], both divided over `ways` alike."""
  # No -1: a trunk of one-token prompts has no elements.
  split = lambda y: y.reshape(ways, len(y) // ways, *y.shape[1:])
  found = jax.vmap(lambda x, i: x[i])(split(x), split(places))
  return found.reshape(len(places), *found.shape[2:])
