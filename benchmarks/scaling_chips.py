"""A step's compiled programs on a slice, by arithmetic from published numbers.

What is counted, and how:
  sampling   a token reads the published weights (bf16, embedding and head
             fp32, an embedding of its own not) and all slots of the branch
             caches, at the sampler's capacities, for as long as the longest
             completion runs; or as long as its products take, if longer
  update     model FLOPs of every row as wide as the longest completion, at
             `Rates.update` of the peak; its collectives run beside it, so the
             longer of both counts. The reference is a third of an update's
             FLOPs, at the same rate
  gathers    of bf16 weights, forward and again in the backward pass, which
             recomputes, and the fp32 gradients' reduction: for the trunks
             and for the branches of each microbatch
  tensor     sums of bf16 activations over `tensor`: two a layer forward, two
             backward and two in recomputing
  slices     fp32 gradients over the data center network, once an update: each
             slice adds up its own over microbatches (`replicas`)
  state      fp32 parameters, two moments and the reference
Left out: activations, padding of trunks, prompts in caches, latencies.
"""

import dataclasses
import math

from grpo_jax.layout import capacities
from grpo_jax.models import params as params_lib
from grpo_jax.models import transformer
from grpo_jax.models.architecture import Config
from launch import flops
from launch.chips import Chip

CHIPS_A_HOST = 4
_BF16, _FP32 = 2, 4
_STATE = 4 * _FP32  # bytes a parameter: itself, two moments, the reference


@dataclasses.dataclass(frozen=True)
class Slices:
  """Hosts and how the mesh lies over their chips."""

  hosts: int
  fsdp: int
  data: int
  tensor: int
  slices: int = 1

  @property
  def chips(self) -> int:
    return self.hosts * CHIPS_A_HOST

  def __post_init__(self):
    parts = self.fsdp * self.data * self.tensor
    if parts != self.chips or self.data % self.slices:
      raise ValueError(
        f'{self}: {parts} devices of the mesh on {self.chips} chips; data must '
        'divide over the slices'
      )


@dataclasses.dataclass(frozen=True)
class Work:
  """A step: Q prompts of P tokens, G samples each, in M updates."""

  prompts: int
  group: int
  prompt: int
  mean: int
  longest: int
  minibatches: int
  chunk: int = 1024

  @property
  def rows(self) -> int:
    return self.prompts * self.group


@dataclasses.dataclass(frozen=True)
class Rates:
  """What is assumed.

  Attributes:
    update: share of the peak that updates reach.
    decode: share of the HBM bandwidth that decoding reaches.
    dcn: bytes a second of a host, in and out, to other slices.
    bucket: bytes a second that a host writes.
    cache: bytes of a number in the caches: 2, or 1 for int8.
  """

  update: float = 0.5
  decode: float = 1.0
  dcn: float = 25e9
  bucket: float = 1e9
  cache: int = 2


