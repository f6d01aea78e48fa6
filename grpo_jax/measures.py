"""Measures of sampled answers: pass@k, votes, standard errors (host side)."""

from collections.abc import Hashable, Sequence
import math

import numpy as np

# Left out of an evaluation where there is nothing that they are of.
OF_SOME = (
  'mean_length_right', 'mean_length_wrong', 'thinking_length_right',
  'thinking_length_wrong', 'reflective_gain', 'language_consistency',
)  # fmt: skip


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
  """Unbiased pass@k of each problem: 1 - C(n-c, k) / C(n, k).

  Codex (2107.03374) eq. 1.

  Args:
    correct: [Q n] bool, n samples a problem.
    k: at most n.

  Returns:
    [Q] float64.
  """
  n = correct.shape[1]
  if not 1 <= k <= n:
    raise ValueError(
      f'pass@{k} needs at least {k} samples a problem, there are {n}; raise '
      'eval.samples or lower eval.ks'
    )
  total = math.comb(n, k)
  counts = correct.sum(1)
  return np.array([1 - math.comb(n - int(c), k) / total for c in counts])


def vote(answers: list[str]) -> int:
  """Index of the first answer of the majority; -1 when nobody answered.

  An empty answer never wins; ties go to the answer seen first.
  """
  counts = {}
  for answer in answers:
    if answer:
      counts[answer] = counts.get(answer, 0) + 1
  if not counts:
    return -1
  return answers.index(max(counts, key=counts.get))


def cons_at_k(
  answers: list[list[str]], correct: np.ndarray, k: int
) -> np.ndarray:
  """Share of right majority votes of k samples, for each problem.

  Averaged over the disjoint groups of k that n samples make. Where answers of
  one form are judged apart, the winner is what most of its form are.

  Args:
    answers: [Q][n] extracted answers in a canonical form, '' for none.
    correct: [Q n] bool.
    k: at most n.

  Returns:
    [Q] float64.
  """
  n = correct.shape[1]
  if not 1 <= k <= n:
    raise ValueError(
      f'cons@{k} needs at least {k} samples a problem, there are {n}; raise '
      'eval.samples or lower eval.votes'
    )
  results = []
  for row, right in zip(answers, correct, strict=True):
    won = []
    for start in range(0, n - k + 1, k):
      votes, verdicts = row[start : start + k], right[start : start + k]
      index = vote(votes)
      if index < 0:
        won.append(False)
        continue
      pairs = zip(votes, verdicts, strict=True)
      alike = [verdict for a, verdict in pairs if a == votes[index]]
      # Of as many each, the one that came first.
      won.append(2 * sum(alike) + bool(verdicts[index]) > len(alike))
    results.append(np.mean(won))
  return np.array(results)


def standard_error(
  values: np.ndarray, clusters: Sequence[Hashable] | None = None
) -> float:
  """Of the mean, clustered (2411.00640 eq. 4), with C / (C - 1) for C clusters.

  Args:
    values: [N], each a mean of its own samples.
    clusters: [N], equal where values are not independent, as of a problem that
      is asked twice; None: each by itself.

  Returns:
    0 of a single cluster.
  """
  values = np.asarray(values, np.float64)
  off = values - values.mean()
  if clusters is not None:
    _, of = np.unique(np.asarray(clusters), return_inverse=True)
    off = np.bincount(of, off)
  count = len(off)
  if count < 2:
    return 0.0
  return float(math.sqrt(count / (count - 1) * (off**2).sum()) / len(values))


def mean(
  name: str, values: np.ndarray, clusters: Sequence[Hashable]
) -> dict[str, float]:
  """{name: mean, name_stderr: its error}, see `standard_error`."""
  error = standard_error(values, clusters)
  return {name: float(np.mean(values)), f'{name}_stderr': error}


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
  """Spearman's: Pearson's of the ranks, ties sharing their mean rank.

  0 where one of them is constant.
  """

  def ranks(values):
    _, inverse, counts = np.unique(
      values, return_inverse=True, return_counts=True
    )
    ends = np.cumsum(counts)
    found = (ends - (counts - 1) / 2)[inverse]
    return found - found.mean()

  a, b = ranks(x), ranks(y)
  scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
  return float((a * b).sum() / scale) if scale else 0.0
