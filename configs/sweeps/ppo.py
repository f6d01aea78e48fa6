"""GRPO against PPO on the same samples an update, three seeds.

Each seed has a base of its own: `make quickstart`, then for N of 1 and 2
python -m grpo_jax.sft --config=configs/quickstart_base.py \\
  --config.seed=N --workdir=runs/quickstart_N/base
"""

from launch.sweeps import grid, zipped

CONFIG = 'configs/ppo.py:quickstart'
FIXED = {
  'steps': 100,
  'algorithm.kl_coef': 0.0,
  'eval.every': 100,
  'eval.samples': 16,
  'eval.ks': (1, 16),
}


def get_sweep():
  gae = dict(name='gae', lam=1.0, gamma=1.0, whiten=True)
  group = dict(name='group', std='group', ddof=1, eps=1e-4)
  arms = zipped(
    {'algorithm.advantages': [group, gae, dict(gae, lam=0.95)]},
    names={'arm': ['grpo', 'ppo_1', 'ppo_0.95']},
  )
  bases = ['quickstart', 'quickstart_1', 'quickstart_2']
  seeds = zipped(
    {'seed': [0, 1, 2], 'init_from': [f'runs/{name}/base' for name in bases]},
    names={'seed': ['0', '1', '2']},
  )
  return grid(seeds, arms)
