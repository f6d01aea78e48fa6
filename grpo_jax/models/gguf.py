"""GGUF files in: weights dequantised, config, tokenizer and chat template.

In place of a Hugging Face folder, as `init_from` of any job; `export` makes
such a folder of one. Needs the extra `gguf`.
"""

import dataclasses
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from grpo_jax.models import (
  attention,
  families,
  gguf_tokenizer,
  stacking,
  transformer,
)
from grpo_jax.models.architecture import Config
from grpo_jax.structs import PyTree

NAMES = {
  'embed': 'token_embd.weight',
  'layers/attn_norm': 'blk.{}.attn_norm.weight',
  'layers/q': 'blk.{}.attn_q.weight',
  'layers/k': 'blk.{}.attn_k.weight',
  'layers/v': 'blk.{}.attn_v.weight',
  'layers/o': 'blk.{}.attn_output.weight',
  'layers/q_bias': 'blk.{}.attn_q.bias',
  'layers/k_bias': 'blk.{}.attn_k.bias',
  'layers/v_bias': 'blk.{}.attn_v.bias',
  'layers/q_norm': 'blk.{}.attn_q_norm.weight',
  'layers/k_norm': 'blk.{}.attn_k_norm.weight',
  'layers/mlp_norm': 'blk.{}.ffn_norm.weight',
  'layers/gate': 'blk.{}.ffn_gate.weight',
  'layers/up': 'blk.{}.ffn_up.weight',
  'layers/down': 'blk.{}.ffn_down.weight',
  'final_norm': 'output_norm.weight',
  'head': 'output.weight',
}
# Llama 3's RoPE comes as this table of divisors, without the numbers that made
# it; but low and high factor and original positions are the same in all.
_ROPE_TABLE = 'rope_freqs.weight'
_LLAMA3 = (1.0, 4.0, 8192)


@dataclasses.dataclass(frozen=True)
class File:
  """A parsed file.

  Attributes:
    path: of the file.
    config: of its model.
    hf_config: the same as a config.json.
    files: texts of tokenizer.json, tokenizer_config.json and
      generation_config.json, by name.
    tensors: the reader's tensors by name, memory mapped.
    permuted: whether rows of q and k are in llama.cpp's RoPE order.
  """

  path: Path
  config: Config
  hf_config: dict
  files: dict[str, str]
  tensors: dict
  permuted: bool


def read(path: str | os.PathLike) -> File:
  """Parses a file; a vocabulary of 50k takes some seconds.

  Args:
    path: of architecture llama, qwen2 or qwen3, with a byte-level BPE
      tokenizer.

  Raises:
    FileNotFoundError: no such file.
    ImportError: the package `gguf` is not installed.
    ValueError: damaged, or a model that is not covered.
  """
  path = Path(path)
  reader = _open(path)
  metadata = {k: field.contents() for k, field in reader.fields.items()}
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  try:
    if metadata.get('split.count', 1) > 1:
      raise ValueError(
        'one part of several; make them one file with llama-gguf-split --merge'
      )
    arch = metadata.get('general.architecture')
    raw = _hf_config(arch, metadata, tensors)
    config = families.of_type(arch).from_hf(raw)
    files = gguf_tokenizer.files(metadata, raw['max_position_embeddings'])
    _check(config, tensors)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  generation = json.loads(files['generation_config.json'])
  raw = families.of_config(config).to_hf(config) | {
    'max_position_embeddings': raw['max_position_embeddings'],
    **{k: v for k, v in generation.items() if k.endswith('_token_id')},
  }
  return File(path, config, raw, files, tensors, permuted=arch == 'llama')


def load(file: File, *, shardings: PyTree = None, dtype=jnp.float32) -> PyTree:
  """Parameters, dequantised, as `transformer.declare`s them.

  Args:
    file: from `read`.
    shardings, dtype: as in `hf.load`.

  Raises:
    ValueError: a type of quantisation that the package `gguf` cannot undo.
  """

  def fetch(path, layer, index):
    tensor = file.tensors[NAMES[path].format(layer)]
    if file.permuted and path in ('layers/q', 'layers/k'):
      whole = _dequantise(file.path, tensor, slice(None))
      return _unpermute(whole, file.config.head_dim)[index]
    rows, *columns = index
    return _dequantise(file.path, tensor, rows)[:, *columns]

  declared = transformer.declare(file.config)
  return stacking.assemble(declared, fetch, shardings=shardings, dtype=dtype)


