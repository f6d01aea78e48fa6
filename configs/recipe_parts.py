"""What the R1 recipes share: stages that come again, numbers of two configs."""

from collections.abc import Iterator

from launch.stages import Stage

# Rows that R1's reward models learn from (2501.12948v2, 3.1): pairs with a gap
# above 1, and labelled answers.
PREFERENCES = {'helpful': 66_000, 'safety': 106_000}
_BATCH, _HELD_OUT = 256, 0.02


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


def with_evaluations(
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


def reward_model(c, kind: str) -> None:
  """R1's numbers for a reward model (2501.12948v2, 3.1).

  One epoch of what is not held out, in batches of 256, at 6e-6, with 8,192
  tokens. Lengths are balanced by weights, which keep every pair: dropping some
  would make the same updates more than an epoch.

  Args:
    c: of whatever body and slice.
    kind: of `PREFERENCES`.

  Raises:
    ValueError: no such kind.
  """
  if kind not in PREFERENCES:
    raise ValueError(
      f'no reward model {kind!r} here; there are {", ".join(PREFERENCES)}'
    )
  c.steps = round(PREFERENCES[kind] * (1 - _HELD_OUT)) // _BATCH
  c.reward_model.update(
    batch_size=_BATCH,
    max_length=8192,
    test_share=_HELD_OUT,
    test_rows=1024,
  )
  if kind == 'helpful':
    c.reward_model.loss = dict(name='pairwise')
    c.reward_model.update(
      part='summary', min_margin=1.0, balance_lengths='weigh'
    )
  else:
    c.reward_model.loss = dict(name='pointwise')
    c.reward_model.update(part='all', min_margin=0.0, balance_lengths='none')
  c.optimizer.update(learning_rate=6e-6, schedule='constant')
  c.eval.every = 50
  c.checkpoint.update(every=50, keep_last=2)
