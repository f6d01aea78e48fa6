"""Finding (f): the language reward buys consistency for a little accuracy.

Claim: R1's first RL stage adds the share of the thought's words in the target
language (2501.12948v2, eq. 7); the ablation shows steady consistency and a
slight loss of accuracy.

  python -m grpo_jax.recipe --config=configs/findings/f_language.py \\
    --workdir=runs/f --parallel=2

Word problems in two languages (tasks/bilingual.py). The thought of `en` has one
word for both signs, that of `it` tells them apart, and 40 % of the base's
thoughts are mixed: on questions in `en` mixing pays, in `it` it does not.
Arms: the weight w of the reward `lexicon`, 0, 0.1, 0.3 and 1, on questions of
each language alone, 120 rollouts of 16 x 16; 3 seeds (`f_language.py:1`: one).
A thought of fewer than three words scores 0, or the shortest would be perfect.
Measures: pass@1, and last: the means of the last tenth of the rollouts of the
share of the asker's words and of the length.

Holds if consistency falls at w = 0 on `en`, is at least 0.98 at w = 1, and the
cost in pass@1 is within 0.05, grows with w, and is larger on `en` than on `it`.
"""

import functools

from configs.findings import c_cold_start, seeds

HERE = 'configs/findings/f_language.py'
WEIGHTS = (0.0, 0.1, 0.3, 1.0)
LANGUAGES = ('en', 'it')
COMPARED = {
  f'{name}_{w}': f'{name}_{WEIGHTS[0]}' if w else ''
  for name in LANGUAGES
  for w in WEIGHTS
}
RATIOS = tuple(('pass@1', f'{n}_1.0', f'{n}_0.0') for n in LANGUAGES)
MEASURES = ('pass@1', 'last:reward/language', 'last:length/mean')


def get_config(stage: str = 'en'):
  if stage not in ('base', *LANGUAGES):
    raise ValueError(f'{stage!r} is not base, {" or ".join(LANGUAGES)}')
  what = 'base' if stage == 'base' else 'rl'
  c = c_cold_start.get_config(f'words_{what}')
  c.task.mixed_share = 0.4
  if what == 'rl':
    c.task.languages = (stage,)
    c.rewards.format = dict(name='format', weight=0.1)
  return c


def get_stages(argument: str = '3'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '3'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  return {
    f'{name}_{w}': [f'{name}_{w}_{seed}' for seed in seeds.of(argument)]
    for name in LANGUAGES
    for w in WEIGHTS
  }


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed)
  yield stage('base', 'base', 'sft')
  for name in LANGUAGES:
    for w in WEIGHTS:
      arm, weight = f'{name}_{w}', {'rewards.language.weight': w}
      yield stage(arm, name, init='base', overrides=weight)
      where = f'{{{arm}_{seed}}}'
      yield stage(f'{arm}_eval', name, 'evaluate', workdir=where)
