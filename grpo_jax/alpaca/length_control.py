"""Win rates of pairwise preferences, plain and length-controlled.

As AlpacaEval 2 computes them (2404.04475; the package `alpaca_eval`, with
which `tests/parity/test_alpaca_eval.py` compares). A preference is the
probability in [0, 1] that the model's output is better than the reference's,
0.5 a tie, NaN where no judgement was to be had.
"""

from absl import logging
import numpy as np

from grpo_jax import measures
from grpo_jax.alpaca.difficulty import check_count, Difficulties

# Of the two gamed baselines together, against 1 for the model's own rows.
_GAMED_WEIGHT = 0.2 / 2
_SPLITS = 5
_ROUNDING = 1e-9  # what a weight that is zero may be off
_STRENGTHS = np.logspace(-4, 4, 10)


def win_rate(preferences: np.ndarray) -> dict[str, float]:
  """Percent of wins, with the names of AlpacaEval.

  Args:
    preferences: [n]; NaN are left out.

  Returns:
    'win_rate' (mean preference), 'standard_error', 'discrete_win_rate' (wins
    and half of the draws), 'n_wins', 'n_wins_base', 'n_draws', 'n_total'.
  """
  known = preferences[~np.isnan(preferences)]
  if not known.size:
    raise ValueError('no preference to make a win rate of: all are unknown')
  wins, losses = int((known > 0.5).sum()), int((known < 0.5).sum())
  draws = known.size - wins - losses
  return {
    'win_rate': 100 * float(known.mean()),
    'standard_error': 100 * measures.standard_error(known),
    'discrete_win_rate': 100 * (wins + draws / 2) / known.size,
    'n_wins': wins,
    'n_wins_base': losses,
    'n_draws': draws,
    'n_total': int(known.size),
  }


def length_controlled(
  preferences: np.ndarray,
  reference_lengths: np.ndarray,
  lengths: np.ndarray,
  *,
  difficulties: Difficulties | None,
  folds: np.ndarray | None = None,
) -> dict[str, float | str | dict]:
  """What the win rate would be if the outputs were as long as the reference's.

  p(win) = sigmoid(b_length tanh((l_ref - l) / std) + b_difficulty d + b_model),
  fitted to the preferences with an L1 penalty whose strength is chosen by
  5-fold cross-validation; then the mean over instructions without the first
  term (2404.04475 eq. 3; `length_controlled_v1`). Without stored difficulties
  the second term is left out, as one model's preferences cannot tell a hard
  instruction from a bad answer (`length_controlled_minimal`); with
  difficulties but no gamed baselines, `length_controlled_noreg`.

  Args:
    preferences: [n]; NaN are not fitted to.
    reference_lengths, lengths: [n] characters of the outputs.
    difficulties: of the first n instructions and maybe more.
    folds: [m + known preferences] which part a row is held out in; default:
      those of AlpacaEval.

  Returns:
    'length_controlled_winrate' in percent; 'lc_standard_error', AlpacaEval's:
    the spread of predictions over instructions, without the fit's uncertainty
    (0 without difficulties); 'length_controlled_stderr' with it (sandwich and
    delta method); 'length_control', the name of the model; 'weights';
    'length_control_tells', False where the penalty leaves length alone, so that
    the rate is 50 whatever the preferences are.
  """
  names, x, neutral = _features(reference_lengths, lengths, difficulties)
  known = ~np.isnan(preferences)
  if not known.any():
    raise ValueError('no preference to control for length: all are unknown')
  train, targets = x[known], preferences[known]
  row_weights = np.ones(len(train))
  label = 'length_controlled_minimal'
  if difficulties is not None:
    gamed = difficulties.gamed
    label = f'length_controlled_{"v1" if len(gamed) else "noreg"}'
    train = np.concatenate([gamed, train])
    targets = np.concatenate([difficulties.gamed_preferences, targets])
    row_weights = np.concatenate(
      [np.full(len(gamed), _GAMED_WEIGHT), row_weights]
    )
  if folds is None:
    folds = _folds(len(train))
  strength = _choose(train, targets, row_weights, folds)
  coef = fit(train, targets, row_weights, strength=strength)
  predicted = _sigmoid(neutral @ coef)
  error = _error(train, targets, row_weights, known, neutral, coef)
  tells = bool(np.any(np.abs(neutral @ coef) > _ROUNDING))
  if not tells:
    # Of few rows, or of wins and losses in balance, or all told by length.
    logging.warning(
      'length control: the penalty has set the weights but that of length to '
      'zero, so its win rate is 50 whatever the preferences are; look at the '
      'plain one'
    )
  return {
    'length_controlled_winrate': 100 * float(predicted.mean()),
    'lc_standard_error': 100 * measures.standard_error(predicted),
    'length_controlled_stderr': 100 * error,
    'length_control': label,
    'length_control_tells': tells,
    'weights': dict(zip(names, coef.tolist(), strict=True)),
    'inverse_penalty': float(strength),
  }


