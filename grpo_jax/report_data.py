"""Reads workdirs into the plain dict that the page of a report shows.

Runs whose configs differ in the seed alone are one group: one line and one
colour, with a band from the lowest to the highest of its seeds.
"""

import collections
from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from grpo_jax import (
  cli,
  config,
  files,
  metrics,
  report_charts,
  report_tables,
  report_texts,
  report_warnings,
  text_measures,
)  # fmt: skip
from grpo_jax.rewards import rules
from grpo_jax.runs import open_run, Run

# Of all completions in the file, which is to stay below 5 MB.
_TEXTS = 1_800_000


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A run as it was when it was read."""

  run: Run
  name: str
  cfg: ConfigDict
  fields: dict[str, Any]  # the config, 'section.field' -> value
  curves: dict[str, np.ndarray]  # with 'step'
  texts: tuple[np.ndarray, dict[str, np.ndarray]]  # of report_texts.measures
  samples: list[dict]

  @property
  def step(self) -> int:
    steps = self.curves['step']
    return int(steps[-1]) if steps.size else 0

  def known(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values of a metric, or of a measure of the completions."""
    if name in self.curves:
      return self.curves['step'], self.curves[name]
    steps, measures = self.texts
    return (steps, measures[name]) if name in measures else None


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that differ in the seed alone."""

  name: str
  runs: list[Loaded]


def find(
  workdirs: Sequence[str], *, waiting: bool = False
) -> list[pathlib.Path]:
  """Workdirs of runs: these, or the runs in them, of a sweep or a recipe.

  Those of a recipe in the order in which they were begun, others by name. Also
  workdirs in which a model that is no run was evaluated: they have no config.

  Args:
    workdirs: folders.
    waiting: a folder in which no run has begun has none; it is no mistake.

  Raises:
    FileNotFoundError: no such folder, or no run in it.
    ValueError: an address instead of a folder.
  """
  found = []
  for workdir in workdirs:
    path = pathlib.Path(cli.folder('workdir', workdir)).resolve()
    inside = sorted(
      (p for p in path.glob('*/') if _is_run(p) or _is_evaluation(p)),
      key=lambda folder: (_begun(folder), folder),
    )
    if waiting and path.is_dir() and not (path / files.CONFIG).exists():
      found += inside
      continue
    if (path / files.CONFIG).exists() or not inside:
      inside = [path if _is_evaluation(path) else open_run(path).workdir]
    found += inside
  return list(dict.fromkeys(found))


def _is_run(folder):
  # The folder of a model has a file of the config's name as well.
  own = (metrics.METRICS, files.MODEL)
  is_own = any((folder / name).exists() for name in own)
  return is_own and (folder / files.CONFIG).exists()


def _is_evaluation(folder):
  """Of a model that is no run."""
  without = not (folder / files.CONFIG).exists()
  return without and report_tables.is_evaluated(folder)


def _begun(folder):
  """Seconds, of a stage; 0 of another run."""
  path = folder / files.STAGE
  return files.read_json(path)['begun'] if path.exists() else 0.0


def read(
  workdirs: Sequence[str], *, group_over: Sequence[str], waiting: bool = False
) -> dict[str, Any]:
  """All that a page shows.

  Args:
    workdirs: of runs, sweeps or evaluations.
    group_over: fields of the config in which runs of a group may differ.
    waiting: whether a report without any step or evaluation is one.

  Raises:
    FileNotFoundError, ValueError: see `find`; no metrics yet; no such field.
  """
  paths = find(workdirs, waiting=waiting)
  names = _names(paths)
  named = list(zip(names, paths, strict=True))
  runs = [_load(p, n) for n, p in named if not _is_evaluation(p)]
  _refuse_unknown(group_over, runs)
  begun = [run for run in runs if run.curves['step'].size]
  evaluated = report_tables.evaluations(named)
  if not begun and not evaluated and not waiting:
    raise ValueError(
      f'{paths[0]}: no metrics yet, the run has not come to its first step; '
      '--live waits for it'
    )
  groups = _groups(begun, group_over)
  several = len(begun) > 1
  return {
    'groups': [
      {
        'name': g.name,
        'runs': [
          {'name': r.name, 'step': r.step, 'steps': r.cfg.steps} for r in g.runs
        ],
      }
      for g in groups
    ],
    'waiting': [run.name for run in runs if not run.curves['step'].size]
    or ([] if paths else list(workdirs)),
    'warnings': _warnings(begun),
    'sections': report_charts.sections(groups),
    'phases': report_charts.phases(groups),
    'tables': {
      'runs': report_tables.runs(begun) if several else None,
      'stages': report_tables.stages(evaluated),
      'configs': report_tables.configs(groups, group_over),
    },
    'words': list(text_measures.REFLECTIVE),
    'completions': [_completions(r, len(begun)) for r in begun if r.samples],
  }


def _load(path, name):
  run = open_run(path)
  cfg = run.config
  curves, samples = {'step': np.zeros(0, np.int64)}, []
  # A run under way may not have come so far.
  if (path / metrics.METRICS).exists():
    curves = run.metrics
  if (path / metrics.SAMPLES).exists():
    samples = run.samples()
  fields = cli.fields(cfg)
  texts = report_texts.measures(samples)
  return Loaded(run, name, cfg, fields, curves, texts, samples)


def _names(paths):
  """What tells the paths apart; of one, its last two parts."""
  if len(paths) < 2:
    return ['/'.join(path.parts[-2:]) for path in paths]
  above = pathlib.Path(os.path.commonpath(paths))
  return [
    str(p.relative_to(above)) if p != above else p.name for p in paths
  ]  # fmt: skip


def _refuse_unknown(group_over, runs):
  # Of two runs one may have a field that the other has not.
  known = tuple(dict.fromkeys(name for run in runs for name in run.fields))
  for name in group_over if runs else ():
    config.one_of('--group_over', name, known)


def _groups(runs, group_over):
  found = {}
  for run in runs:
    rest = {k: v for k, v in run.fields.items() if k not in group_over}
    found.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
  groups, names = [], collections.Counter()
  for members in found.values():
    name = _group_name(members)
    names[name] += 1
    # Of what is shared alone, two may be called the same.
    name += f' ({names[name]})' if names[name] > 1 else ''
    groups.append(Group(name, members))
  return groups


def _group_name(runs):
  """What the names of its runs share: 'arm=grpo' of 'arm=grpo,seed=1', ..."""
  if len(runs) == 1:
    return runs[0].name
  parts = [re.split(r'[,/]', run.name) for run in runs]
  shared = ','.join(p for p in parts[0] if all(p in other for other in parts))
  begin, last = (
    re.sub(r'[\W_]*(seed)?[\W_]*$', '', os.path.commonprefix(names))
    for names in ([r.name for r in runs], [part[-1] for part in parts])
  )
  # 'b' and 'b/search' of b/search_0, b/search_1: the one that says more.
  above = dict.fromkeys(run.run.workdir.parent.name for run in runs)
  return max(shared, begin, key=len) or last or ' + '.join(above)


def _warnings(runs):
  """Findings, and what was looked at without any; a row a check."""
  checks = {}
  for run in runs:
    for found in report_warnings.findings(run.curves, run.cfg):
      row = checks.setdefault(found['title'], {**found, 'cases': []})
      if found['state'] == 'found':
        row['cases'].append({'run': run.name, 'text': found['text']})
      if found['state'] != 'unknown' and row['state'] != 'found':
        row['state'] = found['state']
  rows = sorted(checks.values(), key=lambda row: not row['bad'])
  keys = ('title', 'metric', 'state', 'todo', 'bad', 'cases')
  return [{k: row[k] for k in keys} for row in rows]


def _completions(run, count):
  found = report_texts.browsable(
    run.samples,
    extract=rules.extractors_of(run.cfg.rewards),
    limit=_TEXTS // count,
  )
  return {'run': run.name, **found}
