"""Fields of a Hugging Face config.json that the decoder families share.

Used by llama.py, qwen2.py and qwen3.py, never during a step. Whatever the
decoder cannot do is an error here: a field that is silently ignored shows
only as gibberish in the rollouts.
"""

from grpo_jax.models.architecture import Config

# Weights are [out, in] on both sides: names map one to one, by reshape alone.
NAMES = {
  'embed': 'model.embed_tokens.weight',
  'layers/attn_norm': 'model.layers.{}.input_layernorm.weight',
  'layers/q': 'model.layers.{}.self_attn.q_proj.weight',
  'layers/k': 'model.layers.{}.self_attn.k_proj.weight',
  'layers/v': 'model.layers.{}.self_attn.v_proj.weight',
  'layers/o': 'model.layers.{}.self_attn.o_proj.weight',
  'layers/mlp_norm': 'model.layers.{}.post_attention_layernorm.weight',
  'layers/gate': 'model.layers.{}.mlp.gate_proj.weight',
  'layers/up': 'model.layers.{}.mlp.up_proj.weight',
  'layers/down': 'model.layers.{}.mlp.down_proj.weight',
  'final_norm': 'model.norm.weight',
  'head': 'lm_head.weight',
}


def read(raw: dict, *, head_dim: int | None = None) -> dict:
  """Keyword arguments of `Config` that every family reads alike.

  Absent fields get the defaults of `transformers`. Reads the layout of
  version 4 (`rope_theta`, `rope_scaling`) and of version 5
  (`rope_parameters`).

  Args:
    raw: the parsed config.json.
    head_dim: for a family whose absent head_dim is not embed_dim / num_heads.

  Raises:
    ValueError: a field is missing, malformed or asks for something that the
      decoder cannot do.
  """
  require(raw, 'hidden_act', 'silu')
  if raw.get('quantization_config') is not None:
    raise ValueError(
      'config.json: quantization_config is set; quantised safetensors are '
      'not read, use the bf16 checkpoint of the same model or a GGUF file'
    )
  embed_dim = _size(raw, 'hidden_size')
  num_heads = _size(raw, 'num_attention_heads')
  if raw.get('head_dim') is not None:
    head_dim = _size(raw, 'head_dim')
  elif head_dim is None:
    if embed_dim % num_heads:
      raise ValueError(
        f'config.json: hidden_size={embed_dim} does not divide into '
        f'num_attention_heads={num_heads}; set head_dim'
      )
    head_dim = embed_dim // num_heads
  kv_heads = num_heads
  if raw.get('num_key_value_heads') is not None:
    kv_heads = _size(raw, 'num_key_value_heads')
  theta, scaling = _rope(raw)
  return {
    'vocab_size': _size(raw, 'vocab_size'),
    'num_layers': _size(raw, 'num_hidden_layers'),
    'embed_dim': embed_dim,
    'num_heads': num_heads,
    'num_kv_heads': kv_heads,
    'head_dim': head_dim,
    'mlp_dim': _size(raw, 'intermediate_size'),
    'rope_theta': theta,
    'rope_scaling': scaling,
    'norm_eps': _number(raw, 'rms_norm_eps', 1e-6),
    'tied_head': bool(raw.get('tie_word_embeddings', False)),
  }


def write(config: Config, *, model_type: str, architecture: str) -> dict:
  """A config.json for a model without a source folder.

  The layout of version 4, which version 5 also reads. Special tokens are null,
  because the defaults of `transformers` would make ids 1 and 2 special;
  generation_config.json is where they belong. The decoder has no maximum
  length; the field only informs other software.
  """
  scaling, max_positions = None, 32_768
  if config.rope_scaling is not None:
    kind, factor, *rest = config.rope_scaling
    scaling = {'rope_type': kind, 'factor': factor}
    if kind == 'llama3':
      low, high, original = rest
      max_positions = int(original * factor)
      scaling |= {
        'low_freq_factor': low,
        'high_freq_factor': high,
        'original_max_position_embeddings': original,
      }
  return {
    'architectures': [architecture],
    'model_type': model_type,
    'vocab_size': config.vocab_size,
    'num_hidden_layers': config.num_layers,
    'hidden_size': config.embed_dim,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'intermediate_size': config.mlp_dim,
    'hidden_act': 'silu',
    'rms_norm_eps': config.norm_eps,
    'rope_theta': config.rope_theta,
    'rope_scaling': scaling,
    'max_position_embeddings': max_positions,
    'tie_word_embeddings': config.tied_head,
    'bos_token_id': None,
    'eos_token_id': None,
    'pad_token_id': None,
  }


def require(raw: dict, field: str, value) -> None:
  """Fails unless a field is absent, null or the one supported value."""
  found = raw.get(field)
  if found is not None and found != value:
    raise ValueError(
      f'config.json: {field}={found!r} is not supported, only {value!r}; '
      'convert the model or choose another checkpoint'
    )


def reject_sliding_window(raw: dict) -> None:
  """Fails if any layer attends to a window (Qwen's three ways to say so)."""
  layers = _size(raw, 'num_hidden_layers')
  window = (
    raw.get('use_sliding_window', False)
    and raw.get('sliding_window', 4096) is not None
    and raw.get('max_window_layers', 28) < layers
  )
  kinds = set(raw.get('layer_types') or ()) - {'full_attention'}
  if raw.get('layer_types') is None and window:
    kinds = {'sliding_attention'}
  if kinds:
    raise ValueError(
      f'config.json: attention of kind {sorted(kinds)} is not supported, only '
      'full attention; set use_sliding_window to false if the model allows it'
    )


def _size(raw, field):
  value = raw.get(field)
  if not isinstance(value, int) or value < 1:
    raise ValueError(
      f'config.json: {field}={value!r} is not a positive integer; '
      'fetch the file again from where the model came'
    )
  return value


def _number(raw, field, default):
  value = raw.get(field, default)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(
      f'config.json: {field}={value!r} is no number; fetch the file again from '
      'where the model came'
    )
  return float(value) if isinstance(default, float) else value


def _rope(raw):
  """Base and `Config.rope_scaling`."""
  rope = raw.get('rope_parameters') or raw.get('rope_scaling') or {}
  if any(isinstance(v, dict) for v in rope.values()):
    raise ValueError(
      'config.json: rope_parameters differ between layers, which is not '
      'supported; choose another checkpoint'
    )
  for fields in (raw, rope):
    require(fields, 'partial_rotary_factor', 1.0)
  theta = _number(rope, 'rope_theta', _number(raw, 'rope_theta', 10_000.0))
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind == 'default':
    return theta, None
  fields = {
    'linear': ('factor',),
    'llama3': (
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'original_max_position_embeddings',
    ),
  }
  if kind not in fields:
    raise ValueError(
      f'config.json: rope type {kind!r} is not supported, only default, linear '
      'and llama3; remove rope_scaling to use the original context length'
    )
  missing = [f for f in fields[kind] if f not in rope]
  if missing:
    raise ValueError(
      f'config.json: rope type {kind!r} lacks {missing}; add what is missing'
    )
  return theta, (kind, *(_number(rope, f, None) for f in fields[kind]))
