"""DeepSeek-R1's GRPO (2501.12948v2, 2.1 and 3.2.1), as far as it is told.

A = (r - mean) / std of the group; per token, with rho its ratio,
  -min(rho A, clip(rho, 1-10, 1+10) A) + 0.001 k3,
averaged over a completion's tokens, then over completions (DeepSeekMath
2402.03300 eq. 3). eps = 10 has no lower bound and an upper one of 11. The
reference is replaced every 400 updates; 16 updates a rollout.

Not told, and ours: the optimizer (AdamW), ddof and eps of std (1, 1e-4), whose
ratio is meant (a token's; the paper writes the whole output's), the size of the
format reward (equal to accuracy's, as "same weight"). Minibatches are of whole
groups here, and of single outputs there. Left out: the language reward of the
first RL stage (eq. 7; add rewards.language) and the doubling of the length
limit to 65,536 at step 8,200.

  --config=configs/r1.py             with the paper's sizes and rates
  --config=configs/r1.py:quickstart  the algorithm alone, on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='group', ddof=1, eps=1e-4),
    loss=dict(name='clip', eps_low=10.0, eps_high=10.0),
    weights=dict(name='sequence_mean'),
    kl=dict(name='k3'),
    kl_coef=0.001,
    reference_every=400,
  )
  base.minibatches(c, 16)
  if not experiment:
    c.prompts_per_step = 512
    c.group_size = 16
    c.steps = 650  # 10,400 updates
    c.prompt.template = 'r1'
    c.rewards.format.weight = 1.0
    c.optimizer.learning_rate = 3e-6
    c.sample.update(max_prompt_length=1024, max_completion_length=32_768)
  return c
