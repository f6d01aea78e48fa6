"""Rewards of the second kind: of a whole rollout at once, on the device.

A rule is `(completion, example) -> float` and runs on the host, in threads. A
function here is a factory too; what it makes is `(completions [Q][G],
examples [Q]) -> scores [Q G]`, a device array over all processes, NaN where
there is nothing to score. All processes call it alike, each with the texts that
it has and None for others', so that a program over all devices scores them in
place. It only dispatches: rules are graded meanwhile.
"""

from collections.abc import Callable
import math

import jax

from grpo_jax import config, scorer

__all__ = ['reward_model']


def reward_model(
  *,
  cfg,
  path: str,
  part: str = '',
  shape: str = 'none',
  reference: str | float = 'mean',
) -> Callable:
  """The score of a trained reward model.

  R1 scores helpfulness on the summary and safety on the whole answer
  (2501.12948v2, 3.1). A bounded reward is harder to exploit: sigmoid(r - r_ref)
  (2502.18770).

  Args:
    cfg: of the run: mesh, rules, dtype, microbatches.
    path: a finished run of `grpo_jax.reward_model`.
    part: of the completion: all, or summary; '' as it was trained.
    shape: none, or sigmoid.
    reference: r_ref of the sigmoid: a number, 'mean' of the scores of the
      model's held-out responses, or 'completion', the score of the example's
      own completion.

  Raises:
    ValueError: no reward model there, an unknown shape or reference, or prompts
      that do not divide over the devices that one response each is scored on.
  """
  config.one_of('shape of reward_model', shape, ('none', 'sigmoid'))
  number = isinstance(reference, int | float) and math.isfinite(reference)
  if not number:
    known = ('mean', 'completion')
    config.one_of('reference of reward_model', reference, known)
  model = scorer.open_scorer(cfg, path, part=part)
  model.reader.says_nothing('')  # An unknown part is told here.
  if shape == 'sigmoid' and reference == 'completion':
    ways = model.policy.for_groups_of(1).ways()['train'][0]
    config.divides(
      cfg.prompts_per_step, {'devices': ways}, field='prompts_per_step'
    )
  mean = model.facts['held_out']['score_mean']
  # A constant of the program: nothing to send, nor to place.
  at = float(reference) if number else mean
  bounded = jax.jit(lambda found: jax.nn.sigmoid(found - at))
  against = jax.jit(lambda found, own: jax.nn.sigmoid(found - own))

  def scores(completions, examples):
    asked = [None if e is None else e.prompt for e in examples]
    found = model(asked, completions)
    if shape == 'none':
      return found
    if reference != 'completion':
      return bounded(found)
    own = [[None if e is None else e.completion] for e in examples]
    return against(found, model(asked, own))

  return scores
