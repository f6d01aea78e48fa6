"""The programs that make and change a training state, for any objective.

`training` binds them to what a job minimises.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import optax

from grpo_jax import (
  bucketed,
  offload,
  optimizer,
  replicas,
  sharding,
  update,
)  # fmt: skip
from grpo_jax.models import params as params_lib
from grpo_jax.policy import Policy
from grpo_jax.structs import PyTree, TrainState


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Programs that make and change a TrainState."""

  abstract: TrainState  # ShapeDtypeStructs with shardings: a restore target
  init: Callable[[PyTree], TrainState]
  # (state, batch); with updates.length_buckets also the lengths [Q G], where
  # the caller has them on the host.
  update: Callable[..., tuple[TrainState, dict]]
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
  reference: bool = False,
  declared: PyTree | None = None,
  learning_rate: float | None = None,
  microbatches: int | None = None,
) -> Trainer:
  """Programs for an objective (see `objectives`).

  Args:
    policy: what is trained.
    cfg: reads cfg.optimizer and cfg.updates.
    objective, weigh: as `update.update` takes them.
    scoring: policy -> the `score` that it takes, on the rows of that policy.
    updates: optimizer updates in the whole run, for the schedule.
    reference: keep a copy of the first parameters as reference.
    declared: the parameters, as `Param` leaves; the policy's if None.
    learning_rate: in place of the optimizer's.
    microbatches: in place of those of cfg.updates.
  """
  numbers = cfg.optimizer.to_dict()
  if learning_rate is not None:
    numbers['learning_rate'] = learning_rate
  tx = optimizer.adamw(**numbers, total_steps=updates)
  rates = {
    k: numbers[k]
    for k in ('learning_rate', 'schedule', 'warmup_steps', 'final_fraction')
  }
  declared = policy.declared if declared is None else declared
  shapes = params_lib.abstract(declared)
  state_shardings = _shardings(policy, declared, tx, reference=reference)
  init = functools.partial(update.init_state, tx=tx, reference=reference)
  offloaded = cfg.updates.offload
  abstract = sharding.placed(jax.eval_shape(init, shapes), state_shardings)
  copies = replicas.of(declared, policy.mesh, policy.rules['train'])
  of_one = scoring(policy if copies is None else policy.replica())
  how = dict(objective=objective, weigh=weigh, tx=tx)
  parts = (
    cfg.updates.microbatches if microbatches is None else microbatches,
    cfg.updates.group_microbatches,
  )
  start = jax.jit(init, out_shardings=state_shardings)
  updated = state_shardings.replace(ref_params=None)
  program = jax.jit(
    functools.partial(
      update.update, score=of_one, **how, parts=parts, replicas=copies
    ),
    donate_argnums=0,
    out_shardings=(updated, sharding.replicated(policy.mesh)),
  )
  if cfg.updates.length_buckets:
    program = bucketed.updater(
      policy,
      score=scoring(policy),
      **how,
      plan=bucketed.plans(policy, cfg, parts=parts),
      plain=program,
      shardings=updated,
    )

  def apart(state, batch, *lengths):
    """The reference waits where it is."""
    found, metrics = program(state.replace(ref_params=None), batch, *lengths)
    return found.replace(ref_params=state.ref_params), metrics

  return Trainer(
    abstract=offload.rest(abstract, offloaded),
    init=lambda params: offload.rest(start(params), offloaded),
    update=apart,
    reset_reference=jax.jit(
      update.reset_reference,
      donate_argnums=0,
      out_shardings=state_shardings,
    ),
    learning_rate=jax.jit(
      optimizer.learning_rates(**rates, total_steps=updates)
    ),
  )


def _shardings(policy, declared, tx, *, reference) -> TrainState:
  """Where a state lies: moments and reference where their parameters do."""
  params = sharding.param_shardings(
    declared, policy.mesh, policy.rules['train']
  )
  shapes = params_lib.abstract(declared)
  return TrainState(
    step=sharding.replicated(policy.mesh),
    params=params,
    opt_state=sharding.opt_state_shardings(tx, shapes, params, policy.mesh),
    ref_params=params if reference else None,
  )
