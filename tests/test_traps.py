"""Traps of other codebases that lie between modules; `traps.md` has them all.

Here are those of the wiring: programs and runs as a config makes them. Traps
within a function are tested where the function is.
"""

import dataclasses
import functools
import json

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sharding import make_batch, mesh_of, policy_on, PROMPTS
import tiny

from configs import base
from grpo_jax import (
  critic,
  layout,
  programs,
  questions,
  rollout,
  samplers,
  tasks,
  tokenizer,
  training,
)  # fmt: skip
from grpo_jax import grader as grader_lib
from grpo_jax.models import transformer
from grpo_jax.structs import Batch, Rollout
from grpo_jax.tasks import Example


@pytest.fixture(scope='module')
def policy(model, params):
  return policy_on(mesh_of(devices=1), model, params)


@pytest.fixture(scope='module')
def padded(model, params):
  """Two stop tokens; four rows more than tokens, often likelier than any."""
  rows = np.random.default_rng(0).normal(size=(4, model.embed_dim))
  more = jnp.concatenate([params['embed'], jnp.asarray(rows, jnp.float32)])
  wide = dataclasses.replace(model, vocab_size=len(more))
  policy = policy_on(mesh_of(devices=1), model, params | {'embed': more})
  policy.tokenizer.eos_ids += (7,)
  return dataclasses.replace(
    policy, model=wide, declared=transformer.declare(wide)
  )


def config(**fields):
  cfg = base.get_config()
  cfg.updates.remat = 'none'
  with cfg.unlocked():
    cfg.update_from_flattened_dict(
      {k.replace('__', '.'): fields[k] for k in fields}
    )
  return cfg


def put(policy, host):
  return policy.rows('train').put(host)


@pytest.mark.parametrize('temperature', [0.6, 1.7])
def test_every_logprob_pass_is_of_the_distribution_sampled_from(
  padded, temperature
):
  # Both temperatures and all passes in one process: nothing may remember the
  # first one.
  cfg = config(
    sample__temperature=temperature,
    algorithm__kl_coef=0.1,
    algorithm__old_logprobs='trainer',
  )
  host = layout.prompts(PROMPTS, multiple=4)
  sample = samplers.sampler(
    padded, group_size=4, max_completion_length=8, chunk=8,
    temperature=temperature,
  )  # fmt: skip
  trainer = training.policy_trainer(padded, cfg)
  state = trainer.init(padded.params())
  published = programs.publish(padded)(state.params)
  got = sample(published, put(padded, host), programs.stream(0, 'rollout', 0))
  assert got.targets.max() < padded.tokenizer.vocab_size
  stopped = np.isin(got.targets, padded.stop_ids) & got.mask
  assert not (stopped[:, :, :-1] & got.mask[:, :, 1:]).any()
  assert set(np.asarray(got.targets)[stopped].tolist()) == {1, 7}
  batch = Batch(
    trunk=put(padded, host.trunk),
    trunk_mask=put(padded, host.trunk_mask),
    inputs=got.inputs,
    targets=got.targets,
    mask=got.mask,
    old_logprobs=got.logprobs,
  )
  batch = training.add_logprobs(padded, cfg)(state, batch)
  sampled = np.asarray(got.logprobs)[got.mask]
  assert sampled.std() > 0.1
  for logprobs in (batch.old_logprobs, batch.ref_logprobs):
    # fp32 rounding through two layers and a softmax.
    np.testing.assert_allclose(logprobs[got.mask], sampled, atol=5e-5)
  zeros = jnp.zeros(got.mask.shape[:2])
  # The pass with a gradient: the ratio is to the sampler again.
  batch = batch.replace(
    advantages=zeros, old_logprobs=got.logprobs, sampler_logprobs=None
  )
  _, metrics = trainer.update(state, batch)
  assert metrics['logprob_gap_max'] < 5e-5


def test_the_temperature_is_no_part_of_a_critics_values(policy):
  batch, found_values = put(policy, make_batch()), []
  for temperature in (0.5, 2.0):
    cfg = config(
      sample__temperature=temperature,
      algorithm__advantages=dict(name='gae'),
      critic__shared=True,
    )
    learner = critic.learner(policy, cfg)
    state = learner.policy.init(policy.params())
    head = jnp.ones_like(state.critic['value_head'])
    state = state.replace(critic=state.critic | {'value_head': head})
    found_values.append(np.asarray(learner.values(state, batch)))
  assert found_values[0].std() > 0.1
  np.testing.assert_array_equal(*found_values)


