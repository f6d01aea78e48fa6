"""Models, batches and numbers of `test_gradient`, and the library's updates."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpy_model
from numpy_model import Settings
import optax

from configs import base
from grpo_jax import (
  advantages,
  credit,
  layout,
  losses,
  objectives,
  optimizer,
  policy,
  programs,
  rollout,
  samplers,
  sharding,
  update,
)
from grpo_jax.models import transformer
from grpo_jax.models.params import name as name_of

NAN = float('nan')
# Compiles in half the time; the numbers are small.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
SIZE = transformer.Config(
  vocab_size=11,
  num_layers=2,
  embed_dim=8,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_dim=12,
  rope_theta=100.0,
)
SETTINGS = Settings(
  vocab_size=11,
  temperature=1.0,
  eps_low=0.2,
  eps_high=0.28,
  kl_coef=0.1,
  learning_rate=0.01,
  b1=0.9,
  b2=0.95,
  # Large, so that a rounded gradient near 0 is a rounded step.
  eps=1e-3,
  weight_decay=0.1,
  clip_norm=0.2,
)
ADVANTAGE_EPS = 1e-4
group_advantages = jit(functools.partial(advantages.group, eps=ADVANTAGE_EPS))
PROMPTS = [[5, 6, 7, 8], [9], [4, 10, 1, 2, 3], [5, 6]]
COMPLETIONS = [
  [[8, 9, 3], [7, 3], [6, 5, 4, 8, 3]],
  [[3], [2, 2, 2, 2, 2, 2], [4, 3]],
  [[1, 10, 4, 3], [10, 3], [9, 9, 9, 3]],
  [[5, 0], [6, 7, 0], [8, 9, 4, 3, 2, 1, 10]],
]


@dataclasses.dataclass(frozen=True)
class Case:
  """A family of models with the numbers of a run."""

  model: transformer.Config
  rewards: tuple
  settings: Settings = SETTINGS
  microbatches: int = 1
  remat: str = 'none'
  stop_ids: tuple = ()  # sampled by the library, if any

  @property
  def policy(self):
    mesh = sharding.make_mesh(
      dict(data=1, fsdp=1, tensor=1), devices=jax.devices()[:1]
    )
    return policy.Policy(
      model=self.model,
      tokenizer=types.SimpleNamespace(
        vocab_size=self.settings.vocab_size, eos_ids=self.stop_ids
      ),
      declared=transformer.declare(self.model),
      mesh=mesh,
      rules=base.get_config().rules.to_dict(),
      dtype=jnp.dtype('float32'),
      cache_dtype=jnp.dtype('float32'),
      attention='full',
      load=None,
      files={},
    )


CASES = {
  # Llama: shared head, all in one piece.
  'llama': Case(
    model=SIZE,
    rewards=((1, 0, 0), (0, 1, 1), (0.5, 0, 1), (0, 0, 1)),
  ),
  # Qwen2: biases, two heads of keys, an output head of its own with two rows of
  # padding; a group without variance, a missing reward, a group with only one.
  'qwen2': Case(
    model=dataclasses.replace(
      SIZE,
      vocab_size=13,
      num_heads=4,
      num_kv_heads=2,
      qkv_bias=True,
      tied_head=False,
    ),
    rewards=((1, 0, 0.25), (0.1, 0.1, 0.1), (1, NAN, 0), (NAN, NAN, 1)),
    settings=dataclasses.replace(SETTINGS, temperature=0.7),
    microbatches=2,
  ),
  # Qwen3: norms of q and k, and completions from the sampler: two ids end
  # them, one of which is the padding's.
  'qwen3': Case(
    model=dataclasses.replace(SIZE, qk_norm=True),
    rewards=((1, 0, 0), (NAN, 1, 0), (1, 1, 1), (0.3, 0, 1)),
    settings=dataclasses.replace(SETTINGS, temperature=1.3),
    microbatches=4,
    remat='full',
    stop_ids=(0, 3),
  ),
}  # fmt: skip


def draw(case):
  """Trained, behaviour and reference policy, as float32 numbers."""
  rng = np.random.default_rng(0)
  start = np.concatenate([
    rng.uniform(0.5, 1.5, shape).ravel()
    if name.endswith('norm')
    else rng.normal(0, 0.4, shape).ravel()
    for name, shape in numpy_model.shapes(case.model).items()
  ])  # fmt: skip
  near = lambda spread: start + spread * rng.normal(size=start.size)
  three = (start, near(0.02), near(0.06))
  return [np.float64(np.float32(flat)) for flat in three]


def to_tree(case, flat):
  """The library's parameters."""
  w = numpy_model.unflatten(case.model, flat)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: jnp.asarray(w[name_of(path)], jnp.float32),
    transformer.declare(case.model),
    is_leaf=lambda x: hasattr(x, 'axes'),
  )


