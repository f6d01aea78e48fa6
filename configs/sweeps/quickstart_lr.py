"""Learning rate x seed, on the quickstart's GRPO (`make quickstart` first)."""

from launch.sweeps import grid

CONFIG = 'configs/quickstart.py'
FIXED = {'eval.every': 50}


def get_sweep():
  return grid(
    {
      'optimizer.learning_rate': [5e-5, 1.5e-4, 4.5e-4],
      'seed': range(3),
    }
  )
