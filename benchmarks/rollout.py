"""Completion tokens a second of sampling.

  python -m benchmarks.rollout --workload=W1 --against=trl,tunix

See `benchmarks.speed` for the flags; JSON, last.
"""

import sys

from benchmarks import speed

if __name__ == '__main__':
  sys.exit(speed.run(sys.argv[1:], parts=('rollout',)))
