"""Which file knows which Hugging Face `model_type`; every published size.

A family is a module with SIZES, NAMES (our path -> tensor name), `from_hf`,
`to_hf` and `fits`; adding one is its file and an entry here.
"""

from types import ModuleType

from grpo_jax.models import llama, qwen2, qwen3
from grpo_jax.models.architecture import Config

FAMILIES = {'llama': llama, 'qwen2': qwen2, 'qwen3': qwen3}
SIZES = llama.SIZES | qwen2.SIZES | qwen3.SIZES


def of_type(model_type: str | None) -> ModuleType:
  """The family of a config.json's model_type."""
  if model_type not in FAMILIES:
    raise ValueError(
      f'config.json: model_type={model_type!r} is not supported; '
      f'use one of {", ".join(FAMILIES)}'
    )
  return FAMILIES[model_type]


def of_config(config: Config) -> ModuleType:
  """The family that a model born here is written as."""
  for family in FAMILIES.values():
    if family.fits(config):
      return family
  raise ValueError(
    f'no model family has qkv_bias={config.qkv_bias} together with '
    f'qk_norm={config.qk_norm}; set one of them to False'
  )
