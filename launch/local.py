"""Runs a command in several processes on this machine, as a pod would.

  python -m launch.local --processes 2 --devices 4 -- \\
    python -m grpo_jax.train --config=configs/quickstart.py --workdir=runs/two

Each process is told its place by environment variables, which a job reads
before it asks JAX for devices:

  GRPO_JAX_COORDINATOR  host:port of the first process, free on loopback
  GRPO_JAX_PROCESSES    how many there are
  GRPO_JAX_PROCESS      which one this is, from 0

and has --devices CPU devices, with collectives by gloo. Lines of output begin
with the process they are of.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

if not __package__:
  # Run as a file: its own folder is on the path, in place of the one above.
  sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from grpo_jax import errors  # noqa: E402
from launch import processes  # noqa: E402

COORDINATOR = 'GRPO_JAX_COORDINATOR'
PROCESSES = 'GRPO_JAX_PROCESSES'
PROCESS = 'GRPO_JAX_PROCESS'
_DEVICES = '--xla_force_host_platform_device_count'
_POLL = 0.05  # seconds
# Between SIGTERM and SIGKILL, for those that another's failure ends.
_KILL_AFTER = 10.0


def main(argv: list[str]) -> int:
  """Runs the command; the status of the first process to fail, or 0."""
  args, command = _flags(argv)
  coordinator = f'127.0.0.1:{free_port()}'
  running, readers, lock = [], [], threading.Lock()
  unheard = threading.Event()
  with processes.noted_signals() as arrived:
    try:
      for i in range(args.processes):
        env = environment(
          os.environ, i, args.processes, args.devices, coordinator
        )
        process = processes.start(
          command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        readers += [
          _reader(i, process.stdout, sys.stdout, lock, unheard),
          _reader(i, process.stderr, sys.stderr, lock, unheard),
        ]
      code = watch(running, arrived, grace=args.grace)
    except OSError as error:
      # Of the command itself: no such file, or not to be run.
      errors.tell(error)
      code = 2
    finally:
      for process in running:
        processes.kill(process)
        process.wait()
  for reader in readers:
    # Only a process that has left its group can still hold the pipe.
    reader.join(timeout=5)
  return code


def environment(
  inherited: dict[str, str],
  process: int,
  count: int,
  devices: int,
  coordinator: str,
) -> dict[str, str]:
  """The environment of a process; other XLA_FLAGS are kept."""
  # By its text: other flags may hold quotes, which XLA reads in its own way.
  xla = re.sub(rf'{_DEVICES}(=\S*)?', '', inherited.get('XLA_FLAGS', ''))
  return {
    **inherited,
    COORDINATOR: coordinator,
    PROCESSES: str(count),
    PROCESS: str(process),
    'XLA_FLAGS': f'{xla} {_DEVICES}={devices}'.strip(),
    'JAX_PLATFORMS': 'cpu',
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    # Lines are to come when they are written.
    'PYTHONUNBUFFERED': '1',
  }


def free_port() -> int:
  """A port of loopback that nothing listens on."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def watch(
  running: list[subprocess.Popen], arrived: list[int], *, grace: float
) -> int:
  """Waits for all to end; the status of the first to fail, or 0.

  Args:
    running: all processes.
    arrived: signals, as they come. The first is passed on as SIGTERM, the
      second kills.
    grace: seconds that the others have once one has failed, to notice and say
      so; then SIGTERM, and SIGKILL 10 seconds after.
  """
  first, passed, deadlines = None, 0, []
  waiting = dict(enumerate(running))
  while waiting:
    for i, process in list(waiting.items()):
      if process.poll() is None:
        continue
      del waiting[i]
      processes.clear(process)
      if not process.returncode:
        continue
      what = f'process {i}: {processes.told(process.returncode)}'
      if first is None:
        first, now = processes.status(process.returncode), time.monotonic()
        deadlines = [now + grace, now + grace + _KILL_AFTER]
        _say(what, waiting, f'the others have {grace:g} s to end')
      else:
        _say(what)
    if passed < len(arrived):
      passed += 1
      name = signal.Signals(arrived[passed - 1]).name
      if passed == 1:
        _say(name, waiting, 'waiting for all to end; again to kill them')
      else:
        _say(name, waiting, 'killing them')
      _end(waiting, kill=passed > 1)
    if deadlines and time.monotonic() > deadlines[0]:
      deadlines.pop(0)
      how = 'SIGTERM' if deadlines else 'SIGKILL'
      _say('their time is over', waiting, f'{how} to {sorted(waiting)}')
      _end(waiting, kill=not deadlines)
    time.sleep(_POLL)
  return first or 0


def _end(waiting, *, kill):
  for process in waiting.values():
    if kill:
      processes.kill(process)
    else:
      process.terminate()


def _say(what, waiting=(), then=''):
  what = f'{what}; {then}' if waiting else what
  try:
    print(f'[local] {what}', file=sys.stderr, flush=True)
  except BrokenPipeError:
    _drop(sys.stderr)


def _drop(out):
  """What is written from here on is not, where nobody reads (`| head`)."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _reader(i, pipe: IO[bytes], out, lock, unheard) -> threading.Thread:
  """Copies lines, each after its process, whole."""

  def copy():
    for line in pipe:
      end = b'' if line.endswith(b'\n') else b'\n'
      with lock:
        try:
          out.buffer.write(b'[%d] ' % i + line + end)
          out.buffer.flush()
        except BrokenPipeError:
          # All are to end, and not to wait for a reader till then.
          _drop(out)
          if not unheard.is_set():
            unheard.set()
            signal.raise_signal(signal.SIGTERM)

  thread = threading.Thread(target=copy, daemon=True)
  thread.start()
  return thread


def _flags(argv):
  parser = argparse.ArgumentParser(
    'launch.local',
    description=__doc__.split('\n')[0],
    usage='%(prog)s --processes N --devices N [--grace S] -- COMMAND',
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--processes', type=int, default=2)
  add('--devices', type=int, default=1, help='CPU devices of each process')
  add(
    '--grace',
    type=float,
    default=60.0,
    help='seconds that the others have once a process has failed',
  )
  at = argv.index('--') if '--' in argv else len(argv)
  args, command = parser.parse_args(argv[:at]), argv[at + 1 :]
  if not command:
    parser.error('no command; it follows a --, as in -- python -m grpo_jax.sft')
  for name in ('processes', 'devices'):
    if getattr(args, name) < 1:
      parser.error(f'--{name}={getattr(args, name)} must be at least 1')
  return args, command


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
