"""Time of a whole step: rollout, grading, update.

  python -m benchmarks.step --workload=W1 --against=trl,tunix

See `benchmarks.speed` for the flags; JSON, last.
"""

import sys

from benchmarks import speed

if __name__ == '__main__':
  sys.exit(speed.run(sys.argv[1:], parts=('step',)))
