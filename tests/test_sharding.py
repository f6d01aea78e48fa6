"""Meshes and rules; and that numbers do not change with them."""

import dataclasses
import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from configs import base
from grpo_jax import layout, policy, programs, samplers, sharding, training
from grpo_jax import tokenizer as tokenizer_lib
from grpo_jax.models import params as params_lib
from grpo_jax.models import transformer
from grpo_jax.structs import Batch

RULES = base.get_config().rules.to_dict()
LOGICAL = dict.fromkeys(base.get_config().rules.train)


def mesh_of(data=1, fsdp=1, tensor=1, devices=8):
  shape = dict(data=data, fsdp=fsdp, tensor=tensor)
  return sharding.make_mesh(shape, jax.devices()[:devices])


def test_a_mesh_has_the_sizes_asked_for():
  mesh = mesh_of(2, 2, 2)
  # An axis that is not named is of size 1.
  assert dict(mesh.shape) == dict(data=2, fsdp=2, context=1, tensor=2)
  assert dict(mesh_of(1, 1, 1, devices=1).shape) == dict(
    data=1, fsdp=1, context=1, tensor=1
  )


def test_minus_1_takes_the_remaining_devices():
  assert mesh_of(fsdp=-1, tensor=2).shape['fsdp'] == 4
  assert mesh_of(data=-1).shape['data'] == 8
  assert mesh_of(fsdp=-1, devices=1).shape['fsdp'] == 1


@pytest.mark.parametrize(
  'data, fsdp, tensor', [(3, 1, 1), (3, -1, 1), (-1, -1, 8), (0, -1, 1)]
)
def test_a_mesh_that_does_not_fit_is_refused_with_the_numbers(
  data, fsdp, tensor
):
  with pytest.raises(ValueError) as caught:
    mesh_of(data, fsdp, tensor)
  message = str(caught.value)
  for part in (
    f"'data': {data}", f"'fsdp': {fsdp}", 'cover 8 devices', 'multiply to 8',
  ):  # fmt: skip
    assert part in message


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a mesh over several slices asks of a device."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = 'none'
  device_kind: str = 'none'


