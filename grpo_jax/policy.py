"""A policy: model, tokenizer, mesh, and where its parameters come from."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from grpo_jax import checkpoints, config, files, replicas, sharding
from grpo_jax import tokenizer as tokenizer_lib
from grpo_jax.models import families, gguf, hf, transformer
from grpo_jax.models import params as params_lib
from grpo_jax.structs import PyTree
from grpo_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Policy:
  """Everything about a policy but its numbers."""

  model: transformer.Config
  tokenizer: Tokenizer
  declared: PyTree  # of models.params.Param
  mesh: Mesh
  rules: Mapping  # 'train' and 'sample': logical axis -> mesh axes
  dtype: jnp.dtype  # of matmuls
  cache_dtype: jnp.dtype  # of branches being decoded
  attention: str  # of whole sequences: a function of models.causal
  # shardings -> step of the run's checkpoint, if it is one, fp32 parameters
  load: Callable[[PyTree], tuple[int | None, PyTree]]
  files: Mapping[str, str]  # texts of an HF folder, without the weights
  decoding: str = 'scores'  # attention of new tokens: a function of it

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """Every token that ends a completion."""
    return self.tokenizer.eos_ids

  def decode(self, ids: list[int]) -> str:
    """Text of a completion; tags and other special tokens are text in it."""
    return self.tokenizer.decode(ids, skip_special=False)

  def shardings(self, rules: str) -> PyTree:
    """A NamedSharding per parameter, by rules 'train' or 'sample'."""
    return sharding.param_shardings(self.declared, self.mesh, self.rules[rules])

  def rows(self, rules: str) -> sharding.Rows:
    """Where prompts and samples lie, by rules 'train' or 'sample'."""
    return sharding.Rows(self.mesh, self.rules[rules])

  def rows_read(self, prompts: int, samples: int) -> np.ndarray:
    """Which of so many prompts this process reads, [Q] bools.

    Those that it trains on, and all whose completions it grades: a host may
    sample for others too, as where several share the sampler's weights.

    Args:
      prompts: Q.
      samples: G, of which each is graded where it was sampled; 0 where it is
        moved to where it is trained on before.

    Raises:
      ValueError: it would train on what it does not grade.
    """
    train, sample = self.rows('train'), self.rows('sample')
    graded = jax.ShapeDtypeStruct((prompts, samples), bool)
    trained, sampled = (
      sharding.here(rows.of(graded), graded.shape) for rows in (train, sample)
    )
    if (trained > sampled).any():
      raise ValueError(
        'this process would train on completions that others sample and grade: '
        'let rules.sample split prompts and samples over the axes that '
        'rules.train does, or the first of them'
      )
    return train.here(prompts) | sample.here(prompts)

  def ways(self) -> dict[str, tuple[int, int, int]]:
    """By rules, over how many devices Q, G and C are split."""
    return {name: self.rows(name).ways for name in self.rules}

  def for_groups_of(self, size: int) -> 'Policy':
    """The same, prompts split also over devices that cannot split samples."""
    rules = dict(self.rules)
    for name, named in self.rules.items():
      if size % self.rows(name).ways[1]:
        axes = sharding.axes_of(named['prompts'])
        axes += sharding.axes_of(named['samples'])
        rules[name] = named | {'prompts': axes, 'samples': None}
    return dataclasses.replace(self, rules=rules)

  def replica(self) -> 'Policy':
    """One of `replicas.of` these: rows are not split over the others."""
    train = replicas.of_one(self.rules['train'])
    return dataclasses.replace(self, rules=dict(self.rules) | {'train': train})

  def params(self) -> PyTree:
    """The parameters it starts from, in fp32, by the training rules."""
    return self.checkpoint()[1]

  def checkpoint(self) -> tuple[int | None, PyTree]:
    """The same, after the step of the run that they are from, if any."""
    return self.load(self.shardings('train'))

  def write_model(self, workdir: str | os.PathLike) -> None:
    """Writes `workdir/model/`: all of an HF folder but the weights."""
    folder = pathlib.Path(workdir) / files.MODEL
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in self.files.items():
      (folder / name).write_text(text, encoding='utf-8')


def open_policy(cfg) -> Policy:
  """The policy that `cfg.init_from` names, or a fresh one.

  Raises:
    ValueError, FileNotFoundError: nothing usable is there; says what to do.
  """
  source = cfg.init_from
  if not source:
    model, tokenizer, load, texts = _fresh(cfg)
  elif source.endswith('.gguf'):
    model, tokenizer, load, texts = _from_gguf(source)
  elif (pathlib.Path(source) / files.MODEL).is_dir():
    model, tokenizer, load, texts = _from_run(source)
  else:
    model, tokenizer, load, texts = _from_folder(source)
  if tokenizer.vocab_size > model.vocab_size:
    raise ValueError(
      f'{source}: the tokenizer has {tokenizer.vocab_size} tokens, the model '
      f'rows for {model.vocab_size} only; they are not of the same model'
    )
  mesh = sharding.make_mesh(cfg.mesh)
  return Policy(
    model=model,
    tokenizer=tokenizer,
    declared=transformer.declare(model),
    mesh=mesh,
    rules=cfg.rules.to_dict(),
    dtype=dtype_of(cfg.dtype, mesh),
    cache_dtype=cache_dtype_of(cfg, mesh),
    attention=attention_of(cfg.attention, mesh),
    decoding=decoding_of(cfg),
    load=load,
    files=texts,
  )


def _fresh(cfg):
  if not cfg.tokenizer.alphabet:
    raise ValueError(
      'nothing to start from: set init_from to a run, a Hugging Face folder '
      'or a .gguf file, or tokenizer.alphabet for a fresh model'
    )
  tokenizer, model = _characters(cfg), fresh_model(cfg)
  declared = transformer.declare(model)

  def load(shardings):
    draw = functools.partial(params_lib.init, declared)
    key = jax.random.key(cfg.seed)
    return None, jax.jit(draw, out_shardings=shardings)(key)

  files = _tokenizer_texts(tokenizer) | {
    'config.json': json.dumps(families.of_config(model).to_hf(model), indent=2)
  }
  return model, tokenizer, load, files


def fresh_model(cfg) -> transformer.Config:
  """The sizes of a model born here, of cfg.model and cfg.tokenizer."""
  sizes = (
    'num_layers', 'embed_dim', 'num_heads', 'num_kv_heads', 'head_dim',
    'mlp_dim',
  )  # fmt: skip
  config.positive(cfg, *(f'model.{name}' for name in sizes))
  vocab_size = _characters(cfg).vocab_size
  return transformer.Config(**cfg.model.to_dict(), vocab_size=vocab_size)


def _characters(cfg):
  return tokenizer_lib.char(
    alphabet=cfg.tokenizer.alphabet, specials=tuple(cfg.tokenizer.specials)
  )


def _from_gguf(path):
  file = gguf.read(path)
  with tempfile.TemporaryDirectory() as folder:
    for name, text in file.files.items():
      (pathlib.Path(folder) / name).write_text(text, encoding='utf-8')
    tokenizer = tokenizer_lib.from_folder(folder)
  files = file.files | {'config.json': json.dumps(file.hf_config, indent=2)}
  load = lambda shardings: (None, gguf.load(file, shardings=shardings))
  return file.config, tokenizer, load, files


def _from_run(workdir):
  folder = pathlib.Path(workdir) / files.MODEL
  model = hf.read_config(folder)

  def load(shardings):
    if (pathlib.Path(workdir) / files.REWARD_MODEL).is_file():
      raise ValueError(
        f'{workdir} is a reward model and writes no text: name the run of a '
        'policy'
      )
    shapes = params_lib.abstract(transformer.declare(model))
    target = sharding.placed(shapes, shardings)
    return checkpoints.restore_params(workdir, target)

  return model, tokenizer_lib.from_folder(folder), load, _texts(folder)


def _from_folder(folder):
  model = hf.read_config(folder)
  load = lambda shardings: (None, hf.load(folder, shardings=shardings))
  return model, tokenizer_lib.from_folder(folder), load, _texts(folder)


def _tokenizer_texts(tokenizer):
  with tempfile.TemporaryDirectory() as folder:
    tokenizer.save(folder)
    return _texts(folder)


def _texts(folder):
  """Small text files of an HF folder: configs, tokenizer, template."""
  names = ('*.json', '*.jinja', 'vocab.txt', 'merges.txt')
  paths = [p for name in names for p in pathlib.Path(folder).glob(name)]
  return {
    p.name: p.read_text(encoding='utf-8')
    for p in sorted(paths)
    if not p.name.endswith('.safetensors.index.json')
  }


def dtype_of(name: str, mesh: Mesh) -> jnp.dtype:
  """Of `cfg.dtype` on these devices."""
  if name == 'auto':
    name = 'bfloat16' if sharding.on_tpu(mesh) else 'float32'
  if name not in ('bfloat16', 'float32'):
    raise ValueError(f'dtype={name!r} is not one of auto, bfloat16, float32')
  if name == 'float32' and sharding.on_tpu(mesh):
    # By default a TPU rounds the operands of fp32 products to bf16.
    jax.config.update('jax_default_matmul_precision', 'highest')
  return jnp.dtype(name)


def cache_dtype_of(cfg, mesh: Mesh) -> jnp.dtype:
  """Of `cfg.sample.cache_dtype` on these devices."""
  name = cfg.sample.cache_dtype
  config.one_of('sample.cache_dtype', name, ('auto', 'int8'))
  return jnp.dtype('int8') if name == 'int8' else dtype_of(cfg.dtype, mesh)


def attention_of(name: str, mesh: Mesh) -> str:
  """Of `cfg.attention` on these devices."""
  if name == 'auto':
    name = 'splash' if sharding.on_tpu(mesh) else 'full'
  config.one_of('attention', name, ('full', 'chunked', 'splash'))
  return name


def decoding_of(cfg) -> str:
  """Of `cfg.sample.decoding`."""
  name = cfg.sample.decoding
  config.one_of('sample.decoding', name, ('scores', 'kernel'))
  return name
