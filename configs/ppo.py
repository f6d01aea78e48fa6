"""PPO with a critic (1707.06347), as R1's comparison had it (v2 A.3).

Rewards per token: -0.001 (log policy - log reference), and the reward at the
last token; A by GAE (1506.02438) with lambda = gamma = 1, whitened over the
rollout; -min(rho A, clip(rho, 1-0.2, 1+0.2) A), token mean; the critic, as
large as the policy and a copy of it at first, learns (V - return)^2 / 2 with
its clip. lambda = 0.95 is what R1 found clearly worse.

The critic's numbers are ours: Open-Reasoner-Zero (2503.24290) has 12 critic
updates to one of the policy at a rate of 5e-6, and no KL. As many samples as
GRPO has are drawn from a prompt, so that the two compare.

  --config=configs/ppo.py             as it is
  --config=configs/ppo.py:quickstart  the algorithm, on that experiment
"""

from configs import base


def get_config(experiment: str = ''):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='gae', lam=1.0, gamma=1.0, whiten=True),
    loss=dict(name='clip', eps_low=0.2, eps_high=0.2),
    weights=dict(name='token_mean'),
    kl=dict(name='k1'),
    kl_coef=0.001,
    kl_in='reward',
  )
  c.critic.update(
    learning_rate=2 * c.optimizer.get_ref('learning_rate'),
    minibatches=4,
    microbatches=max(1, c.updates.microbatches // 4),
    warmup_steps=5,
  )
  if not experiment:
    c.prompts_per_step = 128
    c.optimizer.learning_rate = 1e-6
    c.critic.learning_rate = 5e-6
    c.sample.update(max_prompt_length=1024, max_completion_length=8192)
  return c
