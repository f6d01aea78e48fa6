"""The whole R1 recipe on a toy world, for two CPU cores.

  python -m grpo_jax.recipe --config=configs/r1/tiny.py --workdir=runs/r1

From a base model to Zero, Dev1, Dev2, Dev3 and R1, and a student, each
evaluated. What each stage takes from the paper and what it does not disclose is
told by --list and in `tiny_stages.py`.
"""

from launch.stages import Stage

STAGES = 'configs/r1/tiny_stages.py'
TABLE = {
  'Base': 'base', 'Zero': 'zero', 'Dev1': 'dev1', 'Dev2': 'dev2',
  'Dev3': 'dev3', 'R1': 'r1', 'Student base': 'student_base',
  'Student': 'student',
}  # fmt: skip


def get_stages():
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
  """Answers of a policy that are right and fit to learn from."""
  return Stage(
    name,
    f'{STAGES}:{config}',
    job='generate',
    overrides={'init_from': f'{{{init}}}'},
    flags={'keep': 'verified', 'out': f'{{{name}}}/set'},
  )


def _sft(name, config, *, init, on):
  path = {'task.path': f'{{{on}}}/set'}
  return _stage(name, config, job='sft', init=init, **path)


def _model(name, config, *, on):
  path = {'reward_model.path': on}
  return _stage(name, config, job='reward_model', init='dev3', **path)


def _and_measured(stage):
  """A stage and the three evaluations of its model, which lie beside it."""
  yield stage
  tasks = {'eval': '', 'follow': 'instructions', 'wins': 'win_rate'}
  for suffix, task in tasks.items():
    yield Stage(
      f'{stage.name}_{suffix}',
      f'{STAGES}:evaluation',
      job='evaluate',
      flags={'task': task} if task else {},
      workdir=f'{{{stage.name}}}',
    )
