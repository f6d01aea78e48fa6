"""FLOPs of a traced program, loops and all.

Counts matrix products alone, over all devices, as a program is written: what a
backward pass computes again counts again. Pallas kernels are left out.
"""

from collections.abc import Callable
import math

import jax
from jax.extend import core


def count(fn: Callable, *args) -> float:
  """FLOPs of one call.

  Args:
    fn: traceable.
    *args: arrays or ShapeDtypeStructs.

  A while loop counts as one turn of it.
  """
  return _of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


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
