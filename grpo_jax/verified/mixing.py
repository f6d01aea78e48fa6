"""Other sources of a verified set: records that are not sampled.

R1 adds 200 thousand non-reasoning samples to 600 thousand verified ones (B.3.3:
writing, questions, translation; for the useful ones a model wrote a thought
first). Here a source is any task with completions, one of verified sets too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from grpo_jax import config, questions, tasks
from grpo_jax.verified import selection


class Mixed:
  """A source that is added, as `keep.mix` names it."""

  def __init__(self, spec: Mapping, seed: int):
    """Opens the task.

    Raises:
      ValueError: it cannot be made, or has no completions.
    """
    self.source, self.seed = spec['source'], seed
    self.task = config.pick(tasks, spec['task'])()
    self.share = spec.get('share')
    self.count = spec.get('count')
    questions.completion_of(self.task.example(0), self.task)
    if self.count is not None and self.count > len(self.task):
      raise ValueError(
        f'keep.mix: {self.source} has {len(self.task)} records; lower its '
        f'count of {self.count}'
      )

  def records(
    self, wanted: int | None, seen: set[bytes], count: Callable[[str], int]
  ) -> Iterator[dict]:
    """See `selection.draw`; in the order of the first epoch of the task."""
    size = len(self.task)
    order = tasks.batch_indices(size, size, seed=self.seed, step=0).tolist()
    return selection.draw(
      ((i, self.task.example(i)) for i in order),
      wanted=wanted,
      source=self.source,
      seen=seen,
      count=count,
    )


def amounts(sources: Sequence[Mixed], *, own: int) -> list[int | None]:
  """Records of each source; None for all it has.

  Args:
    sources: their shares are of the whole set.
    own: records that were sampled.
  """
  whole = own
  for one in sources:
    if one.share is None:
      whole += len(one.task) if one.count is None else one.count
  shares = [one.share or 0.0 for one in sources]
  counts = selection.shares_to_counts(whole, shares)
  return [
    one.count if one.share is None else count
    for one, count in zip(sources, counts, strict=True)
  ]
