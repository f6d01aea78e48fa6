"""Logprobs and entropy of given targets, without ever holding all logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from grpo_jax.structs import Array


def token_logprobs(
  hidden: Float[Array, 'Q G C D'],
  head: Float[Array, 'V D'],
  targets: Int[Array, 'Q G C'],
  *,
  temperature: float,
  vocab_size: int,
  chunk: int,
  entropy_gradient: bool = False,
) -> tuple[Float[Array, 'Q G C'], Float[Array, 'Q G C']]:
  """log p(target) and entropy in nats, both under softmax(logits/temperature).

  Args:
    hidden: final hidden states, any float dtype.
    head: fp32; logits are computed in fp32.
    targets: token ids.
    temperature: the sampler's, > 0.
    vocab_size: rows of `head` past it are padding and get no probability.
    chunk: positions of C whose logits [Q G chunk V] exist at a time; the
      backward pass computes them again.
    entropy_gradient: let the gradient through the entropy, which costs two
      more passes over the logits.

  Returns:
    fp32 logprobs and entropy.
  """
  size = hidden.shape[2]
  chunk = min(chunk, size)
  pad = -size % chunk

  def split(x):
    # Strided, so that each chunk has some of every device's positions.
    x = jnp.pad(x, ((0, 0), (0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 3))
    x = x.reshape(*x.shape[:2], chunk, -1, *x.shape[3:])
    return jnp.moveaxis(x, 3, 0)

  @jax.checkpoint
  def body(_, xs):
    h, ids = xs
    logits = policy_logits(h, head, temperature, vocab_size)
    total = jax.nn.logsumexp(logits, -1)
    picked = jnp.take_along_axis(logits, ids[..., None], -1)[..., 0]
    log_p = logits - total[..., None]
    if not entropy_gradient:
      log_p = jax.lax.stop_gradient(log_p)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1, where=log_p > -1e29)
    return None, (picked - total, entropy)

  _, outs = jax.lax.scan(body, None, (split(hidden), split(targets)))

  def join(x):
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:2], -1)[:, :, :size]

  return join(outs[0]), join(outs[1])


def policy_logits(
  hidden: Float[Array, '*rows D'],
  head: Float[Array, 'V D'],
  temperature: float,
  vocab_size: int,
) -> Float[Array, '*rows V']:
  """fp32 logits over the temperature; vocabulary padding at -1e30.

  The one definition that the sampler and the trainer share.
  """
  logits = _products(hidden, head.astype(jnp.float32)) / temperature
  if vocab_size < head.shape[0]:
    real = jnp.arange(head.shape[0]) < vocab_size
    logits = jnp.where(real, logits, -1e30)
  return logits


@jax.custom_vjp
def _products(hidden, head):
  """hidden [.. D] by head [V D] fp32 -> [.. V] fp32."""
  # On TPU three passes of bf16, good to 1e-5 of a logit, or two where hidden
  # states are bf16; six ('highest') would be a fifth of a 7B model's update.
  return _product('...d,vd->...v', hidden.astype(jnp.float32), head)


def _products_forward(hidden, head):
  return _products(hidden, head), (hidden, head)


def _products_backward(kept, grads):
  """In the hidden states' dtype, as all gradients of the body: one pass."""
  hidden, head = kept
  grads, head = (x.astype(hidden.dtype) for x in (grads, head))
  to_hidden = _product('...v,vd->...d', grads, head)
  to_head = _product('...v,...d->vd', grads, hidden)
  return to_hidden.astype(hidden.dtype), to_head


_products.defvjp(_products_forward, _products_backward)


def _product(axes, a, b):
  return jnp.einsum(
    axes, a, b, precision='high', preferred_element_type=jnp.float32
  )
