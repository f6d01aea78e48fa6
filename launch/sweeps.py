"""What sweep files are built of: `grid`, `zipped` and `chain` over fields.

  grid({'optimizer.learning_rate': [1e-5, 3e-5], 'seed': range(3)})     6 trials
  zipped({'prompts_per_step': [16, 32], 'group_size': [32, 16]})        2
  grid(zipped({...}, names={'shape': ['deep', 'wide']}), {'seed': range(3)})
  chain(grid(...), zipped(...))                                  one, then other

Each takes {field: values} and what the others return, and returns the trials as
a list. `launch.sweep` runs them.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import itertools
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Choice:
  """The overrides of one trial."""

  fields: dict[str, Any]  # config field -> value
  told: dict[str, Any]  # what it is named by: those fields, or a title -> name


Axes = Mapping[str, Iterable] | list[Choice]


def grid(*axes: Axes) -> list[Choice]:
  """Every combination; the last field changes fastest."""
  split = [one for given in axes for one in _axes(given)]
  return [_join('grid', parts) for parts in itertools.product(*split)]


def zipped(
  *axes: Axes, names: Mapping[str, Iterable[str]] | None = None
) -> list[Choice]:
  """The first values together, the second values together, and so on.

  Args:
    *axes: all of one length.
    names: {title: a name each}; stands for all these fields in the name of a
      trial and in tables, where values are long or mean something together.

  Raises:
    ValueError: lengths differ.
  """
  split = [one for given in axes for one in _axes(given)]
  labels = [] if names is None else list(_values(names).items())
  sizes = {', '.join(one[0].fields): len(one) for one in split}
  sizes |= {title: len(values) for title, values in labels}
  if len(set(sizes.values())) > 1:
    told = ', '.join(f'{field} has {size}' for field, size in sizes.items())
    raise ValueError(f'zipped: all need as many values, but {told}')
  choices = [_join('zipped', parts) for parts in zip(*split, strict=True)]
  if not labels:
    return choices
  return [
    Choice(choice.fields, {title: values[i] for title, values in labels})
    for i, choice in enumerate(choices)
  ]


def chain(*sweeps: Axes) -> list[Choice]:
  """One sweep after the other; a dict is a grid."""
  return [choice for given in sweeps for choice in grid(given)]


def _axes(given: Axes) -> list[list[Choice]]:
  """A list of choices for each field, or the one that is given."""
  if isinstance(given, Mapping):
    return [
      [Choice({field: v}, {field: v}) for v in values]
      for field, values in _values(given).items()
    ]
  if not isinstance(given, list) or not all(
    isinstance(choice, Choice) for choice in given
  ):
    raise ValueError(
      f'{given!r:.60} is neither {{field: values}} nor made by grid, zipped or '
      'chain'
    )
  return [given] if given else []


def _values(given: Mapping[str, Iterable]) -> dict[str, list]:
  found = {}
  for field, values in given.items():
    wrong = isinstance(values, (str, bytes, Mapping))
    if wrong or not isinstance(values, Iterable):
      raise ValueError(
        f'{field}: {values!r:.60} is one value; give a list of them'
      )
    # numpy's numbers print as np.float64(...), which no flag understands.
    found[field] = [
      v.item() if isinstance(v, np.generic) else v for v in values
    ]
    if not found[field]:
      raise ValueError(f'{field} has no values')
  return found


def _join(kind: str, parts: Iterable[Choice]) -> Choice:
  fields, told = {}, {}
  for part in parts:
    for known, more in ((fields, part.fields), (told, part.told)):
      twice = known.keys() & more.keys()
      if twice:
        raise ValueError(f'{kind}: {", ".join(sorted(twice))} is given twice')
      known.update(more)
  return Choice(fields, told)
