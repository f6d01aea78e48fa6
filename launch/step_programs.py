"""Every compiled program of a step, with the arguments it will get.

For `compile_check`: the same functions that jobs run, bound to devices that
only the compiler knows, and shapes of the largest step that a config allows.
"""

from collections.abc import Iterator
import dataclasses
import functools
import pathlib
import types

import jax
import jax.numpy as jnp

from grpo_jax import (
  config,
  critic,
  files,
  layout,
  offload,
  policy,
  programs,
  scorer,
  sharding,
  training,
  validation,
  validation_rl,
)
from grpo_jax.models import families, gguf, hf, transformer
from grpo_jax.models import params as params_lib
from grpo_jax.policy import Policy
from grpo_jax.sharding import placed
from grpo_jax.structs import Batch
from launch import sampling_programs
from launch.program import bytes_of, Program


def open_policy(cfg, devices) -> Policy:
  """The policy of a config on these devices, without its weights.

  Its sizes are those of the run or folder `init_from` where there is one, or
  else of `launch.size`, or those of a fresh model with an alphabet; of its
  tokenizer only the number of tokens matters.

  Raises:
    ValueError: neither says how large the model is.
  """
  model = _model(cfg)
  mesh = sharding.make_mesh(cfg.mesh, devices)
  return Policy(
    model=model,
    tokenizer=types.SimpleNamespace(vocab_size=model.vocab_size, eos_ids=(0,)),
    declared=transformer.declare(model),
    mesh=mesh,
    rules=cfg.rules.to_dict(),
    dtype=policy.dtype_of(cfg.dtype, mesh),
    cache_dtype=policy.cache_dtype_of(cfg, mesh),
    attention=policy.attention_of(cfg.attention, mesh),
    decoding=policy.decoding_of(cfg),
    load=None,
    files={},
  )


def of_config(cfg, pol: Policy, lengths: tuple[int, int]) -> Iterator[Program]:
  """The programs of the config's job, in the order of a step.

  Args:
    cfg, pol: of the job.
    lengths: mean and longest completion, which seats depend on.
  """
  config.one_of('launch.job', cfg.launch.job, ('train', 'sft'))
  if cfg.launch.job == 'sft':
    yield _sft_update(cfg, _of_rows(cfg, pol))
    return
  validation_rl.of_training(cfg, ways=pol.ways())
  cfg = _one_bucket(cfg)
  learner = critic.learner(pol, cfg)
  state, teacher = learner.policy.abstract, _teacher(cfg, pol)
  held = _resident(cfg, pol, teacher)
  kept = bytes_of(state) + held
  yield from sampling_programs.of_config(cfg, pol, state.params, kept, lengths)
  sampler = bytes_of(sampling_programs.published_of(pol, state.params))
  yield from _scoring(cfg, pol, kept + sampler)
  yield from _learning(cfg, pol, learner, teacher, held, sampler)


def _one_bucket(cfg):
  """Without buckets of lengths, which are known after sampling only.

  Every completion as long as the limit is the most that they can come to.
  """
  cfg = cfg.copy_and_resolve_references()
  cfg.updates.length_buckets = 0
  return cfg


def _of_rows(cfg, pol):
  """The policy as fine-tuning has it, its numbers checked."""
  pol = pol.for_groups_of(1)
  validation.of_sft(cfg, ways=pol.ways()['train'])
  return pol


def state_bytes(cfg, pol: Policy) -> int:
  """Of the whole training state, and of a teacher, on each device."""
  if cfg.launch.job == 'sft':
    trainer = training.sft_trainer(_of_rows(cfg, pol), cfg)
    return bytes_of(trainer.abstract)
  validation_rl.of_training(cfg, ways=pol.ways())
  state = critic.learner(pol, cfg).policy.abstract
  return bytes_of(state) + _resident(cfg, pol, _teacher(cfg, pol))


def numbers(cfg) -> dict[str, int]:
  """Sizes of the step and of an update's minibatch."""
  u = cfg.updates
  width = training.trunk_width(cfg)
  if cfg.launch.job == 'sft':
    return dict(
      step_prompts=cfg.sft.batch_size,
      prompts=cfg.sft.batch_size,
      group=1,
      prompt=width,
      completion=cfg.sft.max_length,
      microbatches=u.microbatches,
    )
  seats = dict(seats=cfg.sample.seats) if cfg.sample.seats else {}
  return dict(
    step_prompts=cfg.prompts_per_step,
    prompts=cfg.prompts_per_step // u.minibatches,
    group=cfg.group_size,
    prompt=width,
    completion=cfg.sample.max_completion_length,
    chunk=cfg.sample.chunk,
    **seats,
    minibatches=u.minibatches,
    microbatches=u.microbatches,
    group_microbatches=u.group_microbatches,
  )


