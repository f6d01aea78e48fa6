"""What a config names: functions, choices, numbers that must divide."""

from collections.abc import Callable, Mapping
import difflib
import functools
import inspect
import operator
from types import ModuleType


def pick(
  module: ModuleType,
  spec: Mapping,
  *,
  takes: tuple[str, ...] | set[tuple[str, ...]] = (),
  **given,
) -> Callable:
  """The function `spec['name']` of `module`, with the rest of `spec` bound.

  Args:
    module: where to look, among its public functions.
    spec: as in dict(name='clip', eps_high=0.28).
    takes: names of the positional parameters, or a set of such that will all
      do; tells a loss from a KL estimator in the same module.
    **given: bound too; not settable from the config.

  Raises:
    ValueError: no such function, or an argument it does not take; lists the
      valid ones.
  """
  spec = dict(spec)
  where = module.__name__.removeprefix('grpo_jax.')
  if 'name' not in spec:
    raise ValueError(f'{spec} has no name; it selects a function of {where}')
  name = spec.pop('name')
  names = [
    k
    for k, v in vars(module).items()
    if inspect.isfunction(v)
    and not k.startswith('_')
    and _positional(v) in (takes if isinstance(takes, set) else {takes})
    and given.keys() <= inspect.signature(v).parameters.keys()
  ]
  if name not in names:
    raise ValueError(
      f'{where} has no {name!r}{_close(name, names)}; there are: '
      f'{", ".join(sorted(names))}'
    )
  function = getattr(module, name)
  parameters = inspect.signature(function).parameters.values()
  valid = [
    p.name
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.name not in given
  ]
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
  for key in spec:
    if key not in valid and not open_ended:
      raise ValueError(
        f'{where}.{name} takes no {key!r}{_close(key, valid)}; it takes: '
        f'{", ".join(valid) if valid else "nothing"}'
      )
  missing = [
    p.name
    for p in parameters
    if p.kind is p.KEYWORD_ONLY
    and p.default is p.empty
    and p.name not in spec
    and p.name not in given
  ]
  if missing:
    raise ValueError(f'{where}.{name} needs {", ".join(missing)}')
  return functools.partial(function, **spec, **given)


def _positional(function: Callable) -> tuple[str, ...]:
  parameters = inspect.signature(function).parameters.values()
  return tuple(
    p.name
    for p in parameters
    if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
  )


def _close(word: str, words: list[str]) -> str:
  matches = difflib.get_close_matches(word, words, n=1)
  return f' (did you mean {matches[0]!r}?)' if matches else ''


def critic_wanted(cfg) -> bool:
  """Whether the advantages need a value model: then it is PPO."""
  return cfg.algorithm.advantages.get('name') == 'gae'


def one_of(field: str, value, choices: tuple) -> None:
  """Raises ValueError unless the value of a field is one of the choices."""
  if value not in choices:
    listing = ', '.join(map(str, choices))
    raise ValueError(f'{field}={value!r} is not one of {listing}')


def positive(cfg, *fields: str) -> None:
  """Raises ValueError unless each field ('section.name') is at least 1."""
  _at_least(cfg, fields, 1, 'be at least 1')


def not_negative(cfg, *fields: str) -> None:
  """Raises ValueError if a field ('section.name') is below 0."""
  _at_least(cfg, fields, 0, 'not be negative')


def _at_least(cfg, fields, least, must):
  for field in fields:
    value = functools.reduce(operator.getitem, field.split('.'), cfg)
    if value < least:
      raise ValueError(f'{field}={value} must {must}')


def divides(rows: int, parts: Mapping[str, int], *, field: str) -> None:
  """Raises ValueError unless `rows` splits evenly into the product of parts."""
  product = 1
  for count in parts.values():
    product *= count
  if rows % product:
    listing = ' x '.join(f'{n} {name}' for name, n in parts.items() if n > 1)
    raise ValueError(
      f'{field}={rows} does not divide over {listing}; set it to a multiple '
      f'of {product}'
    )
