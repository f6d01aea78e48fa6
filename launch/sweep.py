"""Runs the trials of a sweep file, or tells what they have come to.

  python -m launch.sweep --sweep=configs/sweeps/quickstart_lr.py \\
    --workdir=runs/lr --parallel=2
  python -m launch.sweep --sweep=... --workdir=runs/lr --summarise

The same command again skips trials that are finished and goes on with the
others. What a sweep file is: `launch.trials`.
"""

import argparse
import pathlib
import shlex
import sys

if not __package__:
  # Run as a file: its own folder is on the path, in place of the one above.
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from grpo_jax import errors  # noqa: E402
from launch import elsewhere, runner, summary, trials  # noqa: E402


def main(argv: list[str]) -> int:
  """Runs the command; returns its exit status."""
  args = _flags(argv)
  try:
    found = trials.load(args.sweep, args.workdir)
    if args.summarise:
      print(
        summary.summarise(
          found, args.workdir, metric=args.metric, lowest=args.lowest
        )
      )
      return 0
    for trial in found:
      trial.refuse_another()
    waiting = [trial for trial in found if not trial.finished()]
    if args.on != 'local':
      return elsewhere.run(
        waiting, args.on, shlex.split(args.launch_args), dry_run=args.dry_run
      )
    if args.dry_run:
      for trial in waiting:
        print(shlex.join(trial.command(sys.executable)))
      return 0
    done = len(found) - len(waiting)
    status = runner.Runner(
      waiting, done=done, parallel=args.parallel, kind='trials'
    ).run()
  except (ValueError, OSError) as error:
    errors.tell(error)
    return 2
  if status == 0:
    told = shlex.join((f'--sweep={args.sweep}', f'--workdir={args.workdir}'))
    print(
      f'{len(found)} trials are finished. Next: '
      f'python -m launch.sweep {told} --summarise'
    )
  return status


def _flags(argv):
  parser = argparse.ArgumentParser(
    'launch.sweep', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--sweep', required=True, help='a file of configs/sweeps')
  add('--workdir', required=True, help='folder of the trials; a folder each')
  add('--parallel', type=int, default=1, help='trials at a time (local)')
  add('--dry_run', action='store_true', help='print the commands only')
  add('--summarise', action='store_true', help='print the final metrics')
  add('--metric', help=f'to rank by; {summary.DEFAULTS[0]} if there is one')
  add('--lowest', action='store_true', help='rank the lowest value first')
  add('--on', choices=['local', *elsewhere.TOOLS], default='local')
  add('--launch_args', default='', help='for launch.tpu_pod or launch.gke')
  args = parser.parse_args(argv)
  if args.parallel < 1:
    parser.error(f'--parallel={args.parallel} must be at least 1')
  if args.on == 'local' and '://' in args.workdir and not args.summarise:
    parser.error(f'--workdir={args.workdir}: --on=local needs a local folder')
  return args


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
