"""Distillation by SFT on Llama-3.1-8B, 32 chips of TPU v5p: R1, Table 6."""

from configs import distill


def get_config():
  return distill.get_config('llama_8b')
