"""Several tasks as one, by shares: the prompts of all-scenario RL.

R1's last stage (2501.12948v2, 3.2.2) asks reasoning prompts throughout and
general ones, of the domains helpfulness and safety, in its last 400 of 1,700
steps only:

  c.task = dict(
    name='mixture', split='train',
    parts=dict(
      sums=dict(name='arithmetic', domain='reasoning', share=0.5, ...),
      chat=dict(name='jsonl', domain='helpful', share=0.4, from_step=1300, ...),
      harm=dict(name='jsonl', domain='safety', share=0.1, from_step=1300, ...),
    ),
  )

Before a part's `from_step` the shares of the others are renormalised. What is
drawn stays a function of (seed, step): see `shares.joined`.
"""

from collections.abc import Mapping
import dataclasses

from grpo_jax import config
from grpo_jax.tasks import common, shares

_OWN = ('share', 'domain', 'from_step')


def mixture(
  *, parts: Mapping[str, Mapping], split: str = 'train'
) -> common.Task:
  """The examples of all parts, one after another in the order of their names.

  Args:
    parts: by name, a task as in `c.task`, without its split, and
      share: > 0; over the sum of all shares, of a step's prompts;
      domain: for rewards of some domains alone; the part's name by default;
      from_step: the first step, from 0, that asks its prompts; 0 by default.
    split: of every part.

  Raises:
    ValueError: naming the part and what is wrong with it.
  """
  # Here, as the package imports this file.
  from grpo_jax import tasks

  if not parts:
    raise ValueError('mixture: parts is empty; name at least one task')
  found = []
  for name in sorted(parts):
    spec = dict(parts[name])
    own = {k: spec.pop(k) for k in _OWN if k in spec}
    _check(name, spec, own)
    try:
      task = config.pick(tasks, {**spec, 'split': split})()
    except ValueError as error:
      raise ValueError(f'mixture: part {name!r}: {error}') from None
    part = common.Part(
      name=name,
      task=task,
      domain=own.get('domain', name),
      share=float(own['share']),
      from_step=own.get('from_step', 0),
    )
    found.append(dataclasses.replace(part, task=shares.marked(part)))
  if min(part.from_step for part in found):
    raise ValueError(
      'mixture: no part takes part at step 0: '
      + ', '.join(f'{p.name} from_step={p.from_step}' for p in found)
    )
  return shares.joined(tuple(found))


def _check(name, spec, own):
  if 'share' not in own or not own['share'] > 0:
    raise ValueError(
      f'mixture: part {name!r} has share={own.get("share")}; it must be above 0'
    )
  if 'split' in spec:
    raise ValueError(
      f'mixture: part {name!r} has a split of its own; set that of the mixture'
    )
  if spec.get('name') == 'mixture':
    raise ValueError(f'mixture: part {name!r} is a mixture; list its parts')
  start = own.get('from_step', 0)
  if not isinstance(start, int) or start < 0:
    raise ValueError(
      f'mixture: part {name!r} has from_step={start!r}; it counts steps from 0'
    )
