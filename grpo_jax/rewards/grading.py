"""Completions to arrays of rewards, and several rewards to one.

Stage 5 of a step: `grade` applies every reward function to every completion,
`combine` turns the components into the reward that advantages are made of.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import logging
import math
import os
from typing import Any

import numpy as np

from grpo_jax.rewards.calls import in_threads
from grpo_jax.rewards.completion import PlainTextError
from grpo_jax.rewards.fault_counts import record

# Items that are graded at once: those that wait for a process of their own use
# a CPU each, and those that wait for a server none.
_THREADS = max(8, os.cpu_count() or 1)
Components = Mapping[str, 'float | np.ndarray']


def grade(
  completions: Sequence[Sequence[str]],
  examples: Sequence[Any],
  fns: Mapping[str, Callable[[str, Any], float | None]],
  *,
  patience: float = 5.0,
  limit: float = 600.0,
) -> dict[str, np.ndarray]:
  """Every reward of every completion.

  Threads let rewards that wait for a worker process overlap. A reward of None
  or NaN means there is none: it stays NaN, to be excluded, and is not a zero.
  A function that raises, or returns an infinity, is a bug in the function: the
  item scores 0, and the fault is counted and logged once (`faults`).

  Args:
    completions: Q lists of G texts.
    examples: Q examples.
    fns: reward functions by name.
    patience: seconds after which the log names what is awaited.
    limit: seconds after which a call is given up: it scores 0, counted and
      logged once. Less than other processes wait for this one.

  Returns:
    name -> [Q G] float32, in the order of the completions.

  Raises:
    ValueError: the completions do not form a Q x G table.
    PlainTextError: a reward of length got text without its tokens.
  """
  sizes = {len(group) for group in completions}
  if len(completions) != len(examples) or len(sizes) > 1:
    raise ValueError(
      f'{len(completions)} groups of sizes {sorted(sizes)} for '
      f'{len(examples)} examples: one group each, all of one size, is needed'
    )
  group_size = sizes.pop() if sizes else 0
  pairs = [
    (completion, example)
    for group, example in zip(completions, examples, strict=True)
    for completion in group
  ]
  shape = (len(completions), group_size)
  calls = [
    functools.partial(_guarded(name, fn), *pair)
    for name, fn in fns.items()
    for pair in pairs
  ]
  names = list(fns)

  def asked(i):
    """Reward and prompt of a call."""
    return names[i // len(pairs)], str(pairs[i % len(pairs)][1].prompt)[:60]

  found = in_threads(
    calls,
    threads=_THREADS,
    patience=patience,
    waiting=lambda left: _name_awaited(
      [asked(i) for i in left], len(pairs), patience
    ),
    limit=limit,
    late=lambda i: _too_late(*asked(i), limit),
  )
  columns = np.array(found, np.float32).reshape(len(names), *shape)
  return dict(zip(names, columns, strict=True))


def grade_here(
  completions: Sequence[Sequence[str | None]],
  examples: Sequence[Any],
  fns: Mapping[str, Callable[[str, Any], float | None]],
) -> dict[str, np.ndarray]:
  """As `grade`, of those completions that this process has.

  NaN where the completion is None: another has it. Those here are some samples
  of some prompts, the same of each.
  """
  rows = [q for q, row in enumerate(completions) if any(_known(row))]
  columns = np.flatnonzero(_known(completions[rows[0]]))
  found = grade(
    [[completions[q][g] for g in columns] for q in rows],
    [examples[q] for q in rows],
    fns,
  )
  components = {}
  for name, values in found.items():
    whole = np.full((len(completions), len(completions[0])), np.nan, np.float32)
    whole[np.ix_(rows, columns)] = values
    components[name] = whole
  return components


def combine(
  components: Components,
  *,
  weights: Mapping[str, float],
  gate: str = '',
  applies: Mapping[str, np.ndarray] | None = None,
):
  """The weighted sum of the components, or 0 where the gate is not 1.

  Adding a format reward pays for wrong but tidy answers, because group
  normalisation only sees ranks; a gate pays for the rest only where the format
  is right. A component without a weight is only reported. A missing (NaN)
  component makes the sum NaN where it would count, but not where it does not
  apply: there it adds 0, and gates nothing.

  Args:
    components: name -> float or [Q G] array.
    weights: name -> factor.
    gate: name of a component that must be exactly 1, or '' for none.
    applies: name -> bools that broadcast to [Q G]; absent: everywhere.

  Returns:
    A float, or float32 like the components.
  """
  unknown = [n for n in (*weights, gate) if n and n not in components]
  if unknown or not weights:
    raise ValueError(
      f'rewards {unknown} have a weight or gate but no function; functions: '
      f'{sorted(components)}, weights: {sorted(weights)}'
    )

  def where_it_applies(name, otherwise):
    values = np.asarray(components[name], np.float32)
    if applies is None or name not in applies:
      return values
    return np.where(applies[name], values, np.float32(otherwise))

  total = sum(
    factor * where_it_applies(name, 0.0)
    for name, factor in weights.items()
    if factor != 0.0
  )
  shape = np.shape(next(iter(components.values())))
  total = np.broadcast_to(np.asarray(total, np.float32), shape)
  if gate:
    opened = where_it_applies(gate, 1.0)
    total = np.where(opened == 1.0, total, np.float32(0.0))
    total = np.where(np.isnan(opened), np.float32(np.nan), total)
  return float(total) if shape == () else np.array(total, np.float32)


def _name_awaited(left: list[tuple[str, str]], each: int, patience: float):
  """Logs the (reward, prompt) that are awaited, of so many of each reward."""
  prompts = collections.defaultdict(list)
  for name, prompt in left:
    prompts[name].append(prompt)
  listing = '; '.join(
    f'{name}: {len(own)} of {each}, the first to {own[0]!r}'
    for name, own in prompts.items()
  )
  logging.getLogger(__name__).warning(
    'grading is not done after %s s; awaited: %s', patience, listing
  )


def _too_late(name: str, prompt: str, limit: float) -> float:
  """The reward of a completion whose grading is given up; counts it."""
  told = f'not done after {limit:g} s, the answer to {prompt!r}; graded 0'
  record(f'{name}/late', told)
  return 0.0


def _guarded(name: str, fn):
  def call(completion, example):
    try:
      value = fn(completion, example)
      value = math.nan if value is None else float(value)
    except PlainTextError:
      raise  # of every completion, not of this one
    except Exception as error:
      record(f'{name}/raised', f'{type(error).__name__}: {error}')
      return 0.0
    if math.isinf(value):
      record(f'{name}/raised', f'returned {value}')
      return 0.0
    return value

  return call


def _known(row):
  return [completion is not None for completion in row]
