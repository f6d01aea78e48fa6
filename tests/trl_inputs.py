"""Inputs of the cases of `trl_cases.py`: drawn, or to work out by hand."""

import numpy as np

NAN = float('nan')


def draw(seed: int) -> dict[str, np.ndarray]:
  """Random inputs: 4 groups of 4 completions of 1 to 6 tokens, two rewards.

  One reward is missing altogether, and one group has no signal. Ratios are
  exp of a normal of spread 0.4, so that clips of 0.2 hold about half of them.
  """
  rng = np.random.default_rng(seed)
  shape = (4, 4, 6)
  rewards = rng.normal(size=(2, 4, 4))
  rewards[:, 1, 2] = NAN
  rewards[:, 2] = 0.5
  lengths = rng.integers(1, 7, shape[:2])
  lengths[0, :2] = 1, 6
  logprobs = rng.normal(-1.5, 0.5, shape)
  return _inputs(
    rewards,
    lengths,
    logprobs=logprobs,
    old_logprobs=logprobs + 0.4 * rng.normal(size=shape),
    ref_logprobs=logprobs + 0.4 * rng.normal(size=shape),
    sampler_logprobs=logprobs + 0.6 * rng.normal(size=shape),
    entropy=rng.uniform(0.1, 3.0, shape),
  )


def plain(
  rewards, lengths, *, ratios=None, refs=None, entropy=None, truncated=None
):
  """Inputs to work out by hand: every logprob is -1 unless a ratio is given.

  Args:
    rewards: [Q G].
    lengths: tokens [Q G].
    ratios: of policy to old policy, [Q G C]; 1 by default.
    refs: of reference to policy, [Q G C]; 1 by default.
    entropy: [Q G C]; 1 by default.
    truncated: [Q G] bool, completions without a stop token.
  """
  lengths = np.array(lengths)
  ones = np.ones((*lengths.shape, lengths.max()))
  old = -ones
  new = old + np.log(ones if ratios is None else np.array(ratios))
  return _inputs(
    np.array([rewards, np.zeros(lengths.shape)]),
    lengths,
    logprobs=new,
    old_logprobs=old,
    ref_logprobs=new + np.log(ones if refs is None else np.array(refs)),
    sampler_logprobs=old,
    entropy=ones if entropy is None else entropy,
    truncated=truncated,
  )


def _inputs(rewards, lengths, *, truncated=None, **arrays):
  inputs = {k: np.asarray(v, np.float32) for k, v in arrays.items()}
  if truncated is None:
    truncated = np.zeros(lengths.shape, bool)
  return inputs | {
    'rewards': np.asarray(rewards, np.float32),
    'lengths': lengths,
    'truncated': np.array(truncated, bool),
  }


def mask_of(inputs: dict[str, np.ndarray]) -> np.ndarray:
  """[Q G C] bool: the tokens of completions that count."""
  places = np.arange(inputs['logprobs'].shape[-1])
  mask = places < inputs['lengths'][..., None]
  return mask & ~inputs['truncated'][..., None]
