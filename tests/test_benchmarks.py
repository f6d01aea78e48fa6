"""Benchmarks run and their numbers add up; what they measure is in LOG.md."""

import json

import tiny

from benchmarks import learner_memory


def memory(capsys, **fields):
  c = tiny.get_config()
  c.prompts_per_step = 16  # over two minibatches and eight devices
  with c.unlocked():
    c.update_from_flattened_dict(fields)
  learner_memory.run(c, None)
  return json.loads(capsys.readouterr().out.splitlines()[-1])


GAE = {'algorithm.advantages': dict(name='gae')}


def test_a_critic_of_its_own_doubles_parameters_and_moments(capsys):
  grpo = memory(capsys)
  ppo = memory(capsys, **GAE)
  head = 4 * 32  # fp32, one weight a hidden unit
  assert ppo['critic parameters'] == grpo['parameters'] + head
  assert ppo['critic moments'] == grpo['moments'] + 2 * head
  assert ppo['peak of learning'] > grpo['peak of learning']
  # AdamW: two moments a parameter, and two counters.
  assert grpo['moments'] == 2 * grpo['parameters'] + 8
  assert grpo['temporaries of update'] > grpo['parameters']


def test_a_shared_body_costs_no_second_model(capsys):
  shared = memory(capsys, **GAE, **{'critic.shared': True})
  assert 'critic parameters' not in shared
  assert shared['reference'] == shared['parameters']
