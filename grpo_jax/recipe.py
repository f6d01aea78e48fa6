"""Runs a recipe: `python -m grpo_jax.recipe --config=... --workdir=DIR`

  --config=configs/r1/tiny.py --workdir=runs/r1           all stages, in order
  ... --list                                              what there is to do
  ... --only=zero                                         one stage
  ... --until=dev1                                        the first ones

A recipe is a list of stages, each a job with a config and a folder of its own;
a folder may name others as its inputs. What a recipe file is:
`launch.recipes`. The same command again skips what is finished and goes on with
the rest; a folder that was begun with another config, or made from a stage that
has been made again since, is refused.
"""

import argparse
import pathlib
import sys

from grpo_jax import arms, errors
from launch import recipes, runner


def main(argv: list[str]) -> int:
  """Runs the command; returns its exit status."""
  args = _flags(argv)
  try:
    recipe = recipes.load(args.config, args.workdir)
    if args.curves and not recipe.arms:
      raise ValueError('--curves is for recipes of arms; this one has none')
    if args.curves and (args.only or args.until):
      raise ValueError(
        '--curves is for the whole recipe; leave --only and --until out'
      )
    chosen = recipe.chosen(only=args.only, until=args.until)
    for step in chosen:
      step.refuse_another()
    if args.list:
      _list(chosen)
      return 0
    waiting = [step for step in chosen if not step.finished()]
    done = len(chosen) - len(waiting)
    status = runner.Runner(
      waiting, done=done, parallel=args.parallel, kind='stages'
    ).run()
    if status == 0:
      minutes = sum(step.seconds() for step in chosen) / 60
      print(
        f'{len(chosen)} stages are finished in {args.workdir}; they took '
        f'{minutes:.1f} minutes'
      )
      _show_table(recipe)
      if args.curves:
        _write_curves(recipe, pathlib.Path(args.curves))
  except (ValueError, OSError) as error:
    errors.tell(error)
    return 2
  return status


def _list(chosen):
  for step in chosen:
    if step.finished():
      state = f'finished, {step.seconds():.0f} s'
    else:
      how = 'begun' if step.marker() else 'by hand' * bool(step.progress())
      state = f'{how} {step.progress()}'.strip() or '-'
    print(f'{step.name:14s} {state:18s} {" ".join(step.needs)}')
    print(f'    {step.told("python")}')
    open_choices = recipes.undisclosed(recipes.notes(step.stage.config))
    if open_choices:
      print(f'    {open_choices}')


def _show_table(recipe):
  rows = [
    (title, recipe.steps[name].workdir)
    for title, name in recipe.table.items()
    if recipe.steps[name].finished()
  ]
  if rows:
    print(_table(rows))
  if recipe.arms and all(s.finished() for s in recipe.steps.values()):
    found = _workdirs(recipe)
    print(arms.table(found, recipe.measures, recipe.compared))
    for line in arms.ratios(found, recipe.ratios):
      print(line)


def _workdirs(recipe):
  return {
    arm: [recipe.steps[name].workdir for name in names]
    for arm, names in recipe.arms.items()
  }


def _write_curves(recipe, path):
  """Curves, and beside them each run's measures, of which the table is made."""
  path.parent.mkdir(parents=True, exist_ok=True)
  runs = _workdirs(recipe)
  path.write_text(arms.curves(runs), encoding='utf-8')
  values = path.with_name(f'{path.stem}_values.csv')
  values.write_text(arms.values(runs, recipe.measures), encoding='utf-8')


def _table(rows):
  # Here: a recipe without evaluations needs none of what this imports.
  from grpo_jax import stage_table

  return stage_table.table(rows)


def _flags(argv):
  parser = argparse.ArgumentParser(
    'grpo_jax.recipe', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--config', required=True, help='a recipe, as configs/r1/tiny.py')
  add('--workdir', required=True, help='folder of the stages; a folder each')
  add('--list', action='store_true', help='print the stages and their state')
  add('--only', default='', help='run this stage alone')
  add('--until', default='', help='run the stages up to this one')
  add(
    '--curves',
    default='',
    help='write the curves of arms to this CSV file, '
    'and their measures by seed to FILE_values.csv',
  )
  add('--parallel', type=int, default=1, help='stages at a time')
  args = parser.parse_args(argv)
  if args.parallel < 1:
    parser.error(f'--parallel={args.parallel} must be at least 1')
  if '://' in args.workdir:
    parser.error(f'--workdir={args.workdir}: needs a local folder')
  return args


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
