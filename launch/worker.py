"""What runs on the workers of a pod: bash, one line a script, all words quoted.

Everything is in `~/grpo_jax_pod` of a worker: `code`, `venv`, `log`, and what
tells how the job is: `lock` (held while it runs), `pid`, `job` (the hash of its
command), `exit` (its status, once it ended), `stopped` (it was asked to end).
A lock, not a process number, says that it runs: a reboot frees it.

gcloud runs a script again where the connection ends with an error, and what the
first run began may go on: a second run of each must do no harm.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import re

from launch import shell

HOME = 'grpo_jax_pod'
# How a job ends whose other processes are gone, `grpo_jax.hosts.LOST`: started
# again for all, it goes on.
LOST = 75
_RUNNING = (
  f"echo \"{shell.OURS}a job runs on this pod already: 'logs' shows it, "
  "'stop' ends it\" >&2; exit 75"
)
# Runs "$@" and writes its status. The trap keeps this shell alive at the
# machine's shutdown, which signals all processes, until the job has saved. Not
# passed on: a second signal would end the job at once.
_KEEPER = (
  'trap : TERM INT; '
  'cd code; '
  'export PATH="$PWD/../venv/bin:$PATH" PYTHONUNBUFFERED=1; '
  'echo "== $(date -u +%FT%TZ) $(hostname): $(printf "%q " "$@")"; '
  '"$@" 9>&- & child=$!; '
  'echo $child >../pid; '
  'while :; do '
  'wait $child; code=$?; kill -0 $child 2>/dev/null || break; done; '
  'echo "== $(date -u +%FT%TZ) exit $code"; '
  'echo $code >../exit.partial; '
  'mv ../exit.partial ../exit'
)
_LINE = re.compile(
  r'^worker ([A-Za-z0-9][\w.-]*) (none|running|lost|exit|stopped) (\d+|-) '
  r'([0-9a-f]+|-)$',
  re.MULTILINE | re.ASCII,
)


@dataclasses.dataclass(frozen=True)
class Report:
  """How the job is on one worker.

  `state` is none, running, lost (gone without a word: a reboot, or killed),
  exit or stopped (ended, on request); `code` its exit status, -1 for none.
  """

  host: str
  state: str
  code: int
  job: str


def identity(job: Sequence[str]) -> str:
  """A hash of the command."""
  content = '\0'.join(job).encode('utf-8', 'surrogateescape')
  return hashlib.sha256(content).hexdigest()[:12]


def script(*steps: str) -> str:
  """One line for the login shell of the machines, bash, in our folder."""
  enter = f'set -eu; mkdir -p "$HOME/{HOME}"; cd "$HOME/{HOME}"'
  return '; '.join((enter, *steps))


def install(archive: str, *, extras: str) -> str:
  """Unpacks the code from the home folder and installs it and its needs.

  Images of Cloud TPU come with Python 3.10: where none is new enough, uv
  brings one. A second run waits for what the first has begun, then installs
  from the archive again, which stays.
  """
  what = shell.quote(f'.[{extras}]')
  return script(
    f'flock --nonblock lock true || {{ {_RUNNING}; }}',
    'exec 8>>installing',
    'flock 8',
    'rm -rf code',
    'mkdir code',
    f'tar -xzf "$HOME"/{shell.quote(archive)} -C code',
    # One that was cut short has no pip.
    'if ! venv/bin/python -m pip --version >/dev/null 2>&1; then '
    'rm -rf venv; '
    'for python in python3.13 python3.12 python3.11 python3 ""; do '
    '"$python" -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"'
    ' 2>/dev/null && break; done; '
    'if [ -n "$python" ]; then "$python" -m venv venv; else '
    'python3 -m pip install --quiet --user uv; '
    'python3 -m uv venv --quiet --seed --python 3.12 venv; fi; fi',
    'cd code',
    f'../venv/bin/python -m pip install --quiet -e {what}',
    'echo "$(hostname): installed"',
  )


def start(job: Sequence[str], *, environment: Mapping[str, str]) -> str:
  """Starts the job, out of reach of the end of the connection.

  Where this very command runs already, it is the first run's.
  """
  exports = ' '.join(
    f'{name}={shell.quote(value)}' for name, value in environment.items()
  )
  return script(
    'exec 9>>lock',
    # `report` holds it for a moment.
    'if ! flock --timeout 5 9; then '
    f'if [ "$(cat job 2>/dev/null)" = {identity(job)} ]; then '
    f'echo "$(hostname): started"; exit; fi; {_RUNNING}; fi',
    'rm -f exit stopped pid',
    f'echo {identity(job)} >job',
    f'export {exports}',
    f'setsid nohup bash -c {shell.quote(_KEEPER)} job {shell.line(job)} '
    '>>log 2>&1 </dev/null & echo "$(hostname): started"',
  )


def report() -> str:
  """One line a worker, for `parse`."""
  return script(
    # First: a job leaves its exit status before it lets go of the lock.
    'held=; flock --nonblock lock true || held=yes',
    'job=$(cat job 2>/dev/null || echo -)',
    'code=$(cat exit 2>/dev/null || echo -)',
    'if [ "$code" != - ]; then '
    'if [ -e stopped ]; then state=stopped; else state=exit; fi; '
    'elif [ -n "$held" ]; then state=running; '
    'elif [ -e job ]; then state=lost; else state=none; fi',
    'echo "worker $(hostname) $state $code $job"',
  )


def parse(text: str) -> list[Report]:
  """The reports in what `report` printed, by host, of each its last."""
  found = {
    host: Report(host, state, -1 if code == '-' else int(code), job)
    for host, state, code, job in _LINE.findall(text)
  }
  return [found[host] for host in sorted(found)]


def terminate() -> str:
  """Sends SIGTERM to the job, which saves and leaves. Waits for nothing.

  Once: a second one would end it unsaved.
  """
  return script(
    'if flock --nonblock lock true; then echo "$(hostname): no job runs"; '
    'elif [ -e stopped ]; then echo "$(hostname): SIGTERM was sent before"; '
    'else touch stopped; '
    'if kill -TERM "$(cat pid)"; then echo "$(hostname): SIGTERM sent"; '
    'else rm stopped; exit 1; fi; fi',
  )


def follow(*, lines: int, named: bool) -> str:
  """The end of the log, and what comes; `named` puts the host before a line."""
  tail = f'tail --lines={lines} --follow=name --retry log'
  names = ' | awk -v h="$(hostname)" \'{print h ": " $0; fflush()}\''
  return script(tail + (names if named else ''))


def whole_log() -> str:
  """The whole log, each line after the host and a tab."""
  return script(
    'touch log', 'awk -v h="$(hostname)" \'{print h "\\t" $0}\' log'
  )
