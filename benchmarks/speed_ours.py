"""Times of our own rollout, update and step, with the programs of `train`.

  python -m benchmarks.speed_ours REQUEST.json

A request is what `benchmarks.speed` writes; JSON, last. The memory is that of
this process, so every workload is measured in one of its own.
"""

from collections.abc import Sequence
import copy
import dataclasses
import functools
import importlib.metadata
import sys
import time

import jax
import numpy as np

from benchmarks import workloads
from benchmarks.peers import peer
from benchmarks.workloads import Workload
from grpo_jax import (
  cli,
  layout,
  policy,
  programs,
  rewards,
  rollout,
  samplers,
  sharding,
  training,
  validation_rl,
)  # fmt: skip
from grpo_jax.structs import Batch
from grpo_jax.tasks import Example


class Ours:
  """A run's programs and state, bound to a workload."""

  def __init__(self, workload: Workload, cfg):
    self.workload, self.cfg = workload, cfg
    self.policy = pol = _endless(policy.open_policy(cfg))
    validation_rl.of_training(cfg, ways=pol.ways())
    self.trainer = training.policy_trainer(pol, cfg)
    self.publish = programs.publish(pol)
    self.score = training.add_logprobs(pol, cfg)
    self.credit = training.assign_credit(pol, cfg)
    self.join = training.join(pol)
    self.sampler = self._sampler(cfg.sample.seats)
    # The same without seats: all of a step to the end of the longest.
    self.together = self._sampler(0)
    rows = pol.rows('train')
    self.put = rows.put
    self.lengths = workloads.lengths(workload)
    self.cut = jax.jit(
      lambda rollout, lengths: rollout.replace(
        mask=rollout.mask
        & (np.arange(rollout.mask.shape[2]) < lengths[..., None])
      )
    )
    self.prompts = self._prompts(workloads.prompt_ids(workload))
    self.state = self.trainer.init(pol.params())
    self.drawn = 0

  def sample(self, params, prompts, key):
    """A rollout; completions have the workload's lengths."""
    if self.cfg.sample.seats:
      return self.sampler(params, prompts, key, limits=self.lengths)
    return self.static(params, prompts, key)

  def static(self, params, prompts, key):
    """The same rollout of a static batch, without seats."""
    found = self.together(params, prompts, key)
    return self.cut(found, self.put(self.lengths))

  def key(self):
    """Of the next rollout."""
    self.drawn += 1
    whole = sharding.replicated(self.policy.mesh)
    return programs.stream(0, 'rollout', self.drawn, whole)

  def batch(self, published) -> Batch:
    """A rollout as the update gets it, without the reference's logprobs."""
    return _batch(
      self.prompts, self.sample(published, self.prompts, self.key())
    )

  def learn(self, batch, rewards, finished):
    """Credit and one optimizer update; a batch with reference logprobs."""
    counted = np.ones(self.workload.prompts, bool)
    batch, _ = self.credit(batch, *map(self.put, (rewards, finished, counted)))
    every = np.arange(self.workload.prompts, dtype=np.int32)
    part = self.join([batch], self.put(every))
    self.state, metrics = self.trainer.update(self.state, part)
    return jax.device_get(metrics)

  def update(self, batch):
    """Reference logprobs and `learn`, of rewards that differ; its metrics."""
    shape = batch.mask.shape[:2]
    rewards = np.random.RandomState(2).rand(*shape).astype(np.float32)
    batch = self.score(self.state, batch)
    return self.learn(batch, rewards, np.zeros(shape, bool))

  def step(self):
    """All of it, host work included."""
    got = rollout.collect(
      np.arange(self.workload.prompts),
      [Example('', '')] * self.workload.prompts,
      self.prompts,
      None,
      self.publish(self.state.params),
      self.key(),
      sample=self.sample,
      append=None,  # nothing is given
      score=functools.partial(self.score, self.state),
      lengths=lambda mask: jax.device_get(mask.sum(-1)),
      texts=functools.partial(
        rollout.read_texts,
        opening=lambda prompt: '',
        decode=self.policy.decode,
        stop_ids=(),
      ),
      grade=_grade,
      share=lambda found: found,
      length_multiple=self.cfg.updates.length_multiple,
    )
    self.learn(got.batch, got.rewards, got.finished)

  def prefill(self, published):
    """The prompts alone, as the sampler begins."""
    return self.together.programs.prefill(published, self.prompts)

  def alone(self, published):
    """The same completions after a prompt of one token: an empty trunk."""
    prompts = self._prompts(workloads.prompt_ids(self.workload)[:, :1])
    return self.together(published, prompts, self.key())

  def _sampler(self, seats):
    return samplers.sampler(
      self.policy,
      group_size=self.workload.group_size,
      max_completion_length=self.workload.completion,
      chunk=self.cfg.sample.chunk,
      seats=seats,
      temperature=self.cfg.sample.temperature,
    )

  def _prompts(self, ids):
    multiple = self.cfg.sample.trunk_multiple
    return self.put(layout.prompts(ids.tolist(), multiple=multiple))


