"""The programs of a step's sampling, and how often a step runs each."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import (
  layout,
  programs,
  samplers,
  seating_replay,
  sharding,
  training,
)
from grpo_jax.models import decode_kernel
from grpo_jax.policy import Policy
from grpo_jax.sharding import placed
from grpo_jax.structs import Prompts
from launch.program import bytes_of, Program

_TOKEN = 'decode a token'


def of_config(
  cfg, pol: Policy, params, beside: int, lengths: tuple[int, int]
) -> Iterator[Program]:
  """From the state's parameters to completions.

  Args:
    cfg, pol: of the job.
    params: of the state.
    beside: bytes of the whole state, of reward models, and of a teacher.
    lengths: mean and longest completion.
  """
  params = placed(params, pol.shardings('train'))
  publish = programs.publish(pol)
  yield Program('publish', publish, (params,), 1, beside - bytes_of(params))
  published, rows = published_of(pol, params), pol.rows('sample')
  q, width = cfg.prompts_per_step, training.trunk_width(cfg)
  prompts = Prompts(
    trunk=jax.ShapeDtypeStruct((q, width), jnp.int32),
    trunk_mask=jax.ShapeDtypeStruct((q, width), jnp.bool_),
    last=jax.ShapeDtypeStruct((q,), jnp.int32),
  )
  prompts = placed(prompts, pol.rows('train').of(prompts))
  key = jax.eval_shape(lambda: programs.stream(0, 'rollout', 0))
  asked = (pol, published, prompts, key)
  if cfg.sample.seats:
    found = _seated(cfg, *asked, _plans(cfg, rows.ways[0], lengths))
  else:
    found = _together(cfg, *asked)
  for name, fn, args, times, others in found:
    caches = unread = 0
    if name == _TOKEN:
      caches = bytes_of(args[2].cache)
      # An embedding that is not the head's too.
      unread = bytes_of(published['embed']) if 'head' in published else 0
    beside_it = beside + bytes_of(others)
    yield Program(name, fn, args, times, beside_it, caches, unread)


def published_of(pol: Policy, params):
  """The sampler's weights, which stay until the rollout has its logprobs."""
  shapes = jax.eval_shape(programs.publish(pol), params)
  return placed(shapes, programs.published_shardings(pol))


def schedule(
  cfg, pol: Policy, lengths: tuple[int, int]
) -> list[tuple[float, int]]:
  """What decoding reads of its caches as time goes on.

  Args:
    cfg, pol: of the job.
    lengths: mean and longest completion.

  Returns:
    For each run of decode's program the share of the largest caches that a
    token reads, and the number of tokens.
  """
  s, (_, longest) = cfg.sample, lengths
  if s.seats:
    plans = _plans(cfg, pol.rows('sample').ways[0], lengths)
    most = max(_slots(plan) for plan, _ in plans)
    return [(_slots(plan) / most, tokens) for plan, tokens in plans]
  limit, found, done = s.max_completion_length, [], 0
  for capacity in layout.capacities(limit, s.chunk):
    tokens = min(capacity, longest) - done
    if tokens <= 0:
      break
    read = capacity
    if s.decoding == 'kernel':
      # The blocks that are filled, of which the last one is half, on average.
      block = decode_kernel.block_size(capacity)
      read = min(capacity, done + (tokens + block) / 2)
    found.append((read / limit, tokens))
    done += tokens
  return found


# Of both kinds of decoding: (name, function, arguments, times, what else is on
# the devices).


def _together(cfg, pol, published, prompts, key):
  """Of branches that begin together, at their last capacity."""
  limit = cfg.sample.max_completion_length
  *smaller, last = layout.capacities(limit, cfg.sample.chunk)
  run = _sampler(cfg, pol, last)
  yield 'prefill', run.prefill, (published, prompts), 1, ()
  trunk = _trunk(pol, run.prefill, published, prompts)
  state, keys = jax.eval_shape(run.start, prompts, key, 0)
  state = _placed(pol, state)
  keys = placed(keys, pol.rows('sample').of(keys))
  yield _TOKEN, run.decode, (published, trunk, state, keys), 0, ()
  if smaller:
    start = _sampler(cfg, pol, smaller[-1]).start
    before = _placed(pol, jax.eval_shape(start, prompts, key, 0)[0])
    # The last layer's, when all others are as large as they will be.
    others = (published, trunk, keys, state.cache[1:])
    fn = _to(run.grow.layer, last)
    args = (before.replace(cache=before.cache[:1]),)
    times = len(smaller) * len(before.cache)
    yield 'grow a layer', fn, args, times, others