def _learning(cfg, pol, learner, teacher, held, sampler):
  """Reference, values, and the updates of policy and critic.

  Args:
    cfg, pol, learner, teacher: of the job.
    held: bytes of reward models and of a teacher.
    sampler: bytes of the sampler's weights, which are there until updates.
  """
  a, u, c = cfg.algorithm, cfg.updates, cfg.critic
  state = learner.policy.abstract
  whole = _batch(cfg, pol, minibatches=1)
  again = a.old_logprobs == 'trainer' or a.entropy_share < 1
  passes = (a.kl_coef > 0 and teacher is None) + again
  if teacher is not None:
    program = _logprobs(teacher[0], cfg)
    args = (teacher[1], whole)
    rest = bytes_of(state) + sampler
    own = teacher[0].model.head_dim
    yield Program('teacher logprobs', program, args, 1, rest, head_dim=own)
  if passes:
    program = _logprobs(pol, cfg)
    rest = bytes_of(state) + held + sampler
    if teacher is not None or 'reference' not in u.offload:
      rest -= bytes_of(state.params)
    yield Program('logprobs', program, (state.params, whole), passes, rest)
  if learner.values is not None:
    own = state.params if learner.critic is None else state.critic.params
    rest = bytes_of(state) + held + sampler - bytes_of(own)
    values = jax.jit(learner.values)
    yield Program('values', values, (state, whole), 1, rest)
  # The reference waits beside the updates, on the devices or not.
  beside = bytes_of(whole) + bytes_of(state.ref_params) + held
  state = offload.bring(state.replace(ref_params=None), u.offload)
  part = _batch(cfg, pol, minibatches=u.minibatches)
  count = u.epochs * u.minibatches
  if learner.critic is None:
    update = _whole(learner.policy.update)
    yield Program('update', update, (state, part), count, beside)
    return
  actor, critics = state.replace(critic=None), state.critic
  update = _whole(training.policy_trainer(pol, cfg).update)
  beside += bytes_of(critics)
  yield Program('update', update, (actor, part), count, beside)
  part = _batch(cfg, pol, minibatches=c.minibatches)
  yield Program(
    'critic update',
    _whole(learner.critic.update),
    (critics, part),
    c.epochs * c.minibatches,
    bytes_of(whole) + bytes_of(actor) + held,
  )


def _logprobs(pol, cfg):
  return training.by_parts(pol, cfg, training.logprobs_of(pol, cfg))


def _teacher(cfg, pol):
  """The policy of `algorithm.reference_from` and its weights' shapes."""
  source = cfg.algorithm.reference_from
  if not source:
    return None
  model = _sizes(source, 'reference_size', cfg)
  declared = transformer.declare(model)
  found = dataclasses.replace(pol, model=model, declared=declared)
  shapes = jax.eval_shape(
    lambda params: programs.frozen(params, found.dtype),
    params_lib.abstract(declared),
  )
  return found, placed(shapes, found.shardings('train'))


def _resident(cfg, pol, teacher):
  """Bytes on each device of reward models and of a teacher that is there."""
  found = _reward_models(cfg) * bytes_of(_scorer(pol))
  if teacher is not None and 'reference' not in cfg.updates.offload:
    found += bytes_of(teacher[1])
  return found


def _scoring(cfg, pol, beside):
  """Reward models of the policy's size, all of one program."""
  count = _reward_models(cfg)
  if not count:
    return
  u, params = cfg.updates, _scorer(pol)
  # Some completion reaches the limit.
  limit = scorer.usual_response(cfg) + 1
  slots = layout.slots(limit, u.length_multiple, limit)
  batch = _batch(cfg, pol, minibatches=1, slots=slots)
  parts = (u.minibatches * u.microbatches, u.group_microbatches)
  score = scorer.program(pol, parts=parts)
  beside -= bytes_of(params)
  yield Program('reward model', score, (params, batch), count, beside)


def _reward_models(cfg):
  return sum(r.name == 'reward_model' for r in cfg.rewards.values())


def _scorer(pol):
  """A reward model's parameters as it holds them."""
  target = scorer.abstract(pol)
  cast = functools.partial(scorer.cast, dtype=pol.dtype)
  places = jax.tree.map(lambda x: x.sharding, target)
  return placed(jax.eval_shape(cast, target), places)


def _sft_update(cfg, pol):
  trainer = training.sft_trainer(pol, cfg)
  width = training.trunk_width(cfg)
  shape = (cfg.sft.batch_size, 1, cfg.sft.max_length)
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  batch = Batch(
    trunk=jax.ShapeDtypeStruct((shape[0], width), jnp.int32),
    trunk_mask=jax.ShapeDtypeStruct((shape[0], width), jnp.bool_),
    inputs=tokens,
    targets=tokens,
    mask=jax.ShapeDtypeStruct(shape, jnp.bool_),
  )
  batch = placed(batch, pol.rows('train').of(batch))
  update = _whole(trainer.update)
  return Program('update', update, (trainer.abstract, batch), 1)


def _whole(update):
  """A trainer's update, a function around a jitted one, as one program."""
  return jax.jit(update, donate_argnums=0)


def _batch(cfg, pol, *, minibatches, slots=0):
  batch = training.abstract_batch(cfg, minibatches=minibatches, slots=slots)
  return placed(batch, pol.rows('train').of(batch))


def _model(cfg):
  """As `policy.open_policy`: a start wins over what a fresh one would be."""
  fresh = cfg.tokenizer.alphabet
  if fresh and not cfg.init_from:
    return policy.fresh_model(cfg)
  if fresh and not cfg.launch.size and _at_hand(cfg.init_from) is None:
    # A run that is not there yet, of a base with these fields.
    return policy.fresh_model(cfg)
  return _sizes(cfg.init_from, 'size', cfg)


def _sizes(source, field, cfg):
  """Of a run or a folder, or else those that a field of launch names."""
  found = _at_hand(source)
  if found is not None:
    return found
  # The weights may be on the pod only.
  name = cfg.launch[field]
  config.one_of(f'launch.{field}', name, tuple(families.SIZES))
  return families.SIZES[name]


def _at_hand(source):
  """The model that is there already, which must be of use; or None."""
  path = pathlib.Path(source)
  if source.endswith('.gguf') and path.exists():
    return gguf.read(path).config
  for folder in (path / files.MODEL, path):
    if source and (folder / 'config.json').exists():
      return hf.read_config(folder)
  return None
