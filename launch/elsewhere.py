"""Trials of a sweep on a TPU pod or through GKE, by the tools for these.

On a pod one trial runs after the other, each watched to its end (and started
again after a preemption); where its workdir is on a bucket, a trial that is
finished runs again and finds nothing to do. GKE is given all that it does not
have yet, and those that failed there, and queues them.
"""

import hashlib
import pathlib
import re
import shlex
import sys

from launch import processes
from launch.trials import Trial

TOOLS = {
  'pod': ('launch.tpu_pod', 'run'),
  'gke': ('launch.gke', 'create'),
}


def run(
  waiting: list[Trial], where: str, given: list[str], *, dry_run: bool
) -> int:
  """Prints and runs a command a trial; the exit status.

  Args:
    waiting: trials, in order.
    where: a name in TOOLS.
    given: the user's flags of the tool.
    dry_run: print only.

  Raises:
    ValueError: there is a flag that the sweep gives itself.
  """
  failed = []
  with processes.noted_signals() as arrived:
    for trial in waiting:
      line = command(trial, where, given)
      print(shlex.join(line), flush=True)
      if dry_run:
        continue
      code = processes.wait(processes.start(line), arrived)
      if arrived:
        print(
          f'stopped watching {trial.name}, which may still run there; the same '
          'command goes on',
          file=sys.stderr,
        )
        return 128 + arrived[0]
      if code:
        failed.append(f'{trial.name}: {processes.told(code)}')
  for text in failed:
    print(f'failed: {text}', file=sys.stderr)
  return 1 if failed else 0


def command(trial: Trial, where: str, given: list[str]) -> list[str]:
  """The tool's command for a trial."""
  if '--' in given:
    raise ValueError('--launch_args has a --; what runs is the trial')
  # Without it, the tool ends once the job has begun.
  own = ['--watch'] if where == 'pod' else []
  if where == 'gke':
    if any(x.partition('=')[0] == '--workload' for x in given):
      raise ValueError('--launch_args has a --workload; each trial has its own')
    own = [f'--workload={workload(trial)}', '--unless_there']
  module, verb = TOOLS[where]
  tool = [sys.executable, '-m', module, verb, *own, *given]
  # Its hosts are processes of one job.
  job = [*trial.command('python'), '--distributed']
  if trial.workdir.startswith('gs://'):
    # For all trials: a pod's own disks are gone with it.
    sweep = trial.workdir.rpartition('/')[0]
    job.append(f'--compilation_cache={sweep}/compilation_cache')
  return [*tool, '--', *job]


def workload(trial: Trial) -> str:
  """A name for Kubernetes: letters, digits and dashes, stable, not too long."""
  digest = hashlib.sha256(trial.workdir.encode()).hexdigest()[:8]
  sweep = pathlib.PurePosixPath(trial.workdir).parent.name.lower()
  return f'sweep-{re.sub("[^a-z0-9]+", "-", sweep)[:20].strip("-")}-{digest}'
