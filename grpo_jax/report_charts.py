"""Which curves a report shows, under what title, and in which order."""

from collections.abc import Sequence
import fnmatch
from typing import Any

import numpy as np

from grpo_jax import report_curves, text_measures

# Points of a curve; of several groups together, that many more.
_POINTS, _ALL_POINTS = 1000, 2000
# Section -> metrics in order, with titles; a pattern takes what is left.
_SECTIONS = {
  'Reward': {
    'reward/mean': 'Reward',
    'reward/std': 'Spread of rewards (standard deviation)',
    'reward/*': 'Reward component: *',
    'zero_variance_share': 'Share of groups with one reward only',
    'filters/*': 'Filter: *',
    'faults/*': 'Faults in grading: *',
  },
  'Accuracy': {
    'eval/pass@1': 'Held-out accuracy, pass@1',
    'eval/pass@*': 'Held-out pass@*',
    'eval/cons@*': 'Held-out majority vote of *',
    'eval/lenient': 'Held-out accuracy, lenient',
    'eval/answered': 'Held-out answers found',
    'eval/truncated': 'Held-out answers cut at the limit',
    'eval/format': 'Held-out answers in the format',
    'eval/language_consistency': 'Held-out language consistency',
    'eval/gibberish': 'Held-out answers that are gibberish',
  },
  'Completion length': {
    'length/mean': 'Completion length, tokens',
    'length/clipped_share': 'Share cut at the limit',
    'eval/mean_length': 'Held-out length',
    'eval/mean_length_right': 'Held-out length of right answers',
    'eval/mean_length_wrong': 'Held-out length of wrong answers',
  },
  'Thinking': {
    'thought/tokens': 'Length of the thought, tokens (estimate)',
    'reflective/each': 'Reflective words a completion',
    'reflective/per_1000': 'Reflective words for 1,000 tokens',
    'eval/thinking_length': 'Held-out thought, tokens',
    'eval/thinking_length_right': 'Held-out thought of right answers, tokens',
    'eval/thinking_length_wrong': 'Held-out thought of wrong answers, tokens',
    'eval/reflective_words': 'Held-out reflective words an answer',
    'eval/reflective_per_1k': 'Held-out reflective words for 1,000 tokens',
    'eval/reflective_share': 'Held-out answers with a reflective word',
  },
  'Policy': {
    'kl': 'KL to the reference, nats a token',
    'entropy': 'Entropy, nats a token',
    'clip_share': 'Share of clipped tokens',
    'ratio': 'Ratio to the old policy',
    'logprob_gap/mean': 'Sampler to trainer: mean logprob gap',
    'logprob_gap/max': 'Sampler to trainer: largest logprob gap',
    'importance/*': 'Importance: *',
  },
  'Optimisation': {
    'loss': 'Loss',
    'policy_loss': 'Policy loss',
    'nll': 'Negative log likelihood',
    'grad_norm': 'Norm of the gradient',
    'learning_rate': 'Learning rate',
    'nonfinite': 'Updates that were not finite',
    'critic/*': 'Critic: *',
    'value/*': 'Critic: *',
  },
  'Throughput': {
    'tokens_per_s/step': 'Tokens a second, whole step',
    'tokens_per_s/rollout': 'Tokens a second, rollout',
    'tokens': 'Tokens of a step',
    'time/step': 'Seconds of a step',
    'time/*': 'Seconds: *',
    'memory/*': 'Memory: *',
  },
  'Everything else': {'*': '*'},
}  # fmt: skip
_LEFT_OUT = (
  'length/min', 'length/max', 'eval/*_stderr', 'eval/problems',
  'eval/distinct_problems', 'eval/samples', 'words/*', 'critic/tokens',
)  # fmt: skip
# Of a single run, the metrics that a band around its line shows.
_BANDS = {'length/mean': ('length/min', 'length/max')}
_TO_95 = 1.96  # standard errors to the ends of a 95 % interval
_SEEDS = 'band: range of the seeds'


