"""Times of Tunix's GRPO learner: `python FILE REQUEST.json`.

The learner is Tunix's own with its own sampler, whole steps of it. Replaced is
the tokenizer, since prompts are given as ids and no id ends a completion, and,
where a workload has lengths, what follows them in each completion. An update is
what of a step is not generation.
"""

import functools
import importlib.metadata
import json
import pathlib
import sys
import time

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import peer
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params as llama_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

# No token has it: padding is known by id, and a completion may have any.
_NONE = -1


class Ids:
  """A tokenizer whose texts are the numbers of prompts."""

  def __init__(self, prompts):
    self.prompts = prompts

  def encode(self, text, **_):
    return self.prompts[int(text)].tolist()

  def decode(self, ids, **_):
    return ''.join(map(chr, ids))

  def bos_id(self):
    return 0  # none is put before a prompt

  def eos_id(self):
    return _NONE

  def pad_id(self):
    return _NONE


def load(folder, mesh):
  """The model of a Hugging Face folder, in fp32."""
  raw = json.loads(pathlib.Path(folder, 'config.json').read_text())
  rope = raw.get('rope_parameters') or raw
  heads = raw['num_attention_heads']
  config = llama.ModelConfig(
    num_layers=raw['num_hidden_layers'],
    vocab_size=raw['vocab_size'],
    embed_dim=raw['hidden_size'],
    hidden_dim=raw['intermediate_size'],
    num_heads=heads,
    head_dim=raw.get('head_dim', raw['hidden_size'] // heads),
    num_kv_heads=raw['num_key_value_heads'],
    rope_theta=rope['rope_theta'],
    norm_eps=raw['rms_norm_eps'],
    weight_tying=raw['tie_word_embeddings'],
  )
  return llama_params.create_model_from_safe_tensors(
    str(folder), config, mesh, dtype=jnp.float32
  )


def make(request, prompts) -> grpo_learner.GRPOLearner:
  """Tunix's learner as its examples have it, actor and sampler one model."""
  workload, roles = request['workload'], rl_cluster.Role
  mesh = jax.make_mesh(
    (1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  length, count = workload['completion'], workload['prompts']
  part = max(1, count // workload['peer_parts'])
  cluster = rl_cluster.RLCluster(
    actor=load(request['folder'], mesh),
    reference=load(request['folder'], mesh),
    tokenizer=Ids(prompts),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh=dict.fromkeys(
        (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh
      ),
      rollout_engine='vanilla',
      training_config=rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.chain(
          optax.clip_by_global_norm(1.0),
          optax.adamw(request['learning_rate']),
        ),
        eval_every_n_steps=10**9,
        max_steps=1 + request['repeats'],
        mini_batch_size=count,
        train_micro_batch_size=part,
        rollout_micro_batch_size=count,
        compute_logps_micro_batch_size=part,
      ),
      rollout_config=base_rollout.RolloutConfig(
        max_tokens_to_generate=length,
        max_prompt_length=workload['prompt'],
        kv_cache_size=workload['prompt'] + length,
        temperature=1.0,
        top_p=1.0,
        top_k=None,
      ),
    ),
  )
  return grpo_learner.GRPOLearner(
    rl_cluster=cluster,
    reward_fns=lambda completions, **_: list(map(peer.reward, completions)),
    algo_config=grpo_learner.GRPOConfig(
      num_generations=workload['group_size'],
      num_iterations=1,
      beta=request['kl_coef'],
    ),
  )


def timed(learner, lengths):
  """Seconds of each rollout and step, filled as the learner trains."""
  cluster, rollouts, steps = learner.rl_cluster, [], []
  generate, run = cluster.generate, learner._run_global_step

  @functools.wraps(generate)
  def timed_generate(*args, **kwargs):
    begin = time.perf_counter()
    output = generate(*args, **kwargs)
    rollouts.append(time.perf_counter() - begin)
    if {len(row) for row in output.tokens} != {lengths.max()}:
      raise RuntimeError('a completion has ended by itself')
    output.tokens = [
      row[:n] for row, n in zip(output.tokens, lengths.flat, strict=True)
    ]
    return output

  @functools.wraps(run)
  def timed_run(*args, **kwargs):
    begin = time.perf_counter()
    run(*args, **kwargs)
    jax.block_until_ready(nnx.state(cluster.actor_trainer.model, nnx.Param))
    steps.append(time.perf_counter() - begin)

  cluster.generate, learner._run_global_step = timed_generate, timed_run
  return rollouts, steps


def main() -> None:
  """Answers a request."""
  request = peer.read(sys.argv[1:])
  prompts, lengths = peer.arrays(request)
  begin = time.perf_counter()
  learner = make(request, prompts)
  rollouts, steps = timed(learner, lengths)
  asked = np.arange(len(prompts)).astype(str)
  learner.train([{'prompts': asked} for _ in range(1 + request['repeats'])])
  rollouts, steps = rollouts[1:], steps[1:]
  if not len(rollouts) == len(steps) == request['repeats']:
    raise RuntimeError(f'{len(rollouts)} rollouts in {len(steps)} steps')
  updates = [s - r for s, r in zip(steps, rollouts, strict=True)]
  names = ('google-tunix', 'jax', 'jaxlib', 'flax', 'qwix')
  peer.answer(
    {'seconds': {'rollout': rollouts, 'update': updates, 'step': steps}},
    versions={name: importlib.metadata.version(name) for name in names},
    begin=begin,
  )


if __name__ == '__main__':
  main()
