"""Finding (e): a student of verified answers beats the same student by RL.

Claim: distilled from R1, Qwen-32B reaches 72.6 on AIME where RL alone on it
reaches 47.0 (2501.12948v2, F.1); a 1.5B student beats GPT-4o there.

  python -m grpo_jax.recipe --config=configs/findings/e_distill.py \\
    --workdir=runs/e --parallel=2

The teacher is the quickstart's model after 600 rollouts of RL; the student has
a seventh of its parameters and a base of its own, on the same corpus. Arms,
3 seeds (`e_distill.py:1`: one):
  teacher, student      what there is to begin with
  rl, rl_3x             RL on the student, 200 and 600 rollouts of 512 samples
  text_500, _2k, _8k    SFT on so many verified answers of the teacher, three
                        epochs, cosine to a tenth (B.4.3)
  unverified            the teacher's answers as they come, 8k
  answers               the same verified answers without their working, 8k
  text_rl               RL after text_8k, which v1 3.2 says gains more
Measures: pass@1, pass@64, cons@16 on 200 held-out sums, 64 samples each.

Holds if text_8k is above rl_3x by at least 0.05 at p < 0.01, text_rl is not
below text_8k, verified is not below unverified, and pass@64 rises by
distillation but not by RL. It presumes a teacher at 0.8 or more and a student
that RL alone leaves below it: both are in the table. The factor of the student
over its own base, and over the undistilled larger base, is ours to report; the
paper's sixfold is against GPT-4o.
"""

import functools

from configs import quickstart, quickstart_base
from configs.findings import seeds

HERE = 'configs/findings/e_distill.py'
COUNTS = {'text_500': 500, 'text_2k': 2000, 'text_8k': 8000}
ARMS = (
  'student', 'rl', 'rl_3x', *COUNTS, 'unverified', 'answers', 'text_rl',
  'teacher', 'teacher_base',
)  # fmt: skip
COMPARED = {
  'text_8k': 'rl_3x', 'text_rl': 'text_8k', 'unverified': 'text_8k',
  'answers': 'text_8k', 'teacher': 'teacher_base', 'teacher_base': 'teacher',
}  # fmt: skip
RATIOS = (
  ('pass@1', 'text_8k', 'student'), ('pass@1', 'text_8k', 'teacher_base'),
  ('pass@1', 'text_8k', 'rl_3x'),
)  # fmt: skip
MEASURES = ('pass@1', 'pass@64', 'cons@16', 'mean_length')


def get_config(stage: str = 'rl'):
  if stage in ('teacher_base', 'student'):
    c = quickstart_base.get_config()
    if stage == 'student':
      c.model.update(
        num_layers=3, embed_dim=64, num_heads=4, num_kv_heads=2, head_dim=16,
        mlp_dim=160,
      )  # fmt: skip
    return c
  c = quickstart.get_config()
  if stage == 'rl_3x':
    c.steps = 600
  elif stage in ('keep', 'keep_answers'):
    c.keep.update(
      prompts=40_000, samples=1, batch_prompts=100, near_duplicates=1.1,
      filters=(dict(name='finished'),),
    )  # fmt: skip
    if stage == 'keep_answers':
      c.keep.rewrite = dict(
        name='function', path='configs.findings.e_distill:without_working'
      )
  elif stage == 'text':
    c.task = dict(name='verified', path='', split='train')
  elif stage != 'rl':
    raise ValueError(f'no stage {stage!r}')
  if stage == 'text':
    c.sft.update(batch_size=32, epochs=3, max_length=24)
    c.updates.microbatches = 1
    c.optimizer.update(
      learning_rate=1e-3, schedule='cosine', final_fraction=0.1
    )
  return c


def without_working(completion, example):
  """What a right completion answers, in its tags and alone."""
  del completion
  return f'<answer>{example.answer}</answer>'


def get_stages(argument: str = '3'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '3'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  return {arm: [f'{arm}_{seed}' for seed in seeds.of(argument)] for arm in ARMS}


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed)

  def learned(name, kept):
    path = {'task.path': f'{{{kept}_{seed}}}/set'}
    return stage(name, 'text', 'sft', init='student', overrides=path)

  yield stage('teacher_base', 'teacher_base', 'sft')
  yield stage('student', 'student', 'sft')
  yield stage('teacher', 'rl_3x', init='teacher_base')
  kept = {f'kept_{name}': {'keep.limit': n} for name, n in COUNTS.items()}
  kept['kept_unverified'] = {'keep.limit': 8000, 'keep.right': ''}
  kept['kept_answers'] = {'keep.limit': 8000}
  for name, limit in kept.items():
    what = 'keep_answers' if name == 'kept_answers' else 'keep'
    yield stage(
      name, what, 'generate', init='teacher', overrides=limit,
      flags={'keep': 'verified', 'out': f'{{{name}_{seed}}}/set'},
    )  # fmt: skip
    yield learned(name.removeprefix('kept_'), name)
  yield stage('rl', 'rl', init='student')
  yield stage('rl_3x', 'rl_3x', init='student')
  yield stage('text_rl', 'rl', init='text_8k')
  for arm in ARMS:
    where = f'{{{arm}_{seed}}}'
    yield stage(f'{arm}_eval', 'rl', 'evaluate', workdir=where)
