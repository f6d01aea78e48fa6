"""Continuous decoding: a finished branch leaves its seat to a waiting one.

As `sampling.py`, for completions of very different lengths: there a batch of
branches is decoded to the end of the longest, here `seating.py` says after
every chunk of tokens who sits where. Branches then begin at different slots of
the cache, whose next slot is the same for all: one write a token, and the older
ones reach further back. Tokens are those of `sampling.py`, as noise and
positions are a branch's own, and logprobs differ in rounding.
"""

from collections.abc import Callable
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import seating
from grpo_jax.models import cache
from grpo_jax.structs import (
  Array,
  Decoding,
  Prompts,
  PyTree,
  Rollout,
  Trunk,
)


@struct.dataclass
class Known:
  """What those who wait bring to their seats."""

  last: Array  # [Q] int32, the prompts' last tokens
  keys: Array  # [Q G] of the noise
  limits: Array  # [Q G] int32, tokens of a completion


@dataclasses.dataclass(frozen=True)
class Programs:
  """What the loop is made of, compiled.

  Attributes:
    prefill: (params, prompts) -> Trunk.
    begin: (prompts, key, first, limits, max_length) -> (Known, empty Rollout).
    trunks: (trunk, prompts [R]) -> the rows' Trunk.
    empty: (rows, width, capacity) -> Decoding.
    move: (decoding, capacity, sources [R W], oldest) -> Decoding.
    sit: (decoding, known, prompts [R], samples, fresh [R W]) -> (Decoding, keys
      [R W]).
    decode: (params, trunk, decoding, keys, until) -> (decoding, what the host
      is to know: done [R W] and the slot reached).
    collect: (rollout, decoding, seats [Q G]) -> rollout with the completions
      of those seats.
    finish: (rollout, prompts) -> rollout.
  """

  prefill: Callable
  begin: Callable
  trunks: Callable
  empty: Callable
  move: Callable
  sit: Callable
  decode: Callable
  collect: Callable
  finish: Callable


def sample(
  run: Programs,
  params: PyTree,
  prompts: Prompts,
  key: Array,
  *,
  group_size: int,
  seats: int,
  ways: int,
  max_length: int,
  chunk: int,
  put: Callable[[PyTree], PyTree],
  put_whole: Callable[[np.generic], Array],
  first: int = 0,
  limits: np.ndarray | None = None,
) -> Rollout:
  """Samples a group per prompt.

  Args:
    run: the programs.
    params: the published policy.
    prompts: Q prompts.
    key: of the step.
    group_size: G.
    seats: branches decoded at a time, at most.
    ways: devices that prompts are divided over.
    max_length: C, the most tokens a completion may have.
    chunk: tokens between plans.
    put: host arrays of rows to the devices.
    put_whole: a number to all of them.
    first: number of the first prompt, in the keys of the noise.
    limits: [Q G] int32 tokens of each completion, below `max_length`; None for
      `max_length`.

  Returns:
    Rollout of C = max_length.
  """
  count = prompts.last.shape[0]
  if limits is None:
    limits = np.full((count, group_size), max_length, np.int32)
  plans = seating.Seating(
    prompts=count,
    group_size=group_size,
    seats=seats,
    ways=ways,
    chunk=chunk,
    max_length=max_length,
  )
  trunk = run.prefill(params, prompts)
  known, found = run.begin(
    prompts, key, put_whole(np.int32(first)), put(limits), max_length
  )
  state = rows = asked = finished = None
  while (plan := plans.next(finished)) is not None:
    named = put(_rows(plan.prompts))
    if asked is None or not np.array_equal(asked, plan.prompts):
      rows, asked = run.trunks(trunk, named), plan.prompts
    if state is None:
      state = run.empty(*_rows(plan.samples).shape, plan.capacity)
    elif plan.moved:
      oldest = put_whole(np.int32(plan.oldest))
      state = run.move(state, plan.capacity, put(_rows(plan.sources)), oldest)
    fresh = plan.taken & (plan.sources < 0)
    state, keys = run.sit(
      state, known, named, put(_rows(plan.samples)), put(_rows(fresh))
    )
    until = min(plans.slot + chunk, plan.capacity)
    state, told = run.decode(
      params, rows, state, keys, put_whole(np.int32(until))
    )
    done, slot = jax.device_get(told)
    plans.reached(int(slot))
    finished = done.reshape(plan.samples.shape)
    ended = _seats(plan.samples, finished, count // ways * group_size)
    if (ended >= 0).any():
      found = run.collect(found, state, put(ended.reshape(limits.shape)))
  return run.finish(found, prompts)


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
  """The trunk of each row [R], of prompts counted within its way."""
  kv = jax.tree.map(
    lambda x: jnp.moveaxis(_chosen(jnp.moveaxis(x, 1, 0), prompts, ways), 0, 1),
    trunk.kv,
  )
  mask, length = (_chosen(x, prompts, ways) for x in (trunk.mask, trunk.length))
  return Trunk(kv=kv, mask=mask, length=length)


def empty(
  rows: int,
  width: int,
  capacity: int,
  *,
  cache_shape: tuple[int, int, int],
  dtype,
) -> Decoding:
  """Seats where nobody sits; see `sampling.start_decoding`."""
  layers, kv_heads, head_dim = cache_shape
  shape = (rows, width)
  zeros = jnp.zeros(shape, jnp.int32)
  return Decoding(
    t=jnp.zeros((), jnp.int32),
    token=zeros,
    done=jnp.ones(shape, bool),
    targets=jnp.zeros((*shape, capacity), jnp.int32),
    logprobs=jnp.zeros((*shape, capacity), jnp.float32),
    length=zeros,
    cache=[
      cache.empty((*shape, kv_heads), capacity, head_dim, dtype)
      for _ in range(layers)
    ],
    start=zeros,
    limit=zeros,
  )


def move(
  state: Decoding, sources: Array, oldest: Array, *, capacity: int, ways: int
) -> Decoding:
  """Everybody on other seats, with what they have so far and no slot before.

  Args:
    state: of [R W] seats before.
    sources: [R W] those seats, counted within a way; -1 for none.
    oldest: tokens of the oldest completion: the next slot.
    capacity: of the new caches.
    ways: devices that rows are divided over.
  """
  first = state.t - oldest  # the first slot that anybody needs
  places = jnp.maximum(sources, 0)
  rows = state.token.shape

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
    whole = cache.spread(kv, (*rows, -1))
    return cache.compact(cache.along_slots(cut, whole))

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
    state: of [R W] seats.
    known: of all who have ever waited.
    prompts: [R] of each row, counted within its way.
    samples: [R W] completions, as in `seating.Plan`.
    fresh: [R W] who begins.
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
    state: of [R W] seats.
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
  """Rows of x [M ...] at places [R ...], both divided over `ways` alike."""
  split = lambda y: y.reshape(ways, -1, *y.shape[1:])
  found = jax.vmap(lambda x, i: x[i])(split(x), split(places))
  return found.reshape(-1, *found.shape[2:])


def _rows(x):
  """[X R ...] -> [XR ...]."""
  return x.reshape(-1, *x.shape[2:]).astype(np.int32)


def _seats(samples, finished, count):
  """[X count] the seat of each completion that has ended, or -1."""
  ways = len(samples)
  places = np.full((ways, count), -1, np.int32)
  for x in range(ways):
    ended = np.flatnonzero((samples[x] >= 0) & finished[x])
    places[x, samples[x].reshape(-1)[ended]] = ended
  return places
