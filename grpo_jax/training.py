"""Compiled programs of training: logprobs again, credit, updates.

Stages 6 to 8 of a step, bound to a config and a policy. See `programs.py`.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from grpo_jax import (
  advantages,
  config,
  credit,
  importance,
  layout,
  losses,
  objectives,
  optimizer,
  programs,
  sharding,
  update,
)  # fmt: skip
from grpo_jax.models import params as params_lib
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, PyTree, TrainState

# What tells a loss from a KL estimator in `losses`: their arguments.
LOSS = ('logprobs', 'old_logprobs', 'advantages', 'mask')
KL = ('x', 'log_ratio')


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Programs that make and change a TrainState."""

  abstract: TrainState  # ShapeDtypeStructs with shardings: a restore target
  init: Callable[[PyTree], TrainState]
  update: Callable[[TrainState, Batch], tuple[TrainState, dict]]
  # The reference becomes a copy of the policy.
  reset_reference: Callable[[TrainState], TrainState]
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
  tx = optimizer.adamw(**cfg.optimizer, total_steps=updates)
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
  init = functools.partial(update.init_state, tx=tx, reference=reference)
  abstract = jax.tree.map(
    lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh),
    jax.eval_shape(init, shapes),
    state_shardings,
  )
  one_update = functools.partial(
    update.update,
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
      one_update, donate_argnums=0, out_shardings=(state_shardings, whole)
    ),
    reset_reference=jax.jit(
      update.reset_reference,
      donate_argnums=0,
      out_shardings=state_shardings,
    ),
    learning_rate=optimizer.learning_rates(**rates, total_steps=updates),
  )


def policy_trainer(policy: Policy, cfg) -> Trainer:
  """The trainer of a GRPO run."""
  algorithm = cfg.algorithm
  in_loss = algorithm.kl_in == 'loss'
  objective = functools.partial(
    objectives.policy,
    loss=config.pick(losses, algorithm.loss, takes=LOSS),
    kl=config.pick(losses, algorithm.kl, takes=KL),
    kl_coef=algorithm.kl_coef if in_loss else 0.0,
    entropy_coef=algorithm.entropy_coef,
    teacher_gamma=algorithm.teacher_gamma,
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


def assign_credit(
  policy: Policy, cfg
) -> Callable[[Batch, Array, Array], Batch]:
  """(batch, rewards [Q G], finished [Q G]) -> the batch to learn from."""
  a, filters = cfg.algorithm, cfg.filters
  given = config.pick(importance, a.importance, takes=('log_ratio', 'mask'))
  fn = functools.partial(
    credit.assign,
    advantages=config.pick(advantages, a.advantages, takes=('rewards',)),
    penalty=(
      config.pick(losses, a.kl, takes=KL)
      if a.kl_in == 'reward' and a.kl_coef > 0
      else None
    ),
    kl_coef=a.kl_coef,
    importance=given if a.importance.name != 'none' else None,
    entropy_share=a.entropy_share,
    drop_zero_variance=filters.drop_zero_variance,
    mask_truncated=filters.mask_truncated,
  )
  rows = sharding.rows(policy.mesh, policy.rules['train'])
  return jax.jit(fn, out_shardings=rows)


def join(policy: Policy) -> Callable[[list[Batch], Array], Batch]:
  """(batches, indices [q]) -> those rows of the batches, one after another."""

  def fn(batches, index):
    together = layout.concatenate(batches)
    return jax.tree.map(lambda x: x[index], together)

  rows = sharding.rows(policy.mesh, policy.rules['train'])
  return jax.jit(fn, out_shardings=rows)


def append(policy: Policy) -> Callable[[Batch, Batch], Batch]:
  """`layout.append`, compiled."""
  rows = sharding.rows(policy.mesh, policy.rules['train'])
  return jax.jit(layout.append, out_shardings=rows)


def minibatch(policy: Policy) -> Callable[[Batch, Array], Batch]:
  """(batch, indices [q]) -> those prompts' rows of the batch."""
  rows = sharding.rows(policy.mesh, policy.rules['train'])
  return jax.jit(
    lambda batch, index: jax.tree.map(lambda x: x[index], batch),
    out_shardings=rows,
  )


def rescore(
  policy: Policy, cfg, *, entropy: bool = False
) -> Callable[[PyTree, Batch], tuple[Array, ...]]:
  """(params, batch) -> (logprobs [Q G C],) or with entropy, by microbatches."""
  scoring = score_of(policy, cfg)
  parts = cfg.updates.microbatches * cfg.updates.minibatches

  def fn(params, batch):
    split = functools.partial(update.split_rows, parts=parts)
    outs = jax.lax.map(
      lambda part: scoring(params, part)[: 1 + entropy],
      jax.tree.map(split, batch),
    )
    return tuple(
      jnp.swapaxes(x, 0, 1).reshape(batch.targets.shape) for x in outs
    )

  return jax.jit(
    fn, out_shardings=sharding.rows(policy.mesh, policy.rules['train'])
  )


def scores(policy: Policy, cfg) -> Callable[[TrainState, Batch], Batch]:
  """Stage 6: (state, batch) -> the batch with every logprob it needs."""
  a = cfg.algorithm
  ranked = a.entropy_share < 1
  proximal = a.old_logprobs == 'trainer'
  again = rescore(policy, cfg, entropy=ranked)
  reference = rescore(policy, cfg)

  def fn(state, batch):
    if a.kl_coef > 0:
      (logprobs,) = reference(state.ref_params, batch)
      batch = batch.replace(ref_logprobs=logprobs)
    if ranked or proximal:
      logprobs, *entropy = again(state.params, batch)
      batch = batch.replace(entropy=entropy[0] if ranked else None)
      if proximal:
        batch = batch.replace(
          sampler_logprobs=batch.old_logprobs, old_logprobs=logprobs
        )
    return batch

  return fn


def score_of(policy: Policy, cfg) -> Callable:
  """`score` with a training config's numbers."""
  return programs.score(
    policy,
    temperature=cfg.sample.temperature,
    remat=cfg.updates.remat,
    logits_chunk=cfg.updates.logits_chunk,
  )