def test_a_critics_update_does_not_depend_on_microbatches(policy):
  rng = np.random.default_rng(0)
  host = make_batch()
  # Tokens of the four prompts differ: 5, 7, 6 and 5.
  old, returns = (rng.normal(size=host.mask.shape).astype('f4') for _ in 'ab')
  batch = put(policy, host.replace(values=old, returns=returns))
  seen = []
  for parts in (1, 4):
    cfg = config(
      algorithm__advantages=dict(name='gae'), updates__microbatches=parts
    )
    learner = critic.learner(policy, cfg)
    state = learner.policy.init(policy.params())
    seen.append(learner.update_critic(state, batch)[1])
  assert seen[0]['grad_norm'] > 0.1
  for name, value in seen[0].items():
    # The same fp32 terms in another order.
    assert seen[1][name] == pytest.approx(float(value), rel=1e-5, abs=1e-6)


def first_update(policy, **fields):
  """How far Adam's first update moves every parameter, and its metrics."""
  cfg = config(
    steps=10, optimizer__learning_rate=3e-4, optimizer__clip_norm=0.0, **fields
  )
  trainer = training.policy_trainer(policy, cfg)
  state, metrics = trainer.update(
    trainer.init(policy.params()), put(policy, make_batch())
  )
  moved = jax.tree.map(
    lambda a, b: np.asarray(a - b), state.params, policy.params()
  )
  return moved, metrics, trainer.learning_rate(0)


def test_an_update_divides_by_its_own_tokens_and_moves_by_the_learning_rate(
  policy,
):
  # However many updates a rollout is split into.
  moved, alone, rate = first_update(policy)
  _, part, _ = first_update(policy, updates__minibatches=2, updates__epochs=3)
  assert alone['loss'] != 0
  for name, value in alone.items():
    assert part[name] == pytest.approx(float(value), rel=1e-6), name
  # Adam's first step is the rate, in the direction of the gradient's sign.
  assert rate == pytest.approx(3e-4)
  for leaf in jax.tree.leaves(moved):
    # Parameters of order 1 keep it to 6e-8.
    assert np.abs(leaf).max() == pytest.approx(3e-4, rel=1e-3)


def long(completion, example):
  return float(completion.count('words') > 1)


def test_logged_rewards_are_weighted_and_logged_lengths_are_tokens():
  example = Example(prompt='1+1=', answer='2')
  task = tasks.Task(1, lambda i: example, lambda *_: False)
  cfg = config()
  cfg.rewards = dict(
    long=dict(name='function', path=f'{__name__}:long', weight=5.0),
    shown=dict(name='constant', value=1.0, weight=0.0),
  )
  grader = grader_lib.Grader(cfg, task)
  host = layout.prompts([[5, 6]], multiple=1)
  sampled = layout.branches(
    host, [[[7, 3], [7, 8, 9, 3]]], max_length=8, multiple=1
  )
  got = rollout.collect(
    np.arange(1),
    [example],
    host,
    None,
    None,
    None,
    sample=lambda *_: Rollout(
      inputs=sampled.inputs,
      targets=sampled.targets,
      mask=sampled.mask,
      logprobs=np.zeros(sampled.mask.shape, np.float32),
    ),
    append=None,
    score=lambda batch: batch,
    lengths=lambda mask: mask.sum(-1),
    share=lambda found: found,
    texts=functools.partial(
      rollout.read_texts,
      opening=lambda prompt: '',
      decode=lambda ids: 'words ' * len(ids),
      stop_ids=(3,),
    ),
    grade=functools.partial(grader.grade, 0),
    length_multiple=1,
  )
  metrics = rollout.metrics([got], decoded=np.sum)
  np.testing.assert_array_equal(got.rewards, [[0.0, 5.0]])
  assert metrics['reward/mean'] == 2.5 and metrics['reward/std'] == 2.5
  assert metrics['reward/long'] == 0.5 and metrics['reward/shown'] == 1.0
  # Two and four tokens with their stop token, of 6 and 18 characters.
  assert (metrics['length/min'], metrics['length/max']) == (2, 4)
  assert metrics['length/mean'] == 3


@pytest.fixture(scope='module')
def one_prompt(tmp_path_factory):
  """Three steps on one and the same prompt, by a policy that hardly moves."""
  workdir = tmp_path_factory.mktemp('one_prompt')
  done = tiny.job(
    'train',
    f'--workdir={workdir}',
    '--config.steps=3',
    '--config.task.size=1',
    '--config.prompts_per_step=1',
    '--config.group_size=8',
    '--config.updates.minibatches=1',
    '--config.sample.temperature=0.7',
    '--config.optimizer.learning_rate=1e-9',
    '--config.reward_gate=format',
    "--config.algorithm.loss={'name':'gspo'}",
    '--config.eval.every=0',
    '--config.log.samples_every=1',
  )
  assert done.code == 0, done.err
  lines = (workdir / 'samples.jsonl').read_text().splitlines()
  return done, tiny.rows(workdir), [json.loads(line) for line in lines]


