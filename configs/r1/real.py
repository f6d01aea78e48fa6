"""The R1 recipe at real size: Qwen2.5-32B, and students of six sizes.

  python -m grpo_jax.recipe --config=configs/r1/real.py --list \\
    --workdir=/gcs/BUCKET/r1

prints the stages in order, and their commands. Each is for you to start, when
those that it names are done, on a slice of its config's mesh (512 chips of v5p;
a student's 16 to 256):

  python -m launch.tpu_pod run --watch ... -- COMMAND --distributed

with gs://BUCKET for /gcs/BUCKET; weights and data are there too, by `BASE`,
`DATA` and --config.init_from (launch/README.md). The recipe itself starts jobs
on one machine, and none of these slices is one. The data it expects, and what
is not disclosed: `real_stages.py`, `distill.py`.
"""

from configs import recipe_parts
from launch.stages import Stage

STAGES = 'configs/r1/real_stages.py'
# The win rate wants a judge: evaluate --task=win_rate, by hand.
EVALUATIONS = {'eval': '', 'follow': 'instructions'}
BASE = 'models/Qwen2.5-32B'
# By `distill.py`; Table 6.
STUDENTS = (
  'qwen_1_5b', 'qwen_7b', 'qwen_14b', 'qwen_32b', 'llama_8b', 'llama_70b',
)  # fmt: skip
TABLE = {
  'Zero': 'zero', 'Dev1': 'dev1', 'Dev2': 'dev2', 'Dev3': 'dev3', 'R1': 'r1',
} | {name: name for name in STUDENTS}  # fmt: skip


def get_stages():
  return [
    *_and_measured(_stage('zero', 'zero', init_from=BASE)),
    _verified('cold', 'cold_start', init='zero'),
    *_and_measured(_sft('dev1', 'sft_cold', on='cold')),
    *_and_measured(_stage('dev2', 'reasoning', init_from='{dev1}')),
    _verified('textbook', 'rejection', init='dev2'),
    *_and_measured(_sft('dev3', 'sft_verified', on='textbook')),
    _stage('helpful', 'helpful_model', 'reward_model', init_from='{dev3}'),
    _stage('safety', 'safety_model', 'reward_model', init_from='{dev3}'),
    *_and_measured(
      _stage(
        'r1',
        'all_scenarios',
        init_from='{dev3}',
        **{
          'rewards.helpful.path': '{helpful}',
          'rewards.safety.path': '{safety}',
        },
      )
    ),
    *(stage for name in STUDENTS for stage in _student(name)),
  ]


def _stage(name, config, job='train', **overrides):
  return Stage(name, f'{STAGES}:{config}', job=job, overrides=overrides)


def _verified(name, config, *, init):
  return recipe_parts.verified(name, f'{STAGES}:{config}', init=init)


def _sft(name, config, *, on):
  path = {'task.path': f'{{{on}}}/set'}
  return _stage(name, config, 'sft', init_from=BASE, **path)


def _student(name):
  """Trained and evaluated on a slice of its own size."""
  stage = Stage(
    name,
    f'configs/distill.py:{name}',
    job='sft',
    overrides={'task.path': '{textbook}/set'},
  )
  return _and_measured(stage, f':{name}')


def _and_measured(stage, student=''):
  return recipe_parts.with_evaluations(
    stage, f'{STAGES}:evaluation{student}', tasks=EVALUATIONS
  )
