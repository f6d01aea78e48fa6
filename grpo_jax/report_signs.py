"""What a run's curves say when looked at: each function finds one trouble.

Each compares the first tenth of a run's steps with the last, or looks at the
last alone. Thresholds are rules of thumb; what is returned tells the numbers,
so that a reader can disagree. None: nothing found.
"""

from collections.abc import Mapping
import dataclasses
import math

import numpy as np

from grpo_jax.config import critic_wanted

_END = 0.1


@dataclasses.dataclass(frozen=True)
class Seen:
  """A run's curves, with their two ends."""

  curves: Mapping[str, np.ndarray]  # with 'step'
  cfg: Mapping

  def has(self, name: str) -> bool:
    return name in self.curves and bool(np.isfinite(self.curves[name]).any())

  def known(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the metric is finite."""
    values = self.curves[name]
    known = np.isfinite(values)
    return self.curves['step'][known], values[known]

  def early(self, name: str) -> float:
    """Mean over the first tenth."""
    values = self.known(name)[1]
    return float(values[: math.ceil(_END * values.size)].mean())

  def late(self, name: str) -> float:
    """Mean over the last tenth."""
    values = self.known(name)[1]
    return float(values[-math.ceil(_END * values.size) :].mean())

  @property
  def right(self) -> str:
    """The metric that tells best how many answers are right."""
    signal = f'reward/{self.cfg["filters"]["signal"]}'
    return signal if self.has(signal) else 'reward/mean'

  @property
  def right_pays(self) -> bool:
    """Whether the reward is of what `right` tells."""
    if self.right == 'reward/mean':
      return True
    signal = self.cfg['rewards'].get(self.cfg['filters']['signal'], {})
    return bool(signal.get('weight'))

  @property
  def paid(self) -> bool:
    """Whether any reward counts; in distillation from a teacher none does."""
    return any(r.get('weight') for r in self.cfg['rewards'].values())


def nonfinite(s):
  bad = np.nan_to_num(s.curves['nonfinite'], nan=0.0) > 0
  if not bad.any():
    return None
  steps = s.curves['step'][bad]
  return f'{steps.size} of {bad.size} steps, first at step {steps[0]}'


def no_reward(s):
  steps, values = s.known('reward/mean')
  if np.ptp(values[-10:]) or s.late('reward/std') > 0 or not s.paid:
    return None
  others = np.flatnonzero(values != values[-1])
  begin = steps[others[-1] + 1] if others.size else steps[0]
  return (
    f'every completion since step {begin} has the same reward, '
    f'{values[-1]:.3g}: nothing is learned from them'
  )


def reward_fell(s):
  steps, values = s.known('reward/mean')
  width = math.ceil(_END * values.size)
  means = np.convolve(values, np.ones(width) / width, 'valid')
  best, gained = means.max(), means.max() - means[0]
  at = steps[means.argmax() + width - 1]
  if best - means[-1] <= max(0.3 * gained, 3 * _noise(values, width)):
    return None
  return f'{best:.3g} around step {at}, {means[-1]:.3g} at the end'


def hacked(s):
  right = s.right
  if right == 'reward/mean':
    return None
  rise = s.late('reward/mean') - s.early('reward/mean')
  fall = s.early(right) - s.late(right)
  if rise <= 0 or fall <= 0.02:
    return None
  return (
    f'reward/mean {_change(s, "reward/mean")}, but {right} {_change(s, right)}'
  )


def overfitted(s):
  steps, values = s.known('eval/pass@1')
  best = values.argmax()
  error = 0.0
  if s.has('eval/pass@1_stderr'):
    error = float(np.nanmean(s.curves['eval/pass@1_stderr']))
  fell = values[best] - values[-2:].mean()
  gain = s.late('reward/mean') - s.early('reward/mean')
  if fell <= max(0.02, 2 * error) or gain <= 0:
    return None
  return (
    f'eval/pass@1 {values[best]:.3f} at step {steps[best]}, '
    f'{values[-2:].mean():.3f} in the last two, while reward/mean '
    f'{_change(s, "reward/mean")}'
  )


def entropy_collapsed(s):
  early, late = s.early('entropy'), s.late('entropy')
  if late >= 0.25 * early and late >= 0.01:
    return None
  right = s.right
  return (
    f'{_change(s, "entropy")} nats a token; {right} is at {s.late(right):.2f}'
    ' (near 1, certainty is earned)'
  )


def entropy_grew(s):
  early, late = s.early('entropy'), s.late('entropy')
  if late <= 2 * early or late - early <= 0.3:
    return None
  return f'{_change(s, "entropy")} nats a token'


def kl(s):
  steps, values = s.known('kl')
  late = s.late('kl')
  middle = float(np.median(values[values.size // 3 : 2 * values.size // 3]))
  worst = int(values.argmax())
  spike = values[worst] > max(20 * max(float(np.median(values)), 1e-3), 1.0)
  if late <= 1.0 and not (late > 5 * middle and late > 0.1) and not spike:
    return None
  return (
    f'{middle:.3g} nats a token in the middle of the run, {late:.3g} at the '
    f'end, at most {values[worst]:.3g} (step {steps[worst]})'
  )


def zero_variance(s):
  late = s.late('zero_variance_share')
  if late <= 0.5 or not s.paid:
    return None
  found = f'{late:.0%} of groups in the last tenth have one reward only'
  if not s.right_pays:
    return f'{found}; {s.right}, at {s.late(s.right):.2f}, is not what pays'
  right, told = s.late(s.right), 'too hard for this policy'
  if right > 0.5:
    told = 'too easy for this policy'
  return f'{found}; with {s.right} at {right:.2f} they are {told}'


def truncated(s):
  steps, values = s.known('length/clipped_share')
  is_early = steps <= s.cfg['sample']['early_steps']
  some = math.ceil(_END * values.size)
  # The limit may rise within an end: only steps with the one told count.
  early = values[:some][is_early[:some] == is_early[0]].mean()
  late = values[-some:][is_early[-some:] == is_early[-1]].mean()
  if late <= 0.1:
    return None
  fields = ('max_completion_length', 'early_completion_length')
  first, last = (fields[int(is_early[i])] for i in (0, -1))
  limits = s.cfg['sample']
  then = '' if first == last else f', of {limits[first]} tokens'
  return (
    f'{late:.0%} of completions end at the limit of {limits[last]} tokens, '
    f'sample.{last} (at first {early:.0%}{then})'
  )


def length_bias(s):
  early, late = s.early('length/mean'), s.late('length/mean')
  values = s.known('length/mean')[1]
  middle = float(values[values.size // 2 :][: max(values.size // 10, 1)].mean())
  rights = s.known(s.right)[1]
  before = float(rights[rights.size // 2 :][: max(rights.size // 10, 1)].mean())
  gained = s.late(s.right) - before
  noise = _noise(rights, max(rights.size // 10, 1))
  if late <= 1.3 * middle or gained > max(0.01, 2 * noise):
    return None
  weights = s.cfg['algorithm']['weights']['name']
  return (
    f'{early:.0f} tokens at first, {middle:.0f} half way, {late:.0f} at the '
    f'end, where {s.right} went from {before:.3f} to {before + gained:.3f} '
    f'since half way; weights: {weights}'
  )


def wrong_longer(s):
  right, wrong = 'eval/mean_length_right', 'eval/mean_length_wrong'
  if not s.has(right) or not s.has(wrong):
    return None
  # NaN where all answers of an evaluation were right, or all wrong.
  ratios = s.curves[wrong] / np.maximum(s.curves[right], 1)
  ratios = ratios[np.isfinite(ratios)]
  if ratios.size < 2:
    return None
  first, last = float(ratios[0]), float(ratios[-1])
  if last <= 1.5 or last <= 1.2 * first:
    return None
  return (
    f'in evaluations wrong answers were {first:.1f} times as long as right '
    f'ones, and are now {last:.1f} times'
  )


def gap(s):
  late = s.late('logprob_gap/mean')
  if late <= 0.01:
    return None
  most = ''
  if s.has('logprob_gap/max'):
    most = f', at most {s.known("logprob_gap/max")[1].max():.3g}'
  return f'{late:.2g} nats a token in the last tenth{most}'


def clipped(s):
  late = s.late('clip_share')
  if late <= 0.2:
    return None
  return f'{late:.0%} of tokens give no gradient in the last tenth'


def critic(s):
  if not critic_wanted(s.cfg):
    return None
  late = s.late('value/explained_variance')
  return f'{late:.2f} in the last tenth' if late < 0.0 else None


def _noise(values, width):
  """Standard error of a mean over `width` values, from step to step."""
  if values.size < 3:
    return 0.0
  return float(np.std(np.diff(values)) / math.sqrt(2 * width))


def _change(s, name):
  return f'{s.early(name):.3g} -> {s.late(name):.3g}'
