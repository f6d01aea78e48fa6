"""Bytes that learning takes, as compiled: GRPO's policy, PPO's two models.

  python -m benchmarks.learner_memory --config=configs/ppo.py:quickstart \\
    --init_from=runs/quickstart/base

Prints a table and, last, one line of JSON. Parameters and moments are the
state's; temporaries are the compiler's for one update, gradients among them.
"""

import json

import jax

from grpo_jax import cli, critic, policy, training, validation_rl


def run(cfg, _) -> None:
  """Compiles every update of the config's learner and prints its memory."""
  pol = policy.open_policy(cfg)
  learner = critic.learner(pol, cfg)
  state = learner.policy.abstract
  validation_rl.of_training(cfg, ways=pol.ways())
  batch = training.abstract_batch(cfg, minibatches=cfg.updates.minibatches)
  rows = {
    'parameters': _bytes(state.params),
    'moments': _bytes(state.opt_state),
    'reference': _bytes(state.ref_params),
  }
  if learner.critic is None:
    updates = {'update': (learner.policy.update, state, batch)}
  else:
    rows['critic parameters'] = _bytes(state.critic.params)
    rows['critic moments'] = _bytes(state.critic.opt_state)
    actor = training.policy_trainer(pol, cfg)
    of_critic = training.abstract_batch(cfg, minibatches=cfg.critic.minibatches)
    updates = {
      'update': (actor.update, state.replace(critic=None), batch),
      'critic update': (learner.critic.update, state.critic, of_critic),
    }
  rows['gradients (among temporaries)'] = _bytes(state.params)
  for name, (update, *given) in updates.items():
    lowered = jax.jit(update, donate_argnums=0).lower(*given)
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


def _bytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


if __name__ == '__main__':
  cli.main(run)
