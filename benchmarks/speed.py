"""Speed against other systems, one after another in one run.

  python -m benchmarks.speed --against=trl,transformers,tunix

Every system is a process of its own with the same CPUs, weights, prompts and
lengths, in fp32. Prints tables and, last, one line of JSON. `rollout`,
`update` and `step` of this folder are the same for one part of a step; peers
other than `transformers` run whole steps even then.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import numpy as np

from benchmarks import speed_limits, speed_tables, workloads
from benchmarks.workloads import Workload
from grpo_jax import errors

PARTS = ('rollout', 'update', 'step')
_REPO = pathlib.Path(__file__).parents[1]
_SCRIPTS = _REPO / 'benchmarks' / 'peers'
# System -> its environment, by `make peers`, its script, parts it is asked for.
PEERS = {
  'transformers': ('torch', 'with_transformers.py', ('rollout',)),
  'trl': ('torch', 'with_trl.py', PARTS),
  'tunix': ('tunix', 'with_tunix.py', PARTS),
}


@dataclasses.dataclass(frozen=True)
class Asked:
  """What is run, and on what.

  Attributes:
    parts: of a step.
    against: peers.
    peers: path of their environments, without '-torch' or '-tunix'.
    workdir: where models, requests and logs go.
    repeats: that count, of ours and of peers.
    threads: CPUs that every system has.
    fields: of our config, by whole names.
  """

  parts: tuple[str, ...]
  against: tuple[str, ...]
  peers: pathlib.Path
  workdir: pathlib.Path
  repeats: tuple[int, int]
  threads: int
  fields: dict


def main(argv: Sequence[str]) -> int:
  """All workloads, or those asked for."""
  return run(argv, parts=PARTS)


def run(argv: Sequence[str], *, parts: tuple[str, ...]) -> int:
  """Measures what a command line asks for; the exit status."""
  flags = _flags(argv, parts)
  try:
    asked, chosen = _asked(flags, parts)
    # Children inherit it: every system has these CPUs.
    cpus = sorted(os.sched_getaffinity(0))[: asked.threads]
    os.sched_setaffinity(0, cpus)
    found = report(chosen, asked)
  except (ValueError, OSError) as error:
    errors.tell(error)
    return 2
  if flags.results:
    pathlib.Path(flags.results).write_text(
      speed_tables.page(found), encoding='utf-8'
    )
  print(json.dumps(found))
  return 0


def report(chosen: list[Workload], asked: Asked) -> dict:
  """Everything measured, tables printed on the way.

  Returns:
    'machine', 'date', 'workloads': name -> what `measure` returns.
  """
  found = {
    'machine': machine(asked),
    'date': datetime.date.today().isoformat(),
    'workloads': {},
  }
  for workload in chosen:
    found['workloads'][workload.name] = measure(workload, asked)
    # What is done stays if the rest does not end.
    path = asked.workdir / 'found.json'
    path.write_text(json.dumps(found, indent=2), encoding='utf-8')
  print(speed_tables.tables(found))
  return found


def measure(workload: Workload, asked: Asked) -> dict:
  """Our own times and those of the peers, in turn.

  Returns:
    'workload', 'weights', 'devices' that XLA makes of the CPUs for ours,
    'tokens' of all completions, 'peaks' in FLOP/s,
    'systems': name -> 'medians' in seconds and what it said, or 'error';
    'flops' and 'limits' in seconds by part, and 'rates': name -> part -> FLOP/s
    and the share of the limit, and of products of the same shapes.
  """
  folder, weights = workloads.folder_of(workload.model, asked.workdir)
  lengths = workloads.lengths(workload)
  arrays = asked.workdir / f'{workload.name}.npz'
  np.savez(arrays, prompts=workloads.prompt_ids(workload), lengths=lengths)
  devices = workloads.config(workload, '', fields=asked.fields).cpu_devices
  request = {
    'workload': dataclasses.asdict(workload),
    'folder': str(folder),
    'arrays': str(arrays),
    'parts': asked.parts,
    'threads': asked.threads,
    'devices': devices,
    'fields': asked.fields,
    'kl_coef': workloads.KL_COEF,
    'learning_rate': workloads.LEARNING_RATE,
  }
  ours = [sys.executable, '-m']
  peaks = _answer(
    [*ours, 'benchmarks.speed_limits'], request, workload, 'limits', asked
  )
  systems = {}
  for name in ('ours', *asked.against):
    command = [*ours, 'benchmarks.speed_ours']
    repeats = asked.repeats[name != 'ours']
    if name != 'ours':
      command = [_python(name, asked), str(_SCRIPTS / PEERS[name][1])]
      if not set(asked.parts) & set(PEERS[name][2]):
        continue
    print(f'{workload.name}: {name}', file=sys.stderr, flush=True)
    systems[name] = _summed_up(
      _answer(command, request | {'repeats': repeats}, workload, name, asked)
    )
  tokens = int(lengths.sum())
  return {
    'workload': dataclasses.asdict(workload),
    'weights': weights,
    'devices': devices,
    'tokens': tokens,
    'peaks': peaks,
    'systems': systems,
  } | _limits(speed_limits.flops(workload, tokens), peaks, systems)


def _limits(flops, peaks, systems):
  """Least seconds of each part, and how near to that every system comes."""
  peak = max(peaks.values())
  limits = {part: count / peak for part, count in flops.items()}
  rates = {
    name: {
      part: {
        'flops_per_s': flops[part] / seconds,
        'of_limit': limits[part] / seconds,
        # That of matrix products of the same shapes; a step has no one shape.
        'of_shapes': flops[part] / seconds / peaks.get(part, peak),
      }
      for part, seconds in system.get('medians', {}).items()
      if part in flops
    }
    for name, system in systems.items()
  }
  return {'flops': flops, 'limits': limits, 'rates': rates}


def machine(asked: Asked) -> dict:
  """What the numbers depend on."""
  cpu = ''
  for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
    if line.startswith('model name'):
      cpu = line.split(':')[1].strip()
  commit = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'],
    cwd=_REPO,
    capture_output=True,
    text=True,
  )
  return {
    'cpu': cpu or platform.processor(),
    'system': platform.platform(),
    'threads': asked.threads,
    'commit': commit.stdout.strip(),
  }


def _answer(command, request, workload, name, asked):
  """What a process prints last; what else it says goes to a log."""
  stem = asked.workdir / f'{workload.name}-{name}'
  path, log = stem.with_suffix('.json'), stem.with_suffix('.log')
  path.write_text(json.dumps(request), encoding='utf-8')
  with log.open('w', encoding='utf-8') as stderr:
    done = subprocess.run(
      [*command, str(path.absolute())],
      stdout=subprocess.PIPE,
      stderr=stderr,
      text=True,
      env=os.environ | _environment(asked.threads),
    )
  if done.returncode:
    lines = log.read_text(encoding='utf-8').strip().splitlines()
    why = lines[-1] if lines else f'exit status {done.returncode}'
    # A peer that fails is told of and the others go on.
    if name not in PEERS:
      raise ValueError(f'{workload.name}, {name}: {why} (all of it: {log})')
    return {'error': f'{why} (exit status {done.returncode}, {log})'}
  return json.loads(done.stdout.splitlines()[-1])


def _environment(threads):
  libraries = ('OMP', 'MKL', 'OPENBLAS')
  return {f'{name}_NUM_THREADS': str(threads) for name in libraries} | {
    'JAX_PLATFORMS': 'cpu',
    'HF_HUB_OFFLINE': '1',
    'TOKENIZERS_PARALLELISM': 'false',
  }


def _summed_up(found):
  if 'error' in found:
    return found
  medians = {k: statistics.median(v) for k, v in found['seconds'].items()}
  return found | {'medians': medians}


def _python(peer, asked):
  """That of a peer's environment."""
  environment = PEERS[peer][0]
  path = pathlib.Path(f'{asked.peers}-{environment}', 'bin', 'python')
  if not path.exists():
    raise ValueError(
      f'{path}: not there; run `make peers` or leave {peer} out of --against'
    )
  return str(path.absolute())


