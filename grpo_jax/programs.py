"""Every compiled program of a job: what is jitted, donated and sharded.

The one place where the model, the tokenizer's ids, the config's numbers and
the mesh meet. Programs compile on first use, once per shape.
"""

from collections.abc import Callable
import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import optax

from grpo_jax import advantages as advantages_lib
from grpo_jax import config, logprobs, losses, objectives, sampling, sharding
from grpo_jax import optimizer as optimizer_lib
from grpo_jax import update as update_lib
from grpo_jax.models import params as params_lib
from grpo_jax.models import transformer
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, Prompts, PyTree, Rollout, TrainState

# What tells a loss from a KL estimator in `losses`: their arguments.
LOSS = ('logprobs', 'old_logprobs', 'advantages', 'mask')
KL = ('x', 'log_ratio')


def stream(seed: int, name: str, step: int) -> Array:
  """The key of a step, apart for each use of randomness."""
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  return jax.random.fold_in(key, step)


def publish(policy: Policy) -> Callable[[PyTree], PyTree]:
  """params -> the sampler's: its sharding, layers unstacked and in its dtype.

  Embedding, final norm and head stay fp32, as the trainer's are: rounded, they
  would give other logits than the trainer's.
  """
  stacked = sharding.param_shardings(
    policy.declared, policy.mesh, policy.rules['sample']
  )

  def without_layers(s):
    return NamedSharding(s.mesh, PartitionSpec(*s.spec[1:]))

  one_layer = jax.tree.map(without_layers, stacked['layers'])
  out = stacked | {'layers': [one_layer] * policy.model.num_layers}

  def cast(params):
    params = transformer.unstack(params)
    layers = jax.tree.map(lambda x: x.astype(policy.dtype), params['layers'])
    return params | {'layers': layers}

  return jax.jit(cast, out_shardings=out)


def sampler(
  policy: Policy,
  *,
  group_size: int,
  max_completion_length: int,
  chunk: int,
  temperature: float,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
) -> Callable[[PyTree, Prompts, Array], Rollout]:
  """(published params, prompts, key) -> Rollout of `group_size` samples."""
  model, dtype = policy.model, policy.dtype
  rows = sharding.rows(policy.mesh, policy.rules['sample'])
  whole = sharding.replicated(policy.mesh)

  def start(prompts, key, first):
    state = sampling.start_decoding(
      prompts.last,
      group_size=group_size,
      capacity=min(chunk, max_completion_length),
      cache_shape=(model.num_layers, model.num_kv_heads, model.head_dim),
      dtype=dtype,
    )
    return state, sampling.row_keys(key, state.token.shape, first)

  def grow(state, capacity):
    return sampling.grow_decoding(state, capacity)

  state_sharding = sampling.Decoding(
    t=whole, token=rows, done=rows, targets=rows, logprobs=rows, length=rows,
    cache=rows,
  )  # fmt: skip
  decode = functools.partial(
    sampling.decode,
    step=functools.partial(transformer.step, model, dtype=dtype),
    head=transformer.head,
    stop_ids=policy.stop_ids,
    vocab_size=policy.tokenizer.vocab_size,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    min_p=min_p,
  )
  return functools.partial(
    sampling.sample,
    jax.jit(functools.partial(transformer.prefill, model, dtype=dtype)),
    jax.jit(start, out_shardings=(state_sharding, rows)),
    jax.jit(decode, donate_argnums=2, out_shardings=(state_sharding, whole)),
    # The cache changes size, so its old buffers cannot be reused.
    jax.jit(grow, static_argnums=1, out_shardings=state_sharding),
    jax.jit(sampling.finish_decoding, out_shardings=rows),
    max_length=max_completion_length,
    chunk=chunk,
  )


def score(
  policy: Policy, *, temperature: float, remat: str, logits_chunk: int
) -> Callable[[PyTree, Batch], tuple[Array, Array]]:
  """(params, batch) -> logprobs, entropy [Q G C]; not jitted.

  Raises:
    ValueError: no such `remat`.
  """
  if remat not in transformer.REMAT:
    raise ValueError(
      f'updates.remat={remat!r} is not one of {", ".join(transformer.REMAT)}'
    )
  model, dtype = policy.model, policy.dtype

  def fn(params, batch):
    prompts = Prompts(
      trunk=batch.trunk, trunk_mask=batch.trunk_mask, last=batch.inputs[:, 0, 0]
    )
    trunk = transformer.prefill(
      model, params, prompts, dtype=dtype, remat=remat
    )
    hidden = transformer.branches(
      model, params, batch.inputs, trunk, dtype=dtype, remat=remat
    )
    return logprobs.token_logprobs(
      hidden,
      transformer.head(params),
      batch.targets,
      temperature=temperature,
      vocab_size=policy.tokenizer.vocab_size,
      chunk=logits_chunk,
    )

  return fn


