"""Bytes that learning takes, as compiled: GRPO's policy, PPO's two models.

  python -m benchmarks.learner_memory --config=configs/ppo.py:quickstart \\
    --init_from=runs/quickstart/base

Prints a table and, last, one line of JSON. Parameters and moments are the
state's; temporaries are the compiler's for one update, gradients among them.
"""

import json

import jax
import jax.numpy as jnp

from grpo_jax import cli, critic, layout, policy, training
from grpo_jax.structs import Batch


def run(cfg, _) -> None:
  """Compiles every update of the config's learner and prints its memory."""
  pol = policy.open_policy(cfg)
  learner = critic.learner(pol, cfg)
  state = learner.policy.abstract
  batch = abstract_batch(cfg)
  rows = {
    'parameters': _bytes(state.params),
    'moments': _bytes(state.opt_state),
    'reference': _bytes(state.ref_params),
  }
  if learner.critic is None:
    updates = {'update': (learner.policy.update, state)}
  else:
    rows['critic parameters'] = _bytes(state.critic.params)
    rows['critic moments'] = _bytes(state.critic.opt_state)
    actor = training.policy_trainer(pol, cfg)
    updates = {
      'update': (actor.update, state.replace(critic=None)),
      'critic update': (learner.critic.update, state.critic),
    }
  rows['gradients (among temporaries)'] = _bytes(state.params)
  for name, (update, given) in updates.items():
    lowered = jax.jit(update, donate_argnums=0).lower(given, batch)
    memory = lowered.compile().memory_analysis()
    rows[f'temporaries of {name}'] = memory.temp_size_in_bytes
  temporaries = max(v for k, v in rows.items() if k.startswith('temporaries'))
  kept = sum(
    v for k, v in rows.items() if not k.startswith(('temp', 'gradients'))
  )
  rows['peak of learning'] = kept + temporaries
  for name, size in rows.items():
    print(f'{name:32s}{size / 2**20:10.1f} MB')
  print(json.dumps(rows))


def abstract_batch(cfg) -> Batch:
  """The largest minibatch that the config can make, as shapes."""
  q = cfg.prompts_per_step // cfg.updates.minibatches
  trunk = layout.round_up(
    cfg.sample.max_prompt_length - 1, cfg.sample.trunk_multiple
  )
  branch = min(
    layout.round_up(
      cfg.sample.max_completion_length, cfg.updates.length_multiple
    ),
    cfg.sample.max_completion_length,
  )

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)

  shape = (q, cfg.group_size, branch)
  per_token = array(shape, jnp.float32)
  with_critic = training.critic_wanted(cfg)
  return Batch(
    trunk=array((q, trunk), jnp.int32),
    trunk_mask=array((q, trunk), jnp.bool_),
    inputs=array(shape, jnp.int32),
    targets=array(shape, jnp.int32),
    mask=array(shape, jnp.bool_),
    advantages=per_token if with_critic else array(shape[:2], jnp.float32),
    old_logprobs=per_token,
    ref_logprobs=per_token if cfg.algorithm.kl_coef > 0 else None,
    values=per_token if with_critic else None,
    returns=per_token if with_critic else None,
  )


def _bytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


if __name__ == '__main__':
  cli.main(run)
