"""Algorithms by name: each config is whole, and runs."""

import importlib
import math

import pytest
import tiny

from configs import smollm2_reasoning
from grpo_jax import tasks, validation_rl

NAMES = ('r1', 'modern', 'dapo', 'dr_grpo', 'gspo', 'rloo', 'ppo')


def preset(name, experiment=''):
  return importlib.import_module(f'configs.{name}').get_config(experiment)


@pytest.mark.parametrize('name', NAMES)
def test_a_preset_has_numbers_that_fit(name):
  validation_rl.of_training(preset(name), ways=tiny.ways())


@pytest.mark.parametrize('name', NAMES)
def test_a_preset_says_where_it_comes_from_and_where_it_departs(name):
  text = importlib.import_module(f'configs.{name}').__doc__
  assert f'configs/{name}.py:quickstart' in text
  assert any(c.isdigit() for c in text)  # an arXiv number, an equation


@pytest.mark.parametrize('name', NAMES)
def test_a_preset_changes_only_the_algorithm_of_an_experiment(name):
  c, plain = preset(name, 'tests.tiny'), tiny.get_config()
  for field in ('prompts_per_step', 'group_size', 'steps', 'sample', 'task'):
    assert str(c[field]) == str(plain[field]), field
  assert str(c.optimizer) == str(plain.optimizer)
  # No fewer parts, so no more memory.
  parts = [x.updates.minibatches * x.updates.microbatches for x in (c, plain)]
  assert parts[0] >= parts[1]


@pytest.mark.parametrize('name', NAMES)
def test_a_preset_trains(name, tmp_path):
  done = tiny.job(
    'train', f'--config=configs/{name}.py:tests.tiny', f'--workdir={tmp_path}',
    '--config.steps=2', '--config.prompts_per_step=16',
    '--config.eval.every=0', '--config.critic.warmup_steps=1',
    '--config.filters.signal=coin',
  )  # fmt: skip
  assert done.code == 0, done.err
  row = tiny.rows(tmp_path)[-1]
  assert row['step'] == 2 and row['nonfinite'] == 0
  assert 0 < row['grad_norm'] < math.inf


def test_lengths_follow_the_configured_limit():
  for name, found in (
    ('dr_grpo', lambda c: c.algorithm.weights.length),
    ('dapo', lambda c: c.rewards.overlong.max_length),
  ):
    c = preset(name, 'tests.tiny')
    c.sample.max_completion_length = 77
    assert found(c) == 77
  assert c.rewards.overlong.cache == 15


@pytest.mark.parametrize('name', NAMES)
def test_a_preset_fits_small_experiments_with_arguments_of_their_own(name):
  c = preset(name, 'smollm2_reasoning:gcd')
  assert c.task.dataset == 'gcd'
  validation_rl.of_training(c, ways=tiny.ways())


def test_an_unknown_experiment_is_named():
  with pytest.raises(ValueError, match="no experiment 'quickstartt'"):
    preset('dapo', 'quickstartt')


@pytest.mark.parametrize('task', smollm2_reasoning.TASKS)
def test_no_worked_example_of_a_prompt_is_a_held_out_question(task):
  c = smollm2_reasoning.get_config(task)
  splits = {tasks.split_of(q, test_share=c.task.test_share)
            for q, _ in c.prompt.shots}  # fmt: skip
  assert splits == {'train'}