def _seated(cfg, pol, published, prompts, key, plans):
  """Of branches that take the seats of others, for the largest of the plans."""
  limit, rows = cfg.sample.max_completion_length, pol.rows('sample')
  run = _sampler(cfg, pol, limit)
  yield 'prefill', run.prefill, (published, prompts), 1, ()
  trunk = _trunk(pol, run.prefill, published, prompts)
  each = _integers(rows, prompts.last.shape[0], _branches(cfg))
  begun = run.begin.eval_shape(prompts, key, 0, each, limit)
  known, found = placed(begun, rows.of(begun))
  widest = max((plan for plan, _ in plans), key=_slots)
  ways, count, width = widest.samples.shape
  named = _integers(rows, ways * count)
  seats = _integers(rows, ways * count, width)
  state = _placed(
    pol, run.empty.eval_shape(ways * count, width, widest.capacity)
  )
  own = run.trunks.eval_shape(trunk, named)
  own = placed(own, samplers.trunk_shardings(pol))
  keys = run.sit.eval_shape(state, known, named, seats, seats)[1]
  keys = placed(keys, rows.of(keys))
  slot = placed(
    jax.ShapeDtypeStruct((), jnp.int32), sharding.replicated(pol.mesh)
  )
  # The rows' trunks before are there until the new ones are.
  others = (published, own, known, found, state)
  changes = _changes([plan.prompts for plan, _ in plans])
  yield 'trunks of rows', run.trunks, (trunk, named), changes, others
  args = (published, own, state, keys, slot)
  yield _TOKEN, run.decode, args, 0, (trunk, known, found)
  moves = sum(plan.moved for plan, _ in plans) - 1
  if moves:
    fn = _to(run.move.layer, widest.capacity)
    args = (state.replace(cache=state.cache[:1]), seats, slot)
    others = (published, trunk, own, known, found, state.cache[1:])
    times = moves * len(state.cache)
    yield 'move a layer', fn, args, times, others
  others = (published, trunk, own, known)
  yield 'collect', run.collect, (found, state, each), len(plans), others


def _sampler(cfg, pol, capacity):
  """Of the sampler whose branches have so many slots from the start."""
  s = cfg.sample
  return samplers.sampler(
    pol,
    group_size=_branches(cfg),
    max_completion_length=capacity,
    chunk=s.chunk if s.seats else capacity,
    seats=s.seats,
    temperature=s.temperature,
  ).programs


def _to(layer, capacity):
  """The change of a layer's cache to this capacity, of arrays alone."""
  return jax.jit(lambda state, *args: layer(state, capacity, *args))


def _branches(cfg):
  """Samples of a prompt that are drawn."""
  return cfg.group_size - cfg.algorithm.teacher_traces


def _trunk(pol, prefill, published, prompts):
  trunk = jax.eval_shape(prefill, published, prompts)
  return placed(trunk, samplers.trunk_shardings(pol))


def _placed(pol, state):
  return placed(state, samplers.decoding_shardings(pol, state))


def _integers(rows, *shape):
  numbers = jax.ShapeDtypeStruct(shape, jnp.int32)
  return placed(numbers, rows.of(numbers))


def _plans(cfg, ways, lengths):
  """Of log-normal lengths of this mean, the longest as long as said."""
  mean, longest = lengths
  shape = (cfg.prompts_per_step, _branches(cfg))
  drawn = seating_replay.lognormal(shape, mean=mean, longest=longest)
  return list(
    seating_replay.replay(
      drawn,
      seats=cfg.sample.seats,
      max_length=cfg.sample.max_completion_length,
      ways=ways,
      chunk=cfg.sample.chunk,
    )
  )


def _changes(values):
  """How often the next one differs, and the first."""
  pairs = zip(values, values[1:], strict=False)
  return 1 + sum(not np.array_equal(a, b) for a, b in pairs)


def _slots(plan):
  """Of all seats' caches."""
  return plan.samples.size * plan.capacity
