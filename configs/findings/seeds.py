"""What the recipes of findings share: seeds by argument, and a smoke run.

`FILE.py:2` runs two seeds, `FILE.py:smoke` one of a few steps, which shows that
all of it runs and nothing else.
"""

from collections.abc import Callable, Iterable
import dataclasses

from launch.stages import Stage

SMOKE = 'smoke'
_FEW = {
  'sft': {'steps': 3},
  'train': {
    'steps': 2, 'prompts_per_step': 16, 'sample.early_steps': 0,
    'critic.warmup_steps': 0,
  },
  'evaluate': {'eval.prompts': 4, 'eval.batch_prompts': 4},
  'pairs': {'pairs.prompts': 8, 'pairs.longer_wins': 1.0},
  'reward_model': {
    'steps': 2, 'reward_model.batch_size': 4, 'reward_model.test_share': 0.3,
  },
  # A policy of a few updates is never right, nor has it thoughts to rewrite.
  'generate': {
    'keep.prompts': 8, 'keep.right': '', 'keep.filters': (),
    'keep.rewrite': dict(name='none'),
  },
}  # fmt: skip


def of(argument: str) -> range:
  """The seeds of a recipe's argument.

  Raises:
    ValueError: neither a number nor smoke.
  """
  if argument == SMOKE:
    return range(1)
  if not argument.isdigit() or int(argument) < 1:
    raise ValueError(f'{argument!r} is no number of seeds, nor {SMOKE}')
  return range(int(argument))


def stage(
  here: str,
  seed: int,
  name: str,
  config: str,
  job: str = 'train',
  *,
  init: str = '',
  overrides: dict | None = None,
  **more,
) -> Stage:
  """`name_seed`, which starts from what `init_seed` has left.

  Args:
    here: the file whose config it has.
    seed: of the job, unless `overrides` have another.
    name, job, more: of the stage.
    config: the part after the colon.
    init: name of the run to start from, '' for none.
    overrides: of the config.
  """
  given = {'init_from': f'{{{init}_{seed}}}'} if init else {}
  given |= {'seed': seed} | (overrides or {})
  return Stage(
    f'{name}_{seed}', f'{here}:{config}', job=job, overrides=given, **more
  )


def stages(
  argument: str, of_seed: Callable[[int], Iterable[Stage]]
) -> list[Stage]:
  """Those of each seed in turn, with a few steps each for a smoke run.

  On one CPU device each, as two of them run at a time: two devices of a process
  that have to share a core wait for each other.
  """
  found = []
  for stage in (s for seed in of(argument) for s in of_seed(seed)):
    few = _FEW[stage.job] if argument == SMOKE else {}
    overrides = {'cpu_devices': 1, **stage.overrides, **few}
    found.append(dataclasses.replace(stage, overrides=overrides))
  return found