def test_each_step_draws_noise_of_its_own(one_prompt):
  _, _, samples = one_prompt
  assert len({sample['prompt'] for sample in samples}) == 1
  by_step = [
    tuple(s['completion'] for s in samples if s['step'] == step)
    for step in (1, 2, 3)
  ]
  assert len(set(by_step)) == 3


def test_a_run_trains_at_the_temperature_it_samples_at(one_prompt):
  _, rows, _ = one_prompt
  assert all(row['logprob_gap/max'] < 1e-4 for row in rows)


def test_a_format_that_is_wrong_closes_the_gate_of_a_run(one_prompt):
  _, rows, samples = one_prompt
  assert any(row['reward/coin'] > 0 for row in rows)
  assert not any(row['reward/format'] for row in rows)
  assert not any(row['reward/mean'] for row in rows)
  assert not any(sample['advantage'] for sample in samples)


def test_a_sequence_ratio_with_weights_by_length_is_warned_of(one_prompt):
  done, *_ = one_prompt
  assert 'algorithm.loss=gspo with algorithm.weights=token_mean' in done.err


# Without the variants of one function.
NAMES = [name for name in found.LOSSES if '(' not in name]


@pytest.mark.parametrize('name', NAMES)
def test_the_objective_of_a_config_is_the_loss_that_it_names(name):
  rng = np.random.default_rng(0)
  batch = jax.tree.map(jnp.asarray, make_batch())
  logprobs = batch.old_logprobs + 0.5 * rng.normal(size=batch.mask.shape)
  logprobs = jnp.where(batch.mask, logprobs, 0.0).astype(jnp.float32)
  old = jnp.where(batch.mask, batch.old_logprobs, 0.0)
  objective = training.policy_objective(config(algorithm__loss=dict(name=name)))
  got, _ = objective(batch, logprobs, logprobs)
  advantages = jnp.asarray(batch.advantages)[:, :, None]
  values = {
    n: np.asarray(f(logprobs, old, advantages, batch.mask)[0])[batch.mask]
    for n, f in found.LOSSES.items()
    if n in NAMES
  }
  got = np.asarray(got)[batch.mask]
  np.testing.assert_allclose(got, values.pop(name), rtol=1e-6)
  assert not any(np.allclose(got, other) for other in values.values())


def test_a_completion_to_learn_ends_with_the_stop_token_and_counts_it():
  task = tasks.arithmetic(split='train', size=9, min_ops=1, max_ops=1)
  letters = tokenizer.char(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)
  ask = questions.questions_of(task, config(), letters)
  host = ask.with_completions(
    [task.example(i) for i in range(9)],
    everything=False,
    max_length=64,
    multiple=8,
  )
  [eos] = ask.tokenizer.eos_ids
  ends = host.mask.sum(-1) - 1
  last = np.take_along_axis(host.targets, ends[..., None], -1)
  assert (last == eos).all() and not host.mask.all(-1).any()


def test_metrics_of_a_step_are_means_over_all_its_tokens(tmp_path):
  # An update a prompt; groups of two are often of equal rewards and dropped,
  # and their updates have no token to measure.
  done = tiny.job(
    'train',
    f'--workdir={tmp_path}',
    '--config.steps=3',
    '--config.group_size=2',
    '--config.updates.minibatches=4',
    '--config.filters.drop_zero_variance',
    '--config.optimizer.learning_rate=1e-9',
    '--config.eval.every=0',
  )
  assert done.code == 0, done.err
  rows = [row for row in tiny.rows(tmp_path) if row['grad_norm'] > 0]
  assert any(row['zero_variance_share'] > 0 for row in rows)
  for row in rows:
    # A policy that hardly moves.
    assert row['ratio'] == pytest.approx(1, abs=1e-4)


def test_training_cannot_filter_what_it_samples():
  # With a filtered sampler the trainer's logprobs would be of another
  # distribution.
  sample = base.get_config().sample.to_dict()
  assert not {'top_k', 'top_p', 'min_p'} & sample.keys()


def test_uses_of_randomness_and_steps_have_keys_of_their_own():
  keys = [
    programs.stream(seed, name, step)
    for seed in (0, 1)
    for name in ('rollout', 'answers')
    for step in (0, 1)
  ]
  data = np.array([jax.random.key_data(key) for key in keys])
  assert len(np.unique(data, axis=0)) == 8


def test_every_weighting_says_by_what_it_divides():
  # A figure has the name of its weighting in the run's config.
  said = [f.func.__doc__.splitlines()[0] for f in found.WEIGHTINGS.values()]
  assert len(set(said)) == len(said) >= 3
  assert all(line.startswith('1 / ') for line in said)
