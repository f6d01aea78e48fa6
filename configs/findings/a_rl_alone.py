"""Finding (a): a base that is right 15 % of the time, 80 % by RL alone.

Claim: R1-Zero (2501.12948v2, 2.3) goes from 15.6 % to 77.9 % on AIME without
being shown a worked solution. Here: GRPO with rule rewards lifts the quickstart
model, whose corpus answers sums mostly wrong at a glance and works 15 % of them
out, from 15 +- 5 % to at least 75 %.

  python -m grpo_jax.recipe --config=configs/findings/a_rl_alone.py \\
    --workdir=runs/a --parallel=2

Arms, from the same base a seed, 102,400 samples or 6,400 questions each:
  rl       accuracy and 0.1 format (configs/quickstart.py, 200 updates)
  random   a coin in place of both: how far noise alone moves the base
  format   the format alone, which pays for a thought
  answers  SFT on the right answers to the questions, without any working
  expert   expert iteration: four rounds of sampling, keeping what is right, and
           SFT of the base on that
Seeds: 5, of base and arm alike; `a_rl_alone.py:2` runs two, `:smoke` one of a
few steps. Measures: pass@1, pass@64, cons@16 on 200 held-out sums, 64 samples
each; curves and shares of worked answers are in the runs.

RL asks none of the sums that the base was shown (`task.part`).

Holds if rl reaches 0.75 for every seed, random stays within 0.03 of its base,
and rl is above answers at p < 0.01 (Welch's t-test over seeds). If pass@64 does
not rise, RL has selected a habit of the base and has not made one: to be said.
The law fitted to the first half of rl's curve (forecast:) is to miss its end by
0.05 at most.
"""

import functools

from configs import quickstart, quickstart_base
from configs.findings import seeds

HERE = 'configs/findings/a_rl_alone.py'
ARMS = ('base', 'rl', 'random', 'format', 'answers', 'expert')
MEASURES = (
  'pass@1', 'pass@64', 'cons@16', 'mean_length', 'format',
  'forecast:reward/correct',
)  # fmt: skip
COMPARED = {'rl': 'answers', 'expert': 'rl'}
ROUNDS = 4  # of expert iteration


def get_config(arm: str = 'rl'):
  if arm == 'base':
    return quickstart_base.get_config()
  c = quickstart.get_config()
  if arm == 'random':
    c.rewards = dict(random=dict(name='random', weight=1.0))
  elif arm == 'format':
    c.rewards = dict(format=dict(name='format', weight=1.0))
  elif arm == 'keep':
    c.keep.update(
      prompts=6400 // ROUNDS, samples=16, batch_prompts=50,
      filters=(dict(name='finished'),), near_duplicates=1.1,
    )  # fmt: skip
  elif arm in ('answers', 'learn'):
    c.optimizer.update(learning_rate=5e-4, schedule='cosine')
    c.updates.microbatches = 2
    c.sft.update(batch_size=32, max_length=24)
    if arm == 'answers':
      # The very questions that rl asks, in its order.
      c.task.update(steps_share=0.0, wrong_share=0.0)
    else:
      c.steps = 200
      c.task = dict(name='verified', path='', split='train')
  elif arm != 'rl':
    raise ValueError(f'no arm {arm!r}; there are {", ".join(ARMS)}')
  return c


def get_stages(argument: str = '5'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '5'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  names = dict.fromkeys(ARMS) | {'expert': f'learn{ROUNDS}'}
  return {
    arm: [f'{name if name else arm}_{seed}' for seed in seeds.of(argument)]
    for arm, name in names.items()
  }


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed, init='base')
  yield stage('base', 'base', 'sft', init='')
  for arm in ('rl', 'random', 'format'):
    yield stage(arm, arm)
  yield stage('answers', 'answers', 'sft')
  for turn in range(1, ROUNDS + 1):
    before = f'learn{turn - 1}' if turn > 1 else 'base'
    kept = f'kept{turn}'
    # Other questions, and other samples, each round.
    yield stage(
      kept, 'keep', 'generate', init=before,
      overrides={'task.seed': turn, 'seed': seed + 100 * turn},
      flags={'keep': 'verified', 'out': f'{{{kept}_{seed}}}/set'},
    )  # fmt: skip
    path = {'task.path': f'{{{kept}_{seed}}}/set'}
    yield stage(f'learn{turn}', 'learn', 'sft', overrides=path)
  for arm, runs in get_arms(str(seed + 1)).items():
    where = f'{{{runs[-1]}}}'
    yield stage(f'{arm}_eval', 'rl', 'evaluate', init='', workdir=where)
