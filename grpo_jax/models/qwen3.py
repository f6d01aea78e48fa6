"""Qwen3 dense (`model_type` qwen3): sizes and checkpoint names.

Norms of q and k over each head. Sizes as in the published config.json files;
fields as in `transformers`.
"""

import dataclasses

from grpo_jax.models import hf_config
from grpo_jax.models.architecture import Config

NAMES = hf_config.NAMES | {
  'layers/q_norm': 'model.layers.{}.self_attn.q_norm.weight',
  'layers/k_norm': 'model.layers.{}.self_attn.k_norm.weight',
}

_SMALLEST = Config(
  vocab_size=151_936,
  num_layers=28,
  embed_dim=1024,
  num_heads=16,
  num_kv_heads=8,
  head_dim=128,
  mlp_dim=3072,
  rope_theta=1_000_000.0,
  norm_eps=1e-6,
  qk_norm=True,
)

SIZES = {
  'qwen3_0_6b': _SMALLEST,
  'qwen3_1_7b': dataclasses.replace(_SMALLEST, embed_dim=2048, mlp_dim=6144),
  'qwen3_4b': dataclasses.replace(
    _SMALLEST, num_layers=36, embed_dim=2560, num_heads=32, mlp_dim=9728
  ),
  'qwen3_8b': dataclasses.replace(
    _SMALLEST,
    num_layers=36,
    embed_dim=4096,
    num_heads=32,
    mlp_dim=12_288,
    tied_head=False,
  ),
}


def fits(config: Config) -> bool:
  """Whether a model of these switches can be written as this family."""
  return config.qk_norm and not config.qkv_bias


def from_hf(raw: dict) -> Config:
  """Config of a parsed config.json; ValueError for what is not supported."""
  hf_config.require(raw, 'attention_bias', False)
  hf_config.reject_sliding_window(raw)
  # Unlike the other families, an absent head_dim is 128.
  return Config(**hf_config.read(raw, head_dim=128), qk_norm=True)


def to_hf(config: Config) -> dict:
  """A config.json that `transformers` loads."""
  raw = hf_config.write(
    config, model_type='qwen3', architecture='Qwen3ForCausalLM'
  )
  return raw | {'attention_bias': False, 'use_sliding_window': False}