def fit(
  x: np.ndarray,
  y: np.ndarray,
  row_weights: np.ndarray,
  *,
  strength: float,
  start: np.ndarray | None = None,
) -> np.ndarray:
  """argmin |b|_1 + strength sum_i w_i H(y_i, sigmoid(x_i b)).

  H is the cross-entropy. Proximal Newton: each step minimises the quadratic
  model with the penalty by coordinate descent, and is halved until it helps.

  Args:
    x: [n k], few columns; no intercept is added.
    y: [n] in [0, 1].
    row_weights: [n].
    strength: inverse of the penalty's (scikit-learn's C).
    start: [k] to start from; the result is the same, the loss is convex.

  Returns:
    [k].
  """
  coef = np.zeros(x.shape[1]) if start is None else start

  def objective(b):
    z = x @ b
    return (
      strength * (row_weights * (np.logaddexp(0, z) - y * z)).sum()
      + np.abs(b).sum()
    )

  value = objective(coef)
  for _ in range(100):
    p = _sigmoid(x @ coef)
    gradient = strength * x.T @ (row_weights * (p - y))
    curvature = strength * (x.T * (row_weights * p * (1 - p))) @ x
    step = _quadratic(gradient, curvature, coef) - coef
    size = 1.0
    while objective(coef + size * step) > value and size > 1e-8:
      size /= 2
    after = objective(coef + size * step)
    if after >= value:
      break
    coef, value = coef + size * step, after
    if np.abs(size * step).max() < 1e-10:
      break
  return coef


def _quadratic(gradient, curvature, coef):
  """argmin of the quadratic model at `coef` plus the L1 norm."""
  new = coef.copy()
  # A column of zeros has no curvature, and stays at zero.
  diagonal = np.maximum(np.diag(curvature), 1e-12)
  for _ in range(200):
    before = new.copy()
    for j in range(len(new)):
      slope = gradient[j] + curvature[j] @ (new - coef)
      at = new[j] - slope / diagonal[j]
      new[j] = np.sign(at) * max(abs(at) - 1 / diagonal[j], 0.0)
    if np.abs(new - before).max() < 1e-12:
      break
  return new


def _features(reference_lengths, lengths, difficulties):
  """Names, rows [n k] and rows of equally long outputs [n k]."""
  difference = np.asarray(reference_lengths, float) - np.asarray(lengths, float)
  spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
  # Where lengths differ by one and the same, they say nothing.
  scaled = difference / spread if spread else np.zeros_like(difference)
  columns = {'length': np.tanh(scaled)}
  if difficulties is not None:
    check_count(difficulties, len(lengths))
    columns['difficulty'] = difficulties.difficulty[: len(lengths)]
  columns['model'] = np.ones(len(lengths))
  x = np.stack(list(columns.values()), axis=1)
  neutral = x.copy()
  neutral[:, 0] = 0.0
  return list(columns), x, neutral


def _folds(count):
  """The folds of scikit-learn's GroupKFold for groups of equal size.

  Its order of ties is that of numpy's sort, here as there.
  """
  order = np.argsort(np.full(count, 2))[::-1]
  found = np.empty(count, int)
  found[order] = np.arange(count) % _SPLITS
  return found


def _choose(x, y, row_weights, folds):
  """The strength of least cross-entropy on held-out rows."""
  scores = np.zeros(len(_STRENGTHS))
  for fold in np.unique(folds):
    held, coef = folds == fold, None
    rest = x[~held], y[~held], row_weights[~held]
    for i, strength in enumerate(_STRENGTHS):
      coef = fit(*rest, strength=strength, start=coef)
      q = np.clip(_sigmoid(x[held] @ coef), 1e-15, 1 - 1e-15)
      gains = y[held] * np.log(q) + (1 - y[held]) * np.log1p(-q)
      scores[i] += np.mean(row_weights[held] * gains)
  return _STRENGTHS[scores.argmax()]


def _error(x, y, row_weights, known, neutral, coef):
  """Standard error of the mean prediction, by its influence function.

  psi_i = (p_i - mean(p)) / n + g' H^-1 x_i (y_i - q_i) over the rows of the
  model; g the gradient of the mean prediction, H the curvature of the fit. The
  penalty is left out of H, which is at most too wide; but what it set to zero
  is no parameter, other than the model's own, which is what is asked for. Gamed
  rows are given.
  """
  used = coef != 0
  used[-1] = True
  neutral, x, coef = neutral[:, used], x[:, used], coef[used]
  p, q = _sigmoid(neutral @ coef), _sigmoid(x @ coef)
  curvature = (x.T * (row_weights * q * (1 - q))) @ x
  slope = (neutral * (p * (1 - p))[:, None]).mean(0)
  fitted = x @ (np.linalg.pinv(curvature) @ slope) * row_weights * (y - q)
  psi = (p - p.mean()) / len(p)
  psi[known] += fitted[-known.sum() :]
  return float(np.sqrt(np.sum(psi**2)))


def _sigmoid(z):
  return np.exp(-np.logaddexp(0, -z))
