"""Warnings an expert would raise on seeing a run, and what to do about each."""

from collections.abc import Callable, Mapping
import dataclasses

import numpy as np

from grpo_jax import report_signs as look
from grpo_jax.report_signs import Seen


@dataclasses.dataclass(frozen=True)
class Check:
  """One thing to look for.

  Attributes:
    title: of the finding.
    metric: whose curve shows it; without it there is no check.
    find: Seen -> the finding's numbers, or None.
    todo: what to do about it.
    bad: whether it spoils the run, or is worth a look.
    enough: values of the metric; below 20 the ends of a curve are noise.
  """

  title: str
  metric: str
  find: Callable[[Seen], str | None]
  todo: str
  bad: bool = False
  enough: int = 20


CHECKS = (
  Check(
    'Updates that are not finite', 'nonfinite', look.nonfinite,
    'They are skipped. Lower optimizer.learning_rate, look at the grad_norm '
    'before that step, and at the completions of the step.', bad=True,
    enough=1,
  ),
  Check(
    'No signal in the rewards', 'reward/std', look.no_reward,
    'Read completions below: is the answer found at all? Easier questions, a '
    'larger group_size, or supervised fine-tuning first.', bad=True,
  ),
  Check(
    'The reward fell from its best', 'reward/mean', look.reward_fell,
    'Go on from the checkpoint before the fall with a lower '
    'optimizer.learning_rate or a larger algorithm.kl_coef.', bad=True,
  ),
  Check(
    'The reward rises, right answers do not', 'reward/mean', look.hacked,
    'Read the completions with the highest reward: they may please a '
    'component that is not the task. Lower its weight, or gate it '
    '(reward_gate).', bad=True,
  ),
  Check(
    'Held-out accuracy falls', 'eval/pass@1', look.overfitted,
    'Take the best checkpoint (checkpoint.keep_best); more questions, fewer '
    'updates.epochs, a larger algorithm.kl_coef.', enough=4,
  ),
  Check(
    'Entropy collapsed', 'entropy', look.entropy_collapsed,
    'Samples of a group are nearly the same. Raise algorithm.loss.eps_high '
    '(0.28), algorithm.entropy_coef or sample.temperature; lower '
    'optimizer.learning_rate.',
  ),
  Check(
    'Entropy grows', 'entropy', look.entropy_grew,
    'Text may become incoherent: read late completions. Lower '
    'algorithm.entropy_coef, sample.temperature or optimizer.learning_rate.',
  ),
  Check(
    'KL blows up', 'kl', look.kl,
    'Lower optimizer.learning_rate, raise algorithm.kl_coef or clip updates '
    'harder (optimizer.clip_norm); look at what late completions say. After a '
    'reset of the reference (algorithm.reference_every) it begins at 0 again.',
    bad=True,
  ),
  Check(
    'Most groups teach nothing', 'zero_variance_share', look.zero_variance,
    'Too hard: easier questions or a larger group_size. Too easy: harder '
    'questions, filters.retire_above. Either: filters.rounds samples until '
    'the batch is full of groups that differ.',
  ),
  Check(
    'Completions are cut at the limit', 'length/clipped_share', look.truncated,
    'Raise that limit; or filters.mask_truncated, so that they are not '
    'punished for it, or a soft_overlong reward, so that they are, gently.',
  ),
  Check(
    'Longer, and not better', 'length/mean', look.length_bias,
    'weights=sequence_mean divides by the own length, so that long wrong '
    'answers are punished less (Dr. GRPO): try token_mean or constant; or a '
    'cosine or soft_overlong reward.',
  ),
  Check(
    'Wrong answers grow longer than right ones', 'eval/mean_length_wrong',
    look.wrong_longer,
    'The same length bias: weights=token_mean or constant.', enough=2,
  ),
  Check(
    'Sampler and trainer disagree', 'logprob_gap/mean', look.gap,
    "Set algorithm.old_logprobs='trainer' with importance=dict(name="
    "'truncated'); sample.cache_dtype and dtype say what is rounded. In fp32 "
    'it is about 1e-6.',
  ),
  Check(
    'Much is clipped', 'clip_share', look.clipped,
    'The policy moves far within one rollout: fewer updates.minibatches or '
    'updates.epochs, a lower optimizer.learning_rate, a larger eps_high.',
  ),
  Check(
    'The critic is worse than a constant', 'value/explained_variance',
    look.critic,
    'Raise critic.learning_rate, critic.epochs or critic.warmup_steps.',
  ),
)  # fmt: skip


def findings(curves: Mapping[str, np.ndarray], cfg: Mapping) -> list[dict]:
  """A row a check: title, metric, state, text, todo, bad.

  Args:
    curves: as `runs.Run.metrics`.
    cfg: the run's config.

  Returns:
    'state' is 'found', 'clear' or 'unknown': not measured, or not often enough.
  """
  seen = Seen(curves, cfg)
  rows = []
  for check in CHECKS:
    # Fine-tuning has none, and entropy that should fall.
    rewarded = seen.has('reward/mean') or check.find is look.nonfinite
    enough = rewarded and seen.has(check.metric)
    enough = enough and seen.known(check.metric)[0].size >= check.enough
    told = check.find(seen) if enough else None
    state = 'clear' if enough else 'unknown'
    rows.append({
      'title': check.title,
      'metric': check.metric,
      'state': state if told is None else 'found',
      'text': told,
      'todo': check.todo,
      'bad': check.bad,
    })  # fmt: skip
  return rows
