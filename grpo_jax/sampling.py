"""Grouped sampling: one prefill a prompt, jitted decode of all Q x G branches.

The decode loop runs in growing capacities (chunk, 2 chunk, 4 chunk, ...): a
`while_loop` per capacity that ends early when every branch is done, so cost
follows the longest completion and not the limit. Between them the host only
looks at one flag.

Noise is one uniform number per (seed, step, prompt, sample, position), turned
into a token by inverse CDF (`drawing`): it does not depend on the mesh, on the
batch or on the order of work.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int
import numpy as np

from grpo_jax import drawing, layout
from grpo_jax.logprobs import policy_logits
from grpo_jax.models import cache
from grpo_jax.structs import (
  Array,
  Decoding,
  Prompts,
  PyTree,
  Rollout,
  Trunk,
)


@dataclasses.dataclass(frozen=True)
class Programs:
  """What the loop is made of, compiled.

  Attributes:
    prefill: (params, prompts) -> Trunk.
    start: (prompts, key, first) -> (Decoding, row keys [Q G]).
    decode: (params, trunk, decoding, row keys) -> (decoding, finished).
    grow: (decoding, capacity) -> decoding.
    finish: (decoding, prompts) -> Rollout.
  """

  prefill: Callable
  start: Callable
  decode: Callable
  grow: Callable
  finish: Callable


def sample(
  run: Programs,
  params: PyTree,
  prompts: Prompts,
  key: Array,
  *,
  max_length: int,
  chunk: int,
  first: int = 0,
  put: Callable[[np.int32], Array] = jax.device_put,
) -> Rollout:
  """Samples a group per prompt.

  Args:
    run: the programs.
    params: the published policy.
    prompts: Q prompts.
    key: of the step.
    max_length: C, the most tokens a completion may have.
    chunk: first capacity.
    first: number of the first prompt, in the keys of the noise.
    put: a number to where the programs want it.

  Returns:
    Rollout with C = the last capacity reached.
  """
  trunk = run.prefill(params, prompts)
  state, keys = run.start(prompts, key, put(np.int32(first)))
  for capacity in layout.capacities(max_length, chunk):
    if capacity > state.targets.shape[2]:
      state = run.grow(state, capacity)
    state, finished = run.decode(params, trunk, state, keys)
    if jax.device_get(finished):
      break
  return run.finish(state, prompts)


def start_decoding(
  last: Int[Array, 'Q'],
  *,
  group_size: int,
  capacity: int,
  cache_shape: tuple[int, int, int],
  dtype,
) -> Decoding:
  """Empty branches.

  Args:
    last: each prompt's last token.
    group_size: G.
    capacity: S.
    cache_shape: (layers, kv heads, head size).
    dtype: of the cache; see `models.cache`.
  """
  layers, kv_heads, head_dim = cache_shape
  rows = (last.shape[0], group_size)
  return Decoding(
    t=jnp.zeros((), jnp.int32),
    token=jnp.broadcast_to(last[:, None], rows),
    done=jnp.zeros(rows, bool),
    targets=jnp.zeros((*rows, capacity), jnp.int32),
    logprobs=jnp.zeros((*rows, capacity), jnp.float32),
    length=jnp.zeros(rows, jnp.int32),
    cache=[
      cache.empty((*rows, kv_heads), capacity, head_dim, dtype)
      for _ in range(layers)
    ],
  )


def row_keys(key: Array, rows: tuple[int, int], first: Array | int) -> Array:
  """A key per (prompt, sample) of a step, prompts counted from `first`."""
  prompts, samples = (jnp.arange(n) for n in rows)
  prompts = prompts + first
  fold = jax.random.fold_in
  return jax.vmap(lambda q: jax.vmap(lambda g: fold(fold(key, q), g))(samples))(
    prompts
  )


def decode(
  params: PyTree,
  trunk: Trunk,
  state: Decoding,
  keys: Array,
  until: Int[Array, ''] | None = None,
  *,
  step: Callable,
  turns: Callable,
  head: Callable,
  stop_ids: tuple[int, ...],
  vocab_size: int,
  temperature: float,
  top_k: int,
  top_p: float,
  min_p: float,
) -> tuple[Decoding, Bool[Array, '']]:
  """Decodes until the capacity is full or every branch has stopped.

  Args:
    params, trunk, state: of the policy, the prompts and the loop so far.
    keys: from `row_keys`.
    until: pause before this slot; None for the capacity alone.
    step: (params, tokens [Q G], t, turns of t, trunk, cache, start) -> hidden
      [Q G D], cache.
    turns: (trunk, t, start, (Q, G)) -> what `step` needs of slot t beside.
    head: params -> [V D].
    stop_ids: every id that ends a completion.
    vocab_size: ids from here on are padding and never sampled.
    temperature, top_k, top_p, min_p: see `drawing.choose`.

  Returns:
    The state, and whether all branches are done.
  """
  capacity = state.targets.shape[2]
  end = capacity if until is None else jnp.minimum(until, capacity)
  stop = jnp.array(stop_ids, jnp.int32)

  def running(carried):
    state, _ = carried
    return (state.t < end) & ~state.done.all()

  def body(carried):
    state, turned = carried
    hidden, cache = step(
      params, state.token, state.t, turned, trunk, state.cache, state.start
    )
    # Greedy ignores the temperature, which must not divide by zero.
    scale = temperature if temperature > 0 else 1.0
    token, logprob = drawing.choose(
      policy_logits(hidden, head(params), scale, vocab_size),
      drawing.uniform(keys, state.length),
      greedy=temperature == 0,
      top_k=top_k,
      top_p=top_p,
      min_p=min_p,
    )
    state = _with_token(state, token, logprob, cache, stop)
    return state, turned_for(state)

  def turned_for(state):
    return turns(trunk, state.t, state.start, state.token.shape)

  state, _ = jax.lax.while_loop(running, body, (state, turned_for(state)))
  return state, state.done.all()


def _with_token(state, token, logprob, cache, stop):
  """The state a slot on; branches that were done before get zeros."""
  write = jax.lax.dynamic_update_index_in_dim
  alive = ~state.done
  token = jnp.where(alive, token, 0)
  logprob = jnp.where(alive, logprob, 0.0)
  ended = jnp.isin(token, stop)
  if state.limit is not None:
    ended |= state.length + 1 >= state.limit
  return state.replace(
    t=state.t + 1,
    token=token,
    done=state.done | ended & alive,
    targets=write(state.targets, token, state.t, 2),
    logprobs=write(state.logprobs, logprob, state.t, 2),
    length=state.length + alive,
    cache=cache,
  )


def grow_decoding(state: Decoding, capacity: int) -> Decoding:
  """The same state with room for `capacity` slots."""

  extra = capacity - state.targets.shape[2]

  def pad(x, axis):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, extra)
    return jnp.pad(x, widths)

  return state.replace(
    targets=pad(state.targets, 2),
    logprobs=pad(state.logprobs, 2),
    cache=[cache.along_slots(pad, kv) for kv in state.cache],
  )


def finish_decoding(state: Decoding, prompts: Prompts) -> Rollout:
  """Branches from what was decoded."""
  slots = jnp.arange(state.targets.shape[2])
  return Rollout(
    inputs=inputs(prompts, state.targets),
    targets=state.targets,
    mask=slots < state.length[:, :, None],
    logprobs=state.logprobs,
  )


def inputs(
  prompts: Prompts, targets: Int[Array, 'Q G C']
) -> Int[Array, 'Q G C']:
  """What each target followed: the prompt's last token, then the branch's."""
  shape = (*targets.shape[:2], 1)
  first = jnp.broadcast_to(prompts.last[:, None, None], shape)
  return jnp.concatenate([first, targets[:, :, :-1]], -1)
