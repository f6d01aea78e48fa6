"""The compiled sampler: a policy, a mesh and numbers bound to its programs."""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from grpo_jax import continuous, programs, sampling, seating_replay, sharding
from grpo_jax import seats as seats_lib
from grpo_jax.models import decode_step, transformer
from grpo_jax.policy import Policy
from grpo_jax.structs import (
  Array,
  Decoding,
  KV,
  Prompts,
  PyTree,
  Rollout,
  Trunk,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sampler:
  """(published params, prompts, key) -> Rollout, and what it is made of.

  Attributes:
    draw: `sampling.sample`, or `continuous.sample` bound to its seats.
    programs: what `draw` runs.
    max_length: C, the most tokens a completion may have.
    chunk: slots of the first decode program; with seats, tokens between plans.
    put: what they take of the host to where they want it: a number, with seats
      arrays of rows.
  """

  draw: Callable[..., Rollout]
  programs: sampling.Programs | continuous.Programs
  max_length: int
  chunk: int
  put: Callable

  def __call__(
    self, params: PyTree, prompts: Prompts, key: Array, **more
  ) -> Rollout:
    """Samples a group per prompt; more: other arguments of `draw`."""
    own = dict(max_length=self.max_length, chunk=self.chunk, put=self.put)
    return self.draw(self.programs, params, prompts, key, **own | more)


def sampler(
  policy: Policy,
  *,
  group_size: int,
  max_completion_length: int,
  chunk: int,
  seats: int = 0,
  temperature: float,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
) -> Sampler:
  """That gives `group_size` samples of a prompt.

  Args:
    policy: what is sampled from.
    group_size: G.
    max_completion_length: tokens.
    chunk: slots of the first decode program, each next one doubles; with
      `seats`, tokens between plans.
    seats: branches decoded at a time, see `continuous`; 0: all of them to the
      end of the longest.
    temperature, top_k, top_p, min_p: see `drawing.choose`.

  Raises:
    ValueError: seats are wanted, and do not divide over the devices or samples
      lie over an axis of their own.
  """
  programs_of = _Bound(
    policy,
    choice=dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
  )
  common = dict(max_length=max_completion_length, chunk=chunk)
  if seats:
    return programs_of.continuous(group_size=group_size, seats=seats, **common)
  return programs_of.together(group_size=group_size, **common)


def decoded(policy: Policy, cfg) -> Callable[..., int]:
  """(lengths [Q G], max_length=...) -> tokens decoded for them in training."""
  return functools.partial(
    seating_replay.decoded,
    seats=cfg.sample.seats,
    ways=policy.rows('sample').ways[0],
    chunk=cfg.sample.chunk,
  )


class _Bound:
  """Programs of a policy."""

  def __init__(self, policy, *, choice):
    self.policy = policy
    self.rows = policy.rows('sample')
    self.whole = sharding.replicated(policy.mesh)
    self.put_whole = functools.partial(sharding.put, sharding=self.whole)
    model = policy.model
    self.cache = dict(
      cache_shape=(model.num_layers, model.num_kv_heads, model.head_dim),
      dtype=policy.cache_dtype,
    )
    self.step = functools.partial(
      sampling.decode,
      step=functools.partial(
        decode_step.step,
        model,
        attend=programs.decoding_attention(policy),
        dtype=policy.dtype,
      ),
      turns=functools.partial(decode_step.turns, model),
      head=transformer.head,
      stop_ids=policy.stop_ids,
      vocab_size=policy.tokenizer.vocab_size,
      **choice,
    )

  def together(self, *, group_size, max_length, chunk):
    """Branches that begin together."""

    def start(prompts, key, first):
      prompts = self.rows.constrain(prompts)
      state = sampling.start_decoding(
        prompts.last,
        group_size=group_size,
        capacity=min(chunk, max_length),
        **self.cache,
      )
      keys = sampling.row_keys(key, state.token.shape, first)
      return self._placed(state), self.rows.constrain(keys)

    def grow(state, capacity):
      return self._placed(sampling.grow_decoding(state, capacity))

    def decode(params, trunk, state, keys, until=None):
      state, finished = self.step(params, trunk, state, keys, until)
      return self._placed(state), self._everywhere(finished)

    def finish(state, prompts):
      return self.rows.constrain(sampling.finish_decoding(state, prompts))

    run = sampling.Programs(
      prefill=jax.jit(self._prefill),
      start=jax.jit(start),
      decode=jax.jit(decode, donate_argnums=2),
      grow=ByLayer(grow),
      finish=jax.jit(finish),
    )
    return Sampler(sampling.sample, run, max_length, chunk, self.put_whole)

  def continuous(self, *, group_size, seats, max_length, chunk):
    """Branches that take the seats of others."""
    ways, samples, _ = self.rows.ways
    if samples > 1:
      raise ValueError(
        f'sample.seats={seats} wants all samples of a prompt on one device; '
        f'rules.sample.samples splits them over {samples}: set it to None'
      )
    if seats % ways:
      raise ValueError(
        f'{seats} seats do not divide over {ways} devices; set sample.seats to '
        f'a multiple of {ways}'
      )
    rows = self.rows.constrain

    def begin(prompts, key, first, limits, max_length):
      keys = sampling.row_keys(key, limits.shape, first)
      return rows(seats_lib.begin(prompts, keys, limits, max_length=max_length))

    def trunks(trunk, prompts):
      trunk = seats_lib.trunks(trunk, prompts, ways=ways)
      return jax.lax.with_sharding_constraint(
        trunk, trunk_shardings(self.policy)
      )

    def empty(count, width, capacity):
      state = sampling.start_decoding(
        jnp.zeros(count, jnp.int32),
        group_size=width,
        capacity=capacity,
        **self.cache,
      )
      nobody = jnp.zeros_like(state.length)
      done = jnp.ones_like(state.done)
      return self._placed(state.replace(done=done, start=nobody, limit=nobody))

    def move(state, capacity, sources, oldest):
      return self._placed(
        seats_lib.move(state, sources, oldest, capacity=capacity, ways=ways)
      )

    def sit(state, known, prompts, samples, fresh):
      state, keys = seats_lib.sit(
        state, known, prompts, samples, fresh, ways=ways
      )
      return self._placed(state), rows(keys)

    def decode(params, trunk, state, keys, until):
      state, _ = self.step(params, trunk, state, keys, until)
      return self._placed(state), self._everywhere((state.done, state.t))

    def collect(found, state, seats):
      return rows(seats_lib.collect(found, state, seats, ways=ways))

    def finish(found, prompts):
      inputs = sampling.inputs(prompts, found.targets)
      return rows(found.replace(inputs=inputs))

    run = continuous.Programs(
      prefill=jax.jit(self._prefill),
      begin=jax.jit(begin, static_argnums=4),
      trunks=jax.jit(trunks),
      empty=jax.jit(empty, static_argnums=(0, 1, 2)),
      move=ByLayer(move),
      sit=jax.jit(sit, donate_argnums=0),
      decode=jax.jit(decode, donate_argnums=2),
      collect=jax.jit(collect, donate_argnums=0),
      finish=jax.jit(finish),
    )
    draw = functools.partial(
      continuous.sample,
      group_size=group_size,
      seats=seats,
      ways=ways,
      put_whole=self.put_whole,
    )
    return Sampler(draw, run, max_length, chunk, self.rows.put)

  def _prefill(self, params, prompts):
    # They arrive as training wants them.
    prompts = self.rows.constrain(prompts)
    trunk = transformer.prefill(
      self.policy.model,
      params,
      prompts,
      dtype=self.policy.dtype,
      attend=programs.attention(self.policy, 'sample'),
    )
    return jax.lax.with_sharding_constraint(trunk, trunk_shardings(self.policy))

  def _placed(self, state):
    """Where it is wanted."""
    where = decoding_shardings(self.policy, state)
    return jax.lax.with_sharding_constraint(state, where)

  def _everywhere(self, tree):
    where = jax.tree.map(lambda _: self.whole, tree)
    return jax.lax.with_sharding_constraint(tree, where)


class ByLayer:
  """A change of a decoding state whose caches get another size.

  Their old buffers cannot hold the new ones, and both of all layers may be more
  than a device has: so each layer's is changed alone, and its old one given up.
  """

  def __init__(self, change: Callable[..., Decoding]):
    """Of (decoding, capacity, ...) -> decoding, for any number of layers."""
    self.rest = jax.jit(change, static_argnums=1)
    self.layer = jax.jit(
      lambda state, *args: change(state, *args).cache, static_argnums=1
    )

  def __call__(self, state: Decoding, capacity: int, *args) -> Decoding:
    caches = []
    for old in state.cache:
      caches += self.layer(state.replace(cache=[old]), capacity, *args)
      jax.block_until_ready(caches[-1])
      for x in jax.tree.leaves(old):
        x.delete()
    rest = self.rest(state.replace(cache=[]), capacity, *args)
    return rest.replace(cache=caches)


def trunk_shardings(policy: Policy) -> Trunk:
  """Where a sampler's trunk lies: keys and values [L Q K P H] by heads."""
  rules = policy.rules['sample']
  kv, row = (
    NamedSharding(policy.mesh, sharding.spec(axes, rules))
    for axes in ((None, 'prompts', 'kv_heads'), ('prompts',))
  )
  return Trunk(kv=KV(k=kv, v=kv), mask=row, length=row)


def decoding_shardings(policy: Policy, state: Decoding) -> Decoding:
  """Where the state of a decode loop lies, its caches by their heads too."""
  sizes = zip(
    ('prompts', 'samples', 'kv_heads'),
    (*state.token.shape, policy.model.num_kv_heads),
    strict=True,
  )
  axes = tuple(axis for axis, size in sizes if size > 1)
  cache = NamedSharding(
    policy.mesh, sharding.spec(axes, policy.rules['sample'])
  )
  return dataclasses.replace(
    policy.rows('sample').of(state),
    t=sharding.replicated(policy.mesh),
    cache=jax.tree.map(lambda _: cache, state.cache),
  )
