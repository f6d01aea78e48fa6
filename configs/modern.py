"""What later studies agree on, put together; no one paper's algorithm.

A = (r - group mean) / std of the batch's centred rewards (REINFORCE++ baseline
2501.03262; ScaleRL 2510.13786 table 1); CISPO (MiniMax-M1 2506.13585 eq. 4),
  -sg(min(rho, 5)) A logprob,
token mean, no KL; groups of equal rewards dropped (ScaleRL); ratios to the
trainer's own old policy, and each token weighed by min(trainer / sampler, 2)
(truncated importance sampling, Yao et al. 2025). Head and logprobs are fp32 in
every run.

ScaleRL departs in: prompt mean rather than token mean, off-policy batches eight
updates old, prompts with a pass rate of 0.9 retired (filters.retire_above), and
length control by interruption.

  --config=configs/modern.py             as it is
  --config=configs/modern.py:quickstart  on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='batch', ddof=1, eps=1e-4),
    loss=dict(name='cispo', eps_high=4.0),
    weights=dict(name='token_mean'),
    kl_coef=0.0,
    old_logprobs='trainer',
    importance=dict(name='truncated', level='token', high=2.0),
  )
  c.filters.drop_zero_variance = True
  base.minibatches(c, 4)
  if not experiment:
    c.prompts_per_step = 64
    c.optimizer.learning_rate = 1e-6
    c.sample.update(max_prompt_length=1024, max_completion_length=16_384)
  return c
