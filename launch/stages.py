"""Stages of a recipe, each in a folder: what they run and how far they are.

A stage's folder holds stage.json: what was begun there, of which stages, and
when it was finished. Nothing else decides whether it runs again.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
import re
import shlex
import time
from typing import Any

from ml_collections import ConfigDict

from configs import base
from grpo_jax import begun, cli, files, runs
from launch import processes
from launch.config_files import flag_text

MARKER = files.STAGE
_REFERENCE = re.compile(r'\{([A-Za-z0-9_.=-]+)\}')
_ASKED_OF_MODELS = 'prompt'  # whose braces are a template's


@dataclasses.dataclass(frozen=True)
class Stage:
  """One line of a recipe.

  Attributes:
    name: of its folder.
    config: as for --config, an argument included.
    job: a module of grpo_jax, or one of your own with dots in it.
    overrides: config field -> value.
    flags: other flags of the job -> value.
    workdir: '{other}' works in another stage's folder; '' in its own.
    after: stages to be finished first, besides those it refers to.
  """

  name: str
  config: str
  job: str = 'train'
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  workdir: str = ''
  after: tuple[str, ...] = ()

  def references(self) -> list[str]:
    """Other stages that overrides, flags and workdir name, each once."""
    asked = [v for k, v in self.overrides.items() if not is_text(k)]
    found = _texts([*asked, *self.flags.values(), self.workdir])
    names = [n for text in found for n in _REFERENCE.findall(text)]
    others = (*names, *self.after)
    return [name for name in dict.fromkeys(others) if name != self.name]


@dataclasses.dataclass(frozen=True)
class Step:
  """A stage of a recipe, in a folder: what `runner` runs."""

  stage: Stage
  root: pathlib.Path
  inputs: dict[str, 'Step']  # by name
  cfg: ConfigDict  # with its references as they are written
  module: str

  @property
  def name(self) -> str:
    """The stage's."""
    return self.stage.name

  @property
  def needs(self) -> tuple[str, ...]:
    """Names of stages to be finished before it."""
    return tuple(self.inputs)

  @property
  def folder(self) -> pathlib.Path:
    """Of its marker and log."""
    return self.root / self.name

  @property
  def workdir(self) -> pathlib.Path:
    """Of its job."""
    if not self.stage.workdir:
      return self.folder
    return pathlib.Path(self._resolved(self.stage.workdir))

  def command(self, python: str) -> list[str]:
    """The job's command."""
    overrides = flags_of(
      {
        k: v if is_text(k) else self._resolved(v)
        for k, v in self.stage.overrides.items()
      }
    )
    more = (
      f'--{k}={flag_text(self._resolved(v))}'
      for k, v in self.stage.flags.items()
    )
    config = f'--config={self.stage.config}'
    where = f'--workdir={self.workdir}'
    return [python, '-m', self.module, config, *overrides, *more, where]

  def marker(self) -> dict | None:
    """What stage.json says; None before the stage has begun.

    Raises:
      ValueError: it is damaged.
    """
    path = self.folder / MARKER
    return files.read_json(path) if path.exists() else None

  def told(self, python: str) -> str:
    """Its command, as one would type it."""
    return shlex.join(self.command(python))

  def finished(self) -> str:
    """What tells this end of the stage from others; '' before it."""
    marker = self.marker()
    return '' if marker is None else marker['finished']

  def seconds(self) -> float:
    """That it has run so far, in all of its starts."""
    marker = self.marker()
    return 0.0 if marker is None else marker['seconds']

  def refuse_another(self) -> None:
    """ValueError where the folder holds another stage, or one of other inputs.

    It would be skipped or resumed as if it were this one.
    """
    marker = self.marker()
    if marker is None:
      config = self._resolved_config()
      # A job started by hand has left the steps that its epochs make.
      free = (*begun.FREE, *(('steps',) if config.sft.epochs else ()))
      cli.refuse_another(config, self.folder, free=free)
      return
    new = _fields(self._asked())
    old = _fields({name: marker[name] for name in self._asked()})
    # A field that did not exist then has its default.
    default = cli.fields(base.get_config())
    old = {k: v for k, v in default.items() if k in new} | old
    begun.refuse_other(self.folder, old, new, free=begun.FREE)
    for name, end in marker['needs'].items():
      if name in self.inputs and self.inputs[name].finished() != end:
        raise ValueError(
          f'{self.folder} was made from {self.inputs[name].folder}, which has '
          f'changed since; remove {self.folder} to make it anew, and what '
          'follows from it'
        )

  def begin(self) -> None:
    """Makes the folder and says in it what is begun."""
    self.folder.mkdir(parents=True, exist_ok=True)
    needs = {name: step.finished() for name, step in self.inputs.items()}
    self._write(
      {
        **self._asked(),
        'needs': needs,
        'finished': '',
        'seconds': self.seconds(),
        'begun': time.time(),
      }
    )

  def missing(self, code: int) -> str:
    """'' after exit status 0, which it notes; or else what went wrong."""
    marker = self.marker()
    now = time.time()
    marker['seconds'] += now - marker['begun']
    if not code:
      said = json.dumps([marker, now], sort_keys=True)
      marker['finished'] = hashlib.sha256(said.encode()).hexdigest()[:12]
    self._write(marker)
    return processes.told(code) if code else ''

  def progress(self) -> str:
    """Steps done and in all, of a job that counts them."""
    config = self.folder / files.CONFIG
    done = runs.reached(self.folder)
    if not done or not config.exists():
      return ''
    # As the job has it, which may count in epochs.
    return f'{done}/{files.read_json(config)["steps"]}'

  def _asked(self):
    return {
      'job': self.stage.job,
      'flags': dict(self.stage.flags),
      'workdir': self.stage.workdir,
      'config': self.cfg.to_dict(),
    }

  def _write(self, content):
    files.write_json(self.folder / MARKER, content)

  def _resolved(self, value):
    return _replaced(value, lambda name: str(self.root / name))

  def _resolved_config(self):
    whole = self._resolved(self.cfg.to_dict())
    return ConfigDict(whole | {'prompt': self.cfg.prompt.to_dict()})


def flags_of(overrides: Mapping[str, Any]) -> list[str]:
  """Overrides as a job's flags."""
  return [f'--config.{k}={flag_text(v)}' for k, v in overrides.items()]


def is_text(field: str) -> bool:
  """Whether braces in a config field are the text's own."""
  return field.split('.')[0] == _ASKED_OF_MODELS


def _texts(value):
  """All strings in nested dicts and lists."""
  if isinstance(value, str):
    return [value]
  if isinstance(value, Mapping):
    value = value.values()
  elif not isinstance(value, list | tuple):
    return []
  return [text for item in value for text in _texts(item)]


def _replaced(value, folder):
  """The value with folders for its references, wherever they are in it."""
  if isinstance(value, str):
    return _REFERENCE.sub(lambda found: folder(found.group(1)), value)
  if isinstance(value, Mapping):
    return {k: _replaced(v, folder) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_replaced(v, folder) for v in value)
  return value


def _fields(asked):
  """{'section.field': value} of the config, and 'job', 'flags.NAME', ..."""
  asked = cli.flat(files.plain(asked))
  return {k.removeprefix('config.'): v for k, v in asked.items()}