def sections(groups: Sequence) -> list[dict[str, Any]]:
  """[{'title', 'charts': [{'title', 'metric', 'note', 'curves'}], 'constant'}].

  Metrics that never move in any run are not drawn: 'constant' says 'ratio: 1'.

  Args:
    groups: of `report_data.Group`.
  """
  points = min(_POINTS, max(_ALL_POINTS // max(len(groups), 1), 40))
  names = _names(groups)
  found, taken = [], set()
  for title, wanted in _SECTIONS.items():
    charts = []
    for pattern, told in wanted.items():
      for name in names:
        if name not in taken and fnmatch.fnmatchcase(name, pattern):
          taken.add(name)
          charts.append(
            _chart(name, _title(name, pattern, told), groups, points)
          )
    if title == 'Thinking':
      charts += [_words(i, g, groups, points) for i, g in enumerate(groups)]
    moving, constant = [], []
    for chart in (chart for chart in charts if chart['curves']):
      values = {y for curve in chart['curves'] for y in curve['y']}
      # One step is no curve yet, and all there is.
      begins = len(chart['curves'][0]['x']) < 2
      if len(values) > 1 or begins or chart['metric'] == 'words':
        moving.append(chart)
      else:
        constant.append(f'{chart["metric"]}: {values.pop():g}')
    if moving or constant:
      found.append({'title': title, 'charts': moving, 'constant': constant})
  return found


def phases(groups: Sequence) -> list[dict[str, Any]]:
  """Where the time of a step goes: mean seconds of each phase, by group."""
  found = []
  for group in groups:
    parts = {}
    names = {n for run in group.runs for n in run.curves if n != 'time/step'}
    for name in sorted(n for n in names if n.startswith('time/')):
      # A phase of few steps counts by its share: evaluations, saving.
      seconds = [
        np.nansum(run.curves[name]) / max(run.step, 1)
        for run in group.runs
        if name in run.curves
      ]
      parts[name.removeprefix('time/')] = float(f'{np.mean(seconds):.3g}')
    if parts:
      found.append({'group': group.name, 'parts': parts})
  return found


def _names(groups):
  names = {}
  for run in (run for group in groups for run in group.runs):
    names |= dict.fromkeys(run.curves) | dict.fromkeys(run.texts[1])
  names.pop('step', None)  # there is none before the first step
  if not _reflects(groups):
    names = {n: None for n in names if not n.startswith('reflective/')}
  return [
    name
    for name in names
    if not any(fnmatch.fnmatchcase(name, out) for out in _LEFT_OUT)
  ]


def _reflects(groups):
  """Whether any of the ten words was ever logged."""
  measures = [run.texts[1] for group in groups for run in group.runs]
  return any(m['reflective/each'].any() for m in measures if m)


def _title(name, pattern, told):
  if pattern == '*':
    return name
  begin = pattern.partition('*')[0]
  return told.replace('*', name.removeprefix(begin).replace('_', ' '))


def _chart(name, title, groups, points):
  curves, note = [], ''
  # A band has one meaning in a chart.
  alone = all(len(group.runs) == 1 for group in groups)
  for index, group in enumerate(groups):
    curve, told = _curve(name, group, points)
    if alone and curve is not None:
      band = _band(name, group.runs[0], alone=len(groups) == 1)
      if band is not None:
        curve, told = report_curves.drawn(*band[:4], points=points), band[4]
    if curve is not None:
      curves.append({'group': index, **curve})
      note = note or told
  return {'title': title, 'metric': name, 'note': note, 'curves': curves}


def _curve(name, group, points):
  """A group's curve and what its band is."""
  known = [k for run in group.runs if (k := run.known(name)) is not None]
  if not known:
    return None, ''
  steps, mean, low, high = report_curves.join(known)
  if not steps.size:
    return None, ''
  if len(group.runs) > 1:
    return report_curves.drawn(steps, mean, low, high, points=points), _SEEDS
  return report_curves.drawn(steps, mean, points=points), ''


def _band(name, run, *, alone):
  """Steps, values, lowest, highest and what they are, of one run, or None."""
  if alone and name in _BANDS and all(n in run.curves for n in _BANDS[name]):
    found = [run.curves[n] for n in (name, *_BANDS[name])]
    told = 'band: shortest to longest'
  elif f'{name}_stderr' in run.curves:
    values, error = run.curves[name], run.curves[f'{name}_stderr']
    found = [values, values - _TO_95 * error, values + _TO_95 * error]
    told = 'band: 95 % interval'
  else:
    return None
  known = np.isfinite(found).all(0)
  if not known.any():
    return None
  return run.curves['step'][known], *(f[known] for f in found), told


def _words(index, group, groups, points):
  """The ten words apart, of one group."""
  curves = []
  for word in text_measures.REFLECTIVE:
    curve, _ = _curve(f'words/{word}', group, points)
    if curve is not None and any(curve['y']):
      plain = {k: curve[k] for k in ('x', 'y')}
      curves.append({'group': index, 'label': word, **plain})
  told = f': {group.name}' if len(groups) > 1 else ''
  note = 'means of the logged completions'
  return {
    'title': f'Each of the ten words{told}',
    'metric': 'words',
    'note': note,
    'curves': curves,
  }
