"""What the speed benchmarks run: models, prompts, lengths, configs, goals.

Every system gets the same weights (one Hugging Face folder), the same prompt
ids and the same completion lengths, all functions of the workload alone. No
completion ends by itself, so all systems decode the same number of tokens.
"""

import dataclasses
import pathlib

import ml_collections
import numpy as np

from configs import base
from grpo_jax import cli, policy, seating_replay
from grpo_jax.models import families, hf
from grpo_jax.models.architecture import Config

KL_COEF = 0.04  # k3 to a reference, TRL's former default
LEARNING_RATE = 1e-6
_TINY = Config(
  vocab_size=512,
  num_layers=4,
  embed_dim=256,
  num_heads=4,
  num_kv_heads=2,
  head_dim=64,
  mlp_dim=1024,
)
MODELS = {'tiny': _TINY, 'smollm2': families.SIZES['smollm2_135m']}
_TRAINED = {'smollm2': 'models/smollm2-135m-instruct'}  # by `make smollm2`
# Special tokens are below this: a prompt has none.
_FIRST_ID = 32


@dataclasses.dataclass(frozen=True)
class Goal:
  """A bound on something measured.

  Attributes:
    what: rollout, update, step, static, memory, prompt, device, busy or
      padding.
    against: 'best' of the peers, one of them, 'limit', or '' for what is a
      share or ratio by itself.
    bound: the least; the most for memory, prompt and padding.
  """

  what: str
  against: str
  bound: float

  @property
  def most(self) -> bool:
    return self.what in ('memory', 'prompt', 'padding')


@dataclasses.dataclass(frozen=True)
class Workload:
  """A step: Q prompts of `prompt` tokens, G completions each.

  Attributes:
    name: as asked for.
    model: a name in MODELS.
    prompts: Q.
    group_size: G.
    prompt: tokens of every prompt.
    completion: tokens of every completion, or of the longest.
    mean: of log-normal lengths, in tokens; 0 for equal ones.
    fields: of the config, where the base's are not the fastest.
    peer_parts: microbatches of peers, where one would not fit 24 GB.
    goals: what is to be reached.
  """

  name: str
  model: str
  prompts: int
  group_size: int
  prompt: int
  completion: int
  mean: int = 0
  fields: dict = dataclasses.field(default_factory=dict)
  peer_parts: int = 1
  goals: tuple[Goal, ...] = ()

  @property
  def rows(self) -> int:
    return self.prompts * self.group_size

  @property
  def size(self) -> Config:
    """Of the model."""
    return MODELS[self.model]


def _w3(group_size, *goals):
  return Workload(
    f'W3g{group_size}', 'tiny', 2, group_size, 256, 32, goals=goals
  )


_ALL = (
  Workload(
    'W1',
    'tiny',
    prompts=8,
    group_size=16,
    prompt=32,
    completion=64,
    goals=(
      Goal('rollout', 'best', 2.2),
      Goal('update', 'trl', 1.8),
      Goal('step', 'best', 2.0),
    ),
  ),
  Workload(
    'W2',
    'smollm2',
    prompts=2,
    group_size=16,
    prompt=64,
    completion=64,
    # Weights of that size are read once a token, not by each device.
    fields={
      'cpu_devices': 1,
      'updates.microbatches': 2,
      'updates.logits_chunk': 4,
    },
    goals=(
      Goal('rollout', 'best', 2.5),
      Goal('update', 'best', 2.0),
      Goal('step', 'best', 2.2),
      Goal('memory', 'trl', 0.5),
      Goal('rollout', 'limit', 0.45),
      Goal('update', 'limit', 0.55),
      Goal('device', '', 0.98),
    ),
  ),
  _w3(4),
  _w3(16),
  _w3(
    64,
    Goal('rollout', 'best', 6.0),
    Goal('update', 'best', 8.0),
    Goal('step', 'best', 8.0),
    Goal('prompt', '', 1.25),
  ),
  Workload(
    'W4',
    'tiny',
    prompts=16,
    group_size=16,
    prompt=32,
    completion=512,
    mean=128,
    fields={
      'sample.seats': 64,
      'sample.chunk': 16,
      'updates.length_buckets': 3,
      'updates.microbatches': 8,
    },
    peer_parts=4,
    goals=(
      Goal('busy', '', 0.85),
      Goal('static', '', 2.0),
      Goal('padding', '', 0.15),
    ),
  ),
  Workload(
    'W5',
    'smollm2',
    prompts=4,
    group_size=16,
    prompt=256,
    completion=24,
    fields={
      'cpu_devices': 1,
      'updates.length_multiple': 8,
      'updates.logits_chunk': 8,
    },
    peer_parts=4,
    goals=(Goal('step', 'trl', 5.0),),
  ),
)
WORKLOADS = {workload.name: workload for workload in _ALL}