def step(
  model: Config, chip: Chip, on: Slices, work: Work, rates: Rates
) -> dict[str, float]:
  """Seconds and bytes of one step, the latter of a chip where not told."""
  whole, _ = counts(model)
  if work.prompts // work.minibatches % on.fsdp or work.group % on.data:
    raise ValueError(
      f'{work}: a minibatch of {work.prompts // work.minibatches} prompts and '
      f'{work.group} samples does not divide over {on}'
    )
  parts = work.rows // work.minibatches // (on.fsdp * on.data)  # a row each
  found = _sampling(model, chip, on, work, rates)
  learned = flops.of_update(
    model,
    prompts=work.prompts,
    group=work.group,
    prompt=work.prompt,
    completion=work.longest,
  )
  compute = learned / (rates.update * on.chips * chip.flops)
  shard = whole / on.tensor * (1 - 1 / on.fsdp)
  layers = 2 * work.minibatches * parts  # of trunks, of branches
  gathered = layers * shard * (2 * _BF16 + _FP32)
  reduced = 2 * (1 - 1 / on.slices) * _FP32 * whole / (on.fsdp * on.tensor)
  reduced *= CHIPS_A_HOST * work.minibatches
  # Forward alone it is a third, of the reference.
  of_a_row = model.num_layers * model.embed_dim * work.longest * _BF16
  summed = 6 * 2 * (1 - 1 / on.tensor) * of_a_row
  summed *= work.rows / (on.fsdp * on.data)
  ici, dcn = (gathered + summed) / chip.ici_bandwidth, reduced / rates.dcn
  once = layers * shard * _BF16 + summed / 3
  published = _published(model) / on.tensor * (1 - 1 / on.fsdp)
  writers = max(on.fsdp * on.tensor // CHIPS_A_HOST, 1)
  return found | {
    'microbatches': parts,
    'update_flops': learned,
    'useful_tokens': work.mean / work.longest,
    'update_compute_s': compute,
    'gathered_bytes': gathered,
    'summed_bytes': summed,
    'ici_s': ici,
    'dcn_bytes_a_host': reduced,
    'dcn_s': dcn,
    'update_s': max(compute, ici, dcn),
    'reference_s': max(compute / 3, once / chip.ici_bandwidth),
    'publish_bytes': published,
    'publish_s': published / chip.ici_bandwidth,
    'checkpoint_bytes': _STATE * whole,
    'checkpoint_s': _STATE * whole / (writers * rates.bucket),
  }


def counts(model: Config) -> tuple[int, int]:
  """Parameters, and those that a token is multiplied with."""
  whole = params_lib.count(transformer.declare(model))
  return whole, flops.in_products(model)


def _published(model):
  """Bytes of the sampler's weights: `programs.publish`."""
  tables = flops.of_head(model) * (1 if model.tied_head else 2)
  return _BF16 * (counts(model)[0] - tables) + _FP32 * tables


def _sampling(model, chip, on, work, rates):
  whole, products = counts(model)
  # One that is not the head's too is looked up, not read.
  unread = 0 if model.tied_head else _FP32 * flops.of_head(model) / on.tensor
  kept = 2 * model.num_layers * model.num_kv_heads * model.head_dim
  kept *= rates.cache * work.rows / on.chips  # of one token, on a chip
  weights = _published(model) / on.tensor
  state = _STATE * whole / (on.fsdp * on.tensor)
  cache, room = kept * work.longest, chip.hbm - weights - state
  # As many rollouts as fit one after another; infinite where none does.
  waves = math.ceil(cache / room) if room > 0 else math.inf
  at_once = work.rows / waves

  def until(length):
    """Seconds, and of them those that read caches."""
    total = of_cache = done = 0.0
    for capacity in capacities(work.longest, work.chunk):
      steps = max(min(capacity, length) - done, 0)
      bytes_ = (kept * capacity / waves, weights - unread)
      reading = sum(bytes_) / (rates.decode * chip.hbm_bandwidth)
      of_token = flops.of_pairs(model) * (work.prompt + capacity)
      of_token += 2 * products
      computing = of_token * at_once / (on.chips * chip.flops)
      total += steps * max(reading, computing)
      of_cache += steps * bytes_[0] / (rates.decode * chip.hbm_bandwidth)
      done += steps
    return waves * total, waves * of_cache

  if math.isinf(waves):
    seconds = of_cache = to_mean = math.inf
  else:
    (seconds, of_cache), (to_mean, _) = until(work.longest), until(work.mean)
  prefill = 2 * products * work.prompts * work.prompt
  prefill /= rates.update * on.chips * chip.flops
  return {
    'rows_a_chip': work.rows / on.chips,
    'weights_bytes': weights,
    'state_bytes': state,
    'cache_bytes': cache,
    'waves': waves,
    'sampling_s': seconds + prefill,
    'cache_s': of_cache,
    # After the mean completion has ended.
    'tail_s': seconds - to_mean if seconds < math.inf else math.inf,
  }
