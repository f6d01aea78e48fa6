"""Trials of a sweep file: checked, named, and how far they are.

A sweep file defines

  CONFIG = 'configs/quickstart.py'  # as for --config, an argument included
  JOB = 'train'                     # or sft, or a module that leaves a run
  FIXED = {'eval.every': 50}        # overrides of every trial

  def get_sweep():                  # of launch.sweeps
    return grid({'optimizer.learning_rate': [1e-5, 3e-5], 'seed': range(3)})

JOB and FIXED may be left out.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
import re
import runpy
from typing import Any

from ml_collections import ConfigDict

from grpo_jax import begun, cli, files, metrics, runs
from launch import processes
from launch.config_files import call, flag_text, is_module, parse
from launch.sweeps import Choice

JOBS = ('train', 'sft')
# Named without their section; tests/test_sweep.py keeps such names apart.
SHORT = (
  'algorithm', 'filters', 'mesh', 'model', 'optimizer', 'rewards', 'sample',
  'updates',
)  # fmt: skip
MAX_NAME = 120


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a sweep."""

  name: str
  told: dict[str, Any]  # short field or title -> value
  flags: tuple[str, ...]  # --config and its overrides
  cfg: ConfigDict  # what the job will make of them
  workdir: str  # a path, or an address such as gs://bucket/...
  module: str

  def command(self, python: str) -> list[str]:
    """The job's command."""
    where = f'--workdir={self.workdir}'
    return [python, '-m', self.module, *self.flags, where]

  @property
  def is_local(self) -> bool:
    """Whether the workdir can be looked into."""
    return '://' not in self.workdir

  @property
  def steps(self) -> int:
    """Of the whole run; those of `sft.epochs` are known once it has begun."""
    begun = self.is_local and (self.folder / files.CONFIG).exists()
    if begun and self.cfg.sft.epochs and self.module == 'grpo_jax.sft':
      return runs.open_run(self.workdir).config.steps
    return self.cfg.steps

  @property
  def folder(self) -> pathlib.Path:
    """The workdir as a path."""
    return pathlib.Path(self.workdir)

  needs = ()  # no trial waits for another

  def begin(self) -> None:
    """Makes the workdir."""
    self.folder.mkdir(parents=True, exist_ok=True)

  def missing(self, code: int) -> str:
    """What keeps a trial whose process ended so from being finished, or ''."""
    if code:
      return processes.told(code)
    if not self.finished():
      return f'ended at step {self.reached()} of {self.steps}'
    return ''

  def progress(self) -> str:
    """Steps done and in all."""
    return f'{self.reached()}/{self.steps}'

  def reached(self) -> int:
    """The newest step in the metrics; 0 before the first."""
    return runs.reached(self.folder)

  def finished(self) -> bool:
    """Whether the last step is saved, and evaluated where it is to be."""
    run, steps = runs.Run(pathlib.Path(self.workdir)), self.steps
    if not self.is_local or max(run.steps, default=0) < steps:
      return False
    # A run that is stopped in its last step leaves the evaluation for later.
    if not self.cfg.eval.every or steps % self.cfg.eval.every:
      return True
    path = run.workdir / metrics.METRICS
    rows = metrics.read_rows(path) if path.exists() else []
    return any(r['step'] == steps and runs.is_evaluated(r) for r in rows)

  def refuse_another(self) -> None:
    """ValueError if the workdir was begun with a config that learns otherwise.

    It would be skipped or resumed as if it were this one.
    """
    if self.is_local:
      cli.refuse_another(self.cfg, self.folder, free=begun.FREE_OF_RUNS)