def test_slices_lie_along_data():
  # As JAX may list them: not slice by slice.
  chips = [Chip(i, slice_index=i % 2) for i in range(8)]
  mesh = sharding.make_mesh(dict(data=2, fsdp=-1, tensor=2), chips)
  assert dict(mesh.shape) == dict(data=2, fsdp=2, context=1, tensor=2)
  slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
  assert (slices == np.arange(2)[:, None, None, None]).all()
  mesh = sharding.make_mesh(dict(data=4, fsdp=2, tensor=1), chips)
  slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
  assert slices[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
  with pytest.raises(ValueError, match='mesh.data=1 .* over 2 slices'):
    sharding.make_mesh(dict(data=1, fsdp=8, tensor=1), chips)


def test_a_spec_maps_logical_axes_to_mesh_axes():
  rules = LOGICAL | dict(
    prompts=('data', 'fsdp'), embed='fsdp', heads=('tensor',), mlp=()
  )
  spec = functools.partial(sharding.spec, rules=rules)
  assert spec(('prompts', 'samples')) == P(('data', 'fsdp'), None)
  assert spec(('heads', None, 'embed')) == P('tensor', None, 'fsdp')
  assert spec(('mlp', 'embed')) == P(None, 'fsdp')


@pytest.mark.parametrize(
  'axes, rules, message',
  [
    (('embed', 'wings'), LOGICAL, "no rule for logical axis 'wings'.*'embed'"),
    (
      ('embed',), LOGICAL | dict(embed='model'),
      "rule 'embed' names mesh axis 'model'; there are .*'tensor'",
    ),
    (
      ('mlp', 'embed'), LOGICAL | dict(mlp='fsdp', embed=('data', 'fsdp')),
      "over mesh axis 'fsdp' twice; change the rule of 'embed'",
    ),
  ],
)  # fmt: skip
def test_a_wrong_rule_is_refused_with_its_name(axes, rules, message):
  with pytest.raises(ValueError, match=message):
    sharding.spec(axes, rules)


def test_an_indivisible_parameter_is_refused_with_numbers_and_remedy():
  declared = {
    'layers': {'up': params_lib.Param((2, 6, 4), (None, 'mlp', 'embed'), 0.1)}
  }
  rules = LOGICAL | dict(mlp=('fsdp', 'tensor'))
  with pytest.raises(
    ValueError,
    match='parameter layers/up: mlp=6 does not divide over 4 devices .*; '
    "change the mesh or the rule of 'mlp'",
  ):
    sharding.param_shardings(declared, mesh_of(2, 2, 2), rules)
  fitting = sharding.param_shardings(declared, mesh_of(4, 1, 2), rules)
  assert fitting['layers']['up'].spec == P(None, ('fsdp', 'tensor'), None)


def test_rows_are_split_over_every_axis_of_their_rule():
  mesh = mesh_of(2, 2, 2)
  rows = sharding.Rows(mesh, RULES['train'])
  assert rows.ways == (4, 1, 1)
  assert sharding.Rows(mesh, LOGICAL).ways == (1, 1, 1)
  x = rows.put(np.arange(8))
  assert {s.data.shape for s in x.addressable_shards} == {(2,)}
  np.testing.assert_array_equal(x, np.arange(8))


def test_moments_are_sharded_like_their_parameters(model):
  mesh = mesh_of(2, 2, 2)
  declared = transformer.declare(model)
  shardings = sharding.param_shardings(declared, mesh, RULES['train'])
  state = sharding.opt_state_shardings(
    optax.adam(0.1), params_lib.abstract(declared), shardings, mesh
  )
  assert state[0].mu == shardings and state[0].nu == shardings
  assert state[0].count == sharding.replicated(mesh)
  assert shardings['layers']['up'].spec == P(None, 'tensor', 'fsdp')


# One policy on one device and on eight.


def policy_on(mesh, model, params):
  tokenizer = tokenizer_lib.char(alphabet='0123456789+-*=()<>')
  assert tokenizer.vocab_size == model.vocab_size
  return policy.Policy(
    model=model,
    tokenizer=tokenizer,
    declared=transformer.declare(model),
    mesh=mesh,
    rules=RULES,
    dtype=jnp.dtype('float32'),
    cache_dtype=jnp.dtype('float32'),
    attention='full',
    # A copy: the state is donated, and what is put may share its buffers.
    load=lambda s: (None, jax.device_put(jax.tree.map(np.array, params), s)),
    files={},
  )


@pytest.fixture(scope='module')
def policies(model, params):
  return [
    policy_on(mesh, model, params)
    for mesh in (mesh_of(devices=1), mesh_of(2, 2, 2))
  ]


PROMPTS = [[5, 6, 7, 8], [9], [4, 10, 11, 12, 13, 2], [5, 6]]
COMPLETIONS = [
  [[8, 9, 1], [7, 1]],
  [[1], [2, 2, 2, 2, 2, 2]],
  [[11, 12, 4, 1], [10, 1]],
  [[15, 1], [16, 17, 1]],
]


def make_batch():
  prompts = layout.prompts(PROMPTS, multiple=4)
  batch = layout.branches(prompts, COMPLETIONS, max_length=8, multiple=8)
  rng = np.random.default_rng(0)
  near = lambda: (-3 + 0.3 * rng.normal(size=batch.mask.shape)).astype('f4')
  return Batch(
    trunk=batch.trunk,
    trunk_mask=batch.trunk_mask,
    inputs=batch.inputs,
    targets=batch.targets,
    mask=batch.mask,
    advantages=rng.normal(size=(4, 2)).astype('f4'),
    old_logprobs=near(),
    ref_logprobs=near(),
  )


def test_a_completion_beside_a_trace_lies_whole_on_each_device(model, params):
  mesh = sharding.make_mesh(
    dict(data=1, fsdp=2, context=2, tensor=1), jax.devices()[:4]
  )
  pol = policy_on(mesh, model, params)
  split = dict(RULES['train']) | dict(positions='context')
  pol = dataclasses.replace(pol, rules=dict(RULES) | {'train': split})
  batch = jax.device_put(make_batch(), sharding.replicated(mesh))
  joined = training.append(pol)(batch, batch)
  assert joined.mask.shape == (4, 4, 8)
  # What is learned from is split, what is read for its text is not.
  assert pol.rows('train').of(joined).mask.spec[2] == 'context'
  parts = {shard.data.shape for shard in joined.targets.addressable_shards}
  assert parts == {(2, 4, 8)}


def updated(pol):
  """State and metrics after one update with Adam and a KL term."""
  cfg = base.get_config()
  cfg.algorithm.kl_coef = 0.1
  cfg.optimizer.learning_rate = 1e-2
  # Adam's first step is almost the sign of a gradient, also of one that is
  # rounding alone; a large eps makes it proportional.
  cfg.optimizer.eps = 1.0
  cfg.updates.remat = 'none'
  trainer = training.policy_trainer(pol, cfg)
  state = trainer.init(pol.params())
  batch = pol.rows('train').put(make_batch())
  # What a restore asks for is what an update takes and gives.
  wanted = jax.tree.map(lambda s: s.sharding, trainer.abstract)
  state, metrics = trainer.update(state, batch)
  got = jax.tree.map(lambda x: x.sharding, state)
  assert jax.tree.all(jax.tree.map(lambda a, b: a == b, got, wanted))
  return state, metrics


def test_an_update_on_eight_devices_is_that_of_one(policies, params):
  (one, few), (eight, many) = map(updated, policies)
  assert len(eight.params['layers']['up'].sharding.device_set) == 8
  (adam,) = (s for s in eight.opt_state if 'mu' in getattr(s, '_fields', ()))
  up = adam.mu['layers']['up']
  assert up.sharding == eight.params['layers']['up'].sharding
  # Each device holds a quarter of it: half of mlp and half of embed.
  assert {s.data.size for s in up.addressable_shards} == {up.size // 4}
  moved = [
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(
      jax.tree.leaves(one.params), jax.tree.leaves(params), strict=True
    )
  ]
  assert min(moved) > 1e-6
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
    # Sums over devices: fp32 rounding of numbers of order 1.
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-7)
  for name, value in few.items():
    assert many[name] == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


def credited(pol, advantages):
  """Advantages and factors of a batch with a reward and values a token."""
  cfg = base.get_config()
  cfg.algorithm.advantages = advantages
  cfg.algorithm.entropy_share = 0.5
  rng = np.random.default_rng(1)
  host = make_batch()
  # Prompts, and so devices, whose rewards and entropies differ.
  rewards = np.float32([[0, 1], [5, 7], [2, 2.5], [9, 4]])
  entropy = np.arange(4.0)[:, None, None] + rng.uniform(size=host.mask.shape)
  host = host.replace(
    values=rng.normal(size=host.mask.shape).astype('f4'),
    entropy=entropy.astype('f4'),
  )
  put = pol.rows('train').put
  got, scalars = training.assign_credit(pol, cfg)(
    put(host),
    put(rewards),
    put(np.ones((4, 2), bool)),
    put(np.ones(4, bool)),
  )
  return (got.advantages, got.factors), scalars


@pytest.mark.parametrize(
  'advantages',
  [
    dict(name='gae', lam=0.9),
    dict(name='reinforce_pp'),
    dict(name='group', std='batch'),
    dict(name='group', std='raw'),
  ],
  ids=lambda spec: '-'.join(map(str, spec.values())),
)
def test_statistics_of_a_batch_on_eight_devices_are_those_of_one(
  policies, advantages
):
  (one, few), (eight, many) = (credited(pol, advantages) for pol in policies)
  assert len(eight[0].sharding.device_set) == 8
  assert np.asarray(one[0]).std() > 0.3
  for a, b in zip(one, eight, strict=True):
    # fp32 sums over devices of numbers of order 1.
    np.testing.assert_allclose(a, b, atol=2e-6)
  assert few.keys() == many.keys()
  for name, value in few.items():
    assert many[name] == pytest.approx(float(value), abs=1e-5), name


def sampled(pol):
  sample = samplers.sampler(
    pol, group_size=2, max_completion_length=8, chunk=8, temperature=1.0
  )
  host = layout.prompts(PROMPTS, multiple=4)
  prompts = pol.rows('sample').put(host)
  key = programs.stream(0, 'rollout', 3)
  return sample(programs.publish(pol)(pol.params()), prompts, key)


def test_eight_devices_draw_exactly_the_tokens_of_one(policies):
  one, eight = map(sampled, policies)
  assert len(eight.targets.sharding.device_set) == 8
  np.testing.assert_array_equal(one.targets, eight.targets)
  np.testing.assert_array_equal(one.mask, eight.mask)
  np.testing.assert_allclose(one.logprobs, eight.logprobs, atol=1e-5)
  assert len(np.unique(np.asarray(one.targets).reshape(8, -1), axis=0)) > 6


def test_samples_may_lie_where_parameters_do(policies, model, params):
  # As a student of the R1 recipe answers: the samples of a prompt over fsdp,
  # its heads over tensor, whatever the rows of training.
  path = pathlib.Path(__file__).parents[1] / 'configs/r1/real_stages.py'
  get_config = runpy.run_path(str(path))['get_config']
  rules = get_config('evaluation:qwen_32b').rules.to_dict()
  pol = policy_on(mesh_of(fsdp=2, tensor=2, devices=4), model, params)
  pol = dataclasses.replace(pol, rules=rules)
  one, four = sampled(policies[0]), sampled(pol)
  assert four.targets.sharding.spec[1] == 'fsdp'
  np.testing.assert_array_equal(one.targets, four.targets)
  np.testing.assert_allclose(one.logprobs, four.logprobs, atol=1e-5)


def test_a_bfloat16_sampler_has_the_logits_head_of_the_trainer(policies):
  half = jnp.dtype('bfloat16')
  pol = dataclasses.replace(policies[0], dtype=half, cache_dtype=half)
  params, published = pol.params(), programs.publish(pol)(pol.params())
  for name in ('embed', 'final_norm'):
    np.testing.assert_array_equal(published[name], params[name])
  up = published['layers'][0]['up']
  assert up.dtype == jnp.bfloat16
  rollout = sampled(pol)
  prompts = layout.prompts(PROMPTS, multiple=4)
  batch = Batch(
    trunk=prompts.trunk,
    trunk_mask=prompts.trunk_mask,
    inputs=rollout.inputs,
    targets=rollout.targets,
    mask=rollout.mask,
  )
  score = programs.token_logprobs(
    pol, temperature=1.0, remat='none', logits_chunk=8
  )
  logprobs, _ = jax.jit(score)(params, batch)
  gap = np.abs(np.asarray(logprobs - rollout.logprobs))[rollout.mask]
  # bfloat16 keeps 8 bits of hidden states; what is left is their rounding.
  assert gap.mean() < 2**-8
