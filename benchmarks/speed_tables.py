"""Tables of `benchmarks.speed`, in Markdown, from its JSON alone."""

from collections.abc import Mapping

from benchmarks import workloads
from benchmarks.workloads import Goal

_NAMES = {
  'ours': 'grpo_jax',
  'transformers': 'transformers.generate',
  'trl': 'TRL',
  'tunix': 'Tunix',
}
# As in the goals, what is measured -> what it is called.
_CALLED = {
  'rollout': 'sampling',
  'memory': 'peak memory',
  'prompt': 'samples with prompt / (prefill + samples without)',
  'device': 'publish, rollout and update, of a step',
  'busy': 'decode slots that are busy',
  'static': 'sampling in seats, x a static batch',
  'padding': 'padding in the update',
}
_ON_DEVICE = ('publish', 'rollout', 'update')
_SHARES = ('busy', 'padding', 'device')


def tables(found: Mapping) -> str:
  """Of all workloads: times of systems, and what was to be reached."""
  return f'{_times(found)}\n\n{_goals(found)}'.strip()


def page(found: Mapping) -> str:
  """The tables with what they depend on, as a file."""
  machine = found['machine']
  return '\n'.join(
    [
      '# Speed, in one run on one machine',
      '',
      '`make bench` wrote this. All systems have the same weights, prompts, '
      'completion lengths and CPUs, compute in fp32 with a KL to a reference, '
      'and run one after another, each in a process of its own. Medians; of '
      'the limit: time by arithmetic at the best matrix product of this '
      'machine (2 FLOPs a parameter and sampled token; 8 in the update, a '
      'prompt once a group); of its products: at the best of matrix products '
      'with as many rows, in sampling with as many weights too, as each token '
      'reads all.',
      '',
      f'{found["date"]}, commit {machine["commit"]}, {machine["cpu"]}, '
      f'{machine["threads"]} CPUs; {machine["system"]}.',
      '',
      tables(found),
      '',
      '## Workloads',
      '',
      *_workloads(found),
      '',
      '## Versions',
      '',
      *_versions(found),
      *_failures(found),
      '',
    ]
  )


def measured(goal: Goal, one: Mapping) -> float | None:
  """What a goal is about, of one workload; None where it was not measured.

  Ratios of times are the others' over ours, of memory ours over the other's.
  """
  ours, systems = one['systems'].get('ours', {}), one['systems']
  medians = ours.get('medians', {})
  if goal.what in ('busy', 'padding'):
    return ours.get(goal.what)
  if goal.what == 'prompt':
    if 'alone' not in medians:
      return None
    return medians['rollout'] / (medians['prefill'] + medians['alone'])
  if goal.what == 'static':
    if 'static' not in medians:
      return None
    return medians['static'] / medians['rollout']
  if goal.what == 'device':
    if not {*_ON_DEVICE, 'step'} <= medians.keys():
      return None
    return sum(medians[part] for part in _ON_DEVICE) / medians['step']
  if goal.what == 'memory':
    theirs = systems.get(goal.against, {}).get('peak_bytes')
    return ours['peak_bytes'] / theirs if theirs and ours else None
  if goal.what not in medians:
    return None
  if goal.against == 'limit':
    other = one['limits'][goal.what]
  else:
    other = _best(goal, systems)
  return other / medians[goal.what] if other else None


def _best(goal, systems):
  """Seconds of the peer of a goal, or of the fastest."""
  times = {
    name: system['medians'][goal.what]
    for name, system in systems.items()
    if name != 'ours' and goal.what in system.get('medians', {})
  }
  if goal.against == 'best':
    return min(times.values(), default=None)
  return times.get(goal.against)


def _times(found):
  head = (
    'workload', 'system', 'sampling tok/s', 'update s', 'step s', 'peak GB',
    'sampling, of the limit (of its products)',
    'update, of the limit (of its products)',
  )  # fmt: skip
  rows = []
  for name, one in found['workloads'].items():
    tokens, limits = one['tokens'], one['limits']
    for system, got in one['systems'].items():
      times = got.get('medians', {})
      rollout, update, step = (
        times.get(part) for part in ('rollout', 'update', 'step')
      )
      rows.append(
        (
          name,
          _NAMES[system],
          _number(rollout and tokens / rollout),
          _number(update),
          _number(step),
          _number(got.get('peak_bytes', 0) / 1e9 or None),
          *(
            _shares(one['rates'][system].get(p)) for p in ('rollout', 'update')
          ),
        )
      )
    rows.append(
      (
        name,
        f'limit at {max(one["peaks"].values()) / 1e9:.0f} GFLOP/s',
        _number(tokens / limits['rollout']),
        _number(limits['update']),
        _number(limits['step']),
        '',
        '',
        '',
      )
    )
  return _table(head, rows)


def _goals(found):
  rows = []
  for name, one in found['workloads'].items():
    for goal in workloads.from_dict(one['workload']).goals:
      value = measured(goal, one)
      if value is None:
        continue
      against = {'': '', 'best': 'x the best peer', 'limit': 'of the limit'}
      against |= {peer: f'x {_NAMES[peer]}' for peer in _NAMES}
      what = _CALLED.get(goal.what, goal.what)
      shown = _percent if goal.what in _SHARES else _ratio
      if goal.against == 'limit':
        shown = _percent
      reached = value <= goal.bound if goal.most else value >= goal.bound
      rows.append(
        (
          name,
          f'{what} {against[goal.against]}'.strip(),
          shown(value),
          f'{"<=" if goal.most else ">="} {shown(goal.bound)}',
          'yes' if reached else 'no',
        )
      )
  return _table(('workload', 'what', 'measured', 'goal', 'reached'), rows)


def _workloads(found):
  for name, one in found['workloads'].items():
    fields = one['workload']
    length = f'{fields["completion"]}'
    if fields['mean']:
      length = f'at most {fields["completion"]}, mean {fields["mean"]}'
    peaks = ', '.join(
      f'{what} {rate / 1e9:.0f}' for what, rate in one['peaks'].items()
    )
    parts = fields['peer_parts']
    told = f'; peers update in {parts} parts' if parts > 1 else ''
    devices = one['devices']
    told += f'; {devices} XLA device{"s" if devices > 1 else ""} for grpo_jax'
    yield (
      f'- {name}: {fields["model"]} ({one["weights"]} weights), '
      f'{fields["prompts"]} prompts x {fields["group_size"]}, prompts of '
      f'{fields["prompt"]} tokens, completions of {length}{told}. GFLOP/s of '
      f'matrix products of these shapes: {peaks}.'
    )


def _versions(found):
  known = {}
  for one in found['workloads'].values():
    for system, got in one['systems'].items():
      known[system] = got.get('versions') or known.get(system, {})
  for system, versions in known.items():
    told = ', '.join(f'{name} {v}' for name, v in versions.items())
    yield f'- {_NAMES[system]}: {told}'


def _failures(found):
  failed = [
    f'- {name}, {_NAMES[system]}: {got["error"]}'
    for name, one in found['workloads'].items()
    for system, got in one['systems'].items()
    if 'error' in got
  ]
  return ['', '## Failed', '', *failed] if failed else []


def _table(head, rows):
  if not rows:
    return ''
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _number(value):
  if value is None:
    return ''
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _percent(value):
  return '' if value is None else f'{100 * value:.0f} %'


def _shares(rate):
  if rate is None:
    return ''
  return f'{_percent(rate["of_limit"])} ({_percent(rate["of_shapes"])})'


def _ratio(value):
  return f'{value:.2f}'
