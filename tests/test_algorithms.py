"""Algorithms as a user switches them on, and what they refuse together."""

import json

import jax
import numpy as np
import pytest
import tiny

from configs import base
from grpo_jax import checkpoint_items, validation_rl

# Every switch that changes the loop, in combinations that fit.
RUNS = {
  'filters': [
    "--config.algorithm.importance={'name':'truncated'}",
    '--config.algorithm.old_logprobs=trainer',
    '--config.algorithm.entropy_share=0.5',
    '--config.algorithm.entropy_coef=0.01',
    '--config.algorithm.reference_every=4',
    '--config.filters.drop_zero_variance',
    '--config.filters.mask_truncated',
    '--config.filters.rounds=3',
    '--config.filters.signal=coin',
    '--config.filters.retire_above=0.4',
    "--config.updates.offload=('reference','moments')",
  ],
  'critic': [
    "--config.algorithm.advantages={'name':'gae','lam':0.95}",
    "--config.algorithm.kl={'name':'k1'}",
    '--config.algorithm.kl_in=reward',
    '--config.algorithm.reference_every=4',
    '--config.critic.warmup_steps=2',
    '--config.critic.minibatches=4',
    "--config.updates.offload=('reference','moments')",
    '--config.optimizer.moments_dtype=bfloat16',
  ],
  'shared': [
    "--config.algorithm.advantages={'name':'gae'}",
    '--config.critic.shared',
    '--config.algorithm.reference_every=2',
    "--config.updates.offload=('moments',)",
  ],
  'teacher': [
    '--config.algorithm.teacher_traces=1',
    '--config.sample.cache_dtype=int8',
    '--config.sample.decoding=kernel',
  ],
}


@pytest.fixture(scope='module', params=RUNS)
def run(request, tmp_path_factory):
  """A finished run of six steps, and one that was stopped at four."""
  folder = tmp_path_factory.mktemp(request.param)
  flags = ['--config.eval.every=0', *RUNS[request.param]]
  for name, steps in (('whole', [6]), ('halves', [4, 6])):
    for count in steps:
      done = tiny.job(
        'train', f'--workdir={folder / name}', f'--config.steps={count}', *flags
      )
      assert done.code == 0, done.err
  return request.param, folder


def final(workdir):
  path = checkpoint_items.folder(workdir) / '6'
  return checkpoint_items.read(path, {'params': None, 'rest': None})


def test_a_run_that_was_stopped_ends_with_the_same_bits(run):
  _, folder = run
  assert tiny.rows(folder / 'halves') == tiny.rows(folder / 'whole')
  (found, extra), (wanted, same) = (
    final(folder / 'halves'),
    final(folder / 'whole'),
  )
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(x, y)
  assert extra['retired'] == same['retired']


def test_a_run_does_what_its_switches_say(run):
  name, folder = run
  rows = tiny.rows(folder / 'whole')
  items, extra = final(folder / 'whole')
  reference, params = items['rest']['ref_params'], items['params']
  same = jax.tree.map(np.array_equal, reference, params)
  if name == 'filters':
    retired = [row['filters/retired'] for row in rows]
    assert retired == sorted(retired) and len(extra['retired']) == retired[-1]
    assert 0 < retired[-1] <= 96
    assert {row['filters/rounds'] for row in rows} & {2.0, 3.0}
    # Two updates a rollout: reset after steps 2 and 4, not after 6's.
    assert rows[2]['kl'] < rows[1]['kl']
  if name == 'critic':
    assert 'policy_loss' not in rows[1] and 'policy_loss' in rows[2]
    assert rows[2]['logprob_gap/mean'] < 1e-4
    assert int(items['rest']['step']) == 8
    assert int(items['rest']['critic']['step']) == 24
    values = [row['value/explained_variance'] for row in rows]
    assert len(set(values)) == 6
    # Updates 4 and 8: after step 4 and after the last.
    assert all(jax.tree.leaves(same))
  if name == 'shared':
    assert all('value_loss' in row and 'policy_loss' in row for row in rows)
    assert not any(k.startswith('critic/') for row in rows for k in row)
    assert np.abs(items['rest']['critic']['value_head']).max() > 0
    assert all(jax.tree.leaves(same))
  if name == 'teacher':
    lines = (folder / 'whole' / 'samples.jsonl').read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    # The fourth of each group is the task's own answer, and right.
    assert all(s['rewards']['correct'] == 1 for s in samples[3::4])
    assert not any(s['rewards']['correct'] for s in samples[:16:4])
    assert rows[0]['reward/correct'] == 0


def test_a_run_needs_no_reward_of_a_certain_name(tmp_path):
  # As the control of the quickstart.
  done = tiny.job(
    'train', f'--workdir={tmp_path}', '--config.steps=1',
    "--config.rewards={'coin':{'name':'random','weight':1.0}}",
  )  # fmt: skip
  assert done.code == 0, done.err
  assert any('reward/coin' in row for row in tiny.rows(tmp_path))