def measure(ours: Ours, *, parts: Sequence[str], repeats: int) -> dict:
  """Seconds of every repeat of each part, and shares of what was computed.

  Args:
    ours: what is run.
    parts: of rollout, update and step.
    repeats: after one that compiles.

  Returns:
    'seconds': by part, 'publish' (of a prompt's cost 'prefill' and 'alone', of
    a rollout in seats 'static') among them; 'first': of the run that compiled;
    'busy': share of decode slots whose token counts; 'padding': share of an
    update's tokens that do not.
  """
  clock, found = peer.Clock(wait=jax.block_until_ready), {}
  # In turn, so that a machine that changes its pace does so for all of them.
  for _ in range(1 + repeats):
    tokens, metrics = _apart(ours, clock, parts)
    if 'step' in parts:
      clock('step', ours.step)
  if 'rollout' in parts:
    decoded = samplers.decoded(ours.policy, ours.cfg)
    slots = decoded(ours.lengths, max_length=ours.workload.completion)
    found['busy'] = tokens / slots
  if 'update' in parts:
    found['padding'] = float(metrics['padding/update'])
  return found | {'seconds': clock.seconds, 'first': clock.first}


def _apart(ours, clock, parts):
  """Publish, rollout and update by themselves: sampled tokens, metrics."""
  published = clock('publish', lambda: ours.publish(ours.state.params))
  sample = functools.partial(ours.batch, published)
  metrics = None
  if 'rollout' in parts:
    batch = clock('rollout', sample)
    if ours.cfg.sample.seats:
      clock('static', lambda: ours.static(published, ours.prompts, ours.key()))
    if any(goal.what == 'prompt' for goal in ours.workload.goals):
      clock('prefill', lambda: ours.prefill(published))
      clock('alone', lambda: ours.alone(published))
  elif 'update' in parts:
    batch = sample()
  else:
    return 0, None
  if 'update' in parts:
    metrics = clock('update', lambda: ours.update(batch))
  return int(jax.device_get(batch.mask.sum())), metrics


def _batch(prompts, sampled):
  return Batch(
    trunk=prompts.trunk,
    trunk_mask=prompts.trunk_mask,
    inputs=sampled.inputs,
    targets=sampled.targets,
    mask=sampled.mask,
    old_logprobs=sampled.logprobs,
  )


def _grade(completions, examples):
  """Rewards and components, by the reward that the peers are given too."""
  fns = {'trivial': lambda text, example: peer.reward(text)}
  found = rewards.grade(completions, examples, fns)
  return rewards.combine(found, weights={'trivial': 1.0}, gate=''), found


def _endless(pol):
  """The same policy, none of whose tokens ends a completion."""
  tokenizer = copy.copy(pol.tokenizer)
  tokenizer.eos_ids = ()
  return dataclasses.replace(pol, tokenizer=tokenizer)


def main(argv: list[str]) -> int:
  """Answers a request."""
  request = peer.read(argv)
  cli.divide_cpu(request['devices'])
  workload = workloads.from_dict(request['workload'])
  cfg = workloads.config(
    workload,
    request['folder'],
    fields=request['fields'],
  )
  begin = time.perf_counter()
  found = measure(
    Ours(workload, cfg), parts=request['parts'], repeats=request['repeats']
  )
  names = ('jax', 'jaxlib', 'numpy')
  peer.answer(
    found,
    versions={name: importlib.metadata.version(name) for name in names},
    begin=begin,
  )
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
