"""Dr. GRPO: GRPO done right (2503.20783, 3.2).

A = r - mean of the group, without std; the clipped loss summed over all tokens
and divided by completions x the length limit, a constant: neither the length of
an answer nor the difficulty of its question biases the gradient. No KL.

The constant is the configured limit. Departs in the rewards: the base config
pays 0.1 for the format.

  --config=configs/dr_grpo.py             with the paper's sizes and rates
  --config=configs/dr_grpo.py:quickstart  the algorithm, on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='none'),
    loss=dict(name='clip', eps_low=0.2, eps_high=0.2),
    weights=dict(
      name='constant', length=c.sample.get_ref('max_completion_length')
    ),
    kl_coef=0.0,
  )
  if not experiment:
    c.prompts_per_step = 128
    c.group_size = 8
    c.optimizer.learning_rate = 1e-6
    c.sample.update(max_prompt_length=1024, max_completion_length=3000)
  return c