@pytest.mark.parametrize(
  'flag, saying',
  [
    (
      "advantages={'name':'group','std':'row'}",
      "std='row' is not one of group",
    ),
    ("advantages={'name':'gae','lam':1.5}", 'gae: lam=1.5 must be in [0, 1]'),
  ],
)
def test_an_argument_that_makes_no_sense_fails_at_the_start(
  flag, saying, tmp_path
):
  done = tiny.job(
    'train', f'--workdir={tmp_path}', f'--config.algorithm.{flag}'
  )
  assert done.code == 2 and f'error: {saying}' in done.err
  assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.parametrize('run', ['shared'], indirect=True)
@pytest.mark.parametrize('job', ['evaluate', 'generate', 'export'])
def test_a_run_with_a_critic_is_a_policy_to_other_jobs(job, run, tmp_path):
  _, folder = run
  flags = {
    'evaluate': [f'--workdir={folder / "whole"}'],
    'generate': [f'--init_from={folder / "whole"}', f'--out={tmp_path}/a'],
    'export': [f'--init_from={folder / "whole"}', f'--out={tmp_path}/b'],
  }
  done = tiny.job(job, *flags[job])
  assert done.code == 0, done.err


def refused(**fields):
  c = base.get_config()
  with c.unlocked():
    c.update_from_flattened_dict({'steps': 10} | fields)
  with pytest.raises(ValueError) as caught:
    validation_rl.of_training(c, ways=tiny.ways())
  return str(caught.value)


A = 'algorithm.'


@pytest.mark.parametrize(
  'fields, saying',
  [
    ({A + 'kl_in': 'both'}, "algorithm.kl_in='both' is not one of loss, rew"),
    ({A + 'old_logprobs': 'me'}, "old_logprobs='me' is not one of sampler, tr"),
    ({A + 'teacher_traces': 2}, 'teacher_traces=2 is not one of 0, 1'),
    ({A + 'entropy_share': 0.0}, 'entropy_share=0.0 must be in (0, 1]'),
    ({A + 'importance.name': 'truncated'}, "set algorithm.old_logprobs='train"),
    (
      {A + 'loss': dict(name='reinforce'), 'updates.minibatches': 2},
      'reinforce has no ratio, and with 2 updates a rollout the samples are',
    ),
    (
      {
        A + 'reference_every': 3, A + 'kl_coef': 0.1, 'updates.minibatches': 2,
      },
      'reference_every=3 must be a multiple of the 2 updates of a rollout',
    ),
    ({A + 'reference_every': 4}, 'a reference that algorithm.kl_coef=0 does'),
    (
      {A + 'kl_coef': 0.1, A + 'kl_in': 'reward', A + 'kl.name': 'k3_ratio'},
      'k3_ratio has no use for its ratio in the reward',
    ),
    ({'group_size': 1}, 'group_size=1 leaves nothing to compare a sample with'),
    (
      {'group_size': 2, A + 'teacher_traces': 1},
      'group_size=2 leaves nothing to compare a sample with; raise it to 3',
    ),
    (
      {'group_size': 1, A + 'advantages.name': 'gae', A + 'teacher_traces': 1},
      'group_size=1 leaves no sample beside algorithm.teacher_traces=1',
    ),
    (
      {
        'group_size': 1, A + 'advantages.name': 'reinforce_pp',
        'filters.drop_zero_variance': True,
      },
      'differ within a group; group_size=1 has none',
    ),
    (
      {A + 'advantages.name': 'gae', 'filters.rounds': 2},
      'the critic would never see the prompts that are always right or always',
    ),
    (
      {
        A + 'advantages.name': 'gae', 'critic.shared': True,
        A + 'weights.name': 'sequence_sum',
      },
      'algorithm.weights=sequence_sum would scale it by lengths',
    ),
    ({'filters.rounds': 0}, 'filters.rounds=0 must be at least 1'),
    ({'filters.retire_above': 1.5}, 'retire_above=1.5 must be in (0, 1]'),
    (
      {'filters.rounds': 2, 'filters.signal': 'right'},
      "filters.signal='right' is not one of correct, format",
    ),
    (
      {A + 'advantages.name': 'gae', 'critic.clip': 0.0},
      'critic.clip=0.0 must be above 0',
    ),
    (
      {A + 'advantages.name': 'gae', 'critic.warmup_steps': 10},
      'critic.warmup_steps=10 must be below steps=10',
    ),
    (
      {
        A + 'advantages.name': 'gae', 'critic.shared': True,
        'critic.epochs': 2,
      },
      'critic.shared=True learns with the policy: set',
    ),
    (
      {A + 'advantages.name': 'gae', 'critic.minibatches': 3},
      'prompts_per_step=16 does not divide over 3 critic.minibatches',
    ),
  ],
)  # fmt: skip
def test_what_contradicts_is_refused_with_the_reason(fields, saying):
  assert saying in refused(**fields)
