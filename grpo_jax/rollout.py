"""Stages 4 to 6 of a step: from prompts to a graded batch.

With dynamic sampling, from several such rollouts to the groups worth learning
from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import itertools

import jax
import numpy as np

from grpo_jax import layout, sharding
from grpo_jax.rewards import Completion
from grpo_jax.structs import Array, Batch, Prompts, PyTree, Rollout
from grpo_jax.tasks import Example


@dataclasses.dataclass(frozen=True)
class Collected:
  """A batch without advantages, and what people want to know of it."""

  indices: np.ndarray  # [Q] of the examples in their task
  examples: list[Example]
  batch: Batch
  completions: list[list[str]]
  rewards: np.ndarray  # [Q G] float32
  components: dict[str, np.ndarray]  # [Q G] float32 each
  lengths: np.ndarray  # [Q G] tokens, EOS included
  finished: np.ndarray  # [Q G] bool, stopped by itself
  sampled: int  # the first of G; the rest was given

  @property
  def tokens(self) -> int:
    """Completion tokens that were sampled."""
    return int(self.lengths[:, : self.sampled].sum())

  def rates(self, component: str) -> np.ndarray:
    """[Q] mean of a reward over the policy's own samples."""
    return np.nanmean(self.components[component][:, : self.sampled], 1)


def metrics(
  rollouts: list[Collected], *, decoded: Callable[[np.ndarray], int]
) -> dict[str, float]:
  """Statistics of all that was rolled out: of the policy's own samples.

  Args:
    rollouts: of a step.
    decoded: lengths [Q G] -> tokens that were decoded for them.
  """

  def each(rows_of):
    return [rows_of(c)[:, : c.sampled] for c in rollouts]

  def own(rows_of):
    return np.concatenate(each(rows_of))

  rewards, lengths = own(lambda c: c.rewards), own(lambda c: c.lengths)
  signal = np.concatenate([has_signal(c.rewards) for c in rollouts])
  slots = sum(map(decoded, each(lambda c: c.lengths)))
  values = {
    'reward/mean': np.nanmean(rewards),
    'reward/std': np.nanstd(rewards),
    'zero_variance_share': 1 - signal.mean(),
    'length/mean': lengths.mean(),
    'length/min': lengths.min(),
    'length/max': lengths.max(),
    'length/clipped_share': 1 - own(lambda c: c.finished).mean(),
    'padding/rollout': 1 - lengths.sum() / slots,
  }
  for name in rollouts[0].components:
    component = own(lambda c, name=name: c.components[name])
    # Of prompts that it is for; in some steps there are none.
    if not np.isnan(component).all():
      values[f'reward/{name}'] = np.nanmean(component)
  return {k: float(v) for k, v in values.items()}


def has_signal(rewards: np.ndarray) -> np.ndarray:
  """[Q] groups of [Q G] rewards with two that differ; NaN is missing."""
  low = np.fmin.reduce(rewards, 1)
  return low < np.fmax.reduce(rewards, 1)


def samples(
  collected: Collected,
  advantages: Array | np.ndarray,
  *,
  text: Callable[[str], str],
  most: int,
) -> list[dict]:
  """Rows for people, of the first completions that this process has.

  Args:
    collected: a rollout.
    advantages: [Q G], or [Q G C]: then the first token's is shown, which sees
      the whole completion. Completions without one here are left out.
    text: the question -> what the policy continued.
    most: so many rows.
  """
  here, numbers = (
    f(advantages).reshape(*advantages.shape[:2], -1)[:, :, 0]
    for f in (sharding.holds, sharding.local)
  )
  rows = (
    {
      'prompt': text(example.prompt),
      'completion': completion,
      'answer': example.answer,
      **({'domain': example.domain} if example.domain else {}),
      'reward': collected.rewards[q, g],
      'rewards': {
        k: v[q, g]
        for k, v in collected.components.items()
        if not np.isnan(v[q, g])
      },
      'advantage': numbers[q, g],
      'length': collected.lengths[q, g],
      'finished': collected.finished[q, g],
      'given': g >= collected.sampled,
    }
    for q, example in enumerate(collected.examples)
    for g, completion in enumerate(collected.completions[q])
    if completion is not None and here[q, g]
  )
  # No more are made than are shown: of 10^4 completions, 16.
  return list(itertools.islice(rows, most))


