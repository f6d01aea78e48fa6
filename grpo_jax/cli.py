"""The command line that every job shares: flags, one-line errors, signals."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import functools
import logging
import math
import os
import pathlib
import signal
import sys
import traceback
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
import jax
from ml_collections import config_flags, ConfigDict

from grpo_jax import arguments, begun, errors, files, hosts, runs

_PACKAGE = pathlib.Path(__file__).parent

_config = config_flags.DEFINE_config_file(
  'config', None, "Experiment: a file of configs/. Default: the workdir's."
)
_workdir = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_init_from = flags.DEFINE_string(
  'init_from', None, 'Run, HF folder or .gguf file; short for config.init_from.'
)
_cache = flags.DEFINE_string(
  'compilation_cache',
  '~/.cache/grpo_jax',
  'Folder of compiled programs, so that a restart compiles nothing; empty for '
  'none. Of several processes the first alone writes: on pods it must be one '
  'that all read, on a bucket.',
)


_distributed = flags.DEFINE_bool(
  'distributed',
  False,
  'Join the other processes of a TPU pod (launch.local needs no flag).',
)


class Stopped(BaseException):
  """SIGTERM or Ctrl-C asked the job to end; what matters is saved."""

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.code = 128 + number  # as a shell reports a signal's end


def main(job: Callable[[ConfigDict, pathlib.Path | None], None]) -> None:
  """Runs `job(cfg, workdir)` as a command; workdir is None if not given."""

  def run(_):
    with hosts.leaving_at_once():
      sys.exit(_run(job))

  app.run(run, flags_parser=functools.partial(arguments.parse, fail=_fail))


def need_workdir(workdir: pathlib.Path | None) -> pathlib.Path:
  """The workdir, or a ValueError that asks for one."""
  if workdir is None:
    raise ValueError('--workdir=DIR is needed: the folder of the run')
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f'--workdir={workdir} is a file; name a folder')
  return workdir


def from_workdir(cfg, workdir: pathlib.Path | None):
  """The config, with the run in `workdir` to start from unless one is given."""
  is_run = workdir is not None and (workdir / files.MODEL).is_dir()
  if is_run and not init_from_given():
    cfg = cfg.copy_and_resolve_references()
    cfg.init_from = str(workdir)
  if not cfg.init_from:
    where = '' if workdir is None else f'no run in {workdir}; '
    raise ValueError(
      f'{where}name the --workdir of a run, or a model with --init_from'
    )
  return cfg


def folder(flag: str, value: str | None) -> str | None:
  """The value of a flag that names a folder, `~` for the user's home.

  Shells leave `~` in --workdir=~/runs as it is.

  Raises:
    ValueError: gs://... and the like, which as a path would be a folder called
      'gs:' on this machine.
  """
  if value is None or '://' not in value:
    return value and os.path.expanduser(value)
  mounted = 'the folder it is mounted on'
  if value.startswith('gs://'):
    mounted = f'--{flag}=/gcs/{value.removeprefix("gs://")}'
  raise ValueError(
    f'--{flag}={value} is an address and jobs work in folders: mount the '
    'bucket as in launch/README.md (launch.tpu_pod and launch.gke do it '
    f'themselves) and give {mounted}'
  )


def lock(workdir: pathlib.Path, *, flag='workdir') -> contextlib.ExitStack:
  """Takes the workdir, until what is returned is closed or the process ends.

  Args:
    workdir: created if need be.
    flag: that names it.

  Raises:
    ValueError: another process has it, and would be written over.
  """
  with contextlib.ExitStack() as held:
    # On several hosts, the first process has the workdir for all of them.
    if jax.process_index():
      return held.pop_all()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / '.lock'
    file = held.enter_context(path.open('a'))
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'{workdir} is in use by process {path.read_text()}; wait for it to '
        f'end or use another --{flag}'
      ) from None
    except OSError as error:
      # Some network file systems know no locks.
      if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
        raise
    path.write_text(str(os.getpid()))
    # Emptied, not removed: two processes could lock two files of that name.
    held.callback(file.truncate, 0)
    return held.pop_all()


def divide_cpu(devices: int) -> None:
  """Makes so many devices of the CPU, before any is used.

  Args:
    devices: at least 1; what the environment says comes first.
  """
  if devices < 1:
    raise ValueError(f'cpu_devices={devices} must be at least 1')
  flag = 'host_platform_device_count'
  said = flag in os.environ.get('XLA_FLAGS', '')
  if not said and 'JAX_NUM_CPU_DEVICES' not in os.environ:
    jax.config.update('jax_num_cpu_devices', devices)


@contextlib.contextmanager
def shutdown_requested() -> Iterator[Callable[[], int]]:
  """Within it, SIGTERM and Ctrl-C only answer 'which has arrived?', 0 for none.

  The loop can then save and leave. A second signal ends the process at once.
  """
  arrived = []

  def handle(number, _):
    if arrived:
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)
    arrived.append(number)
    name = signal.Signals(number).name
    logging.warning('%s: saving after this step; again to stop now', name)

  numbers = (signal.SIGTERM, signal.SIGINT)
  before = [signal.signal(number, handle) for number in numbers]
  try:
    yield lambda: arrived[0] if arrived else 0
  finally:
    for number, handler in zip(numbers, before, strict=True):
      signal.signal(number, handler)


def save_config(cfg: ConfigDict, workdir: pathlib.Path) -> None:
  """Writes `workdir/config.json`, creating the folder."""
  workdir.mkdir(parents=True, exist_ok=True)
  files.write_json(workdir / files.CONFIG, cfg.to_dict())


def changed_fields(cfg: ConfigDict, workdir: pathlib.Path) -> list[str]:
  """Fields whose values differ from those in `workdir/config.json`."""
  if not (workdir / files.CONFIG).exists():
    return []
  return begun.changed(fields(runs.open_run(workdir).config), fields(cfg))


def refuse_another(cfg: ConfigDict, workdir: pathlib.Path, *, free) -> None:
  """ValueError where a run was begun in the workdir with another config.

  Args:
    cfg: what is asked.
    workdir: may be empty, or not there.
    free: sections and fields that may differ.
  """
  if (workdir / files.CONFIG).exists():
    there = fields(runs.open_run(workdir).config)
    begun.refuse_other(workdir, there, fields(cfg), free=free)


def fields(cfg: ConfigDict) -> dict[str, Any]:
  """{'section.field': value} of a config, to be compared."""
  return flat(files.plain(cfg.to_dict()))


def flat(tree: dict, prefix: str = '') -> dict:
  """{'section.field': value} of nested dicts."""
  found = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      found |= flat(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = value
  return found


def init_from_given() -> bool:
  """Whether --init_from or --config.init_from was on the command line."""
  given = (arg.split('=')[0].lstrip('-') for arg in sys.argv[1:])
  return bool({'init_from', 'config.init_from'} & set(given))


def _run(job):
  absl_logging.set_verbosity(absl_logging.WARNING)
  logging.getLogger().setLevel(logging.WARNING)
  try:
    cfg = _config.value
    if _init_from.value is not None:
      cfg.init_from = _init_from.value
    if cache := folder('compilation_cache', _cache.value):
      jax.config.update('jax_compilation_cache_dir', cache)
      # Quick ones too: a hundred of them take seconds.
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    workdir = folder('workdir', _workdir.value)
    cfg.init_from = folder('init_from', cfg.init_from)
    a, flag = cfg.algorithm, 'config.algorithm.reference_from'
    a.reference_from = folder(flag, a.reference_from)
    _check_numbers(cfg)
    divide_cpu(cfg.cpu_devices)
    hosts.start(distributed=_distributed.value)
    with hosts.doing(pathlib.Path(sys.argv[0]).stem):
      job(cfg, None if workdir is None else pathlib.Path(workdir))
  except Stopped as stop:
    print(stop, file=sys.stderr)
    return stop.code
  except KeyboardInterrupt:
    return 130
  except (ValueError, OSError, FloatingPointError, ImportError) as error:
    _fail(error)
  return 0


def _check_numbers(cfg):
  """What no comparison finds out of range, and what no array holds."""
  for name, value in fields(cfg).items():
    if isinstance(value, float) and math.isnan(value):
      raise ValueError(f'{name}=nan is no number')
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
      raise ValueError(f'{name}={value} is beyond 64 bits')


def _fail(error):
  """One line for a mistake of the user's; a bug keeps its traceback."""
  frames = traceback.extract_tb(error.__traceback__)
  tools = (str(_PACKAGE.parent / name) for name in ('launch', 'benchmarks'))
  ours = (str(_PACKAGE), *tools, 'ml_collections', 'absl')
  of_ours = not frames or any(part in frames[-1].filename for part in ours)
  if not of_ours and not isinstance(error, OSError):
    raise error
  errors.tell(error)
  sys.exit(2)
