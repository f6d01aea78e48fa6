"""Hugging Face model folders in and out: config.json and safetensors.

Before a run, `load` turns a folder into parameters; after it, `save` writes
a folder that `transformers` loads. Both stream: of the model, the host holds
one stacked parameter's needed slices when reading and one shard when writing.
"""

from collections.abc import Mapping
import contextlib
import json
import os
from pathlib import Path
import shutil

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save_file

from grpo_jax.models import families, safetensors_folder, stacking, transformer
from grpo_jax.models.architecture import Config
from grpo_jax.structs import PyTree


def read_config(folder: str | os.PathLike) -> Config:
  """Config of a folder's config.json.

  Raises:
    FileNotFoundError: no folder or no config.json.
    ValueError: damaged, or a model that the decoder does not cover.
  """
  raw = safetensors_folder.read_json(folder, 'config.json')
  try:
    return families.of_type(raw.get('model_type')).from_hf(raw)
  except ValueError as error:
    raise ValueError(f'{Path(folder)}/{error}') from None


def load(
  folder: str | os.PathLike, *, shardings: PyTree = None, dtype=jnp.float32
) -> PyTree:
  """Parameters of a folder with safetensors, as `transformer.declare`s them.

  Args:
    folder: with config.json and model.safetensors, or shards and their index;
      tensors in float32, float16 or bfloat16.
    shardings: a `jax.sharding.Sharding` for each parameter; None puts them
      whole on the default device. Each process reads only its own slices.
    dtype: of the parameters.

  Raises:
    FileNotFoundError: the folder or a file of it is missing.
    ValueError: a file is damaged, or tensors are missing, left over, of
      another shape than config.json says or quantised.
  """
  config = read_config(folder)
  names = families.of_config(config).NAMES
  declared = transformer.declare(config)
  with safetensors_folder.open_tensors(folder) as tensors:
    plan = stacking.plan(declared, names)
    expected = {name: tensor.shape for name, tensor in plan.items()}
    safetensors_folder.check(folder, tensors, expected)

    def read(path, layer, index):
      return tensors[names[path].format(layer)][index]

    return stacking.assemble(declared, read, shardings=shardings, dtype=dtype)


def save(
  folder: str | os.PathLike,
  params: PyTree,
  config: Config,
  *,
  files: Mapping[str, str] | None = None,
  dtype=jnp.float32,
  max_shard_bytes: float = 5e9,
) -> None:
  """Writes a folder that `transformers` loads; all of it or nothing.

  In a run of several processes every one must call this; the first writes.

  Args:
    folder: to be created; may exist if empty.
    params: stacked, on any mesh.
    config: of the parameters.
    files: texts of further files by name, as `policy.Policy.files`. Without a
      config.json among them, one is made of `config`.
    dtype: of the tensors, which config.json then tells. A folder loaded in
      float32 and saved in its own dtype is equal bit by bit.
    max_shard_bytes: a larger model is split, with an index.

  Raises:
    ValueError: the folder is not empty.
    OSError: the disk is full or not writable. Nothing is left behind.
  """
  folder = Path(folder)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise ValueError(f'{folder}: exists; remove it or name another folder')
  contents = {k: v.encode() for k, v in (files or {}).items()}
  raw = families.of_config(config).to_hf(config)
  raw = json.loads(contents.get('config.json', _dump(raw)))
  # The loader of `transformers` believes this field, not the tensors.
  for field in {'dtype', 'torch_dtype'} & raw.keys() or {'torch_dtype'}:
    raw[field] = np.dtype(dtype).name
  contents['config.json'] = _dump(raw)
  names = families.of_config(config).NAMES
  plan = stacking.plan(transformer.declare(config), names)
  shards = _split(plan, dtype, max_shard_bytes)
  if len(shards) > 1:
    size = sum(tensor.nbytes(dtype) for tensor in plan.values())
    index = {name: file for file, part in shards.items() for name in part}
    contents[safetensors_folder.INDEX] = _dump(
      {'metadata': {'total_size': size}, 'weight_map': index}
    )
  with _all_or_nothing(folder) as partial:
    for file, part in shards.items():
      arrays = {
        name: stacking.to_host(params, plan[name], dtype=dtype) for name in part
      }
      if partial is not None:
        save_file(arrays, partial / file, metadata={'format': 'pt'})
    if partial is not None:
      for file, content in contents.items():
        (partial / file).write_bytes(content)
      _same_modes(partial)


def _split(plan, dtype, limit):
  """Weight file -> names of its tensors."""
  shards, used = [[]], 0
  for name, tensor in plan.items():
    size = tensor.nbytes(dtype)
    if shards[-1] and used + size > limit:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += size
  if len(shards) == 1:
    return {'model.safetensors': shards[0]}
  last = len(shards)
  return {
    f'model-{i:05d}-of-{last:05d}.safetensors': part
    for i, part in enumerate(shards, 1)
  }


def _dump(raw):
  return json.dumps(raw, indent=2, ensure_ascii=False).encode() + b'\n'


@contextlib.contextmanager
def _all_or_nothing(folder):
  """A sibling to write into, renamed at the end; None but on process 0."""
  partial = None
  if jax.process_index() == 0:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f'.{folder.name}.partial-{os.getpid()}'
    partial.mkdir()
  try:
    yield partial
    if partial is not None:
      partial.replace(folder)
  except (OSError, safetensors.SafetensorError) as error:
    free = shutil.disk_usage(folder.parent).free / 1e9
    raise OSError(
      f'{folder}: not written: {error}; {free:.1f} GB are free there: make '
      'room or name another place'
    ) from error
  finally:
    if partial is not None:
      shutil.rmtree(partial, ignore_errors=True)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('saved')


def _same_modes(folder):
  """Gives the weights, made private by safetensors, the modes of the rest."""
  for file in folder.glob('*.safetensors'):
    shutil.copymode(folder / 'config.json', file)
