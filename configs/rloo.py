"""RLOO: REINFORCE leave-one-out (Ahmadian et al. 2402.14740).

A = R - mean R of the group's others, R = r - 0.03 (sum over tokens of log
policy - log reference) (eq. 1 and 9); -A logprob, summed over the completion's
tokens and averaged over completions; one update a rollout, so no ratio.

  --config=configs/rloo.py             with the paper's rate
  --config=configs/rloo.py:quickstart  the algorithm, on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='rloo'),
    loss=dict(name='reinforce'),
    weights=dict(name='sequence_sum'),
    kl=dict(name='k1'),
    kl_coef=0.03,
    kl_in='reward',
  )
  base.minibatches(c, 1)
  if not experiment:
    c.prompts_per_step = 128
    c.group_size = 4
    c.optimizer.learning_rate = 1e-6
  return c
