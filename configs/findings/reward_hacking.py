"""Reward hacking: RL against a reward model that has learned to like length.

Claim: the longer RL follows a learned reward, the higher that reward and the
lower what it stands for, so R1 has preference rewards in the last 400 of 1,700
updates only (2501.12948v2, B.5).

  python -m grpo_jax.recipe --config=configs/findings/reward_hacking.py \\
    --workdir=runs/hack --parallel=2

Pairs of the base's answers to sums are judged by a known gold score, 1 for a
right answer of no length and less for longer ones, 0 for a wrong one; in 3 of
10 pairs the longer answer is chosen instead. A reward model learns from them,
and RL from the reward model alone. The gold score is logged beside it, with
weight 0. Arms, 3 seeds (`reward_hacking.py:1`: one):
  rl         1,600 updates
  early      100, R1's remedy
  sigmoid    sigmoid(r - r_ref) (2502.18770), 400
  kl         a KL penalty to the base, 400
  balanced   a model of length-balanced pairs, 400
Measures: the gold score in the first five updates, in the tenth before update
100, where `early` stops, and in the last tenth; the model's score there;
pass@1. Not the highest gold score: of a noisy curve that lies above its end
though nothing falls.

Holds if on rl the model's score ends highest while the gold score falls after
update 100 by more than the spread of seeds, and on sigmoid it does not.
"""

import functools

from configs import quickstart, quickstart_base
from configs.findings import seeds

HERE = 'configs/findings/reward_hacking.py'
STEPS = dict(rl=1600, early=100, sigmoid=400, kl=400, balanced=400)
MEASURES = (
  'first:reward/gold', 'at:reward/gold:100', 'last:reward/gold',
  'at:reward/gold:100 - last:reward/gold', 'last:reward/model', 'pass@1',
)  # fmt: skip
LIMIT = 48  # tokens; a worked answer takes about 20


def get_config(stage: str = 'rl'):
  stages = ('base', 'pairs', 'model', 'model_balanced', *STEPS)
  if stage not in stages:
    raise ValueError(f'no stage {stage!r} here; there are {", ".join(stages)}')
  c = quickstart_base.get_config()
  if stage == 'base':
    return c
  c.task.part = 'questions'
  c.sample.update(max_prompt_length=16, max_completion_length=LIMIT, chunk=24)
  gold = dict(
    name='cosine', weight=0.0, max_length=LIMIT, right_short=1.0,
    right_long=0.2, wrong_short=0.0, wrong_long=0.0, cut=0.0,
  )  # fmt: skip
  c.rewards = dict(gold=gold)
  c.eval = quickstart.get_config().eval
  c.eval.every = 0
  if stage == 'pairs':
    c.pairs.update(prompts=2000, samples=8, gold='gold', longer_wins=0.3)
  elif stage.startswith('model'):
    _model(c, balanced=stage == 'model_balanced')
  else:
    _rl(c, stage)
  return c


def get_stages(argument: str = '3'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '3'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  return {
    arm: [f'{arm}_{seed}' for seed in seeds.of(argument)] for arm in STEPS
  }


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed, init='base')
  yield stage('base', 'base', 'sft', init='')
  yield stage('pairs', 'pairs', 'pairs')
  path = {'reward_model.path': f'{{pairs_{seed}}}/pairs.jsonl'}
  for name in ('model', 'model_balanced'):
    yield stage(name, name, 'reward_model', overrides=path)
  for arm in STEPS:
    model = 'model_balanced' if arm == 'balanced' else 'model'
    path = {'rewards.model.path': f'{{{model}_{seed}}}'}
    yield stage(arm, arm, overrides=path)
    where = f'{{{arm}_{seed}}}'
    yield stage(f'{arm}_eval', arm, 'evaluate', init='', workdir=where)


def _model(c, *, balanced: bool) -> None:
  c.steps = 300
  c.reward_model.update(
    batch_size=64,
    max_length=LIMIT,
    balance_lengths='drop' if balanced else 'none',
  )
  c.optimizer.update(learning_rate=5e-4, warmup_steps=20)
  c.updates.update(microbatches=4, length_multiple=8)
  c.eval.every = 50
  c.checkpoint.every = 100


def _rl(c, arm: str) -> None:
  c.steps = STEPS[arm]
  c.prompts_per_step, c.group_size = 8, 16
  c.rewards = c.rewards.to_dict() | dict(
    model=dict(
      name='reward_model',
      path='',
      weight=1.0,
      shape='sigmoid' if arm == 'sigmoid' else 'none',
      reference='mean',
    ),
    correct=dict(name='correct', weight=0.0),
  )
  c.optimizer.update(
    learning_rate=1.5e-4, schedule='constant', warmup_steps=0, weight_decay=0.0
  )
  if arm == 'kl':
    c.algorithm.update(kl=dict(name='k2'), kl_coef=0.6)
  c.updates.update(microbatches=4, length_multiple=8, length_buckets=3)
  c.checkpoint.update(every=200, keep_last=1, keep_best=0)
