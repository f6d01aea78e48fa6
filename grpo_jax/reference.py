"""A reference policy that is a model of its own: on-policy distillation.

Stage 6 of a step with `algorithm.reference_from`: a frozen teacher, of any
size, scores the tokens that the policy has sampled. It is no part of the
training state: checkpoints do not hold it, and a run that goes on opens it
again and looks whether it is still the same.
"""

from collections.abc import Callable
import dataclasses
import json
import zlib

import jax

from grpo_jax import checkpoint_items, offload, programs, training
from grpo_jax import policy as policy_lib
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Reference:
  """A frozen policy and its program.

  Attributes:
    policy: the reference's own.
    weights: to score with, at rest in host memory if `updates.offload` says so.
    program: (weights, batch) -> (logprobs [Q G C],).
    fingerprint: of the weights; the same on any mesh.
    source: what errors call it.
  """

  policy: Policy
  weights: PyTree
  program: Callable[[PyTree, Batch], tuple[Array, ...]]
  fingerprint: int
  source: str

  def logprobs(self, batch: Batch) -> Array:
    """[Q G C], at the temperature of the policy's."""
    return self.program(offload.at(self.weights, 'device'), batch)[0]

  def check(self, fingerprint: int | None) -> None:
    """ValueError if a run that goes on began with other weights.

    Args:
      fingerprint: that its checkpoint holds; None without one.
    """
    if fingerprint not in (None, self.fingerprint):
      raise ValueError(
        f'algorithm.reference_from={self.source} has other weights than when '
        'this run began; name a copy that does not change (grpo_jax.export), '
        'or start in another workdir'
      )


def open_reference(policy: Policy, cfg) -> Policy:
  """What `algorithm.reference_from` names, without its weights.

  Raises:
    ValueError, FileNotFoundError: nothing usable is there, or it is of another
      vocabulary than the policy.
  """
  source = cfg.algorithm.reference_from
  own = cfg.copy_and_resolve_references()
  own.init_from = source
  found = policy_lib.open_policy(own)
  where = f'algorithm.reference_from={source}'
  theirs, ours = found.tokenizer, policy.tokenizer
  difference = _difference(ours.backend.get_vocab(), theirs.backend.get_vocab())
  if difference:
    raise ValueError(
      f'{where} has another vocabulary than the policy ({difference}): its '
      'logprobs of the same ids would be of other tokens; use a model with the '
      'same tokenizer'
    )
  if not set(ours.eos_ids) & set(theirs.eos_ids):
    raise ValueError(
      f'{where} ends its answers by the tokens {theirs.eos_ids}, the policy '
      f'by {ours.eos_ids}: it would teach never to stop; give both one '
      'eos_token_id in generation_config.json'
    )
  return found


def of_config(policy: Policy, cfg) -> Reference | None:
  """The model of its own that the config names, read; None if it names none.

  Raises:
    ValueError, FileNotFoundError: as `open_reference`.
  """
  if not cfg.algorithm.reference_from:
    return None
  found = open_reference(policy, cfg)
  params = found.params()
  sums = jax.device_get(checkpoint_items.checksums(params))
  text = json.dumps({k: int(v) for k, v in sums.items()}, sort_keys=True)
  program = jax.jit(
    lambda params: programs.frozen(params, found.dtype),
    out_shardings=found.shardings('train'),
  )
  resting = 'reference' in cfg.updates.offload
  return Reference(
    policy=found,
    weights=offload.at(program(params), 'pinned_host' if resting else 'device'),
    program=training.by_parts(found, cfg, training.logprobs_of(found, cfg)),
    fingerprint=zlib.crc32(text.encode()),
    source=cfg.algorithm.reference_from,
  )


def _difference(ours, theirs):
  """The first token that two vocabularies disagree on, or ''."""
  for token, i in sorted(ours.items(), key=lambda item: item[1]):
    if theirs.get(token) != i:
      other = theirs.get(token, 'none')
      return f'{token!r} is {i} in one, {other} in the other'
  if len(theirs) > len(ours):
    return f'{len(ours)} tokens in one, {len(theirs)} in the other'
  return ''
