"""Copies of the parameters along `data`: their rows, and what crosses it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from grpo_jax import policy, replicas, sharding, tokenizer, training
from grpo_jax.models import params as params_lib
from grpo_jax.models import transformer
from grpo_jax.structs import Batch
from launch import hlo

RULES = base.get_config().rules.to_dict()['train']
BY_SAMPLE = RULES | dict(prompts=('fsdp',), samples='data')


def mesh_of(**shape):
  devices = jax.devices()[: int(np.prod(list(shape.values())))]
  return sharding.make_mesh(shape, devices)


def batch_of(q, g, c, p=3):
  rng = np.random.default_rng(0)
  ids = lambda *shape: rng.integers(3, 20, shape).astype(np.int32)
  old = -rng.random((q, g, c)).astype(np.float32)
  lengths = rng.integers(1, c + 1, (q, g, 1))
  return Batch(
    trunk=ids(q, p),
    trunk_mask=np.ones((q, p), bool),
    inputs=ids(q, g, c),
    targets=ids(q, g, c),
    mask=np.arange(c) < lengths,
    advantages=rng.normal(size=(q, g)).astype(np.float32),
    old_logprobs=old,
    ref_logprobs=old,
  )


def test_prompts_are_set_apart_in_blocks(model):
  mesh = mesh_of(data=2, fsdp=2)
  copies = replicas.of(transformer.declare(model), mesh, RULES)
  assert copies.ways == (2, 1)
  assert copies.rows.ways == (2, 1, 1)  # within a copy, over fsdp
  batch = batch_of(4, 2, 5)
  apart = jax.jit(copies.apart)(batch)
  np.testing.assert_array_equal(apart.inputs[1], batch.inputs[2:])
  np.testing.assert_array_equal(apart.trunk[0], batch.trunk[:2])


def test_samples_are_set_apart_with_their_trunks(model):
  mesh = mesh_of(data=2, fsdp=2)
  copies = replicas.of(transformer.declare(model), mesh, BY_SAMPLE)
  assert copies.ways == (1, 2)
  batch = batch_of(4, 6, 5)
  apart = jax.jit(copies.apart)(batch)
  np.testing.assert_array_equal(apart.mask[1], batch.mask[:, 3:])
  np.testing.assert_array_equal(apart.advantages[0], batch.advantages[:, :3])
  for copy in (0, 1):
    np.testing.assert_array_equal(apart.trunk[copy], batch.trunk)


@pytest.mark.parametrize(
  'shape, rules',
  [
    (dict(data=1, fsdp=4), RULES),
    # Parameters that lie over data have parts there, not copies.
    (dict(data=2, fsdp=2), RULES | dict(embed=('fsdp', 'data'))),
    # Nothing to tell copies apart by.
    (dict(data=2, fsdp=2), RULES | dict(prompts=('fsdp',))),
  ],
)
def test_there_may_be_one_copy_only(model, shape, rules):
  declared = transformer.declare(model)
  assert replicas.of(declared, mesh_of(**shape), rules) is None


def policy_on(mesh, model, params, rules=RULES, attention='full'):
  return policy.Policy(
    model=model,
    tokenizer=tokenizer.char(alphabet='0123456789+-*=()<>'),
    declared=transformer.declare(model),
    mesh=mesh,
    rules=dict(train=rules, sample=rules),
    dtype=jnp.dtype('float32'),
    cache_dtype=jnp.dtype('float32'),
    attention=attention,
    load=lambda s: (None, jax.device_put(jax.tree.map(np.array, params), s)),
    files={},
  )


def config_of(microbatches):
  cfg = base.get_config()
  cfg.algorithm.kl_coef = 0.1
  # Adam's first step is almost the sign of a gradient; a large eps makes it
  # proportional.
  cfg.optimizer.update(learning_rate=1e-2, eps=1.0)
  cfg.updates.update(remat='none', microbatches=microbatches)
  return cfg


def updated(pol, microbatches=1):
  trainer = training.policy_trainer(pol, config_of(microbatches))
  batch = pol.rows('train').put(batch_of(8, 4, 6))
  state, metrics = trainer.update(trainer.init(pol.params()), batch)
  return state.params, metrics


@pytest.mark.parametrize(
  'rules, attention', [(RULES, 'full'), (BY_SAMPLE, 'full'), (RULES, 'splash')]
)
def test_copies_make_the_update_of_one(model, params, rules, attention):
  if attention == 'splash':  # its kernel wants heads of 64 or more
    model = dataclasses.replace(model, head_dim=64)
    params = params_lib.init(transformer.declare(model), jax.random.key(0))
  one, few = updated(policy_on(mesh_of(data=1), model, params))
  mesh = mesh_of(data=2, fsdp=2)
  pol = policy_on(mesh, model, params, rules, attention)
  two, many = updated(pol, microbatches=2)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    # fp32 rounding of numbers of order 1.
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  for name, value in few.items():
    assert many[name] == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


def test_gradients_cross_data_once_an_update(model, params):
  """By bytes: as many with four microbatches as with one."""

  def received(microbatches):
    pol = policy_on(mesh_of(data=2), model, params)
    trainer = training.policy_trainer(pol, config_of(microbatches))
    state = trainer.init(pol.params())
    batch = pol.rows('train').put(batch_of(8, 4, 6))
    text = jax.jit(trainer.update).lower(state, batch).compile().as_text()
    return hlo.account(text, head_dim=model.head_dim).collectives

  once, often = received(1), received(4)
  assert once.keys() == often.keys() == {'all-reduce'}
  # Each is sent and received once; and a few scalars.
  size = 2 * sum(4 * p.size for p in jax.tree.leaves(params))
  assert once['all-reduce'] == pytest.approx(size, rel=0.01)
  assert often['all-reduce'] == pytest.approx(size, rel=0.01)
