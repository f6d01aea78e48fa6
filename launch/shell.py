"""What the launchers share: commands, dry runs, retries, errors, quoting.

A command is a list of arguments and no local shell reads it. What a shell on a
worker reads is quoted here, and `names` checks the names: nothing that a user
types can become a command of its own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import re
import string
import subprocess
import sys
import threading
import time

from absl import flags

from grpo_jax import errors

# Begins what a script of ours on a worker says about its failure.
OURS = 'grpo_jax: '
_MAX_WAIT = 900.0  # seconds between two tries
_PLAIN = frozenset(string.ascii_letters + string.digits + '_@%+=:,./-')

# What a command's errors mean: (pattern, kind, what to do). The first one that
# matches counts. Kinds: see `Failed`.
_ERRORS = [
  (
    r'active account selected|gcloud auth login|invalid_grant|[Rr]eauthenticat',
    'login',
    'gcloud is not logged in: run `gcloud auth login`',
  ),
  (
    r'SERVICE_DISABLED|has not been used in project|\] not enabled on project',
    'setup',
    'an API is off in {project}: run `gcloud services enable '
    'tpu.googleapis.com compute.googleapis.com --project={project}`',
  ),
  (
    r'[Qq]uota (limit|metric|exceeded)|QUOTA_EXCEEDED|[Ii]nsufficient quota',
    'quota',
    '{project} has no quota for this: ask for more at https://console.cloud.'
    'google.com/iam-admin/quotas?project={project}, or try another --zone, a '
    'smaller type, or --spot, whose quota is its own',
  ),
  (
    r'no more capacity|[Ss]tockout|ZONE_RESOURCE_POOL_EXHAUSTED'
    r'|not have enough resources',
    'stockout',
    '{zone} has none free now: try another --zone, a smaller type, or '
    '`run --watch`, which keeps asking',
  ),
  (
    r'PREEMPTED|TERMINATED|unusable (terminal )?state',
    'preempted',
    'the machines of this pod are gone: `delete` it and `create` it again, or '
    'use `run --watch`, which does',
  ),
  (
    r'return code \[255\]|[Cc]onnection (refused|timed out|reset|closed)'
    r'|No route to host',
    'network',
    'the workers do not answer over ssh: try again in a minute; then check '
    '`ssh-add ~/.ssh/google_compute_engine` and that the firewall lets port 22 '
    'in, or use --iap',
  ),
  (
    r'[Nn]ame or service not known|[Nn]etwork is unreachable|UNAVAILABLE'
    r'|[Tt]emporary failure|[Tt]imed out|Unable to find the server'
    r'|INTERNAL|[Ii]nternal error|HTTPError 5\d\d',
    'network',
    'Google Cloud did not answer: check the connection and try again',
  ),
  (
    r'PERMISSION_DENIED|does not have permission|forbidden',
    'permission',
    'this account may not do that in {project}: `gcloud auth list` shows which '
    'it is; it needs the roles TPU Admin and Service Account User',
  ),
  (
    r'NOT_FOUND|was not found',
    'missing',
    'there is none of this name in {zone} of {project}',
  ),
  (
    r'ALREADY_EXISTS|already exists',
    'exists',
    'there is one of this name already: `status` shows it, `delete` removes it',
  ),
]
_INSTALL = {
  'gcloud': 'install it from https://cloud.google.com/sdk/docs/install, then '
  '`gcloud auth login`',
  'kubectl': '`gcloud components install kubectl gke-gcloud-auth-plugin`',
  'xpk': '`pip install xpk`',
}


class Failed(Exception):
  """A command failed: one line that says what to do.

  `kind` says what a caller may do: 'stockout', 'preempted', 'interrupted' and
  'network' may pass; 'missing' answers a question; others need the user.
  """

  def __init__(self, message: str, kind: str = '', printed: str = ''):
    """`printed`: what a command that was asked said before it failed."""
    super().__init__(message)
    self.kind, self.printed = kind, printed

  @property
  def passing(self) -> bool:
    return self.kind in ('stockout', 'preempted', 'interrupted', 'network')


@dataclasses.dataclass(frozen=True)
class Shell:
  """Runs commands, or prints them, one line each, as a shell would read them.

  `facts` fills the remedies of errors: project and zone.
  """

  dry_run: bool = False
  facts: dict[str, str] = dataclasses.field(default_factory=dict)

  def run(self, argv: Sequence[str], *, output=None) -> None:
    """Runs it; its output goes to ours, or to the file `output`."""
    if not self.dry_run:
      self._call(argv, output)
    else:
      print(line(argv), flush=True)

  def run_together(self, commands: Sequence[Sequence[str]]) -> None:
    """Runs them at the same time. Raises the first error, once all ended."""
    if self.dry_run or len(commands) == 1:
      for argv in commands:
        self.run(argv)
      return
    errors = []

    def one(argv):
      try:
        self.run(argv)
      except (Failed, OSError) as error:
        errors.append(error)

    # Not waited for after Ctrl-C, which the commands get too.
    threads = [
      threading.Thread(target=one, args=(argv,), daemon=True)
      for argv in commands
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    if errors:
      raise errors[0]

  def ask(
    self,
    argv: Sequence[str],
    *,
    dry: str,
    retries: int = 0,
    retry_seconds: float = 0.0,
  ) -> str:
    """What it prints; `dry` in a dry run.

    Without a connection it is asked again, `retries` times.
    """
    if self.dry_run:
      print(line(argv), flush=True)
      return dry
    for attempt in range(retries):
      try:
        return self._call(argv, subprocess.PIPE)
      except Failed as error:
        if error.kind != 'network':
          raise
        wait = waiting(attempt, seconds=retry_seconds)
        say(f'{error}; asking again in {wait:g} s')
        self.sleep(wait)
    return self._call(argv, subprocess.PIPE)

  def sleep(self, seconds: float) -> None:
    if not self.dry_run:
      time.sleep(seconds)

  def say(self, message: str) -> None:
    if not self.dry_run:
      say(message)

  def _call(self, argv, output):
    try:
      with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
      ) as process:
        if output is subprocess.PIPE:
          printed, said = process.communicate()
          said = said.splitlines()
        else:
          printed, said = '', []
          for text in process.stderr:
            sys.stderr.write(text)
            said = [*said[-49:], text.rstrip('\n')]
    except FileNotFoundError:
      remedy = _INSTALL.get(argv[0], 'install it')
      raise Failed(
        f'{argv[0]} is not installed or not on PATH: {remedy}', 'setup'
      ) from None
    if process.returncode:
      error = self._explained(argv, process.returncode, said)
      raise Failed(str(error), error.kind, printed)
    return printed

  def _explained(self, argv, code, said):
    text = '\n'.join(said)
    said = [part.strip() for part in said if part.strip()]
    ours = [part for part in said if part.startswith(OURS)]
    if ours:
      return Failed(ours[0].removeprefix(OURS), 'worker')
    words = [part for part in argv if not part.startswith('-')]
    what = ' '.join(words[:6]) + f' ended with {code}'
    for pattern, kind, remedy in _ERRORS:
      found = re.search(pattern, text)
      if found:
        start = text.rfind('\n', 0, found.start()) + 1
        quoted = text[start:].partition('\n')[0].strip()
        facts = {'project': 'the project', 'zone': 'the zone'} | self.facts
        return Failed(f'{remedy.format(**facts)} ({what}: {quoted})', kind)
    return Failed(': '.join((what, *said[-1:])))


def waiting(attempt: int, *, seconds: float) -> float:
  """Seconds before the next try: doubled each time, up to a bound."""
  return min(seconds * 2**attempt, _MAX_WAIT)


def say(message: str) -> None:
  """To stderr: stdout is for what was asked for."""
  print(message, file=sys.stderr, flush=True)


def parse(
  defined: flags.FlagValues,
  argv: Sequence[str],
  *,
  commands: Mapping[str, Callable],
  with_job: str,
) -> tuple[Callable, list[str]]:
  """Sets the flags; returns the command named and the job, which follows --."""
  at = argv.index('--') if '--' in argv else len(argv)
  for name in defined:
    defined[name].unparse()  # from an earlier call
  words, job = defined(argv[:at])[1:], list(argv[at + 1 :])
  if len(words) != 1 or words[0] not in commands:
    raise ValueError(
      f'name one command of {", ".join(commands)}, not '
      f'{" ".join(words) or "none"}; arguments of the job follow --'
    )
  if bool(job) != (words[0] == with_job):
    raise ValueError(
      f'{with_job} needs the job after --, as in: {with_job} ... -- python -m '
      'grpo_jax.train --config=configs/r1.py; other commands take none'
    )
  return commands[words[0]], job


def main(
  argv: list[str], *, run: Callable[[list[str]], None], usage: str
) -> int:
  """`run(argv)`, with errors as one line; the exit status."""
  ours = argv[: argv.index('--')] if '--' in argv else argv
  if len(argv) < 2 or {'--help', '-h'} & set(ours):
    print(usage)
    return 0
  try:
    run(argv)
  except (flags.Error, ValueError) as error:
    errors.tell(error)
    return 2
  except (Failed, OSError) as error:
    errors.tell(error)
    return 1
  except KeyboardInterrupt:
    return 130
  return 0


def quote(argument: str) -> str:
  """The argument as bash reads it, on one line whatever is in it."""
  if argument and set(argument) <= _PLAIN:
    return argument
  if not argument.isprintable():
    return _escaped(argument)
  return "'" + argument.replace("'", "'\\''") + "'"


def quote_strictly(argument: str) -> str:
  """As bash reads it, with no character that YAML or Kubernetes would read.

  xpk puts a command into YAML, where Kubernetes replaces $(NAME).
  """
  plain = argument and set(argument) <= _PLAIN
  return argument if plain else _escaped(argument)


def line(argv: Iterable[str]) -> str:
  """The command as one line that a shell reads as these arguments."""
  return ' '.join(quote(argument) for argument in argv)


def _escaped(argument):
  inner = ''.join(
    c
    if c in _PLAIN or c == ' '
    else ''.join(f'\\x{b:02x}' for b in c.encode('utf-8', 'surrogateescape'))
    for c in argument
  )
  return f"$'{inner}'"
