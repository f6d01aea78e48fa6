"""Qwen2 and Qwen2.5 (`model_type` qwen2): sizes and checkpoint names.

Biases on q, k and v. Sizes as in the published config.json files of the base
models; fields as in `transformers`.
"""

import dataclasses

from grpo_jax.models import hf_config
from grpo_jax.models.architecture import Config

NAMES = hf_config.NAMES | {
  'layers/q_bias': 'model.layers.{}.self_attn.q_proj.bias',
  'layers/k_bias': 'model.layers.{}.self_attn.k_proj.bias',
  'layers/v_bias': 'model.layers.{}.self_attn.v_proj.bias',
}

_SMALLEST = Config(
  vocab_size=151_936,
  num_layers=24,
  embed_dim=896,
  num_heads=14,
  num_kv_heads=2,
  head_dim=64,
  mlp_dim=4864,
  rope_theta=1_000_000.0,
  norm_eps=1e-6,
  qkv_bias=True,
)

SIZES = {
  'qwen2_5_0_5b': _SMALLEST,
  'qwen2_5_1_5b': dataclasses.replace(
    _SMALLEST,
    num_layers=28,
    embed_dim=1536,
    num_heads=12,
    head_dim=128,
    mlp_dim=8960,
  ),
  'qwen2_5_7b': dataclasses.replace(
    _SMALLEST,
    vocab_size=152_064,
    num_layers=28,
    embed_dim=3584,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=18_944,
    tied_head=False,
  ),
  # norm_eps is 1e-6 in the instruct models of these two.
  'qwen2_5_14b': dataclasses.replace(
    _SMALLEST,
    vocab_size=152_064,
    num_layers=48,
    embed_dim=5120,
    num_heads=40,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=13_824,
    norm_eps=1e-5,
    tied_head=False,
  ),
  'qwen2_5_32b': dataclasses.replace(
    _SMALLEST,
    vocab_size=152_064,
    num_layers=64,
    embed_dim=5120,
    num_heads=40,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=27_648,
    norm_eps=1e-5,
    tied_head=False,
  ),
}


def fits(config: Config) -> bool:
  """Whether a model of these switches can be written as this family."""
  return config.qkv_bias and not config.qk_norm


def from_hf(raw: dict) -> Config:
  """Config of a parsed config.json; ValueError for what is not supported."""
  hf_config.reject_sliding_window(raw)
  return Config(**hf_config.read(raw), qkv_bias=True)


def to_hf(config: Config) -> dict:
  """A config.json that `transformers` loads."""
  raw = hf_config.write(
    config, model_type='qwen2', architecture='Qwen2ForCausalLM'
  )
  return raw | {'use_sliding_window': False}
