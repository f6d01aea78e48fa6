"""FLOPs: of a traced program, loops and all, and of a model by arithmetic.

`count` has matrix products alone, over all devices, as a program is written:
what a backward pass computes again counts again. Pallas kernels are left out.
"""

from collections.abc import Callable
import math

import jax
from jax.extend import core

from grpo_jax.models.architecture import Config


def count(fn: Callable, *args) -> float:
  """FLOPs of one call.

  Args:
    fn: traceable.
    *args: arrays or ShapeDtypeStructs.

  A while loop counts as one turn of it.
  """
  return _of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def in_products(m: Config) -> int:
  """Parameters that a token is multiplied with: all but an untied embedding."""
  attention = m.embed_dim * m.head_dim * (2 * m.num_heads + 2 * m.num_kv_heads)
  layer = attention + 3 * m.embed_dim * m.mlp_dim
  return m.num_layers * layer + of_head(m)


def of_head(m: Config) -> int:
  """Those of them that are the head's. No logits of prompts are wanted."""
  return m.vocab_size * m.embed_dim


def of_update(
  m: Config, *, prompts: int, group: int, prompt: int, completion: int
) -> float:
  """Model FLOPs: forward once and backward once, nothing again.

  Args:
    m: sizes.
    prompts, group: Q and G.
    prompt, completion: tokens of every trunk and of every branch.
  """
  rows = prompts * group
  products = in_products(m) * rows * completion
  products += (in_products(m) - of_head(m)) * prompts * prompt
  pairs = (
    rows * completion * (prompt + completion / 2) + prompts * prompt**2 / 2
  )
  return 6 * products + 3 * of_pairs(m) * pairs


def of_pairs(m: Config) -> int:
  """Of attention's two products, a query and a key that it sees."""
  return 4 * m.num_layers * m.num_heads * m.head_dim


def _of_jaxpr(jaxpr) -> float:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> float:
  name = equation.primitive.name
  if name == 'dot_general':
    (over, _), _ = equation.params['dimension_numbers']
    left = equation.invars[0].aval.shape
    out = equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(left[i] for i in over)
  if name == 'pallas_call':
    return 0.0
  inner = [
    _of_jaxpr(x.jaxpr if isinstance(x, core.ClosedJaxpr) else x)
    for value in equation.params.values()
    for x in (value if isinstance(value, tuple | list) else [value])
    if isinstance(x, core.ClosedJaxpr | core.Jaxpr)
  ]
  if name == 'cond':
    return max(inner)
  if name == 'shard_map':
    devices = equation.params['mesh'].size
    return devices * sum(inner)
  return equation.params.get('length', 1) * sum(inner)
