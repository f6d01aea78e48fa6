"""Reward hacking: RL against a reward model that has learned to like length.

Pairs of a base model's answers to sums are judged by a known gold score, 1 for
a right answer of no length and less for longer ones, 0 for a wrong one; in 3 of
10 pairs the longer answer is chosen instead. A reward model learns from them,
and RL learns from the reward model alone. The gold score is logged beside it,
with weight 0.

  make quickstart           # leaves the base in runs/quickstart/base
  C=configs/findings/reward_hacking.py
  python -m grpo_jax.pairs --config=$C:pairs --workdir=runs/hack/pairs
  python -m grpo_jax.reward_model --config=$C:model --workdir=runs/hack/model
  python -m grpo_jax.train --config=$C --workdir=runs/hack/rl

Arms of the last: `rl` (the default; 1,600 updates), `early` (100, the remedy of
R1 2501.12948v2, B.5: preference rewards in the last 400 of 1,700 steps only),
`sigmoid` (sigmoid(r - r_ref), 2502.18770), `kl` (a KL penalty to the base),
`balanced` (a model of length-balanced pairs; train it with `model_balanced`,
in runs/hack/model_balanced).
"""

from configs import quickstart_base

ARMS = ('rl', 'early', 'sigmoid', 'kl', 'balanced')
LIMIT = 48  # tokens; a worked answer takes about 20


def get_config(stage: str = 'rl'):
  stages = ('pairs', 'model', 'model_balanced', *ARMS)
  if stage not in stages:
    raise ValueError(f'no stage {stage!r} here; there are {", ".join(stages)}')
  c = quickstart_base.get_config()
  c.init_from = 'runs/quickstart/base'
  c.sample.update(max_prompt_length=16, max_completion_length=LIMIT, chunk=24)
  gold = dict(
    name='cosine', weight=0.0, max_length=LIMIT, right_short=1.0,
    right_long=0.2, wrong_short=0.0, wrong_long=0.0, cut=0.0,
  )  # fmt: skip
  c.rewards = dict(gold=gold)
  c.eval.every = 0
  if stage == 'pairs':
    c.pairs.update(prompts=2000, samples=8, gold='gold', longer_wins=0.3)
  elif stage.startswith('model'):
    _model(c, balanced=stage == 'model_balanced')
  else:
    _rl(c, stage)
  return c


def _model(c, *, balanced: bool) -> None:
  c.steps = 300
  c.reward_model.update(
    path='runs/hack/pairs/pairs.jsonl',
    batch_size=64,
    max_length=LIMIT,
    balance_lengths='drop' if balanced else 'none',
  )
  c.optimizer.update(learning_rate=5e-4, warmup_steps=20)
  c.updates.update(microbatches=4, length_multiple=8)
  c.eval.every = 50
  c.checkpoint.update(every=100, best_metric='eval/accuracy')


def _rl(c, arm: str) -> None:
  c.steps = 100 if arm == 'early' else 1600
  c.prompts_per_step, c.group_size = 8, 16
  folder = 'model_balanced' if arm == 'balanced' else 'model'
  c.rewards = c.rewards.to_dict() | dict(
    model=dict(
      name='reward_model',
      path=f'runs/hack/{folder}',
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
  c.updates.update(microbatches=4, length_multiple=8)
  c.checkpoint.update(every=200, keep_last=1, keep_best=0)
