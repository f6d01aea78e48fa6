"""Any generator of the reasoning-gym package, by its name.

The package brings over a hundred procedural tasks, each with its own way of
scoring an answer; only a full score counts as right here. Some score by running
the answer as Python code, so answers are judged in worker processes, with a
bound on the time: see `rewards/pool.py` and, for what they are kept from,
`rewards/worker.py`.
"""

import dataclasses
import difflib
import hashlib
import importlib

from grpo_jax.rewards.pool import Pool
from grpo_jax.tasks import common

_TRIES = 256
_WORKERS = 2
_SECONDS = 5.0  # that an answer may take; beyond it, it is wrong


def reasoning_gym(
  *,
  dataset: str,
  split: str,
  size: int,
  seed: int = 0,
  test_share: float = 0.1,
  **settings,
) -> common.Task:
  """Questions of one generator.

  Train and test draw from different seeds, and a question belongs to one of
  them by its hash, so no test question is ever a train question. A few
  generators go through sets of texts: their questions are the same in every
  process only where PYTHONHASHSEED is set.

  Args:
    dataset: name of the generator, such as 'chain_sum'.
    split: 'train' or 'test'.
    size: number of examples; a small generator repeats itself.
    seed: of the generator.
    test_share: share of all questions that are 'test'.
    **settings: the generator's own, such as min_terms=2.

  Raises:
    ValueError: package missing, unknown name or setting (with those that come
      close), or a generator with too few different questions.
  """
  common.check_arguments('reasoning_gym', split=split, size=size)
  if not 0.0 < test_share < 1.0:
    raise ValueError(f'reasoning_gym: test_share={test_share} not in (0, 1)')
  settings |= {'seed': _seed(seed, split), 'size': size * _TRIES}
  source = _create(dataset, settings)
  pool = Pool(
    name='reasoning_gym',
    workers=_WORKERS,
    seconds=_SECONDS,
    dataset=dataset,
    settings=settings,
  )

  def make(i):
    # i, i + size, i + 2 size ...: the first draw that is of this split.
    for k in range(_TRIES):
      entry = source[i + k * size]
      question = entry['question']
      if common.split_of(question, test_share=test_share) == split:
        answer = '' if entry['answer'] is None else str(entry['answer'])
        return common.Example(question, answer, data={'entry': entry})
    raise ValueError(
      f'reasoning_gym {dataset}: no {split} question in {_TRIES} draws, too '
      f'few differ; widen the settings or change test_share={test_share}'
    )

  def check(answer, example):
    answer = answer.strip()
    # The entry goes along: to make it again by its index takes some generators
    # a second, and not all would make the same one in another process.
    return bool(answer) and pool.grade(example.data['entry'], answer)

  make(0)  # too few questions: say so at the start
  return common.Task(size, make, check)


def _create(name: str, settings: dict):
  try:
    package = importlib.import_module('reasoning_gym')
    factory = importlib.import_module('reasoning_gym.factory')
  except ImportError as error:
    raise ValueError(
      f'task reasoning_gym needs the package ({error}): '
      'pip install reasoning-gym'
    ) from None
  if name not in factory.DATASETS:
    raise ValueError(
      f'reasoning_gym: no dataset {name!r}{_close(name, factory.DATASETS)}'
    )
  fields = [f.name for f in dataclasses.fields(factory.DATASETS[name][1])]
  for setting in settings:
    if setting not in fields:
      raise ValueError(
        f'reasoning_gym {name}: no setting {setting!r}'
        f'{_close(setting, fields)}; settings: {", ".join(fields)}'
      )
  try:
    return package.create_dataset(name, **settings)
  except (AssertionError, TypeError, ValueError) as error:
    raise ValueError(f'reasoning_gym {name}: {error}') from None


def _close(name: str, known) -> str:
  near = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
  return f'; close names: {", ".join(near)}' if near else ''


def _seed(seed: int, split: str) -> int:
  # Generators seed with `seed + index`, so neighbouring seeds overlap; some
  # hand it to numpy, which takes 32 bits.
  digest = hashlib.sha256(f'{seed}/{split}'.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 2
