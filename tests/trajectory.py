"""A run of 20 steps by the real stages, for `test_trajectory.py`.

What it sampled is kept as lists without padding, so that it can be compared
whatever the widths of the arrays were.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from grpo_jax import metrics, policy, sharding, train, validation_rl
from grpo_jax.structs import Batch, TrainState

STEPS = 20
ONE_DEVICE = dict(data=1, fsdp=1, tensor=1)


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """What a run did.

  Attributes:
    tokens: [step][Q G], the sampled ids of each completion.
    rewards: [step Q G].
    updates: metric -> [step, update].
    shapes: (Q, G, P, C) of the minibatches of all updates.
    devices: number of them that hold the parameters.
    first: the parameters before the first step, on the host.
    state: after the last one, on the host: parameters, moments, reference.
  """

  tokens: list[list[list[int]]]
  rewards: np.ndarray
  updates: dict[str, np.ndarray]
  shapes: set[tuple[int, int, int, int]]
  devices: int
  first: dict
  state: TrainState

  @property
  def lengths(self) -> np.ndarray:
    """Tokens of each completion, [step Q G]."""
    counts = [[len(ids) for ids in step] for step in self.tokens]
    return np.array(counts).reshape(self.rewards.shape)


def get_config():
  """The tiny config with a KL, a tight clip and four updates a rollout."""
  c = tiny.get_config()
  # Of 20 seeds and settings, one whose closest calls are far from rounding; see
  # test_trajectory.py.
  c.seed, c.steps = 5, STEPS
  # Sizes that divide over fsdp=8 and over tensor=2.
  c.model.update(num_heads=4, num_kv_heads=2, head_dim=8)
  # Besides the coin, so that the widths of rollouts change on the way.
  c.rewards = c.rewards.to_dict() | dict(
    short=dict(name='soft_overlong', weight=1.0, max_length=16, cache=15)
  )
  # Minibatches of 8 prompts: a row for each of 8 devices.
  c.prompts_per_step = 16
  c.sample.update(max_completion_length=16, chunk=16, trunk_multiple=16)
  c.algorithm.loss = dict(name='clip', eps_low=0.05, eps_high=0.05)
  c.updates.update(
    epochs=2, minibatches=2, logits_chunk=16, length_multiple=16, remat='none'
  )
  # Not far below a gradient's usual size, 0.02: Adam gives an update of full
  # size to gradients of any size above its eps, to rounding too.
  c.optimizer.update(learning_rate=3e-3, eps=1e-2)
  return c


def run(
  *, mesh: dict = ONE_DEVICE, trunks_shared: bool = True, **changes
) -> Trajectory:
  """The trajectory of `get_config`.

  Args:
    mesh: its shape; the first devices are taken.
    trunks_shared: if False, logprobs and updates see every completion as a row
      of its own, with its own copy of the trunk.
    **changes: dotted name of a field -> value.
  """
  cfg = get_config()
  cfg.update_from_flattened_dict(changes)
  pol = _open_policy(cfg, mesh)
  validation_rl.of_training(cfg, ways=pol.ways())
  stages = train.Stages(cfg, pol)
  if not trunks_shared:
    _split_groups(stages, pol)
  sampled, shapes = _watch(stages)
  first = pol.params()
  state = stages.learner.policy.init(first)
  first = jax.device_get(first)
  timers, updates = metrics.Timers(), []
  for step in range(cfg.steps):
    done = stages.step(state, step, stages.prepare(step), timers)
    state = done.state
    updates.append(jax.device_get(done.updates['']))
  return Trajectory(
    tokens=[tokens for tokens, _ in sampled],
    rewards=np.stack([rewards for _, rewards in sampled]),
    updates={
      k: np.array([[u[k] for u in step] for step in updates])
      for k in updates[0][0]
    },
    shapes=set(shapes),
    devices=len(state.params['embed'].sharding.device_set),
    first=first,
    state=jax.device_get(state),
  )


def _open_policy(cfg, shape):
  count = int(np.prod(list(shape.values())))
  mesh = sharding.make_mesh(shape, jax.devices()[:count])
  pol = dataclasses.replace(policy.open_policy(cfg), mesh=mesh)
  # A quarter of the vocabulary ends a completion, or nearly every rollout of a
  # fresh model would be as wide as the limit allows.
  stops = [pol.tokenizer.encode(digit)[-1] for digit in '01234']
  pol.tokenizer.eos_ids = (*pol.tokenizer.eos_ids, *stops)
  return pol


def _watch(stages):
  """Lists that grow: (tokens, rewards) of rollouts, shapes of minibatches."""
  sampled, shapes = [], []
  credit, join = stages.credit, stages.join

  def watched_credit(batch, rewards, finished, counted):
    targets, mask = jax.device_get((batch.targets, batch.mask))
    rows = zip(
      targets.reshape(-1, targets.shape[-1]),
      mask.reshape(-1, mask.shape[-1]),
      strict=True,
    )
    tokens = [ids[kept].tolist() for ids, kept in rows]
    sampled.append((tokens, np.array(rewards)))
    return credit(batch, rewards, finished, counted)

  def watched_join(batches, index):
    part = join(batches, index)
    q, g, c = part.mask.shape
    shapes.append((q, g, part.trunk.shape[1], c))
    return part

  stages.credit, stages.join = watched_credit, watched_join
  return sampled, shapes


def _split_groups(stages, pol):
  """Lets the trainer see Q * G prompts with one completion each."""
  rows = pol.rows('train')
  split = jax.jit(lambda batch: rows.constrain(_split(batch)))
  score, join = stages.score, stages.join

  def score_apart(state, batch):
    apart = score(state, split(batch)).ref_logprobs
    return batch.replace(ref_logprobs=apart.reshape(batch.mask.shape))

  stages.score = score_apart
  stages.join = lambda batches, index: split(join(batches, index))


def _split(batch: Batch) -> Batch:
  group = batch.mask.shape[1]
  copies = functools.partial(jnp.repeat, repeats=group, axis=0)
  apart = jax.tree.map(
    lambda x: x.reshape(-1, 1, *x.shape[2:]),
    batch.replace(trunk=None, trunk_mask=None),
  )
  return apart.replace(
    trunk=copies(batch.trunk), trunk_mask=copies(batch.trunk_mask)
  )