def to_flat(case, tree):
  w = {
    name_of(path): np.asarray(x, np.float64).ravel()
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  assert w.keys() == numpy_model.shapes(case.model).keys()
  return np.concatenate([w[k] for k in numpy_model.shapes(case.model)])


# The library's way.


def given_batch(case, scoring, behaviour, reference):
  prompts = layout.prompts(PROMPTS, multiple=3)
  batch = layout.branches(prompts, COMPLETIONS, max_length=16, multiple=4)
  batch = jax.tree.map(jnp.asarray, batch)
  return batch.replace(
    advantages=group_advantages(jnp.asarray(case.rewards, jnp.float32)),
    old_logprobs=scoring(behaviour, batch),
    ref_logprobs=scoring(reference, batch),
  )


def sampled_batch(case, scoring, behaviour, reference):
  sample = samplers.sampler(
    case.policy,
    group_size=3,
    max_completion_length=8,
    chunk=8,
    temperature=case.settings.temperature,
  )
  prompts = layout.prompts(PROMPTS, multiple=3)
  rewards = np.asarray(case.rewards, np.float32)
  collected = rollout.collect(
    np.arange(len(PROMPTS)),
    [None] * len(PROMPTS),
    jax.tree.map(jnp.asarray, prompts),
    None,
    jax.jit(transformer.unstack)(behaviour),
    jax.random.key(1),
    sample=sample,
    append=layout.append,
    score=lambda batch: batch.replace(ref_logprobs=scoring(reference, batch)),
    lengths=lambda mask: np.asarray(mask.sum(-1)),
    texts=lambda *_: (None, None),
    grade=lambda completions, examples: (rewards, {}),
    share=lambda found: found,
    length_multiple=3,
  )
  batch, _ = credit.assign(
    collected.batch,
    jnp.asarray(collected.rewards),
    jnp.ones(rewards.shape, bool),
    jnp.ones(len(rewards), bool),
    estimate=functools.partial(
      credit.by_group, advantages=group_advantages, penalty=None, kl_coef=0.0
    ),
  )
  return batch


def library_steps(case):
  """Per update: gradients, metrics and new parameters; and the batch."""
  s = case.settings
  trained, behaviour, reference = (to_tree(case, x) for x in draw(case))
  scoring = programs.token_logprobs(
    case.policy, temperature=s.temperature, remat=case.remat, logits_chunk=3
  )
  make = sampled_batch if case.stop_ids else given_batch
  old = jit(lambda *args: scoring(*args)[0])
  batch = make(case, old, behaviour, reference)
  # The first link remembers the gradients that `update` found.
  remember = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params: (grads, grads),
  )
  adamw = optimizer.adamw(
    schedule='constant',
    warmup_steps=0,
    total_steps=2,
    final_fraction=1.0,
    **{
      k: getattr(s, k)
      for k in (
        'learning_rate', 'b1', 'b2', 'eps', 'weight_decay', 'clip_norm',
      )
    },
  )  # fmt: skip
  tx = optax.chain(remember, adamw)
  one = jit(
    functools.partial(
      update.update,
      score=scoring,
      objective=functools.partial(
        objectives.policy,
        loss=functools.partial(
          losses.clip, eps_low=s.eps_low, eps_high=s.eps_high
        ),
        kl=losses.k3,
        kl_coef=s.kl_coef,
      ),
      weigh=losses.token_mean,
      tx=tx,
      parts=(case.microbatches, 1),
    )
  )
  state, made = update.init_state(trained, tx, reference=False), []
  for _ in range(2):
    # From the host, so that both calls are one program.
    state, metrics = one(*jax.device_get((state, batch)))
    made.append((
      to_flat(case, state.opt_state[0]),
      {k: float(v) for k, v in metrics.items()},
      to_flat(case, state.params),
    ))  # fmt: skip
  return made, batch
