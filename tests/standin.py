"""A job without a model that leaves what a run leaves, for tests of sweeps.

  python -m tests.standin --config.steps=4 --workdir=DIR

Its reward is 100 x optimizer.learning_rate x step.
Seed 13 fails. A step takes as many seconds as optimizer.warmup_steps / 100.
"""

import json
import pathlib
import signal
import sys
import time


def main(argv):
  given = dict(x.removeprefix('--').split('=', 1) for x in argv if '=' in x)

  def field(name, default):
    return type(default)(given.get(f'config.{name}', default))

  workdir = pathlib.Path(given['workdir'])
  saved = workdir / 'checkpoints'
  saved.mkdir(parents=True, exist_ok=True)
  print('a line')
  if field('seed', 0) == 13:
    print('error: 13 is unlucky\n', file=sys.stderr)
    return 2
  arrived = []
  signal.signal(signal.SIGTERM, lambda *_: arrived.append(1))
  start = max((int(path.name) for path in saved.iterdir()), default=0)
  note(workdir, f'begin {start}')
  steps = field('steps', 100)
  with open(workdir / 'metrics.jsonl', 'a') as file:
    for step in range(start + 1, steps + 1):
      reward = 100 * field('optimizer.learning_rate', 1e-4) * step
      row = json.dumps({'step': step, 'reward/mean': reward})
      print(row, file=file, flush=True)
      time.sleep(field('optimizer.warmup_steps', 0) / 100)
      if arrived or step == steps:
        (saved / str(step)).mkdir()
      if arrived and step < steps:
        note(workdir, f'stopped {step}')
        return 143
  note(workdir, 'end')
  return 0


def note(workdir, what):
  """One line of the sweep's own, with the time."""
  with open(workdir.parent / 'events', 'a') as file:
    file.write(f'{time.monotonic()} {workdir.name} {what}\n')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