def _open(path):
  try:
    import gguf
  except ImportError:
    raise ImportError(
      f"{path}: reading it needs the package gguf; pip install -e '.[gguf]'"
    ) from None
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file; name a .gguf file')
  try:
    return gguf.GGUFReader(path)
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise ValueError(
      f'{path}: damaged, cut short at {path.stat().st_size} bytes, or no GGUF '
      f'file ({error}); fetch it again'
    ) from None


def _hf_config(arch, metadata, tensors):
  """The file's metadata as the fields of a config.json."""
  families.of_type(arch)

  def get(key, *default):
    value = metadata.get(f'{arch}.{key}', *default)
    if value is None and not default:
      raise ValueError(f'metadata {arch}.{key} is missing; fetch it again')
    return value

  if get('expert_count', 0):
    raise ValueError('mixtures of experts are not supported')
  heads = get('attention.head_count')
  embed_dim = get('embedding_length')
  head_dim = get('attention.key_length', None)
  if head_dim is None:
    head_dim = embed_dim // heads
  if get('rope.dimension_count', head_dim) != head_dim:
    raise ValueError(
      f'RoPE over a part of head_dim={head_dim} is not supported'
    )
  return {
    'vocab_size': int(_shape(tensors, NAMES['embed'])[0]),
    'num_hidden_layers': get('block_count'),
    'hidden_size': embed_dim,
    'num_attention_heads': heads,
    'num_key_value_heads': get('attention.head_count_kv', heads),
    'head_dim': head_dim,
    'intermediate_size': get('feed_forward_length'),
    # Stored in float32: 1e-5 would read 9.999999747378752e-06.
    'rms_norm_eps': _short(get('attention.layer_norm_rms_epsilon')),
    'rope_theta': _short(get('rope.freq_base', 10_000.0)),
    'rope_scaling': _rope_scaling(get, head_dim, tensors),
    'max_position_embeddings': get('context_length'),
    'tie_word_embeddings': NAMES['head'] not in tensors,
  }


def _rope_scaling(get, head_dim, tensors):
  kind = get('rope.scaling.type', 'none')
  if _ROPE_TABLE not in tensors:
    if kind == 'none':
      return None
    return {'rope_type': kind, 'factor': get('rope.scaling.factor')}
  divisors = np.asarray(tensors[_ROPE_TABLE].data, np.float32)
  theta = get('rope.freq_base', 10_000.0)
  scaling = ('llama3', float(divisors.max()), *_LLAMA3)
  plain, scaled = (
    attention.rope_frequencies(head_dim, theta=theta, scaling=s)
    for s in (None, scaling)
  )
  # Both sides are float32; other numbers would differ by whole percents.
  if not np.allclose(divisors, plain / scaled, rtol=1e-4):
    raise ValueError(
      f'{_ROPE_TABLE} is not that of Llama 3 with factor {scaling[1]:g}; use '
      'the Hugging Face folder of this model'
    )
  fields = (
    'rope_type',
    'factor',
    'low_freq_factor',
    'high_freq_factor',
    'original_max_position_embeddings',
  )
  return dict(zip(fields, scaling, strict=True))


def _check(config, tensors):
  """Fails unless the tensors are those of the model."""
  plan = stacking.plan(transformer.declare(config), NAMES)
  for name, planned in plan.items():
    if _shape(tensors, name) != planned.shape:
      raise ValueError(
        f'{name} has shape {_shape(tensors, name)} where the metadata imply '
        f'{planned.shape}; fetch it again'
      )
  left = sorted(set(tensors) - set(plan) - {_ROPE_TABLE})
  if left:
    raise ValueError(
      f'{len(left)} tensors have no place in the model, {left[0]} first; this '
      'model is not supported'
    )


def _shape(tensors, name):
  if name not in tensors:
    raise ValueError(f'tensor {name} is missing; fetch the file again')
  return tuple(int(n) for n in reversed(tensors[name].shape))


def _dequantise(path, tensor, rows):
  from gguf import quants

  try:
    return quants.dequantize(tensor.data[rows], tensor.tensor_type)
  except NotImplementedError:
    raise ValueError(
      f'{path}: {tensor.name} is {tensor.tensor_type.name}, which the package '
      'gguf does not dequantise; use a file of another quantisation'
    ) from None


def _unpermute(rows, head_dim):
  """Undoes llama.cpp's order for RoPE over neighbours: halves, not pairs."""
  pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
  return pairs.swapaxes(1, 2).reshape(rows.shape)


def _short(x):
  """The shortest float that rounds to the same float32."""
  return float(str(np.float32(x)))
