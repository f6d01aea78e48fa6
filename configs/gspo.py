"""GSPO: group sequence policy optimization (2507.18071).

A = (r - mean) / std of the group; the ratio is the completion's,
  s = exp(mean over tokens of log rho)   (eq. 7),
  -min(s A, clip(s, 1-3e-4, 1+4e-4) A)   (eq. 5),
averaged over completions; in token form (eq. 14), whose gradient is the same.
A rollout makes four updates (5.1). No KL.

  --config=configs/gspo.py             as it is
  --config=configs/gspo.py:quickstart  the algorithm, on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='group', ddof=1, eps=1e-4),
    loss=dict(name='gspo', eps_low=3e-4, eps_high=4e-4),
    weights=dict(name='sequence_mean'),
    kl_coef=0.0,
  )
  base.minibatches(c, 4)
  if not experiment:
    c.prompts_per_step = 64
    c.optimizer.learning_rate = 1e-6
    c.sample.update(max_prompt_length=1024, max_completion_length=16_384)
  return c