def reference_logprobs(policy: Policy, cfg) -> Callable[[PyTree, Batch], Array]:
  """(reference params, batch) -> logprobs [Q G C], by microbatches."""
  scoring = score_of(policy, cfg)
  parts = cfg.updates.microbatches * cfg.updates.minibatches

  def fn(params, batch):
    split = functools.partial(update_lib.split_rows, parts=parts)
    out = jax.lax.map(
      lambda part: scoring(params, part)[0], jax.tree.map(split, batch)
    )
    return jnp.swapaxes(out, 0, 1).reshape(batch.targets.shape)

  return jax.jit(
    fn, out_shardings=sharding.rows(policy.mesh, policy.rules['train'])
  )


def score_of(policy: Policy, cfg) -> Callable:
  """`score` with a training config's numbers."""
  return score(
    policy,
    temperature=cfg.sample.temperature,
    remat=cfg.updates.remat,
    logits_chunk=cfg.updates.logits_chunk,
  )


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Programs that make and change a TrainState."""

  abstract: TrainState  # ShapeDtypeStructs with shardings: a restore target
  init: Callable[[PyTree], TrainState]
  update: Callable[[TrainState, Batch], tuple[TrainState, dict]]
  learning_rate: optax.Schedule


def trainer(
  policy: Policy,
  cfg,
  *,
  objective: Callable,
  weigh: Callable,
  scoring: Callable,
  updates: int,
  reference: bool,
) -> Trainer:
  """Programs for an objective (see `objectives`).

  Args:
    policy: what is trained.
    cfg: reads cfg.optimizer and cfg.updates.
    objective, weigh, scoring: as `update.update` takes them.
    updates: optimizer updates in the whole run, for the schedule.
    reference: keep a copy of the first parameters as reference.
  """
  tx = optimizer_lib.adamw(**cfg.optimizer, total_steps=updates)
  rates = {
    k: cfg.optimizer[k]
    for k in ('learning_rate', 'schedule', 'warmup_steps', 'final_fraction')
  }
  shardings = policy.shardings('train')
  shapes = params_lib.abstract(policy.declared)
  whole = sharding.replicated(policy.mesh)
  state_shardings = TrainState(
    step=whole,
    params=shardings,
    opt_state=sharding.opt_state_shardings(tx, shapes, shardings, policy.mesh),
    ref_params=shardings if reference else None,
  )
  init = functools.partial(update_lib.init_state, tx=tx, reference=reference)
  abstract = jax.tree.map(
    lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh),
    jax.eval_shape(init, shapes),
    state_shardings,
  )
  update = functools.partial(
    update_lib.update,
    score=scoring,
    objective=objective,
    weigh=weigh,
    tx=tx,
    microbatches=cfg.updates.microbatches,
  )
  return Trainer(
    abstract=abstract,
    init=jax.jit(init, out_shardings=state_shardings),
    update=jax.jit(
      update, donate_argnums=0, out_shardings=(state_shardings, whole)
    ),
    learning_rate=optimizer_lib.learning_rates(**rates, total_steps=updates),
  )


def policy_trainer(policy: Policy, cfg) -> Trainer:
  """The trainer of a GRPO run."""
  algorithm = cfg.algorithm
  objective = functools.partial(
    objectives.policy,
    loss=config.pick(losses, algorithm.loss, takes=LOSS),
    kl=config.pick(losses, algorithm.kl, takes=KL),
    kl_coef=algorithm.kl_coef,
  )
  return trainer(
    policy,
    cfg,
    objective=objective,
    weigh=config.pick(losses, algorithm.weights, takes=('mask',)),
    scoring=score_of(policy, cfg),
    updates=cfg.steps * cfg.updates.epochs * cfg.updates.minibatches,
    reference=algorithm.kl_coef > 0,
  )


def advantages(policy: Policy, cfg) -> Callable[[Array], Array]:
  """rewards [Q G] -> advantages [Q G]."""
  fn = config.pick(advantages_lib, cfg.algorithm.advantages, takes=('rewards',))
  rows = sharding.rows(policy.mesh, policy.rules['train'])
  return jax.jit(fn, out_shardings=rows)


def minibatch(policy: Policy) -> Callable[[Batch, Array], Batch]:
  """(batch, indices [q]) -> those prompts' rows of the batch."""
  rows = sharding.rows(policy.mesh, policy.rules['train'])
  return jax.jit(
    lambda batch, index: jax.tree.map(lambda x: x[index], batch),
    out_shardings=rows,
  )