def load(path: str, workdir: str) -> list[Trial]:
  """The trials of a sweep file, each with a workdir below this one.

  Raises:
    ValueError: a mistake in the file; one line.
    FileNotFoundError: no such file, or its config.
  """
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'--sweep={path}: no such file')
  choices, said = _read(path)
  config = said.get('CONFIG')
  if not isinstance(config, str):
    raise ValueError(f"{path} has no CONFIG, as in CONFIG = 'configs/r1.py'")
  if not pathlib.Path(config.partition(':')[0]).is_file():
    raise FileNotFoundError(f'{path}: CONFIG={config}: no such file')
  module, fixed = _module(path, said.get('JOB', JOBS[0])), said.get('FIXED', {})
  parse(path, (f'--config={config}',), {})
  found = {}
  for choice in choices:
    overrides = fixed | choice.fields
    given = [f'--config.{k}={flag_text(v)}' for k, v in overrides.items()]
    given = (f'--config={config}', *given)
    name = name_of(choice)
    trial = Trial(
      name=name,
      told={short(k): v for k, v in choice.told.items()},
      flags=given,
      cfg=parse(path, given, overrides),
      workdir=f'{workdir.rstrip("/")}/{name}',
      module=module,
    )
    _refuse_twice(path, trial, found)
    found[_canonical(trial.cfg)] = trial
  return list(found.values())


def short(field: str) -> str:
  """optimizer.learning_rate -> learning_rate, but critic.learning_rate."""
  section, _, rest = field.partition('.')
  return rest if rest and section in SHORT else field


def name_of(choice: Choice) -> str:
  """A folder's name; it depends on this choice alone."""
  parts = sorted(
    f'{_safe(short(k))}={value_text(v)}' for k, v in choice.told.items()
  )
  name = ','.join(parts) or 'default'
  if len(name) > MAX_NAME:
    name = f'{name[: MAX_NAME - 9]}-{_digest(name, 8)}'
  return name


def value_text(value) -> str:
  """Short and safe in a file's name: clip+eps_high=0.28."""
  return _safe(_plain_text(value))


def _read(path):
  """What `get_sweep` returns, and all else the file defines."""
  said = call(path, runpy.run_path, path)
  if 'get_sweep' not in said:
    raise ValueError(f'{path}: no function get_sweep')
  choices = call(path, said['get_sweep'])
  ours = isinstance(choices, list) and choices
  if not ours or not all(isinstance(c, Choice) for c in choices):
    raise ValueError(
      f'{path}: get_sweep returns {choices!r:.60}; it should be what grid, '
      'zipped or chain of launch.sweeps return'
    )
  return choices, said


def _module(path, job):
  job = str(job)
  module = job if '.' in job else f'grpo_jax.{job}'
  missing = '.' not in job and job not in JOBS
  if missing or not call(path, is_module, module):
    raise ValueError(
      f'{path}: JOB={job!r} is not one of {", ".join(JOBS)}, nor a module of '
      'your own that leaves a run'
    )
  return module


def _refuse_twice(path, trial, found):
  same = found.get(_canonical(trial.cfg))
  if same is not None:
    both = ' and '.join(dict.fromkeys((same.name, trial.name)))
    raise ValueError(f'{path}: the same run is there twice: {both}')
  if trial.name in (other.name for other in found.values()):
    raise ValueError(
      f'{path}: two trials would be named {trial.name}; tell them apart by '
      'zipped(..., names=...)'
    )


def _canonical(cfg):
  return json.dumps(cfg.to_dict(), sort_keys=True, default=repr)


def _plain_text(value):
  if isinstance(value, Mapping):
    rest = [f'{k}={_plain_text(v)}' for k, v in value.items() if k != 'name']
    return '+'.join([*([value['name']] if 'name' in value else []), *rest])
  if isinstance(value, (list, tuple)):
    return '+'.join(map(_plain_text, value))
  return str(value)


def _safe(text):
  safe = re.sub(r'[^A-Za-z0-9_.+=-]+', '_', text)
  return safe if safe == text and text else f'{safe}-{_digest(text, 6)}'


def _digest(text, length):
  return hashlib.sha256(text.encode()).hexdigest()[:length]
