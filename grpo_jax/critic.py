"""PPO's value model: a scalar head on a body of its own, or on the policy's.

`learner` is what `train` updates: the policy, with a critic where the
advantages need one. Values are those before each token of a branch, so they
line up with its logprobs.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp

from grpo_jax import config, losses, objectives, programs, slots, training
from grpo_jax.models import params as params_lib
from grpo_jax.models.params import Param
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, PyTree, TrainState
from grpo_jax.trainer import Trainer, trainer


@dataclasses.dataclass(frozen=True)
class Learner:
  """The policy's trainer, and the critic's programs if there is one.

  With a body of its own the critic has updates of its own; with the policy's
  body (`critic` is None) it is part of the policy's.
  """

  policy: Trainer
  critic: Trainer | None = None
  values: Callable[[TrainState, Batch], Array] | None = None

  def update_critic(self, state: TrainState, batch: Batch, *lengths):
    """The critic's update of the whole state, where it has one."""
    found, metrics = self.critic.update(state.critic, batch, *lengths)
    return state.replace(critic=found), metrics


def learner(policy: Policy, cfg) -> Learner:
  """What a config trains."""
  if not config.critic_wanted(cfg):
    return Learner(training.policy_trainer(policy, cfg))
  return _shared(policy, cfg) if cfg.critic.shared else _apart(policy, cfg)


def declare(policy: Policy) -> Param:
  """The head: value = hidden state . head. At first all values are 0."""
  return Param((policy.model.embed_dim,), ('embed',), 'zeros')


def value(hidden: Array, head: Array) -> Array:
  """Values [Q G C] in fp32. The temperature has no part in them."""
  return jnp.einsum(
    'qgcd,d->qgc', hidden.astype(jnp.float32), head, precision='highest'
  )


def declare_apart(policy: Policy) -> PyTree:
  """Of a body and a head, as a critic of its own or a reward model has."""
  return {'body': policy.declared, 'value_head': declare(policy)}


def values_apart(
  policy: Policy, *, remat: str
) -> Callable[[PyTree, Batch], Array]:
  """(params of `declare_apart`, batch) -> values [Q G C]; not jitted."""
  hidden = programs.hidden_states(policy, remat=remat)

  def fn(params, batch):
    found = value(hidden(params['body'], batch), params['value_head'])
    return slots.unpack(found, batch.slots)

  return fn


def _apart(policy: Policy, cfg) -> Learner:
  """A critic that starts as a copy of the policy's body."""
  c = cfg.critic

  def scoring_of(policy):
    of = values_apart(policy, remat=cfg.updates.remat)
    return lambda params, batch: (of(params, batch),)

  critic = trainer(
    policy,
    cfg,
    objective=functools.partial(objectives.value, clip=c.clip),
    weigh=losses.token_mean,
    scoring=scoring_of,
    updates=cfg.steps * c.epochs * c.minibatches,
    declared=declare_apart(policy),
    learning_rate=c.learning_rate,
    microbatches=c.microbatches,
  )
  actor = training.policy_trainer(policy, cfg)
  values = training.by_parts(policy, cfg, scoring_of(policy))
  copy = jax.jit(functools.partial(jax.tree.map, jnp.copy))

  def init(params):
    # Before the policy's: that may alias what it is given.
    head = params_lib.init(declare(policy), None)
    fresh = {'body': copy(params), 'value_head': head}
    return actor.init(params).replace(critic=critic.init(fresh))

  def update_policy(state, batch, *lengths):
    found, metrics = actor.update(state.replace(critic=None), batch, *lengths)
    return found.replace(critic=state.critic), metrics

  def reset_reference(state):
    found = actor.reset_reference(state.replace(critic=None))
    return found.replace(critic=state.critic)

  return Learner(
    policy=dataclasses.replace(
      actor,
      abstract=actor.abstract.replace(critic=critic.abstract),
      init=init,
      update=update_policy,
      reset_reference=reset_reference,
    ),
    critic=critic,
    values=lambda state, batch: values(state.critic.params, batch)[0],
  )


def _shared(policy: Policy, cfg) -> Learner:
  """A head on the policy's own body, trained by one joint loss."""

  def scoring_of(policy):
    hidden = programs.hidden_states(policy, remat=cfg.updates.remat)
    scores = programs.head_logprobs(policy, **training.head_numbers(cfg))

    def scoring(params, batch):
      states = hidden(params['policy'], batch)
      found = scores(params['policy'], states, batch)
      values = value(states, params['value_head'])
      return *found, slots.unpack(values, batch.slots)

    return scoring

  scoring = scoring_of(policy)
  head = declare(policy)
  joint = training.policy_trainer(
    policy,
    cfg,
    objective=functools.partial(
      objectives.policy_and_value,
      policy_loss=training.policy_objective(cfg),
      value_loss=functools.partial(objectives.value, clip=cfg.critic.clip),
      value_coef=cfg.critic.coef,
    ),
    scoring=scoring_of,
    declared={'policy': policy.declared, 'value_head': head},
  )
  values = training.by_parts(
    policy, cfg, lambda params, batch: scoring(params, batch)[2:]
  )

  def init(params):
    fresh = {'policy': params, 'value_head': params_lib.init(head, None)}
    return _split(joint.init(fresh))

  def update(state, batch, *lengths):
    found, metrics = joint.update(_joined(state), batch, *lengths)
    return _split(found), metrics

  return Learner(
    policy=dataclasses.replace(
      joint,
      abstract=_split(joint.abstract),
      init=init,
      update=update,
      reset_reference=lambda state: _split(
        joint.reset_reference(_joined(state))
      ),
    ),
    values=lambda state, batch: values(_joined(state).params, batch)[0],
  )


def _split(state: TrainState) -> TrainState:
  """Joint parameters to a policy's, as checkpoints and samplers know them."""
  reference, heads = state.ref_params, state.params['value_head']
  critic = {'value_head': heads}
  if reference is not None:
    critic['ref_value_head'] = reference['value_head']
    reference = reference['policy']
  return state.replace(
    params=state.params['policy'], ref_params=reference, critic=critic
  )


def _joined(state: TrainState) -> TrainState:
  params = {'policy': state.params, 'value_head': state.critic['value_head']}
  reference = state.ref_params
  if reference is not None:
    reference = {
      'policy': reference,
      'value_head': state.critic['ref_value_head'],
    }
  return state.replace(params=params, ref_params=reference, critic=None)
