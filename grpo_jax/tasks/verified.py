"""Records of a verified set, for supervised fine-tuning and evaluation.

`python -m grpo_jax.generate --keep=verified` writes such a folder.
"""

from collections.abc import Sequence

from grpo_jax.tasks import common
from grpo_jax.tasks.jsonl import check_share, verifier_of
from grpo_jax.verified import record_set


def verified(
  *,
  path: str,
  split: str = 'train',
  test_share: float = 0.0,
  sources: Sequence[str] = (),
  verifier: str = 'number',
) -> common.Task:
  """The records of a folder, with prompt, answer and completion.

  Args:
    path: the folder.
    split: 'train' or 'test'.
    test_share: share of the prompts, by hash, that are 'test'. 0: all records,
      whatever the split.
    sources: only those of these sources; () for all.
    verifier: as of the task `jsonl`, for those who evaluate on it; not `code`,
      as records hold no tests.

  Raises:
    FileNotFoundError, ValueError: naming the folder and the remedy.
  """
  common.check_arguments('verified', split=split)
  check = verifier_of('verified', verifier)
  if verifier == 'code':
    raise ValueError("verified: verifier='code' needs tests; records have none")
  check_share('verified', test_share)
  rows = record_set.open_set(path)
  wanted = range(len(rows))
  # A set may be larger than memory: all of it is read only to be chosen from.
  if test_share or sources:
    named, found = set(sources), []
    missing = set(sources)
    for i in wanted:
      row = rows[i]
      source = record_set.text_of(row, 'source')
      missing.discard(source)
      prompt = record_set.text_of(row, 'prompt')
      if (not named or source in named) and (
        not test_share
        or common.split_of(f'verified/{prompt}', test_share=test_share) == split
      ):
        found.append(i)
    if missing:
      raise ValueError(f'{path}: no record of source {min(missing)!r}')
    wanted = found
  if not wanted:
    raise ValueError(f'{path}: no {split} record with test_share={test_share}')

  def make(i):
    row = rows[wanted[i]]
    return common.Example(
      *(record_set.text_of(row, k) for k in ('prompt', 'answer', 'completion'))
    )

  return common.Task(len(wanted), make, check, source=path)
