"""What a step costs at least, and how fast this machine multiplies matrices.

  python -m benchmarks.speed_limits REQUEST.json

measures the machine for a request of `benchmarks.speed`: JSON, last.
"""

from collections.abc import Callable
import functools
import json
import math
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from benchmarks import workloads
from benchmarks.workloads import Workload
from grpo_jax import cli, sharding
from launch.flops import in_products, of_head

_SQUARE = 2048
_MOST_ROWS = 8192  # more are no faster


def sampling_flops(workload: Workload, tokens: int) -> float:
  """Of the matrix products with parameters, prompts not counted.

  Args:
    workload: its model counts.
    tokens: sampled.
  """
  return 2 * in_products(workload.size) * tokens


def update_flops(workload: Workload, tokens: int) -> float:
  """Of policy forward (2 a parameter) and backward (4), and reference (2).

  Args:
    workload: its model and prompts count; a prompt is computed once a group.
    tokens: of completions.
  """
  size, of_prompts = workload.size, workload.prompts * workload.prompt
  prompts = (in_products(size) - of_head(size)) * of_prompts
  return 8 * (in_products(size) * tokens + prompts)


def flops(workload: Workload, tokens: int) -> dict[str, float]:
  """Of the parts of a step whose completions have so many tokens."""
  rollout = sampling_flops(workload, tokens)
  update = update_flops(workload, tokens)
  return {'rollout': rollout, 'update': update, 'step': rollout + update}


def peaks(workload: Workload, *, repeats: int = 5) -> dict[str, float]:
  """FLOP/s of fp32 matrix products, the best of numpy's and XLA's.

  Returns:
    'square': of large square matrices, the machine's own. 'rollout' and
    'update': of the rows that one decode step and one update have, with weights
    of an mlp: in a rollout as many different ones as the model has, since every
    token reads all of them; one that stays in a cache is faster.
  """
  size = workload.size
  weights = (size.embed_dim, size.mlp_dim)
  count = round(in_products(size) / math.prod(weights))
  shapes = {
    'square': (1, _SQUARE, _SQUARE, _SQUARE),
    'rollout': (count, workload.rows, *weights),
    'update': (
      1, min(workload.rows * workload.completion, _MOST_ROWS), *weights,
    ),
  }  # fmt: skip
  products = (_numpy, _features_first, _whole, _split)
  return {
    name: max(_rate(product, shape, repeats) for product in products)
    for name, shape in shapes.items()
  }


def _rate(product, shape, repeats):
  """FLOP/s of the fastest of several runs, each of 20 ms or more."""
  count, m, k, n = shape
  random = np.random.RandomState(0)
  x, w = (random.rand(*s).astype(np.float32) for s in ((m, k), (k, n)))
  flops = 2 * m * k * n
  passes = max(1, round(2e9 / flops / count))
  run = product(x, [w + np.float32(i) for i in range(count)], passes)
  run()
  taken = []
  for _ in range(repeats):
    begin = time.perf_counter()
    run()
    taken.append(time.perf_counter() - begin)
  return passes * count * flops / min(taken)


def _numpy(x, weights, passes):
  return _in_turn([(x, w) for w in weights], passes)


def _features_first(x, weights, passes):
  """numpy's `w.T @ x.T`, which is faster for few rows."""
  x = x.T.copy()
  return _in_turn([(w.T.copy(), x) for w in weights], passes)


def _in_turn(pairs, passes):
  out = np.matmul(*pairs[0])

  def run():
    for _ in range(passes):
      for a, b in pairs:
        np.matmul(a, b, out=out)

  return run


def _whole(x, weights, passes):
  """XLA on one device."""
  return _xla(jax.device_put(x), jax.device_put(weights), passes)


def _split(x, weights, passes):
  """XLA with rows over all devices, as many of them as divide."""
  devices = jax.devices()
  while len(x) % len(devices):
    devices = devices[:-1]
  mesh = sharding.make_mesh(dict(data=len(devices)), devices)
  rows = NamedSharding(mesh, jax.P('data'))
  put = jax.device_put
  return _xla(put(x, rows), put(weights, sharding.replicated(mesh)), passes)


def _xla(x, weights, passes) -> Callable:
  @functools.partial(jax.jit, static_argnums=2)
  def products(x, weights, passes):
    def body(_, carry):
      x, out = carry
      for w in weights:
        # Each product waits for the one before, so none is left out. Sums are
        # larger than what is summed, so x stays as it is.
        x = x.at[0, 0].min(out[0, 0])
        out = x @ w
      return x, out

    none = jnp.full((x.shape[0], weights[0].shape[1]), jnp.inf, x.dtype)
    return jax.lax.fori_loop(0, passes, body, (x, none))[1]

  return lambda: products(x, weights, passes).block_until_ready()


def main(argv: list[str]) -> int:
  """Measures for the workload of a request."""
  with open(argv[0], encoding='utf-8') as file:
    request = json.load(file)
  cli.divide_cpu(request['devices'])
  print(json.dumps(peaks(workloads.from_dict(request['workload']))))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
