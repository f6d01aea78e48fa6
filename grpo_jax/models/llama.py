"""Llama 3.x and SmolLM2 (`model_type` llama): sizes and checkpoint names.

Sizes as in the published config.json files; fields as in `transformers`.
"""

import dataclasses

from grpo_jax.models import hf_config
from grpo_jax.models.architecture import Config

NAMES = hf_config.NAMES

_LLAMA = Config(
  vocab_size=128_256,
  num_layers=16,
  embed_dim=2048,
  num_heads=32,
  num_kv_heads=8,
  head_dim=64,
  mlp_dim=8192,
  rope_theta=500_000.0,
  rope_scaling=('llama3', 32.0, 1.0, 4.0, 8192),
  norm_eps=1e-5,
)
_SMOLLM2 = Config(
  vocab_size=49_152,
  num_layers=30,
  embed_dim=576,
  num_heads=9,
  num_kv_heads=3,
  head_dim=64,
  mlp_dim=1536,
  rope_theta=100_000.0,
  norm_eps=1e-5,
)

SIZES = {
  'llama3_2_1b': _LLAMA,
  'llama3_2_3b': dataclasses.replace(
    _LLAMA, num_layers=28, embed_dim=3072, num_heads=24, head_dim=128
  ),
  'llama3_1_8b': dataclasses.replace(
    _LLAMA,
    num_layers=32,
    embed_dim=4096,
    head_dim=128,
    mlp_dim=14_336,
    rope_scaling=('llama3', 8.0, 1.0, 4.0, 8192),
    tied_head=False,
  ),
  'llama3_3_70b': dataclasses.replace(
    _LLAMA,
    num_layers=80,
    embed_dim=8192,
    num_heads=64,
    head_dim=128,
    mlp_dim=28_672,
    rope_scaling=('llama3', 8.0, 1.0, 4.0, 8192),
    tied_head=False,
  ),
  'smollm2_135m': _SMOLLM2,
  'smollm2_360m': dataclasses.replace(
    _SMOLLM2,
    num_layers=32,
    embed_dim=960,
    num_heads=15,
    num_kv_heads=5,
    mlp_dim=2560,
  ),
  'smollm2_1_7b': dataclasses.replace(
    _SMOLLM2,
    num_layers=24,
    embed_dim=2048,
    num_heads=32,
    num_kv_heads=32,
    mlp_dim=8192,
    rope_theta=130_000.0,
  ),
}


def fits(config: Config) -> bool:
  """Whether a model of these switches can be written as this family."""
  return not config.qkv_bias and not config.qk_norm


def from_hf(raw: dict) -> Config:
  """Config of a parsed config.json; ValueError for what is not supported."""
  # With attention_bias the output projection has a bias as well.
  hf_config.require(raw, 'attention_bias', False)
  hf_config.require(raw, 'mlp_bias', False)
  return Config(**hf_config.read(raw))


def to_hf(config: Config) -> dict:
  """A config.json that `transformers` loads."""
  raw = hf_config.write(
    config, model_type='llama', architecture='LlamaForCausalLM'
  )
  return raw | {'attention_bias': False, 'mlp_bias': False}
