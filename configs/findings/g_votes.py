"""Finding (g): majority votes over 16 to 64 samples.

Claim: cons@64 lifts R1-Zero from 71.0 to 86.7 on AIME (2501.12948v1, 2.2.4),
and GPT-4o only from 9.3 to 13.4 (table 5): a vote helps where errors scatter
and the right answer is already frequent.

  python -m grpo_jax.recipe --config=configs/findings/g_votes.py \\
    --workdir=runs/g --parallel=2

The quickstart's base, and RL from it stopped after 25, 50, 100 and 200
rollouts, each evaluated with 64 samples at T 0.6 and 1.0, top-p 0.95 (D.1);
3 seeds (`g_votes.py:1`: one). Ties go to the answer first seen, and no answer
never wins. Measures: pass@1, cons@4, cons@16, cons@64, pass@64, mean length,
by which votes are to be plotted against tokens.

Holds if cons@64 is at least 0.05 above pass@1 in mid-training, the gain goes to
0 towards saturation, and is small for the base even at equal tokens.
"""

import functools

from configs import quickstart, quickstart_base
from configs.findings import seeds

HERE = 'configs/findings/g_votes.py'
STEPS = (0, 25, 50, 100, 200)
MEASURES = (
  'pass@1', 'cons@4', 'cons@16', 'cons@64', 'cons@64 - pass@1', 'pass@64',
  'mean_length',
)  # fmt: skip


def get_config(stage: str = 'rl'):
  if stage == 'base':
    return quickstart_base.get_config()
  if stage != 'rl':
    raise ValueError(f'{stage!r} is neither base nor rl')
  c = quickstart.get_config()
  # One schedule, whenever it stops.
  c.optimizer.schedule = 'constant'
  c.eval.update(top_p=0.95, votes=(4, 16, 64))
  return c


def get_stages(argument: str = '3'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '3'):
  """Arm -> its evaluations, one a seed; others are compared to the first."""
  return {
    f'{steps}_t{t}': [f'{steps}_t{t}_{seed}' for seed in seeds.of(argument)]
    for steps in STEPS
    for t in (0.6, 1.0)
  }


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed)
  yield stage('base', 'base', 'sft')
  for steps in STEPS[1:]:
    yield stage(f'rl{steps}', 'rl', init='base', overrides={'steps': steps})
  for steps in STEPS:
    run = f'rl{steps}' if steps else 'base'
    for t in (0.6, 1.0):
      at = {'eval.temperature': t}
      yield stage(f'{steps}_t{t}', 'rl', 'evaluate', init=run, overrides=at)
