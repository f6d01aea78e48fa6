"""Compiled programs that the sampler and training share.

Here and in `samplers`, `training`, `trainer`, `critic`, `bucketed`, `reference`
and `scorer` the model, the tokenizer's ids, the config's numbers and the mesh
meet: what is jitted, donated and sharded. Programs compile on first use, once
per shape.
"""

from collections.abc import Callable
import functools
import zlib

import jax
from jax.sharding import NamedSharding
import numpy as np

from grpo_jax import logprobs, sharding, slots
from grpo_jax.models import causal, decoding, transformer
from grpo_jax.models.remat import POLICIES
from grpo_jax.policy import Policy
from grpo_jax.structs import Array, Batch, Prompts, PyTree


def stream(
  seed: int, name: str, step: int, whole: NamedSharding | None = None
) -> Array:
  """The key of a step, apart for each use of randomness.

  Args:
    seed: of the run.
    name: of the use.
    step: counted from 0.
    whole: the devices to have it; None for the first alone.
  """
  # JAX takes the low 32 bits of a seed.
  seed = np.int64(seed).astype(np.int32)
  parts = (seed, np.uint32(zlib.crc32(name.encode())), np.uint32(step))
  put = jax.device_put
  if whole is not None:
    put = functools.partial(sharding.put, sharding=whole)
  seed, name, step = map(put, parts)
  key = jax.random.fold_in(jax.random.key(seed), name)
  return jax.random.fold_in(key, step)


def publish(policy: Policy) -> Callable[[PyTree], PyTree]:
  """params -> the sampler's: its sharding, layers unstacked and in its dtype.

  Embedding, final norm and head stay fp32, as the trainer's are: rounded, they
  would give other logits than the trainer's.
  """

  def cast(params):
    return frozen(transformer.unstack(params), policy.dtype)

  return jax.jit(cast, out_shardings=published_shardings(policy))


def frozen(params: PyTree, dtype) -> PyTree:
  """Parameters that nobody learns: layers in the dtype they are used in."""
  layers = jax.tree.map(lambda x: x.astype(dtype), params['layers'])
  return params | {'layers': layers}


def published_shardings(policy: Policy) -> PyTree:
  """Where the sampler's parameters lie, as a list of layers."""
  one = sharding.of_one_layer(policy.shardings('sample'))
  return one | {'layers': [one['layers']] * policy.model.num_layers}


def attention(policy: Policy, rules: str) -> Callable:
  """The policy's function of `causal`, bound to its mesh where it asks for one.

  Args:
    policy: names it.
    rules: 'train' or 'sample'.
  """
  attend = getattr(causal, policy.attention)
  if policy.attention != 'splash':
    return attend
  named = policy.rules[rules]
  return functools.partial(
    attend,
    **_by_rows(policy, rules),
    heads=named['heads'],
    positions=named['positions'],
  )


def decoding_attention(policy: Policy) -> Callable:
  """The policy's function of `decoding`, bound likewise."""
  attend = getattr(decoding, policy.decoding)
  if policy.decoding != 'kernel':
    return attend
  heads = policy.rules['sample']['kv_heads']
  return functools.partial(attend, **_by_rows(policy, 'sample'), heads=heads)


def _by_rows(policy, rules):
  """What a kernel must know of the devices that rows lie on."""
  return dict(
    mesh=policy.mesh,
    rows=sharding.spec(('prompts', 'samples'), policy.rules[rules]),
    interpret=not sharding.on_tpu(policy.mesh),
  )


def tells_apart(policy: Policy) -> bool:
  """Whether its attention can hold several completions in one slot."""
  return policy.attention != 'splash'


def gathered(policy: Policy) -> Callable[[str, PyTree], PyTree]:
  """(name, weights) -> the same, each whole along 'embed'.

  Parameters are stored split along 'embed' (FSDP), which matrix products sum
  over. Left alone the compiler splits the products too, into slivers that a
  TPU computes at a tenth of its speed. So weights are gathered just before
  their use, a layer at a time, and their gradients scattered again.
  """
  if policy.mesh.size == 1:
    return transformer.as_stored
  rules = policy.rules['train']
  stored, whole = (
    sharding.of_one_layer(
      sharding.param_shardings(policy.declared, policy.mesh, named)
    )
    for named in (rules, rules | {'embed': None})
  )

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def gather(name, weights):
    return jax.lax.with_sharding_constraint(weights, whole[name])

  def forward(name, weights):
    return gather(name, weights), None

  def backward(name, _, gradients):
    return (jax.lax.with_sharding_constraint(gradients, stored[name]),)

  gather.defvjp(forward, backward)
  return gather


def hidden_states(
  policy: Policy, *, remat: str
) -> Callable[[PyTree, Batch], Array]:
  """(params, batch) -> final hidden states [Q G C D]; not jitted.

  Of a batch with slots, [Q T W D].

  Raises:
    ValueError: no such `remat`.
  """
  if remat not in POLICIES:
    raise ValueError(
      f'updates.remat={remat!r} is not one of {", ".join(POLICIES)}'
    )
  model = policy.model
  how = dict(
    dtype=policy.dtype,
    remat=remat,
    attend=attention(policy, 'train'),
    gather=gathered(policy),
  )

  def fn(params, batch):
    prompts = Prompts(
      trunk=batch.trunk, trunk_mask=batch.trunk_mask, last=batch.inputs[:, 0, 0]
    )
    trunk = transformer.prefill(model, params, prompts, **how)
    inputs = slots.pack(batch.inputs, batch.slots)
    steps, more = None, {}
    if batch.slots is not None:
      steps = batch.slots.step
      if tells_apart(policy):
        named = functools.partial(how['attend'], segments=batch.slots.sample)
        more = {'attend': named}
    return transformer.branches(
      model, params, inputs, trunk, steps=steps, **how | more
    )

  return fn


def head_logprobs(
  policy: Policy,
  *,
  temperature: float,
  logits_chunk: int,
  entropy_gradient: bool = False,
) -> Callable[[PyTree, Array, Batch], tuple[Array, Array]]:
  """(params, hidden states, batch) -> logprobs, entropy [Q G C]."""
  gather = gathered(policy)

  def fn(params, hidden, batch):
    found = logprobs.token_logprobs(
      hidden,
      gather('embed', transformer.head(params)),
      slots.pack(batch.targets, batch.slots),
      temperature=temperature,
      vocab_size=policy.tokenizer.vocab_size,
      chunk=logits_chunk,
      entropy_gradient=entropy_gradient,
    )
    return tuple(slots.unpack(x, batch.slots) for x in found)

  return fn


def token_logprobs(
  policy: Policy, *, remat: str, **numbers
) -> Callable[[PyTree, Batch], tuple[Array, Array]]:
  """(params, batch) -> logprobs, entropy [Q G C]; not jitted.

  Args:
    policy: whose.
    remat: what the backward pass recomputes, a name of `remat.POLICIES`.
    **numbers: of `head_logprobs`.

  Raises:
    ValueError: no such `remat`.
  """
  hidden = hidden_states(policy, remat=remat)
  scores = head_logprobs(policy, **numbers)
  return lambda params, batch: scores(params, hidden(params, batch), batch)
