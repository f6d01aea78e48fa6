"""The tables of a report: runs, evaluations, configs.

Each is {'columns': titles, 'rows': lists of strings}, or None.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib

from configs import base
from grpo_jax import begun, cli, files, stage_table
from launch import summary, trials

# Changed fields that are columns of the table of runs; all are in their own.
_TITLES = 5
_UNTOLD = (*begun.FREE_OF_RUNS, 'init_from')


def runs(loaded: Sequence) -> dict | None:
  """The table of a sweep, its trials told by the fields that differ.

  Where rewards differ, one's mean is no better than another's: then none is
  ranked by it.

  Args:
    loaded: of `report_data.Loaded`.
  """
  specs = [_specs(run.fields) for run in loaded]
  differing = _differing(specs)
  told = [k for k in differing if k.split('.')[0] not in _UNTOLD][:_TITLES]
  results = [
    _result(run, {trials.short(k): _brief(spec[k]) for k in told if k in spec})
    for run, spec in zip(loaded, specs, strict=True)
  ]
  there = {name for result in results for name in result.final}
  if not there & set(summary.DEFAULTS):
    return None
  metric, ranked = summary.rank(results, metric=None, lowest=False)
  if metric == 'loss':
    metric, ranked = summary.rank(results, metric=None, lowest=True)
  own = [k for k in differing if k.startswith('rewards.')]
  comparable = not own or metric != 'reward/mean'
  results = ranked if comparable else results
  titles, *rows = summary.table(results, metric)
  rows = [
    [rank if comparable else '', result.name, *row]
    for (rank, *row), result in zip(rows, results, strict=True)
  ]
  return {'columns': ['', 'run', *titles[1:]], 'rows': rows, 'metric': metric}


def _result(run, told):
  """With the evaluation that was made afterwards, if any."""
  found = summary.result_of(
    run.run.workdir,
    name=run.name,
    told=told,
    steps=run.cfg.steps,
    finished=False,  # not shown
  )
  after = stage_table.measured(run.run.workdir)
  own = {'eval/pass@1': after['pass@1']} if 'pass@1' in after else {}
  return dataclasses.replace(found, final=found.final | own)


def stages(rows: Sequence[tuple[str, Mapping]]) -> dict | None:
  """Evaluations side by side, as R1's table of stages; None of none.

  Args:
    rows: name of the stage or run, and what `evaluate` found.
  """
  return stage_table.shown(rows) if rows else None


def evaluations(
  workdirs: Sequence[tuple[str, pathlib.Path]],
) -> list[tuple[str, dict]]:
  """Names and measures of the eval.json and the like in named workdirs.

  What else was evaluated (instructions, the win rate) is in the first row of a
  workdir.
  """
  found = []
  for name, folder in workdirs:
    named = {p.name for p in folder.glob(files.EVALUATIONS)}
    others = sorted(named - {files.EVALUATION})
    first = stage_table.measured(folder)
    if first:
      found.append((name, first))
    for file in others:
      if file != files.INSTRUCTIONS:
        found.append((f'{name} ({file})', stage_table.read(folder / file)))
  return found


def is_evaluated(workdir: pathlib.Path) -> bool:
  """Whether `evaluations` finds any in it."""
  evaluated = any(workdir.glob(files.EVALUATIONS))
  return evaluated or (workdir / files.WIN_RATE).exists()


def configs(groups: Sequence, group_over: Sequence[str]) -> dict | None:
  """Fields in which groups differ; of one group, from the defaults.

  Args:
    groups: of `report_data.Group`.
    group_over: fields left out.
  """
  columns = [(g.name, g.runs[0].fields) for g in groups]
  if not columns:
    return None
  if len(columns) == 1:
    default = cli.fields(base.get_config())
    columns.insert(0, ('default', default))
  names = _differing([fields for _, fields in columns])
  names = [n for n in names if n not in group_over]
  return {
    'columns': ['field', *(name for name, _ in columns)],
    'rows': [[n, *(_value(f.get(n, '')) for _, f in columns)] for n in names],
  }


def _brief(value):
  return float(f'{value:.4g}') if isinstance(value, float) else value


def _specs(fields):
  """Fields, those that select a function as one: its dict."""
  found = {}
  for name, value in fields.items():
    section, _, rest = name.rpartition('.')
    if f'{section}.name' in fields:
      found.setdefault(section, {})[rest] = value
    else:
      found[name] = value
  return found


def _differing(fields):
  names = dict.fromkeys(name for each in fields for name in each)
  return [n for n in names if any(f.get(n) != fields[0].get(n) for f in fields)]


def _value(value):
  return value if isinstance(value, str) else json.dumps(value)
