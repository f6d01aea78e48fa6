"""Compiled programs of training: logprobs again, credit, updates.

Stages 6 to 8 of a step, bound to a config and a policy. See `programs.py`.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp

from grpo_jax import (
  advantages,
  bucketed,
  config,
  credit,
  importance,
  layout,
  losses,
  objectives,
  offload,
  programs,
  sharding,
  update,
)  # fmt: skip
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, PyTree, TrainState
from grpo_jax.trainer import Trainer, trainer

# What tells a loss from a KL estimator in `losses`: their arguments.
LOSS = ('logprobs', 'old_logprobs', 'advantages', 'mask')
KL = ('x', 'log_ratio')
# Of a group, and of a critic.
ADVANTAGES = {('rewards',), ('rewards', 'values', 'mask')}


def policy_objective(cfg) -> Callable:
  """What a policy minimises: see `objectives.policy`."""
  a = cfg.algorithm
  return functools.partial(
    objectives.policy,
    loss=config.pick(losses, a.loss, takes=LOSS),
    kl=config.pick(losses, a.kl, takes=KL),
    kl_coef=a.kl_coef if a.kl_in == 'loss' else 0.0,
    entropy_coef=a.entropy_coef,
    teacher_gamma=a.teacher_gamma,
    off_policy_limit=a.off_policy_limit,
  )


def policy_updates(cfg) -> int:
  """Optimizer updates of the policy in the whole run."""
  rollouts = cfg.steps - critic_warmup(cfg)
  return rollouts * cfg.updates.epochs * cfg.updates.minibatches


def policy_trainer(policy: Policy, cfg, **changed) -> Trainer:
  """The trainer of a policy; `changed` are arguments of `trainer`."""
  given = dict(
    objective=policy_objective(cfg),
    weigh=config.pick(losses, cfg.algorithm.weights, takes=('mask',)),
    scoring=functools.partial(logprobs_of, cfg=cfg),
    updates=policy_updates(cfg),
    reference=cfg.algorithm.kl_coef > 0 and not cfg.algorithm.reference_from,
  )
  return trainer(policy, cfg, **given | changed)


def sft_trainer(policy: Policy, cfg) -> Trainer:
  """The trainer of supervised fine-tuning: token-mean cross entropy."""
  return trainer(
    policy,
    cfg,
    objective=objectives.supervised,
    weigh=losses.token_mean,
    # Temperature 1: the likelihood itself.
    scoring=functools.partial(
      programs.token_logprobs,
      temperature=1.0,
      remat=cfg.updates.remat,
      logits_chunk=cfg.updates.logits_chunk,
    ),
    updates=cfg.steps,
  )


def critic_warmup(cfg) -> int:
  """First rollouts that the policy does not learn from."""
  return cfg.critic.warmup_steps if config.critic_wanted(cfg) else 0


def assign_credit(policy: Policy, cfg) -> Callable[..., tuple[Batch, dict]]:
  """What `credit.assign` takes -> the batch to learn from, and scalars."""
  a, filters = cfg.algorithm, cfg.filters
  in_reward = a.kl_in == 'reward' and a.kl_coef > 0
  penalty = config.pick(losses, a.kl, takes=KL) if in_reward else None
  estimate = credit.by_critic if config.critic_wanted(cfg) else credit.by_group
  given = config.pick(importance, a.importance, takes=('log_ratio', 'mask'))
  fn = functools.partial(
    credit.assign,
    estimate=functools.partial(
      estimate,
      advantages=config.pick(advantages, a.advantages, takes=ADVANTAGES),
      penalty=penalty,
      kl_coef=a.kl_coef,
    ),
    importance=given if a.importance.name != 'none' else None,
    entropy_share=a.entropy_share,
    mask_truncated=filters.mask_truncated,
  )
  rows, whole = policy.rows('train'), sharding.replicated(policy.mesh)

  def assign(*given):
    batch, scalars = fn(*given)
    return rows.constrain(batch), jax.lax.with_sharding_constraint(
      scalars, jax.tree.map(lambda _: whole, scalars)
    )

  return jax.jit(assign)


def trunk_width(cfg) -> int:
  """P of the longest prompt that a config allows."""
  longest = cfg.sample.max_prompt_length - 1
  return layout.round_up(longest, cfg.sample.trunk_multiple)


def abstract_batch(cfg, *, minibatches: int, slots: int = 0) -> Batch:
  """Shapes of the largest minibatch that a config can make.

  Args:
    cfg: of the job.
    minibatches: of a step.
    slots: C, if not those of a completion at its limit.
  """
  q = cfg.prompts_per_step // minibatches
  trunk = trunk_width(cfg)
  limit = cfg.sample.max_completion_length
  shape = (q, cfg.group_size, slots if slots else limit)
  tokens, flags, numbers = (
    jax.ShapeDtypeStruct(shape, dtype)
    for dtype in (jnp.int32, jnp.bool_, jnp.float32)
  )
  critic = config.critic_wanted(cfg)
  return Batch(
    trunk=jax.ShapeDtypeStruct((q, trunk), jnp.int32),
    trunk_mask=jax.ShapeDtypeStruct((q, trunk), jnp.bool_),
    inputs=tokens,
    targets=tokens,
    mask=flags,
    advantages=(
      numbers if critic else jax.ShapeDtypeStruct(shape[:2], jnp.float32)
    ),
    old_logprobs=numbers,
    ref_logprobs=numbers if cfg.algorithm.kl_coef > 0 else None,
    values=numbers if critic else None,
    returns=numbers if critic else None,
  )


def trace_credit(assign: Callable, cfg) -> None:
  """Traces stage 7 on shapes; raises what its functions say of arguments."""
  batch = abstract_batch(cfg, minibatches=1)
  q, g, _ = batch.mask.shape
  jax.eval_shape(
    assign,
    batch.replace(
      entropy=batch.old_logprobs, sampler_logprobs=batch.old_logprobs
    ),
    jax.ShapeDtypeStruct((q, g), jnp.float32),
    jax.ShapeDtypeStruct((q, g), jnp.bool_),
    jax.ShapeDtypeStruct((q,), jnp.bool_),
  )


def join(policy: Policy) -> Callable[[list[Batch], Array], Batch]:
  """(batches, indices [q]) -> those rows of the batches, one after another."""

  def fn(batches, index):
    together = layout.concatenate(batches)
    return rows.constrain(jax.tree.map(lambda x: x[index], together))

  rows = policy.rows('train')
  return jax.jit(fn)


def append(policy: Policy) -> Callable[[Batch, Batch], Batch]:
  """`layout.append`, compiled; each completion stays whole, to be read next."""
  rows = policy.rows('train')
  rows = dataclasses.replace(rows, rules=rows.rules | {'positions': None})
  return jax.jit(lambda *batches: rows.constrain(layout.append(*batches)))


def by_parts(
  policy: Policy, cfg, scoring: Callable, *, outputs: int = 1
) -> Callable[[PyTree, Batch], tuple[Array, ...]]:
  """(params, batch) -> first outputs [Q G C] of a score, by microbatches.

  Those are buckets of lengths where the config asks for them.
  """
  rows, parts = policy.rows('train'), _whole_parts(cfg)

  @jax.jit
  def plain(params, batch):
    # Completions arrive as the sampler left them.
    batch = rows.constrain(batch)
    outs = jax.lax.map(
      lambda part: scoring(params, part)[:outputs],
      update.split(batch, parts=parts),
    )
    return tuple(rows.constrain(update.unsplit(x, parts=parts)) for x in outs)

  if not cfg.updates.length_buckets:
    return plain
  plan = bucketed.plans(policy, cfg, parts=parts)
  return bucketed.by_buckets(
    policy, scoring, outputs=outputs, plan=plan, plain=plain
  )


def _whole_parts(cfg):
  """What a whole rollout is split into, where its minibatches are not yet."""
  u = cfg.updates
  return u.microbatches * u.minibatches, u.group_microbatches


def add_logprobs(
  policy: Policy, cfg, *, reference: Callable[[Batch], Array] | None = None
) -> Callable[[TrainState, Batch], Batch]:
  """Stage 6: (state, batch) -> the batch with every logprob it needs.

  Args:
    policy, cfg: of the run.
    reference: batch -> logprobs [Q G C] of a model of its own; None for the
      state's reference.
  """
  a = cfg.algorithm
  ranked = a.entropy_share < 1
  proximal = a.old_logprobs == 'trainer'
  scoring = logprobs_of(policy, cfg)
  first = again = by_parts(policy, cfg, scoring)
  if ranked:
    again = by_parts(policy, cfg, scoring, outputs=2)

  def of_state(state, batch):
    away = {'reference'} & set(cfg.updates.offload)
    return first(offload.bring(state, away).ref_params, batch)[0]

  def fn(state, batch):
    if a.kl_coef > 0:
      own = reference is None
      logprobs = of_state(state, batch) if own else reference(batch)
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


def logprobs_of(policy: Policy, cfg) -> Callable:
  """`programs.token_logprobs` with a training config's numbers."""
  return programs.token_logprobs(
    policy, remat=cfg.updates.remat, **head_numbers(cfg)
  )


def head_numbers(cfg) -> dict:
  """Arguments of `programs.head_logprobs`."""
  return dict(
    temperature=cfg.sample.temperature,
    logits_chunk=cfg.updates.logits_chunk,
    entropy_gradient=cfg.algorithm.entropy_coef != 0,
  )
