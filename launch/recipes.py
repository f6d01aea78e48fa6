"""Recipe files: what they say, checked before anything runs.

A recipe file defines

  from launch.stages import Stage

  def get_stages(argument=''):     # what stands after a colon in --config
    return [
      Stage('base', job='sft', config='configs/quickstart_base.py'),
      Stage('rl', config='configs/quickstart.py',
            overrides={'init_from': '{base}'}),
      Stage('rl_eval', job='evaluate', config='configs/quickstart.py',
            workdir='{rl}'),
    ]

and, for a table at the end, TABLE = {'Zero': 'rl'}, a title for some stages, or
a function get_arms of the same argument, {'rl': ['rl_0', 'rl_1']}, an arm's
stages of several seeds, with MEASURES = ('pass@1',), what is compared, and
maybe COMPARED = {'rl': 'random'}, with which arm ('' for none), if not with the
first, and RATIOS = [('pass@1', 'rl', 'base')], a measure of one arm over that
of another.
Each stage has a folder of its own, WORKDIR/NAME, which is the workdir of its
job unless it names another. '{base}' in an override, a flag or a workdir is the
folder of the stage `base`, which is then finished first; '{rl}' in rl itself
is its own.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import re
import runpy

from launch import config_files, stages
from launch.stages import Stage, Step

_NAME = re.compile(r'[A-Za-z0-9_.=-]{1,80}')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The stages of a file in a folder, and the titles of those in its table."""

  steps: dict[str, Step]  # in order
  table: dict[str, str]  # title -> stage
  arms: dict[str, list[str]]  # name -> stages, a seed each
  measures: tuple[str, ...]  # of the arms
  compared: dict[str, str]  # arm -> the arm it is compared with
  ratios: list[tuple[str, str, str]]  # (measure, arm, the arm it is over)

  def chosen(self, *, only: str, until: str) -> list[Step]:
    """Steps to run: one, those up to one, or all.

    Raises:
      ValueError: an unknown name, or what `only` needs is not finished.
    """
    names = list(self.steps)
    for flag, name in (('only', only), ('until', until)):
      if name and name not in names:
        raise ValueError(
          f'--{flag}={name}: no such stage; there are {", ".join(names)}'
        )
    if only:
      step = self.steps[only]
      missing = [n for n in step.needs if not self.steps[n].finished()]
      if missing:
        raise ValueError(
          f'--only={only} needs {", ".join(missing)}, not finished yet; run '
          f'without --only, or with --until={only}'
        )
      return [step]
    if until:
      names = names[: names.index(until) + 1]
    return [self.steps[name] for name in names]


def load(config: str, workdir: str) -> Recipe:
  """The recipe of a file, each stage in a folder below this one.

  Args:
    config: FILE or FILE:ARGUMENT.
    workdir: of the recipe.

  Raises:
    ValueError: a mistake in the file, or in a stage's config; one line.
    FileNotFoundError: no such file, or a stage's config.
  """
  path, _, argument = config.partition(':')
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'--config={path}: no such file')
  listed, said = _read(path, argument)
  steps: dict[str, Step] = {}
  for stage in listed:
    _check_names(path, stage, steps)
    steps[stage.name] = Step(
      stage=stage,
      root=pathlib.Path(workdir),
      inputs={name: steps[name] for name in stage.references()},
      cfg=_config(path, stage),
      module=_module(path, stage),
    )
  table = dict(said.get('TABLE', {}))
  arms = config_files.call(
    path, said.get('get_arms', lambda *_: {}), *_given(argument)
  )
  arms = {arm: list(names) for arm, names in arms.items()}
  measures, compared = said.get('MEASURES', ()), said.get('COMPARED', {})
  if arms and not measures:
    raise ValueError(f'{path}: get_arms needs MEASURES, what is compared')
  named = {'TABLE': table.values(), 'get_arms': sum(arms.values(), [])}
  for where, names in named.items():
    unknown = [name for name in names if name not in steps]
    if unknown:
      raise ValueError(
        f'{path}: {where} names {unknown[0]!r}, which is no stage'
      )
  ratios = [tuple(ratio) for ratio in said.get('RATIOS', ())]
  for where, names in {
    'COMPARED': {*compared, *compared.values()} - {''},
    'RATIOS': {arm for _, *both in ratios for arm in both},
  }.items():
    if unknown := sorted(names - {*arms}):
      raise ValueError(f'{path}: {where} names {unknown[0]!r}, which is no arm')
  return Recipe(steps, table, arms, tuple(measures), dict(compared), ratios)


def notes(config: str) -> str:
  """What a stage's config says of its choices: its docstring.

  Args:
    config: FILE or FILE:ARGUMENT; a function of that name in the file, if
      there is one, speaks for the argument.
  """
  path, _, argument = config.partition(':')
  said = runpy.run_path(path)
  spoken = said.get(argument.partition(':')[0]) if argument else None
  text = getattr(spoken, '__doc__', None) if callable(spoken) else None
  return text if text else said.get('__doc__') or ''


def undisclosed(text: str) -> str:
  """What a docstring says from 'Not disclosed' to the end of a paragraph."""
  found = re.findall(r'^ *(Not disclosed.*?)(?:\n *\n|\Z)', text, re.S | re.M)
  return ' '.join(' '.join(part.split()) for part in found)


def _read(path, argument):
  """The stages, and all else the file defines."""
  said = config_files.call(path, runpy.run_path, path)
  if 'get_stages' not in said:
    raise ValueError(f'{path}: no function get_stages')
  listed = config_files.call(path, said['get_stages'], *_given(argument))
  ours = isinstance(listed, Sequence) and len(listed) > 0
  if not ours or not all(isinstance(stage, Stage) for stage in listed):
    raise ValueError(
      f'{path}: get_stages returns {listed!r:.60}; it should be a list of Stage'
    )
  return listed, said


def _given(argument):
  return (argument,) if argument else ()


def _check_names(path, stage, before):
  if not _NAME.fullmatch(stage.name):
    raise ValueError(
      f'{path}: stage {stage.name!r}: a name is letters, digits and _.=-'
    )
  if stage.name in before:
    raise ValueError(f'{path}: two stages are named {stage.name}')
  for name in stage.references():
    if name not in before:
      raise ValueError(
        f'{path}: stage {stage.name} refers to {name!r}, which is no stage '
        f'before it; there are {", ".join(before) or "none"}'
      )
  file = stage.config.partition(':')[0]
  if not pathlib.Path(file).is_file():
    raise FileNotFoundError(
      f'{path}: stage {stage.name}: config={file}: no such file'
    )


def _config(path, stage):
  given = (f'--config={stage.config}', *stages.flags_of(stage.overrides))
  return config_files.parse(
    f'{path}: stage {stage.name}', given, stage.overrides
  )


def _module(path, stage):
  module = stage.job if '.' in stage.job else f'grpo_jax.{stage.job}'
  if not config_files.call(path, config_files.is_module, module):
    raise ValueError(
      f'{path}: stage {stage.name}: job={stage.job!r} is no module'
    )
  return module
