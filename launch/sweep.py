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


@dataclasses.dataclass(frozen=True)
class Running:
  """A trial under way."""

  trial: Trial
  process: subprocess.Popen
  log: pathlib.Path
  begin: int  # bytes of the log that are of starts before this one

  def last_line(self) -> str:
    """Of what this start has written."""
    with open(self.log, 'rb') as file:
      file.seek(self.begin)
      lines = file.read().decode('utf-8', 'replace').split('\n')
    return next((x.strip() for x in reversed(lines) if x.strip()), '')


class Sweep:
  """Runs trials on this machine, some at a time."""

  def __init__(self, waiting: list[Trial], *, done: int, parallel: int):
    """Starts nothing yet.

    Args:
      waiting: to be run, in order.
      done: trials that were finished before.
      parallel: at a time.
    """
    self.waiting, self.done, self.parallel = list(waiting), done, parallel
    self.total = done + len(waiting)
    self.running: list[Running] = []
    self.failed: list[str] = []
    self.line = Line()

  def run(self) -> int:
    """Runs all; the exit status. A signal goes on to what runs."""
    with processes.noted_signals() as arrived:
      try:
        self._run(arrived)
      finally:
        # Some are left only after an error of our own, such as a full disk.
        for running in self.running:
          running.process.terminate()
          running.process.wait()
    self.line.close()
    for text in self.failed:
      print(f'failed: {text}', file=sys.stderr)
    if arrived:
      print(
        f'stopped: {self.done} of {self.total} trials are finished; the same '
        'command goes on from there',
        file=sys.stderr,
      )
      return 128 + arrived[0]
    return 1 if self.failed else 0

  def _run(self, arrived):
    passed = 0
    while self.running or (self.waiting and not arrived):
      if passed < len(arrived):
        self._pass_on(arrived[passed], again=passed > 0)
        passed += 1
      while self.waiting and len(self.running) < self.parallel and not passed:
        self.running.append(start(self.waiting.pop(0)))
      time.sleep(_POLL)
      ended = [r for r in self.running if r.process.poll() is not None]
      for running in ended:
        self.running.remove(running)
        self._ended(running, passed)
      self.line.show(self._told, now=bool(ended))

  def _pass_on(self, number, *, again):
    self.line.close()
    name = signal.Signals(number).name
    if again:
      print(f'{name}: killing what runs', file=sys.stderr)
    else:
      print(
        f'{name}: waiting for {len(self.running)} trials to save; again to '
        'kill them',
        file=sys.stderr,
      )
    for running in self.running:
      if again:
        processes.kill(running.process)
      else:
        running.process.terminate()

  def _ended(self, running, signalled):
    processes.clear(running.process)
    trial, code = running.trial, running.process.returncode
    if code == 0 and trial.finished():
      self.done += 1
    elif not signalled or processes.status(code) not in _STOPPED:
      what = processes.told(code)
      if code == 0:
        what = f'ended at step {trial.reached()} of {trial.steps}'
      last = running.last_line()
      self.failed.append(
        f'{trial.name}: {what}{": " if last else ""}{last} ({running.log})'
      )

  def _told(self):
    at = (
      f'{r.trial.name} {r.trial.reached()}/{r.trial.steps}'
      for r in self.running
    )
    failed = f', {len(self.failed)} failed' if self.failed else ''
    under_way = '  '.join(('', *at))
    return f'{self.done}/{self.total} finished{failed}{under_way}'


def start(trial: Trial) -> Running:
  """Starts a trial, with its output in the log of its workdir."""
  folder = pathlib.Path(trial.workdir)
  folder.mkdir(parents=True, exist_ok=True)
  log = folder / LOG
  with open(log, 'ab') as file:
    # Now, as the process shares the position.
    begin = file.tell()
    process = processes.start(
      trial.command(sys.executable), stdout=file, stderr=subprocess.STDOUT
    )
    return Running(trial, process, log, begin)


class Line:
  """Progress: one line of a terminal, or now and then a line of a log."""

  def __init__(self):
    self._live = sys.stderr.isatty()
    self._every = _TOLD_EVERY[0 if self._live else 1]
    self._last = time.monotonic()

  def show(self, text, *, now: bool):
    """Shows `text()` if it is time, or if something has happened."""
    if not now and time.monotonic() - self._last < self._every:
      return
    self._last, told = time.monotonic(), text()
    if self._live:
      width = shutil.get_terminal_size().columns - 1
      told = f'\r{told[:width]}\x1b[K'
    print(told, end='' if self._live else '\n', file=sys.stderr, flush=True)

  def close(self):
    """Leaves the line as it is."""
    if self._live:
      print(file=sys.stderr)


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