def _asked(flags, parts):
  chosen = [w for name in flags.workload for w in workloads.named(name)]
  unknown = sorted(set(flags.against) - set(PEERS))
  if unknown:
    raise ValueError(
      f'--against={",".join(unknown)}: there are {", ".join(PEERS)}'
    )
  workdir = pathlib.Path(flags.workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  asked = Asked(
    parts=parts,
    against=tuple(flags.against),
    peers=pathlib.Path(flags.peers),
    workdir=workdir,
    repeats=(flags.repeats, flags.peer_repeats),
    threads=flags.threads,
    fields=dict(_field(text) for text in flags.field),
  )
  for peer in asked.against:
    _python(peer, asked)
  for workload in chosen:
    # A misspelt field fails now.
    workloads.config(workload, '', fields=asked.fields)
  return asked, chosen


def _field(text):
  """(name, value) of 'updates.remat=none' or 'updates.microbatches=2'."""
  name, _, value = text.partition('=')
  try:
    return name, json.loads(value)
  except json.JSONDecodeError:
    return name, value


def _names(text):
  return [name for name in text.split(',') if name]


def _flags(argv, parts):
  parser = argparse.ArgumentParser(
    f'benchmarks.{parts[0] if len(parts) == 1 else "speed"}',
    description=__doc__.split('\n')[0],
    allow_abbrev=False,
  )
  add = parser.add_argument
  every = parts == PARTS
  given = dict(default=_names('W1,W2,W3,W4,W5')) if every else {}
  add('--workload', type=_names, required=not every, help='W1,W3', **given)
  add('--against', type=_names, default=[], help=','.join(PEERS))
  add('--repeats', type=int, default=5, help='that count, of ours')
  add('--peer_repeats', type=int, default=3, help='that count, of peers')
  add('--threads', type=int, default=len(os.sched_getaffinity(0)), help='CPUs')
  add('--field', action='append', default=[], help='updates.remat=none; ours')
  add('--peers', default='.venv-peers', help='their environments, -torch ...')
  add('--workdir', default='runs/speed', help='of models, requests and logs')
  add('--results', default='', help='a page to write')
  return parser.parse_args(argv)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
