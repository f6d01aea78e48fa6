"""The whole R1 recipe on a toy world, for two CPU cores.

  python -m grpo_jax.recipe --config=configs/r1/tiny.py --workdir=runs/r1

From a base model to Zero, Dev1, Dev2, Dev3 and R1, and a student, each
evaluated. What each stage takes from the paper and what it does not disclose is
told by --list and in `tiny_stages.py`. `tiny.py:smoke` runs a few steps of each
stage: it shows that all of it runs, and its models know nothing.
"""

import dataclasses

from configs import recipe_parts
from launch.stages import Stage

STAGES = 'configs/r1/tiny_stages.py'
EVALUATIONS = {'eval': '', 'follow': 'instructions', 'wins': 'win_rate'}
TABLE = {
  'Base': 'base', 'Zero': 'zero', 'Dev1': 'dev1', 'Dev2': 'dev2',
  'Dev3': 'dev3', 'R1': 'r1', 'Student base': 'student_base',
  'Student': 'student',
}  # fmt: skip

# A policy of a few updates is never right, and of its answers only lengths
# differ.
SMOKE = {
  'sft': {'steps': 3, 'sft.epochs': 0, 'sft.batch_size': 8},
  'train': {
    'steps': 2, 'prompts_per_step': 16, 'sample.early_steps': 1,
  },
  'evaluate': {
    'eval.prompts': 2, 'eval.batch_prompts': 2, 'win_rate.prompts': 2,
    'win_rate.batch_prompts': 2,
  },
  'generate': {
    'keep.prompts': 8, 'keep.batch_prompts': 8, 'keep.right': '',
    'keep.min_reward': float('-inf'), 'keep.filters': (),
    'keep.rewrite': dict(name='none'),
  },
  'pairs': {
    'pairs.prompts': 8, 'pairs.batch_prompts': 8, 'pairs.longer_wins': 1.0,
  },
  'points': {'pairs.prompts': 8, 'pairs.batch_prompts': 8},
  'reward_model': {
    'steps': 2, 'reward_model.batch_size': 4, 'reward_model.test_share': 0.3,
  },
}  # fmt: skip
# The last stage has preference rewards in its second half here too.
SMOKE_R1 = {
  f'{place}.from_step': 1
  for place in (
    'task.parts.chat', 'task.parts.harm', 'rewards.helpful', 'rewards.safe',
  )
}  # fmt: skip


def get_stages(size: str = ''):
  if size not in ('', 'smoke'):
    raise ValueError(f'{size!r} is not smoke')
  stages = _stages()
  if not size:
    return stages
  return [
    dataclasses.replace(
      stage,
      overrides={
        **stage.overrides,
        **SMOKE[stage.job],
        **(SMOKE_R1 if stage.name == 'r1' else {}),
      },
    )
    for stage in stages
  ]


def _stages():
  return [
    *_and_measured(_stage('base', 'pretrain', job='sft')),
    *_and_measured(_stage('zero', 'zero', init='base')),
    _verified('cold', 'cold_start', init='zero'),
    *_and_measured(_sft('dev1', 'sft_cold', init='base', on='cold')),
    *_and_measured(_stage('dev2', 'reasoning', init='dev1')),
    _verified('textbook', 'rejection', init='dev2'),
    *_and_measured(_sft('dev3', 'sft_verified', init='base', on='textbook')),
    _stage('pairs', 'helpful_pairs', job='pairs', init='dev3'),
    _stage('points', 'safety_points', job='points', init='dev3'),
    _model('helpful', 'helpful_model', on='{pairs}/pairs.jsonl'),
    _model('safety', 'safety_model', on='{points}/points.jsonl'),
    *_and_measured(
      _stage(
        'r1',
        'all_scenarios',
        init='dev3',
        **{
          'rewards.helpful.path': '{helpful}',
          'rewards.safe.path': '{safety}',
        },
      )
    ),
    *_and_measured(_stage('student_base', 'student_base', job='sft')),
    *_and_measured(
      _sft('student', 'student', init='student_base', on='textbook')
    ),
  ]


def _stage(name, config, *, job='train', init='', **overrides):
  if init:
    overrides['init_from'] = f'{{{init}}}'
  return Stage(name, f'{STAGES}:{config}', job=job, overrides=overrides)


def _verified(name, config, *, init):
  return recipe_parts.verified(name, f'{STAGES}:{config}', init=init)


def _sft(name, config, *, init, on):
  path = {'task.path': f'{{{on}}}/set'}
  return _stage(name, config, job='sft', init=init, **path)


def _model(name, config, *, on):
  path = {'reward_model.path': on}
  return _stage(name, config, job='reward_model', init='dev3', **path)


def _and_measured(stage):
  return recipe_parts.with_evaluations(
    stage, f'{STAGES}:evaluation', tasks=EVALUATIONS
  )
