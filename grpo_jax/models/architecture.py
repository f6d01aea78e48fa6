"""Sizes and switches that tell the decoders of all families apart."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and switches of a decoder; hashable, so static under jit."""

  vocab_size: int
  num_layers: int
  embed_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  rope_theta: float = 10_000.0
  rope_scaling: tuple | None = None  # see attention.rope_frequencies
  norm_eps: float = 1e-6
  qkv_bias: bool = False
  qk_norm: bool = False
  tied_head: bool = True

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'model.num_heads={self.num_heads} must be a multiple of '
        f'model.num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(
        f'model.head_dim={self.head_dim} must be even: RoPE turns pairs'
      )
