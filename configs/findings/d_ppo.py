"""Finding (d): GRPO against PPO, the same quality for less.

Claim: without a critic of the policy's size training needs less memory and
time; PPO comes up to it with lambda 1 only, and lambda 0.95 falls behind
(2501.12948v2, A.3).

  python -m grpo_jax.recipe --config=configs/findings/d_ppo.py \\
    --workdir=runs/d --parallel=2

From the quickstart's base of each seed, 100 rollouts of 32 x 16, lr 1.5e-4
falling to 0, no KL, one update of the policy a rollout; the critic, a copy of
the policy, has four at twice the rate, and five rollouts alone at first
(configs/ppo.py). 3 seeds (`d_ppo.py:1`: one). Arms:
  grpo       group advantages
  ppo_1      GAE with lambda 1
  ppo_0.95   with lambda 0.95
Measures: pass@1 and pass@16 on 200 held-out sums, median seconds of a step, of
its updates and of its rollout with values. Seconds compare only where as many
stages run at a time all along. Memory is `python -m benchmarks.learner_memory`.

Holds if pass@1 of grpo and of ppo_1 is equal within the spread of seeds while a
step of grpo takes less time and its learning less memory, and if ppo_0.95 is
below ppo_1 at p < 0.01. Answers have 13 tokens here, and 0.95^13 is 0.51: what
lambda does to long ones it cannot show.
"""

import functools

from configs import ppo, quickstart_base
from configs.findings import seeds

HERE = 'configs/findings/d_ppo.py'
ARMS = ('grpo', 'ppo_1', 'ppo_0.95')
COMPARED = {'ppo_0.95': 'ppo_1'}
RATIOS = tuple((m, 'ppo_1', 'grpo') for m in ('pass@1', 'median:time/step'))
MEASURES = (
  'pass@1', 'pass@16', 'median:time/step', 'median:time/update',
  'median:time/rollout',
)  # fmt: skip


def get_config(arm: str = 'grpo'):
  if arm == 'base':
    return quickstart_base.get_config()
  if arm not in ARMS:
    raise ValueError(f'no arm {arm!r}; there are {", ".join(ARMS)}')
  c = ppo.get_config('quickstart')
  c.steps = 100
  c.algorithm.kl_coef = 0.0
  c.eval.update(every=0, samples=16, ks=(1, 16))
  if arm == 'grpo':
    c.algorithm.advantages = dict(name='group', std='group', ddof=1, eps=1e-4)
  elif arm == 'ppo_0.95':
    c.algorithm.advantages.lam = 0.95
  return c


def get_stages(argument: str = '3'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '3'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  return {arm: [f'{arm}_{seed}' for seed in seeds.of(argument)] for arm in ARMS}


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed)
  yield stage('base', 'base', 'sft')
  for arm in ARMS:
    yield stage(arm, arm, init='base')
    where = f'{{{arm}_{seed}}}'
    yield stage(f'{arm}_eval', arm, 'evaluate', workdir=where)