def collect(
  indices: np.ndarray,
  examples: list[Example],
  prompts: Prompts,
  given: Batch | None,
  params: PyTree,
  key: Array,
  *,
  sample: Callable[[PyTree, Prompts, Array], Rollout],
  append: Callable[[Batch, Batch], Batch],
  score: Callable[[Batch], Batch],
  lengths: Callable[[Array], np.ndarray],
  texts: Callable[[Batch, list], tuple[list[list[str]], np.ndarray]],
  grade: Callable[[list, list], tuple[np.ndarray, Mapping]],
  share: Callable[[dict], dict],
  length_multiple: int,
) -> Collected:
  """Samples, lays out and grades.

  Args:
    indices, examples: Q of them; None for what other processes read.
    prompts: theirs, as global device arrays.
    given: completions that take part as they are, or None; without a reward
      where they are cut.
    params: the published policy.
    key: of this rollout.
    sample: (params, prompts, key) -> Rollout.
    append: (batch, given) -> batch with those too.
    score: adds logprobs to a batch; runs on the device while the host grades.
    lengths: mask [Q G C] -> tokens [Q G], of all processes.
    texts: (batch, examples) -> completions [Q][G] and whether each stopped by
      itself.
    grade: (completions, examples) -> rewards [Q G] and its components.
    share: name -> [Q G], as far as it is known here -> the same, of all
      processes.
    length_multiple: of the width that branches are cut to.
  """
  rollout = sample(params, prompts, key)
  rollout = layout.trim(
    rollout,
    longest=int(lengths(rollout.mask).max()),
    multiple=length_multiple,
  )
  batch = Batch(
    trunk=prompts.trunk,
    trunk_mask=prompts.trunk_mask,
    inputs=rollout.inputs,
    targets=rollout.targets,
    mask=rollout.mask,
    old_logprobs=rollout.logprobs,
  )
  if given is not None:
    batch = append(batch, given)
  batch = score(batch)
  completions, finished = texts(batch, examples)
  rewards, components = grade(completions, examples)
  # Only now: the device has scored while the host graded. What processes share
  # would queue behind the rest of it, which is no wait for each other.
  jax.block_until_ready(batch)
  found = share({'': rewards, ' finished': finished, **components})
  finished, sampled = found.pop(' finished'), rollout.mask.shape[1]
  if given is not None:
    # A trace that is cut at the limit is no answer to learn against.
    judged = finished | (np.arange(finished.shape[1]) < sampled)
    found = {k: np.where(judged, v, np.nan) for k, v in found.items()}
  rewards = found.pop('')
  return Collected(
    indices=indices,
    examples=examples,
    batch=batch,
    completions=completions,
    rewards=rewards,
    components=found,
    lengths=lengths(batch.mask),
    finished=finished,
    sampled=sampled,
  )


def refill(
  rollouts: Iterable[Collected],
  *,
  signal: str,
  join: Callable[[list[Batch], np.ndarray], Batch],
) -> tuple[Collected, list[Collected]]:
  """Dynamic sampling: rollouts until as many groups as one has are worth it.

  DAPO (2503.14476) eq. 11. Groups stay in the order in which they came; if the
  rollouts run out, the first ones without a signal fill the batch.

  Args:
    rollouts: drawn on as needed; the last is the bound.
    signal: the component whose values must differ within a group. The task's
      own reward: one shaped by length always differs.
    join: (batches, rows counted through all of them) -> those rows.

  Returns:
    The chosen groups, and all that was rolled out.
  """
  seen, worth = [], np.zeros(0, bool)
  for got in rollouts:
    seen.append(got)
    worth = np.concatenate([worth, has_signal(got.components[signal])])
    wanted = len(got.examples)
    if worth.sum() >= wanted:
      break
  rows = np.sort(np.argsort(~worth, kind='stable')[:wanted])
  return _rows(seen, rows, join), seen


def _rows(seen, rows, join):
  """Rows of several rollouts, as one."""
  if len(seen) == 1:
    return seen[0]

  def rows_of(field):
    return np.concatenate([getattr(c, field) for c in seen])[rows]

  def items_of(field):
    items = [x for c in seen for x in getattr(c, field)]
    return [items[r] for r in rows]

  return Collected(
    indices=rows_of('indices'),
    examples=items_of('examples'),
    batch=join([c.batch for c in seen], rows.astype(np.int32)),
    completions=items_of('completions'),
    rewards=rows_of('rewards'),
    components={
      name: np.concatenate([c.components[name] for c in seen])[rows]
      for name in seen[0].components
    },
    lengths=rows_of('lengths'),
    finished=rows_of('finished'),
    sampled=seen[0].sampled,
  )


def read_texts(
  rollout: Rollout | Batch,
  examples: Sequence[Example | None],
  *,
  opening: Callable[[str], str],
  decode: Callable,
  stop_ids: tuple[int, ...],
) -> tuple[list[list[Completion]], np.ndarray]:
  """Completions as text without their stop token, and which had one.

  A text is whole: where the prompt opens the thought, the tag stands before
  what was sampled. It knows its length in sampled tokens, for the rewards of
  length. Those on devices of other processes are None, and not finished.

  Args:
    rollout: sampled branches.
    examples: Q of them, None where another process has the row.
    opening: question -> what its prompt has of the completion, see
      `Questions.opening`.
    decode: token ids -> text.
    stop_ids: ids that end a completion.
  """
  targets, mask = sharding.local(rollout.targets), sharding.local(rollout.mask)
  here = sharding.holds(rollout.mask)[:, :, 0]
  # Of the rows here alone: others may be a thousand times as many.
  lengths, finished = np.zeros(here.shape, int), np.zeros(here.shape, bool)
  lengths[here] = mask[here].sum(-1)
  completions = [[None] * here.shape[1] for _ in range(here.shape[0])]
  begun = [
    opening(examples[q].prompt) if any_here else ''
    for q, any_here in enumerate(here.any(1).tolist())
  ]
  for q, g in np.argwhere(here).tolist():
    ids = targets[q, g, : lengths[q, g]].tolist()
    if ids and ids[-1] in stop_ids:
      finished[q, g] = True
      ids = ids[:-1]
    completions[q][g] = Completion(
      begun[q] + decode(ids), tokens=lengths[q, g], finished=finished[q, g]
    )
  return completions, finished
