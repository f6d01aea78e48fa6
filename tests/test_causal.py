"""Three ways to attend to a trunk and to oneself, with one result."""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from grpo_jax import sharding
from grpo_jax.models import causal, remat

# Q, G, N, K, C, P, H: less than a block and more, heads shared and not, long
# trunk and none.
SHAPES = [
  (2, 2, 4, 2, 40, 24, 16), (1, 1, 2, 1, 300, 0, 64), (2, 2, 2, 2, 130, 150, 8)
]  # fmt: skip


def case(shape):
  q, g, n, k, c, p, h = shape
  rng = np.random.default_rng(0)
  normal = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  branch = normal(q, g, n, c, h), normal(q, g, k, c, h), normal(q, g, k, c, h)
  padding = rng.integers(0, max(p, 1), size=(q, 1))
  mask = jnp.asarray(np.arange(p) >= padding)
  return branch, (normal(q, k, p, h), normal(q, k, p, h), mask)


def attend_by(way, shape):
  """On a mesh that splits rows and heads where they are even."""
  if way == 'chunked':
    return functools.partial(causal.chunked, block=64)
  fsdp, tensor = 2 - shape[0] % 2, 2 - shape[3] % 2
  mesh = sharding.make_mesh(
    dict(data=1, fsdp=fsdp, tensor=tensor), jax.devices()[: fsdp * tensor]
  )
  return functools.partial(
    causal.splash, mesh=mesh, rows=PartitionSpec('fsdp', 'data'),
    heads='tensor', interpret=True,
  )  # fmt: skip


def value_and_gradients(attend, branch, trunk, valid):
  shape = branch[0].shape
  wanted = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
  if valid is not None:
    wanted = jnp.where(valid[:, None, None, :, None], wanted, 0.0)

  def loss(branch, shared):
    keys = None if trunk is None else (*shared, trunk[2])
    out = attend(*branch, keys, valid=valid)
    return jnp.sum(out * wanted), jnp.where(wanted != 0, out, 0.0)

  shared = None if trunk is None else trunk[:2]
  both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (_, out), gradients = both(branch, shared)
  return out, gradients


@pytest.mark.parametrize('way', ['chunked', 'splash'])
@pytest.mark.parametrize('shape', SHAPES)
def test_every_way_gives_the_values_and_gradients_of_all_scores(way, shape):
  branch, trunk = case(shape)
  expected = value_and_gradients(causal.full, branch, trunk, None)
  got = value_and_gradients(attend_by(way, shape), branch, trunk, None)
  # fp32 sums in another order: 1e-6 were seen.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, expected
  )


@pytest.mark.parametrize('way', ['full', 'chunked', 'splash'])
def test_no_queries_have_no_values(way):
  # As a trunk has none where the prompt is one token.
  shape = (2, 1, 4, 2, 0, 0, 16)
  branch, _ = case(shape)
  attend = causal.full if way == 'full' else attend_by(way, shape)
  assert attend(*branch).shape == (2, 1, 4, 0, 16)


def test_queries_may_be_split_over_devices():
  branch, trunk = case(SHAPES[1][:4] + (512, 24, 64))
  mesh = sharding.make_mesh(dict(data=1, fsdp=1, context=4), jax.devices()[:4])
  split = functools.partial(
    causal.splash, mesh=mesh, rows=PartitionSpec('fsdp', 'data'),
    heads='tensor', positions='context', interpret=True,
  )  # fmt: skip
  expected = value_and_gradients(causal.full, branch, trunk, None)
  got = value_and_gradients(split, branch, trunk, None)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, expected
  )


@pytest.mark.parametrize('way', ['chunked', 'splash'])
def test_padding_on_the_left_is_seen_by_no_token(way):
  branch, _ = case(SHAPES[0])
  valid = jnp.arange(40) >= jnp.array([[3], [17]])
  expected = value_and_gradients(causal.full, branch, None, valid)
  got = value_and_gradients(attend_by(way, SHAPES[0]), branch, None, valid)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, expected
  )


def gradient(way, name):
  """Of something like a layer."""
  shape = (1, 1, 2, 1, 40, 24, 16)
  branch, trunk = case(shape)
  attend = causal.full if way == 'full' else attend_by(way, shape)
  scale = jnp.linspace(0.5, 1.5, shape[-1])

  def layer(x):
    y = checkpoint_name(attend(x * scale, *branch[1:], trunk), remat.ATTENTION)
    return jnp.sin(y * scale).sum()

  if name != 'none':
    layer = jax.checkpoint(layer, policy=remat.POLICIES[name])
  return jax.jit(jax.grad(layer)).lower(branch[0]).compile(), branch[0]


@pytest.mark.parametrize('way', ['full', 'chunked', 'splash'])
def test_what_is_recomputed_changes_no_gradient(way):
  compiled, x = gradient(way, 'none')
  expected = compiled(x)
  for name in remat.POLICIES:
    compiled, x = gradient(way, name)
    np.testing.assert_allclose(compiled(x), expected, atol=1e-5, err_msg=name)
