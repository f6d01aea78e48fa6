"""Whether a folder was begun as something else than what is asked for now.

It would be skipped, or resumed, as if it were the same.
"""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any

# Of a config, sections and fields that change neither what is learned nor what
# is found: where it runs and what is kept of it. Each tool has its own besides.
FREE = (
  'chat', 'checkpoint', 'cpu_devices', 'launch', 'log', 'mesh', 'rules',
  # Where a judge is and how it is asked, not which it is.
  'keep.judge.url', 'keep.judge.key_from', 'keep.judge.tries',
  'keep.judge.first_wait', 'keep.judge.timeout',
)  # fmt: skip
# A run that learns: it may go on for longer, and other jobs have their say.
FREE_OF_RUNS = (
  *FREE, 'steps', 'eval', 'generate', 'keep', 'pairs', 'win_rate',
)  # fmt: skip
_TOLD = 3  # of the fields that differ, in the message


def changed(
  old: Mapping[str, Any], new: Mapping[str, Any], *, free: Iterable[str] = ()
) -> list[str]:
  """Names of 'section.field' whose values differ, sorted.

  Args:
    old, new: values by name, as `files.plain` has them.
    free: sections or fields that may differ.
  """
  return sorted(
    name
    for name in {**old, **new}
    if not {name, name.split('.')[0]} & {*free}
    and old.get(name) != new.get(name)
  )


def refuse_other(
  folder: pathlib.Path,
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  *,
  free: Iterable[str] = (),
  flag: str = 'workdir',
) -> None:
  """ValueError where what a folder was begun with is not what is asked now.

  Args:
    folder: as it is told.
    old: what it was begun with, as of `changed`.
    new: what is asked.
    free: what may differ.
    flag: that names the folder.
  """
  names = changed(old, new, free=free)
  if not names:
    return
  told = [f'{_told(old, n)} there and {_told(new, n)} here' for n in names]
  if len(told) > _TOLD:
    told[_TOLD:] = [f'and {len(told) - _TOLD} more']
  raise ValueError(
    f'{folder} was begun with other values: {", ".join(told)}; use another '
    f'--{flag} or remove that folder'
  )


def _told(fields, name):
  if name not in fields:
    return f'no {name}'
  value = str(fields[name])
  return f'{name}={value if len(value) <= 80 else value[:77] + "..."}'


def refuse_other_job(workdir: pathlib.Path, there: str, here: str) -> None:
  """ValueError for the workdir of a run that another job began."""
  if there != here:
    raise ValueError(
      f'{workdir} is a run of {there}: to go on from its model, give {here} '
      f'another --workdir, and --init_from={workdir}'
    )
