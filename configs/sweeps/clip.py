"""How the ratio is bounded x updates a rollout (`make quickstart` first).

A loss is a dict, as in a config; each has a name in the place of all that makes
it: `loss=gspo,minibatches=4`.
"""

from launch.sweeps import grid, zipped

CONFIG = 'configs/quickstart.py'
FIXED = {'eval.every': 50, 'updates.microbatches': 4}


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
        dict(clip, dual_clip=3.0),
        dict(name='gspo'),
        dict(name='cispo'),
      ],
      'algorithm.weights': [token_mean] * 3 + [sequence_mean, token_mean],
    },
    names={'loss': ['clip', 'clip_higher', 'dual_clip', 'gspo', 'cispo']},
  )
  return grid(losses, {'updates.minibatches': [2, 4, 8]})
