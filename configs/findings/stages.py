"""The stages of R1, from base to student, with several seeds.

Claim: table 3 of 2501.12948v2: the cold start buys instruction following and
costs reasoning, reasoning RL wins it back, SFT on verified answers adds general
skill, the last RL preferences: a win rate of 24.7 with Zero and 87.6 with R1.

  python -m grpo_jax.recipe --config=configs/findings/stages.py \\
    --workdir=runs/stages --parallel=2

`configs/r1/tiny.py` (an hour or more a seed), 3 seeds; `stages.py:1` runs one.
Measures: pass@1, cons@64, instruction following, win rate.

Holds if pass@1 falls from Zero to Dev1 and rises to Dev2, and the win rate of
R1 is at least three times Zero's, beyond the spread of seeds.
"""

import dataclasses
import re
import runpy

from configs.findings import seeds

# No import: `configs.r1` is the preset r1.py, not the folder.
TINY = runpy.run_path('configs/r1/tiny.py')
MEASURES = (
  'pass@1', 'pass@64', 'cons@64', 'instruction_following', 'win_rate',
  'format', 'language_consistency', 'gibberish', 'mean_length',
)  # fmt: skip
COMPARED = {
  'Dev1': 'Zero', 'Dev2': 'Dev1', 'Dev3': 'Dev2', 'R1': 'Zero',
  'Student': 'Student base',
}  # fmt: skip
RATIOS = (
  ('win_rate', 'R1', 'Zero'), ('pass@1', 'Student', 'Student base'),
  ('pass@1', 'Student', 'Base'),
)  # fmt: skip


def get_stages(argument: str = '3'):
  if argument == seeds.SMOKE:
    return list(_renamed(TINY['get_stages'](argument), 0))
  return [
    stage
    for seed in seeds.of(argument)
    for stage in _renamed(TINY['get_stages'](), seed)
  ]


def get_arms(argument: str = '3'):
  """Stage -> its runs, one a seed; the first is what others are compared to."""
  return {
    title: [f'{name}_{seed}' for seed in seeds.of(argument)]
    for title, name in TINY['TABLE'].items()
  }


def _renamed(stages, seed):
  """Each with its seed, and its name and what it refers to with a suffix."""
  names = {stage.name for stage in stages}

  def named(value):
    if not isinstance(value, str):
      return value
    return re.sub(
      r'\{(\w+)\}',
      lambda m: f'{{{m[1]}_{seed}}}' if m[1] in names else m[0],
      value,
    )

  for stage in stages:
    yield dataclasses.replace(
      stage,
      name=f'{stage.name}_{seed}',
      workdir=named(stage.workdir),
      overrides={'seed': seed}
      | {k: named(v) for k, v in stage.overrides.items()},
      flags={k: named(v) for k, v in stage.flags.items()},
    )
