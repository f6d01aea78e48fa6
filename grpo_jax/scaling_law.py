"""ScaleRL's law of a reward curve, and how well its first half foretold it.

  curves = open_run('runs/mine').metrics
  told = scaling_law.forecast(
    curves['step'], curves['reward/mean'], largest=1.1
  )
  print(told)

Khatri et al., The Art of Scaling RL Compute for LLMs (2510.13786) eq. 1:
  R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B)
A is where the reward will end, B how steep the way there is, C_mid the compute
at half of it. Compute is any measure of work: steps, tokens, GPU hours.
"""

import dataclasses

import numpy as np
from scipy import optimize

# Fewer points than this do not hold four numbers down.
FEWEST = 8


@dataclasses.dataclass(frozen=True)
class Sigmoid:
  """A fitted curve; calling it gives the reward at some compute (> 0)."""

  start: float  # R_0
  ceiling: float  # A
  exponent: float  # B
  midpoint: float  # C_mid, in the unit of compute

  def __call__(self, compute) -> np.ndarray:
    compute = np.asarray(compute, np.float64)
    share = 1 / (1 + (self.midpoint / compute) ** self.exponent)
    return self.start + (self.ceiling - self.start) * share


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What the first part of a curve said of the rest.

  Attributes:
    early: fitted to the first part.
    whole: fitted to all of it.
    split: the compute at which the first part ends.
    error: prediction minus mean reward over the last tenth of the points.
    rmse: root mean square of that over all points after the split.
    noise: root mean square distance of all points from `whole`: an error
      within it says nothing against the law.
  """

  early: Sigmoid
  whole: Sigmoid
  split: float
  error: float
  rmse: float
  noise: float

  def __str__(self) -> str:
    return (
      f'from compute <= {self.split:g}: ceiling {self.early.ceiling:.3f} '
      f'(all: {self.whole.ceiling:.3f}), exponent {self.early.exponent:.2f} '
      f'({self.whole.exponent:.2f}); off by {self.error:+.3f} at the end, '
      f'{self.rmse:.3f} rms after the split; noise {self.noise:.3f}'
    )


def fit(compute, reward, *, largest: float) -> Sigmoid:
  """The sigmoid nearest to a curve, by least squares.

  Args:
    compute: [n] positive, in any unit.
    reward: [n]; NaN is left out.
    largest: the highest reward there is, which bounds the ceiling.

  Raises:
    ValueError: fewer than eight points, or a compute that is not positive.
  """
  compute, reward = _points(compute, reward)
  low, high = float(reward.min()), float(max(reward.max(), largest))
  span = max(high - low, 1e-6)
  logs = np.log(compute)
  bounds = (
    [low - span, low, 0.1, logs[0] - 1],
    [high, high + 1e-6, 20.0, logs[-1] + 3],
  )

  def curve(x, start, ceiling, exponent, log_middle):
    return start + (ceiling - start) / (1 + np.exp(exponent * (log_middle - x)))

  best = None
  # The surface has more than one valley.
  for share in (0.2, 0.5, 0.8, 1.1):
    for exponent in (0.5, 1.5, 4.0):
      first = [
        reward[0], min(float(reward.max()), high), exponent,
        logs[0] + share * (logs[-1] - logs[0]),
      ]  # fmt: skip
      found = optimize.least_squares(
        lambda p: curve(logs, *p) - reward,
        np.clip(first, *bounds),
        bounds=bounds,
        x_scale=[span, span, 1.0, 1.0],
      )
      if best is None or found.cost < best.cost:
        best = found
  start, ceiling, exponent, log_middle = map(float, best.x)
  return Sigmoid(start, ceiling, exponent, float(np.exp(log_middle)))


def forecast(
  compute, reward, *, largest: float, share: float = 0.5
) -> Forecast:
  """Fits the first part of a curve and measures it on the rest.

  Args:
    compute, reward, largest: as in `fit`, in the order of compute.
    share: of the points that the early fit sees, below 1.

  Raises:
    ValueError: as in `fit`, for the first part too; no point is left to be
      foretold.
  """
  compute, reward = _points(compute, reward)
  if not 0 < share < 1:
    raise ValueError(f'share={share} must be between 0 and 1')
  count = int(len(compute) * share)
  early = fit(compute[:count], reward[:count], largest=largest)
  whole = fit(compute, reward, largest=largest)
  last = max(len(compute) // 10, 1)
  off = early(compute[count:]) - reward[count:]
  return Forecast(
    early=early,
    whole=whole,
    split=float(compute[count - 1]),
    error=float(off[-last:].mean()),
    rmse=float(np.sqrt(np.mean(off**2))),
    noise=float(np.sqrt(np.mean((whole(compute) - reward) ** 2))),
  )


def _points(compute, reward):
  compute = np.asarray(compute, np.float64)
  reward = np.asarray(reward, np.float64)
  if compute.shape != reward.shape or compute.ndim != 1:
    raise ValueError(
      f'compute {compute.shape} and reward {reward.shape} must be two lists of '
      'one length'
    )
  present = ~np.isnan(reward)
  compute, reward = compute[present], reward[present]
  if len(compute) < FEWEST:
    raise ValueError(
      f'{len(compute)} points do not hold a sigmoid down; {FEWEST} are needed'
    )
  if (compute <= 0).any():
    raise ValueError(
      f'compute must be positive; the least is {compute.min():g}'
    )
  return compute, reward
