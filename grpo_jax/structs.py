"""The arrays of a GRPO step and the letters of their axes.

Axis letters, used in every signature and einsum of the project:
  Q  prompts (questions) in a step       P  trunk tokens
  G  samples per prompt (the group)      C  branch tokens
  B  Q*G                                 S  slots of a branch cache (C so far)
  D  model width    F  mlp width         L  layers
  N  query heads    K  kv heads          R  N/K
  H  head size      V  vocabulary
  T  slots of a row in a packed update   W  tokens of such a slot
  U  rows of seats  J  seats of a row    X  ways: devices they are divided over

A group is one prompt and G completions, stored once as a trunk (the prompt
without its last token) and G branches that start with that last token:

  prompt     p1 .. pn            trunk   [Q P]    p1 .. p(n-1), left-padded
  completion c1 .. cm (EOS)      inputs  [Q G C]  pn c1 .. c(m-1)
                                 targets [Q G C]  c1 c2 .. cm
                                 mask    [Q G C]  true on c1 .. cm

The logits at `inputs[q, g, t]` score `targets[q, g, t]`: nothing is shifted
outside `layout.py`. Masks come from lengths, never from token ids, because the
pad token may be an EOS token.
"""

from typing import Any

from flax import struct
import jax

Array = jax.Array
PyTree = Any


@struct.dataclass
class Prompts:
  """Tokenised prompts of a step."""

  trunk: Array  # [Q P] int32, left-padded prompt without its last token
  trunk_mask: Array  # [Q P] bool
  last: Array  # [Q] int32, the prompt's last token


def has_samples(path: tuple, x: Array) -> bool:
  """Whether an array of a Prompts, Rollout or Batch is [Q G ...].

  Args:
    path: of `jax.tree_util.tree_map_with_path`.
    x: the array; without a name, a vector is [Q] and anything else [Q G ...].
  """
  last = path[-1] if path else None
  named = last.name if isinstance(last, jax.tree_util.GetAttrKey) else ''
  return x.ndim > 1 and not named.startswith('trunk')


@struct.dataclass
class KV:
  """Keys (after RoPE) and values: a trunk's are arrays [L Q K P H].

  While branches are decoded each layer has one, of `models.cache`'s Keys and
  Values.
  """

  k: Any
  v: Any


@struct.dataclass
class Trunk:
  """What a branch attends to besides itself."""

  kv: KV  # [L Q K P H]
  mask: Array  # [Q P] bool
  length: Array  # [Q] int32, also the position of a branch's first token


@struct.dataclass
class Decoding:
  """The state of a decode loop. S is the current capacity."""

  t: Array  # int32 scalar, the slot to decode next
  token: Array  # [Q G] int32, goes into slot t
  done: Array  # [Q G] bool
  targets: Array  # [Q G S] int32
  logprobs: Array  # [Q G S] float32
  length: Array  # [Q G] int32, tokens sampled, EOS included
  cache: list[KV]  # a layer each, see models.cache
  # Of branches that do not begin together (`continuous.py`):
  start: Array | None = None  # [Q G] int32, the slot of its first token; 0
  limit: Array | None = None  # [Q G] int32, tokens it may have; S


@struct.dataclass
class Rollout:
  """G sampled completions a prompt, as branches."""

  inputs: Array  # [Q G C] int32
  targets: Array  # [Q G C] int32
  mask: Array  # [Q G C] bool, the EOS token included
  logprobs: Array  # [Q G C] float32, of the distribution that was sampled from


@struct.dataclass
class Slots:
  """Where branches lie that are packed end to end; see `slots.py`."""

  sample: Array  # [Q T W] int32, which of the row's G branches; G for none
  step: Array  # [Q T W] int32, the token's place in its branch
  start: Array  # [Q G] int32, the place of a branch's first token among T*W


@struct.dataclass
class Batch:
  """What an update learns from. Optional fields are None when not used."""

  trunk: Array  # [Q P] int32
  trunk_mask: Array  # [Q P] bool
  inputs: Array  # [Q G C] int32
  targets: Array  # [Q G C] int32
  mask: Array  # [Q G C] bool, tokens that count
  advantages: Array | None = None  # [Q G], or [Q G C] with a critic, float32
  old_logprobs: Array | None = None  # [Q G C] float32, the ratio's denominator
  sampler_logprobs: Array | None = (
    None  # [Q G C], if old ones are the trainer's
  )
  ref_logprobs: Array | None = None  # [Q G C] float32
  entropy: Array | None = None  # [Q G C] float32, nats
  values: Array | None = None  # [Q G C] float32, the critic's at sampling
  returns: Array | None = None  # [Q G C] float32, what the critic learns
  factors: Array | None = None  # [Q G C] float32, scale each token's loss
  teacher: Array | None = None  # [Q G] bool, completions that were given
  slots: Slots | None = None  # None: every branch in a slot of its own


@struct.dataclass
class TrainState:
  """Everything that updates change, and the reference policy."""

  step: Array  # int32 scalar, optimizer updates applied
  params: PyTree
  opt_state: PyTree
  ref_params: PyTree | None = None
  critic: PyTree | None = None  # its own TrainState, or a head's parameters