def named(name: str) -> list[Workload]:
  """The workloads of a name; W3 is three of them.

  Raises:
    ValueError: there is none.
  """
  found = [
    workload
    for full, workload in WORKLOADS.items()
    if full == name or full.startswith(f'{name}g')
  ]
  if not found:
    raise ValueError(
      f'no workload {name!r}; there are W3 and {", ".join(WORKLOADS)}'
    )
  return found


def from_dict(fields: dict) -> Workload:
  """A workload as `dataclasses.asdict` and JSON have made a dict of it."""
  goals = tuple(Goal(**goal) for goal in fields['goals'])
  return Workload(**fields | {'goals': goals})


def prompt_ids(workload: Workload) -> np.ndarray:
  """[Q P] token ids, special tokens not among them."""
  return np.random.RandomState(0).randint(
    _FIRST_ID,
    workload.size.vocab_size,
    (workload.prompts, workload.prompt),
    np.int32,
  )


def lengths(workload: Workload) -> np.ndarray:
  """[Q G] tokens of each completion; the longest has all it may have."""
  shape = (workload.prompts, workload.group_size)
  if not workload.mean:
    return np.full(shape, workload.completion, np.int32)
  return seating_replay.lognormal(
    shape, mean=workload.mean, longest=workload.completion
  )


def config(
  workload: Workload, folder: str, *, fields: dict
) -> ml_collections.ConfigDict:
  """Of our own run.

  Args:
    workload: what is run.
    folder: of the model.
    fields: further fields of the config by their whole names.

  Raises:
    ValueError: there is no such field.
  """
  c = base.get_config()
  c.init_from = str(folder)
  c.dtype = 'float32'
  c.cpu_devices = 2
  c.mesh.update(data=-1, fsdp=1)
  c.prompts_per_step = workload.prompts
  c.group_size = workload.group_size
  c.sample.update(
    max_prompt_length=workload.prompt,
    max_completion_length=workload.completion,
    # Equal lengths end together, so one program does; others grow to theirs.
    chunk=workload.completion // 8 if workload.mean else workload.completion,
  )
  c.algorithm.kl_coef = KL_COEF
  c.optimizer.learning_rate = LEARNING_RATE
  given = dict(workload.fields) | fields
  unknown = sorted(given.keys() - cli.flat(c.to_dict()).keys())
  if unknown:
    raise ValueError(f'configs/base.py has no field {", ".join(unknown)}')
  try:
    c.update_from_flattened_dict(given)
  except TypeError as error:
    raise ValueError(f'fields {given}: {error}') from None
  return c


def folder_of(model: str, under: pathlib.Path) -> tuple[pathlib.Path, str]:
  """The Hugging Face folder of a model, written if need be, and its weights.

  Args:
    model: a name in MODELS.
    under: where folders of random weights lie.
  """
  trained = pathlib.Path(_TRAINED.get(model, ''))
  if model in _TRAINED and (trained / 'config.json').exists():
    return trained, f'trained, {trained}'
  folder = under / f'{model}-random'
  if not folder.exists():
    _write_random(MODELS[model], folder)
  return folder, 'random'


def _write_random(size, folder):
  """A folder of these sizes, with a tokenizer of a character a token."""
  c = base.get_config()
  sizes = dataclasses.asdict(size)
  vocab = sizes.pop('vocab_size')
  c.model = {k: sizes[k] for k in c.model}
  # Beside <pad> and <eos>. Ideographs: none combine, and there are enough.
  c.tokenizer.alphabet = ''.join(chr(0x20000 + i) for i in range(vocab - 2))
  c.mesh.fsdp = 1
  c.mesh.data = -1
  fresh = policy.open_policy(c)
  hf.save(folder, fresh.params(), fresh.model, files=fresh.files)
