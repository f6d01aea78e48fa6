"""What this library gives for the cases of `trl_cases.py`.

From rewards to gradients by the functions that a run uses, picked by name as
from a config; the logprobs are the parameters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import trl_cases
import trl_inputs

from grpo_jax import (
  advantages,
  config,
  credit,
  importance,
  losses,
  objectives,
  update,
)
from grpo_jax.rewards import grading
from grpo_jax.structs import Batch

# What `config.pick` tells the functions of a module apart by.
LOSS = ('logprobs', 'old_logprobs', 'advantages', 'mask')
KL = ('x', 'log_ratio')
IMPORTANCE = ('log_ratio', 'mask')


def run(
  case: trl_cases.Case, inputs: dict, mask: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """What this library gives for a case.

  Args:
    case: of `trl_cases`.
    inputs: of `trl_inputs.draw` or `trl_inputs.plain`.
    mask: [Q G C] bool, tokens of the update if not all of them.

  Returns:
    'advantages' [Q G]; 'ratio' [Q G C], the importance weights; 'loss', and
    its gradients 'logprobs' and 'entropy' [Q G C]; 'size', the sum of the
    token weights, which is that of the terms of the loss.
  """
  return run_all({'': case}, inputs, mask)['']


def run_all(
  cases: dict[str, trl_cases.Case],
  inputs: dict,
  mask: np.ndarray | None = None,
) -> dict[str, dict[str, np.ndarray]]:
  """`run` for many cases in one program, which compiles four times faster."""
  mask = trl_inputs.mask_of(inputs) if mask is None else mask
  given = {}
  for name, case in cases.items():
    old = inputs['logprobs' if case.on_policy else 'old_logprobs']
    given[name] = _rewards(case, inputs, old, mask), inputs, old, mask

  @jax.jit
  def program(given):
    return {name: _run(cases[name], *args) for name, args in given.items()}

  return jax.tree.map(np.asarray, jax.device_get(program(given)))


def _rewards(case, inputs, old, mask):
  names = ('first', 'second')
  rewards = grading.combine(
    dict(zip(names, inputs['rewards'], strict=True)),
    weights=dict(zip(names, case.reward_weights, strict=True)),
  )
  if case.reward_kl:
    kl = losses.k1(jnp.asarray(inputs['ref_logprobs'] - old), jnp.asarray(old))
    rewards = rewards - case.reward_kl * jnp.where(mask, kl, 0.0).sum(-1)
  return rewards


def _run(case, rewards, x, old, mask):
  advantage = config.pick(advantages, case.advantages, takes=('rewards',))
  weigh = config.pick(losses, case.weights, takes=('mask',))
  correct = config.pick(importance, case.importance, takes=IMPORTANCE)
  # The trunk holds the group's number: microbatches find their rows by it.
  numbers = jnp.arange(len(mask), dtype=jnp.int32)[:, None]
  batch = Batch(
    trunk=numbers,
    trunk_mask=numbers >= 0,
    inputs=mask.astype(jnp.int32),
    targets=mask.astype(jnp.int32),
    mask=mask,
    old_logprobs=old,
    sampler_logprobs=(
      x['sampler_logprobs'] if case.trl.get('sampler') else None
    ),
    ref_logprobs=x['ref_logprobs'] if case.kl_coef else None,
    entropy=x['entropy'],
  )
  batch, _ = credit.assign(
    batch,
    rewards,
    jnp.ones(rewards.shape, bool),
    jnp.ones(len(rewards), bool),
    estimate=functools.partial(
      credit.by_group, advantages=advantage, penalty=None, kl_coef=0.0
    ),
    importance=correct if case.trl.get('sampler') else None,
    entropy_share=case.entropy_share,
  )
  objective = functools.partial(
    objectives.policy,
    loss=config.pick(losses, case.loss, takes=LOSS),
    kl=config.pick(losses, case.kl, takes=KL),
    kl_coef=case.kl_coef,
    entropy_coef=case.entropy_coef,
    off_policy_limit=case.off_policy_limit,
  )
  weights = weigh(mask)
  scores = ('logprobs', 'entropy')
  grads, loss, _, _ = update.accumulate(
    {k: x[k] for k in scores},
    batch,
    weights,
    score=lambda params, part: [params[k][part.trunk[:, 0]] for k in scores],
    objective=objective,
    parts=(case.microbatches, 1),
  )
  return grads | {
    'loss': loss,
    'size': weights.sum(),
    'advantages': batch.advantages,
    'ratio': batch.factors,
  }


def assert_equal(case, ours, trl, inputs, tolerance):
  """Ours against TRL's, each array up to `tolerance` of its largest number.

  The loss, whose terms cancel, is held to the sum of their weights. RLOO's is
  left out: there TRL's value is that of the completion's ratio, ours that of
  the logprobs; on policy both have the same gradient.
  """
  mask = trl_inputs.mask_of(inputs)
  for name, theirs in trl.items():
    if name == 'part' or (name == 'loss' and case.trainer == 'rloo'):
      continue
    got, scale = ours[name], np.abs(theirs).max()
    if name == 'ratio':  # Ours is 1 on padding in any mode.
      got, theirs = got[mask], theirs[mask]
    if name == 'loss':
      scale = ours['size']
    np.testing.assert_allclose(
      got, theirs, atol=tolerance * scale, rtol=0, err_msg=name
    )
