"""Model families: published sizes, and config.json read and written."""

import dataclasses

import pytest

from grpo_jax.models import families, params, transformer

# Parameters as published with each model (safetensors metadata).
PUBLISHED = {
  'llama3_2_1b': 1_235_814_400,
  'llama3_2_3b': 3_212_749_824,
  'llama3_1_8b': 8_030_261_248,
  'llama3_3_70b': 70_553_706_496,
  'smollm2_135m': 134_515_008,
  'smollm2_360m': 361_821_120,
  'smollm2_1_7b': 1_711_376_384,
  'qwen2_5_0_5b': 494_032_768,
  'qwen2_5_1_5b': 1_543_714_304,
  'qwen2_5_7b': 7_615_616_512,
  'qwen2_5_14b': 14_770_033_664,
  'qwen2_5_32b': 32_763_876_352,
  'qwen3_0_6b': 596_049_920,
  'qwen3_1_7b': 1_720_574_976,
  'qwen3_4b': 4_022_468_096,
  'qwen3_8b': 8_190_735_360,
}

LLAMA = {
  'model_type': 'llama',
  'vocab_size': 100,
  'num_hidden_layers': 2,
  'hidden_size': 32,
  'num_attention_heads': 4,
  'intermediate_size': 48,
}
QWEN = LLAMA | {'num_key_value_heads': 2}


def read(raw):
  return families.of_type(raw['model_type']).from_hf(raw)


def test_every_published_size_is_counted():
  assert PUBLISHED.keys() == families.SIZES.keys()


@pytest.mark.parametrize('name', PUBLISHED)
def test_number_of_parameters_is_the_published_one(name):
  declared = transformer.declare(families.SIZES[name])
  assert params.count(declared) == PUBLISHED[name]


@pytest.mark.parametrize('name', PUBLISHED)
def test_written_config_reads_back_equal(name):
  config = families.SIZES[name]
  raw = families.of_config(config).to_hf(config)
  assert read(raw) == config


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_parameter_has_a_name_in_the_checkpoint(name):
  config = families.SIZES[name]
  declared = transformer.declare(config)
  layers = {f'layers/{key}' for key in declared.pop('layers')}
  names = families.of_config(config).NAMES
  assert layers | declared.keys() <= names.keys()
  assert len(set(names.values())) == len(names)


def test_llama_with_only_the_required_fields_takes_the_defaults():
  assert read(LLAMA) == transformer.Config(
    vocab_size=100,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    mlp_dim=48,
    rope_theta=10_000.0,
    norm_eps=1e-6,
    tied_head=False,
  )


def test_absent_head_dim_of_qwen3_is_128_and_of_qwen2_follows_the_width():
  assert read(QWEN | {'model_type': 'qwen3'}).head_dim == 128
  assert read(QWEN | {'model_type': 'qwen2'}).head_dim == 8
  explicit = QWEN | {'model_type': 'qwen2', 'head_dim': 16}
  assert read(explicit).head_dim == 16


@pytest.mark.parametrize('model_type', ['llama', 'qwen2', 'qwen3'])
def test_version_4_and_5_of_rope_fields_read_alike(model_type):
  llama3 = {
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
  }
  raw = QWEN | {'model_type': model_type}
  old = raw | {
    'rope_theta': 5e5,
    'rope_scaling': {'rope_type': 'llama3', **llama3},
  }
  new = raw | {
    'rope_parameters': {
      'rope_type': 'llama3',
      'rope_theta': 5e5,
      'partial_rotary_factor': None,
      **llama3,
    },
  }
  assert read(old) == read(new)
  assert read(old).rope_theta == 5e5
  assert read(old).rope_scaling == ('llama3', 8.0, 1.0, 4.0, 8192)


def test_linear_rope_scaling_is_read_by_its_older_name_too():
  raw = LLAMA | {'rope_scaling': {'type': 'linear', 'factor': 2.0}}
  assert read(raw).rope_scaling == ('linear', 2.0)


def test_sliding_window_that_no_layer_uses_is_accepted():
  # As in the published Qwen2.5 files.
  unused = {'use_sliding_window': False, 'sliding_window': 131_072}
  read(QWEN | {'model_type': 'qwen2', **unused})
  above = {'use_sliding_window': True, 'max_window_layers': 2}
  read(QWEN | {'model_type': 'qwen2', **above})
  full = {'layer_types': ['full_attention'] * 2}
  read(QWEN | {'model_type': 'qwen3', **full})


WINDOW = {'use_sliding_window': True, 'max_window_layers': 1}
UNSUPPORTED = [
  ('llama', {'mlp_bias': True}, 'mlp_bias=True'),
  ('llama', {'attention_bias': True}, 'attention_bias=True'),
  ('llama', {'hidden_act': 'gelu'}, "hidden_act='gelu'"),
  ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
  ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 4}}, "'yarn'"),
  (
    'llama',
    {'rope_parameters': {'rope_type': 'dynamic', 'factor': 2}},
    "'dynamic'",
  ),
  (
    'llama',
    {'rope_parameters': {'full_attention': {'rope_theta': 1e4}}},
    'differ between layers',
  ),
  ('llama', {'rope_scaling': {'rope_type': 'llama3', 'factor': 8}}, 'lacks'),
  ('llama', {'quantization_config': {'bits': 4}}, 'quantization_config'),
  ('llama', {'num_attention_heads': 5}, 'does not divide'),
  ('llama', {'num_key_value_heads': 3}, 'must be a multiple'),
  ('llama', {'vocab_size': None}, 'vocab_size=None'),
  ('llama', {'hidden_size': '32'}, "hidden_size='32'"),
  ('llama', {'rms_norm_eps': None}, 'rms_norm_eps=None is no number'),
  ('llama', {'rope_theta': None}, 'rope_theta=None is no number'),
  (
    'llama',
    {'rope_scaling': {'type': 'linear', 'factor': '8'}},
    "factor='8' is no number",
  ),
  ('qwen2', WINDOW, 'sliding_attention'),
  ('qwen3', WINDOW, 'sliding_attention'),
  ('qwen3', {'layer_types': ['sliding_attention'] * 2}, 'sliding_attention'),
  ('qwen3', {'attention_bias': True}, 'attention_bias=True'),
  ('mistral', {}, "model_type='mistral'"),
]


@pytest.mark.parametrize(('model_type', 'change', 'message'), UNSUPPORTED)
def test_unsupported_config_is_one_line_naming_the_field(
  model_type, change, message
):
  with pytest.raises(ValueError, match=message) as error:
    read(QWEN | {'model_type': model_type} | change)
  assert '\n' not in str(error.value)


def test_config_of_no_family_is_refused():
  config = dataclasses.replace(families.SIZES['qwen3_0_6b'], qkv_bias=True)
  with pytest.raises(ValueError, match='qkv_bias=True together with'):
    families.of_config(config)
