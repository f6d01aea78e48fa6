"""Stages 4 to 7 of a step: from prompts to a batch to learn from."""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import numpy as np

from grpo_jax import layout
from grpo_jax.rewards import Completion
from grpo_jax.structs import Array, Batch, Prompts, PyTree, Rollout
from grpo_jax.tasks import Example


@dataclasses.dataclass(frozen=True)
class Collected:
  """A batch, and what people want to know about it (host side)."""

  batch: Batch
  completions: list[list[str]]
  rewards: np.ndarray  # [Q G] float32
  components: dict[str, np.ndarray]  # [Q G] float32 each
  advantages: np.ndarray  # [Q G] float32
  lengths: np.ndarray  # [Q G] tokens, EOS included
  finished: np.ndarray  # [Q G] bool, stopped by itself

  def metrics(self) -> dict[str, float]:
    """Statistics of rewards and lengths."""
    present = ~np.isnan(self.rewards)
    low = np.nanmin(np.where(present, self.rewards, np.inf), 1)
    high = np.nanmax(np.where(present, self.rewards, -np.inf), 1)
    values = {
      'reward/mean': np.nanmean(self.rewards),
      'reward/std': np.nanstd(self.rewards),
      'zero_variance_share': np.mean(low >= high),
      'length/mean': self.lengths.mean(),
      'length/min': self.lengths.min(),
      'length/max': self.lengths.max(),
      'length/clipped_share': 1 - self.finished.mean(),
    }
    for name, component in self.components.items():
      values[f'reward/{name}'] = np.nanmean(component)
    return {k: float(v) for k, v in values.items()}


def collect(
  examples: list[Example],
  prompts: Prompts,
  params: PyTree,
  key: Array,
  *,
  sample: Callable[[PyTree, Prompts, Array], Rollout],
  texts: Callable[[Rollout], tuple[list[list[str]], np.ndarray]],
  grade: Callable[[list, list], tuple[np.ndarray, Mapping]],
  advantages: Callable[[Array], Array],
  put: Callable,
  reference: Callable[[Batch], Array] | None,
  length_multiple: int,
) -> Collected:
  """Samples, grades and lays out one step's batch.

  Args:
    examples: Q of them.
    prompts: theirs, as global device arrays.
    params: the published policy.
    key: of the step.
    sample: (params, prompts, key) -> Rollout.
    texts: Rollout -> completions [Q][G] and whether each stopped by itself.
    grade: (completions, examples) -> rewards [Q G] and its components.
    advantages: rewards [Q G] -> advantages [Q G].
    put: host arrays to global device arrays, split by rows.
    reference: Batch -> logprobs of the reference policy, or None. Runs on the
      device while the host grades.
    length_multiple: of the width that branches are cut to.
  """
  rollout = sample(params, prompts, key)
  rollout = layout.trim(rollout, multiple=length_multiple)
  batch = Batch(
    trunk=prompts.trunk,
    trunk_mask=prompts.trunk_mask,
    inputs=rollout.inputs,
    targets=rollout.targets,
    mask=rollout.mask,
    old_logprobs=rollout.logprobs,
  )
  if reference is not None:
    batch = batch.replace(ref_logprobs=reference(batch))
  completions, finished = texts(rollout)
  rewards, components = grade(completions, examples)
  values = advantages(put(rewards))
  return Collected(
    batch=batch.replace(advantages=values),
    completions=completions,
    rewards=rewards,
    components=dict(components),
    advantages=np.asarray(jax.device_get(values)),
    lengths=np.asarray(jax.device_get(rollout.mask)).sum(-1),
    finished=finished,
  )


def read_texts(
  rollout: Rollout, *, decode: Callable, stop_ids: tuple[int, ...]
) -> tuple[list[list[Completion]], np.ndarray]:
  """Completions as text without their stop token, and which had one.

  The texts know their length in tokens, for the rewards of length.

  Args:
    rollout: sampled branches.
    decode: token ids -> text.
    stop_ids: ids that end a completion.
  """
  targets = np.asarray(jax.device_get(rollout.targets))
  lengths = np.asarray(jax.device_get(rollout.mask)).sum(-1)
  finished = np.zeros(lengths.shape, bool)
  completions = []
  for q, group in enumerate(targets):
    row = []
    for g, ids in enumerate(group):
      ids = ids[: lengths[q, g]].tolist()
      if ids and ids[-1] in stop_ids:
        finished[q, g] = True
        ids = ids[:-1]
      row.append(
        Completion(decode(ids), tokens=lengths[q, g], finished=finished[q, g])
      )
    completions.append(row)
  return completions, finished
