"""DAPO (2503.14476).

A = (r - mean) / std of the group (eq. 9); clip-higher, eq. 10:
  -min(rho A, clip(rho, 1-0.2, 1+0.28) A),
summed over all tokens of the batch and divided by their number (eq. 8); no KL;
rollouts until every group has a right and a wrong answer (eq. 11; at most three
here, without a bound there); a soft penalty on the last fifth of the length
limit (eq. 13), at half weight, as rewards are 0 and 1 here and -1 and 1 there.

Departs in: token means are over the global batch of one update, as the paper
writes it; its published runs averaged microbatches (verl #623). Groups without
a signal that fill a batch are masked. The base config pays 0.1 for the format.

  --config=configs/dapo.py             with the paper's sizes and rates
  --config=configs/dapo.py:quickstart  the algorithm alone, on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='group', ddof=1, eps=1e-4),
    loss=dict(name='clip', eps_low=0.2, eps_high=0.28),
    weights=dict(name='token_mean'),
    kl_coef=0.0,
  )
  c.filters.update(rounds=3, signal='correct')
  length = c.sample.get_ref('max_completion_length')
  with c.unlocked():
    c.rewards.overlong = dict(
      name='soft_overlong', weight=0.5, max_length=length, cache=length // 5
    )
  base.minibatches(c, 16)
  if not experiment:
    c.prompts_per_step = 512
    c.group_size = 16
    c.optimizer.update(learning_rate=1e-6, weight_decay=0.1, warmup_steps=320)
    c.sample.update(max_prompt_length=2048, max_completion_length=20_480)
  return c
