"""What the R1 recipes share: pairs of stages that come again and again."""

from collections.abc import Iterator

from launch.stages import Stage


def verified(name: str, config: str, *, init: str) -> Stage:
  """Answers of a policy that are right and fit to learn from.

  Args:
    name: of the stage; its set is in {name}/set.
    config: as for --config.
    init: the stage whose policy answers.
  """
  return Stage(
    name,
    config,
    job='generate',
    overrides={'init_from': f'{{{init}}}'},
    flags={'keep': 'verified', 'out': f'{{{name}}}/set'},
  )


def measured(
  stage: Stage, config: str, *, tasks: dict[str, str]
) -> Iterator[Stage]:
  """A stage and the evaluations of its model, which lie beside it.

  Args:
    stage: a job that leaves a run.
    config: of the evaluations.
    tasks: ending of an evaluation's name -> --task, '' for the config's own.
  """
  yield stage
  for ending, task in tasks.items():
    yield Stage(
      f'{stage.name}_{ending}',
      config,
      job='evaluate',
      flags={'task': task} if task else {},
      workdir=f'{{{stage.name}}}',
    )
