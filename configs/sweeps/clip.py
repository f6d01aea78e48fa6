"""How the ratio is bounded x updates a rollout (`make quickstart` first).

Each loss with its paper's weights, with one update a rollout, where the ratio
is 1 and bounds do nothing, and with sixteen, at a fifth of the rate.
"""

from launch.sweeps import grid, zipped

CONFIG = 'configs/quickstart.py'
FIXED = {
  'steps': 100,
  'algorithm.kl_coef': 0.0,
  'eval.every': 50,
  'eval.samples': 16,
  'eval.ks': (1, 16),
}


def get_sweep():
  clip = dict(name='clip', eps_low=0.2, eps_high=0.2)
  token_mean, sequence_mean = (
    dict(name='token_mean'),
    dict(name='sequence_mean'),
  )
  losses = zipped(
    {
      'algorithm.loss': [
        clip,
        dict(clip, eps_high=0.28),
        dict(clip, eps_low=10.0, eps_high=10.0),
        dict(name='cispo'),
        dict(name='gspo'),
      ],
      'algorithm.weights': [token_mean] * 4 + [sequence_mean],
    },
    names={'loss': ['clip', 'clip_higher', 'clip_10', 'cispo', 'gspo']},
  )
  updates = zipped(
    {
      'updates.minibatches': [1, 16],
      'updates.microbatches': [16, 1],
      'optimizer.learning_rate': [1.5e-4, 3e-5],
    },
    names={'updates': ['1', '16']},
  )
  return grid(losses, updates)
