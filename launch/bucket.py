"""Buckets of Cloud Storage as folders of the workers, by Cloud Storage FUSE.

A job appends to files, locks one and lists folders: an object store does none
of that. So what a job is told as gs://BUCKET/PATH it gets as /gcs/BUCKET/PATH,
and each such bucket is mounted there on every worker before the job starts: by
`mount` on Cloud TPU VMs, by GKE's CSI driver in containers (`launch.gke`).
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import re

from launch import names, shell, worker

ROOT = '/gcs'
# Where an address begins: an argument, the value of a flag, or a word in quotes
# as in a dict of a config.
_ADDRESS = re.compile(
  r"""(^|^--?[\w.]+=|['"])gs://([^/'"]*)((?:/[^'"]*)?)""", re.ASCII
)
# Flags whose folders a job writes to.
_WRITTEN = ('workdir', 'out', 'compilation_cache')

# (a flag of gcsfuse, the same as the CSI driver spells it)
OPTIONS = (
  # Folders that were uploaded have no object of their own.
  ('--implicit-dirs', 'implicit-dirs'),
  # Hosts write into one checkpoint: each must see at once what others wrote.
  # By default gcsfuse remembers names for a minute, on large machines for ever.
  ('--metadata-cache-ttl-secs=0', 'metadata-cache:ttl-secs:0'),
  (
    '--metadata-cache-negative-ttl-secs=0',
    'metadata-cache:negative-ttl-secs:0',
  ),
  (
    '--kernel-list-cache-ttl-secs=0',
    'file-system:kernel-list-cache-ttl-secs:0',
  ),
  # A damaged checkpoint is renamed; without a limit no folder can be, in a
  # bucket without hierarchical namespace.
  ('--rename-dir-limit=1000000', 'file-system:rename-dir-limit:1000000'),
)
# The first that uploads while it writes, and renames files that are open, as
# checkpoints do.
_VERSION = '"version ([3-9]|[1-9][0-9]+)\\."'
_HOST = 'https://packages.cloud.google.com/apt'
_KEY = '/usr/share/keyrings/cloud.google.asc'
_LIST = '/etc/apt/sources.list.d/gcsfuse.list'
_INSTALL = ' && '.join(
  (
    '. /etc/os-release',
    f'sudo curl -fsSo {_KEY} {_HOST}/doc/apt-key.gpg',
    f'echo "deb [signed-by={_KEY}] {_HOST} gcsfuse-$VERSION_CODENAME main" '
    f'| sudo tee {_LIST}',
    # A machine that has just started is often updating itself.
    'sudo apt-get -q -o DPkg::Lock::Timeout=600 update',
    'sudo DEBIAN_FRONTEND=noninteractive apt-get -qy '
    '-o DPkg::Lock::Timeout=600 install gcsfuse',
  )
)
_FAIL = (
  f'fail() {{ echo "{shell.OURS}$(hostname): $1'
  '$(tail -n 1 gcsfuse.log 2>/dev/null)" >&2; exit 1; }'
)


@dataclasses.dataclass(frozen=True)
class Job:
  """A job as its workers get it."""

  argv: tuple[str, ...]
  buckets: tuple[str, ...]  # to be mounted
  written: tuple[str, ...]  # those of them that it writes to


def for_workers(job: Sequence[str], *, restarts: str = '') -> Job:
  """The job with paths for the addresses in its arguments.

  Args:
    job: the user's words.
    restarts: what starts the job again on other machines, as --watch: a workdir
      that is lost with its machine is refused.

  Raises:
    ValueError: a bucket that cannot exist, a path that leaves it, or a workdir
      that is nowhere or on a disk.
  """
  argv, buckets, by_flag = [], [], {}
  for flag, argument in _flags(job):
    found = by_flag.setdefault(flag, [])
    path = functools.partial(_path, flag=flag, found=found)
    argv.append(_ADDRESS.sub(path, argument))
    buckets += found
  if restarts and not by_flag.get('workdir'):
    raise ValueError(
      f'{restarts} needs a job with --workdir=gs://BUCKET/...: the disk of a '
      'machine is lost with it, and the job could not go on'
    )
  written = [b for flag in _WRITTEN for b in by_flag.get(flag, [])]
  return Job(
    tuple(argv), tuple(dict.fromkeys(buckets)), tuple(dict.fromkeys(written))
  )


def mount(job: Job) -> str:
  """Mounts a job's buckets, on a worker; what is mounted already stays."""
  each = ((b, shell.quote(f'{ROOT}/{b}')) for b in job.buckets)
  return worker.script(
    _FAIL,
    'rm -f gcsfuse.log',
    f'if ! gcsfuse --version 2>/dev/null | grep -Eq {_VERSION}; then '
    f'{{ {_INSTALL}; }} >gcsfuse.log 2>&1 </dev/null || '
    'fail "cannot install gcsfuse: "; fi',
    *(_mount(b, at, writes=b in job.written) for b, at in each),
  )


def storage(bucket: str) -> str:
  """What a bucket is called among the storages of an xpk cluster."""
  digest = hashlib.sha256(bucket.encode()).hexdigest()[:8]
  return f'gcs-{re.sub("[^a-z0-9]+", "-", bucket)[:20].strip("-")}-{digest}'


def driver_options() -> str:
  """OPTIONS for GKE's CSI driver."""
  return ','.join(theirs for _, theirs in OPTIONS)


def _flags(job) -> Iterator[tuple[str, str]]:
  """Each argument with the flag that it belongs to."""
  before = ''
  for argument in job:
    name = re.match(r'--?([\w.]+)(=|$)', argument, re.ASCII)
    yield (name[1] if name else before), argument
    before = name[1] if name and not name[2] else ''


def _path(match, *, flag, found):
  before, bucket, path = match.groups()
  names.checked('bucket', bucket, flag=flag or 'argument')
  middle = path.removeprefix('/').removesuffix('/').split('/')
  wrong = {'.', '..'} | ({''} if len(middle) > 1 else set())
  if wrong & set(middle) or not path.isprintable():
    raise ValueError(
      f'--{flag or "argument"}={f"gs://{bucket}{path}"!r} is not valid: a path '
      'in a bucket has no part that is empty, . or .., no control characters'
    )
  found.append(bucket)
  return f'{before}{ROOT}/{bucket}{path}'


def _mount(bucket, at, *, writes):
  """One bucket, by a shell that knows `fail`."""
  options = ' '.join(ours for ours, _ in OPTIONS)
  # A crash of gcsfuse leaves a mount that answers nothing. Another user's does
  # not answer us either, and is to stay.
  steps = (
    f'if ! mountpoint -q {at}; then '
    f'if LC_ALL=C stat {at} 2>&1 | grep -q "endpoint is not connected"; then '
    f'sudo umount --lazy {at}; fi; '
    f'{{ sudo mkdir -p {at} && sudo chown "$(id -u)" {at} && '
    f'gcsfuse {options} {bucket} {at}; }} >gcsfuse.log 2>&1 </dev/null || '
    f'fail "cannot mount gs://{bucket}: "; fi'
  )
  if not writes:
    return steps
  probe = f'{at}/".grpo_jax.$(hostname)"'
  # cp, as it notices errors that come when a file is closed.
  return (
    f'{steps}; hostname >probe; '
    f'{{ cp probe {probe} && rm {probe}; }} 2>gcsfuse.log || '
    f'fail "the workers may not write to gs://{bucket}: give their service '
    'account the role Storage Object Admin on it. "'
  )
