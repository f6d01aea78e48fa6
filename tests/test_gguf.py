"""GGUF files: the same parameters and tokens as the folder they stand for.

The files are written here with the `gguf` package from the reference folders;
the real one is in tests/parity.
"""

import dataclasses
import json
import math
from pathlib import Path
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer

from grpo_jax.models import gguf, hf

package = pytest.importorskip('gguf')

REFERENCE = Path(__file__).parent / 'reference'
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
SPECIAL = ['<|end|>', '<|start|>', '<|eot|>', '<think>']
ALPHABET = [*'abcdefgh', *'0123456789', 'Ġ', 'Ċ', "'", 's']
MERGES = ['a b', 'Ġ ab', '1 2', '12 3', 'Ċ Ċ', 'Ġ Ġ', "' s"]
TOKENS = [*SPECIAL, *ALPHABET, *(m.replace(' ', '') for m in MERGES)]
VOCABULARY = 64  # of the reference models: the rest is padding


def llama_cpp_permute(weights, heads):
  """As convert_hf_to_gguf.py writes q and k of llama models."""
  halves = weights.reshape(heads, 2, -1, *weights.shape[1:])
  return halves.swapaxes(1, 2).reshape(weights.shape)


def tensors_of(family, params):
  """GGUF names -> arrays of the stacked parameters."""
  out = {}
  for path, name in gguf.NAMES.items():
    group = params['layers'] if path.startswith('layers/') else params
    key = path.split('/')[-1]
    if key not in group:
      continue
    array = np.asarray(group[key])
    if path.startswith('layers/'):
      for i, x in enumerate(array):
        out[name.format(i)] = x
    else:
      out[name] = array
  flat = {}
  for name, x in out.items():
    if name.endswith(('attn_q.weight', 'attn_k.weight')):
      heads = x.shape[0]
      x = x.reshape(-1, x.shape[-1])
      if family == 'llama':
        x = llama_cpp_permute(x, heads)
    elif name.endswith('attn_v.weight'):
      x = x.reshape(-1, x.shape[-1])
    elif name.endswith('attn_output.weight'):
      x = x.reshape(x.shape[0], -1)
    elif name.endswith('.bias'):
      x = x.reshape(-1)
    flat[name] = x
  return flat


def metadata_of(family, config):
  return {
    f'{family}.block_count': config.num_layers,
    f'{family}.context_length': 512,
    f'{family}.embedding_length': config.embed_dim,
    f'{family}.feed_forward_length': config.mlp_dim,
    f'{family}.attention.head_count': config.num_heads,
    f'{family}.attention.head_count_kv': config.num_kv_heads,
    f'{family}.attention.key_length': config.head_dim,
    f'{family}.attention.layer_norm_rms_epsilon': config.norm_eps,
    f'{family}.rope.freq_base': config.rope_theta,
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': TOKENS
    + [f'[PAD{i}]' for i in range(len(TOKENS), VOCABULARY)],
    'tokenizer.ggml.token_type': [CONTROL] * 3
    + [USER_DEFINED]
    + [NORMAL] * (len(TOKENS) - 4)
    + [UNUSED] * (VOCABULARY - len(TOKENS)),
    'tokenizer.ggml.merges': MERGES,
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 0,
    'tokenizer.ggml.eot_token_id': 2,
    'tokenizer.ggml.padding_token_id': 0,
    'tokenizer.chat_template': '{{ messages[0].content }}',
  }


def write(path, family, *, metadata=None, tensors=None, types=None):
  """A GGUF file of a reference folder with changes; None removes."""
  folder = REFERENCE / family
  config = hf.read_config(folder)
  metadata = metadata_of(family, config) | (metadata or {})
  tensors = tensors_of(family, hf.load(folder)) | (tensors or {})
  writer = package.GGUFWriter(path, metadata.pop('architecture', family))
  for key, value in metadata.items():
    if isinstance(value, str):
      writer.add_string(key, value)
    elif isinstance(value, bool):
      writer.add_bool(key, value)
    elif isinstance(value, float):
      writer.add_float32(key, value)
    elif isinstance(value, list):
      writer.add_array(key, value)
    elif value is not None:
      writer.add_uint32(key, value)
  for name, x in tensors.items():
    if x is None:
      continue
    kind = (types or {}).get(name)
    if kind is not None:
      x = package.quants.quantize(np.asarray(x, np.float32), kind)
    writer.add_tensor(name, np.ascontiguousarray(x), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3'])
def test_parameters_and_config_equal_those_of_the_folder(family, tmp_path):
  file = gguf.read(write(tmp_path / 'x.gguf', family))
  expected = hf.load(REFERENCE / family)
  jax.tree.map(np.testing.assert_array_equal, gguf.load(file), expected)
  config = hf.read_config(REFERENCE / family)
  if family == 'llama':  # The file has no table of its scaling.
    config = dataclasses.replace(config, rope_scaling=None)
  assert file.config == config


def test_quantised_weights_are_within_half_a_step(tmp_path):
  name, kind = 'blk.1.attn_q.weight', package.GGMLQuantizationType.Q8_0
  path = write(tmp_path / 'x.gguf', 'llama', types={name: kind})
  found = gguf.load(gguf.read(path))['layers']
  expected = hf.load(REFERENCE / 'llama')['layers']
  np.testing.assert_array_equal(found['q'][0], expected['q'][0])
  # A block is a row of 32: steps of its largest value / 127. The step itself
  # is rounded to float16, by up to 2**-11 of it at each of the 127 steps.
  rows = np.asarray(expected['q'][1]).reshape(-1, 32)
  step = np.abs(rows).max(1, keepdims=True) / 127
  error = np.abs(np.asarray(found['q'][1]).reshape(-1, 32) - rows)
  assert np.all(error <= step * (0.5 + 127 * 2**-11))
  assert error.max() > 0


@pytest.mark.parametrize('family', ['llama', 'qwen3'])
def test_slices_of_a_mesh_equal_the_whole(family, tmp_path):
  file = gguf.read(write(tmp_path / 'x.gguf', family))
  whole = gguf.load(file)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('x',))

  def sharding(array):
    # The last axis but one: heads of o, rows or head_dim of the others.
    spec = [None] * array.ndim
    if array.ndim > 1:
      spec[-2] = 'x'
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  shardings = jax.tree.map(sharding, whole)
  found = gguf.load(file, shardings=shardings)
  jax.tree.map(np.testing.assert_array_equal, found, whole)


def llama3_table(head_dim, theta, factor, low, high, original):
  """As convert_hf_to_gguf.py writes rope_freqs.weight."""
  out = []
  for i in range(0, head_dim, 2):
    wavelength = 2 * math.pi * theta ** (i / head_dim)
    if wavelength < original / high:
      out.append(1.0)
    elif wavelength > original / low:
      out.append(factor)
    else:
      smooth = (original / wavelength - low) / (high - low)
      out.append(1 / ((1 - smooth) / factor + smooth))
  return np.array(out, np.float32)


def test_rope_table_of_llama_3_becomes_its_scaling(tmp_path):
  base = {'llama.rope.freq_base': 500_000.0}
  table = llama3_table(8, 500_000.0, 32.0, 1.0, 4.0, 8192)
  path = write(
    tmp_path / 'x.gguf',
    'llama',
    metadata=base,
    tensors={'rope_freqs.weight': table},
  )
  scaling = gguf.read(path).config.rope_scaling
  assert scaling == ('llama3', 32.0, 1.0, 4.0, 8192)


def export(path, folder, *flags):
  """What `make smollm2` does with its file."""
  where = (f'--init_from={path}', f'--out={folder}')
  done = tiny.job('export', '--config=', *where, *flags)
  assert done.code == 0, done.err


def test_exported_folder_has_model_tokenizer_and_template(tmp_path):
  path = write(tmp_path / 'x.gguf', 'qwen2')
  export(path, tmp_path / 'out', '--dtype=bfloat16')
  file = gguf.read(path)
  assert hf.read_config(tmp_path / 'out') == file.config
  expected = gguf.load(file, dtype=jnp.bfloat16)
  found = hf.load(tmp_path / 'out', dtype=jnp.bfloat16)
  jax.tree.map(np.testing.assert_array_equal, found, expected)

  def read(name):
    return json.loads((tmp_path / 'out' / name).read_text())

  config = read('config.json')
  assert config['torch_dtype'] == 'bfloat16'
  assert config['eos_token_id'] == [0, 2]
  assert config['max_position_embeddings'] == 512
  assert config['rms_norm_eps'] == 1e-6
  generation = read('generation_config.json')
  ids = {'bos_token_id': 1, 'eos_token_id': [0, 2], 'pad_token_id': 0}
  assert generation == ids
  tokenizer = read('tokenizer_config.json')
  assert tokenizer['chat_template'] == '{{ messages[0].content }}'
  assert tokenizer['eos_token'] == '<|end|>'
  assert (tmp_path / 'out' / 'tokenizer.json').is_file()


def test_training_from_a_file_equals_training_from_its_folder(tmp_path):
  path = write(tmp_path / 'x.gguf', 'qwen2')
  export(path, tmp_path / 'folder')
  data = tmp_path / 'data.jsonl'
  rows = (dict(question=f'ab {i}', answer=str(i)) for i in range(8))
  data.write_text('\n'.join(json.dumps(row) for row in rows))
  config = tmp_path / 'config.py'
  config.write_text(f"""
import tiny


def get_config():
  c = tiny.get_config()
  c.task = dict(name='jsonl', path={str(data)!r}, split='train',
                test_share=0.5, prompt_field='question',
                answer_field='answer', verifier='number')
  c.steps = 3
  c.algorithm.kl_coef = 0.0
  return c
""")
  found = []
  for start in ('x.gguf', 'folder'):
    flags = (f'--config={config}', f'--init_from={tmp_path / start}')
    done = tiny.job('train', f'--workdir={tmp_path}/of_{start}', *flags)
    assert done.code == 0, done.err
    found.append(tiny.rows(tmp_path / f'of_{start}'))
  assert found[0] == found[1]
  assert any(row.get('grad_norm', 0) > 0 for row in found[0])


def tokenizer_of(path):
  return Tokenizer.from_str(gguf.read(path).files['tokenizer.json'])


@pytest.mark.parametrize(
  ('pre', 'text', 'tokens'),
  [
    # SmolLM2 cuts out single digits before anything else, so blanks before a
    # digit stay together; GPT-2 keeps one blank for the number.
    ('smollm', 'ab ab123', ['ab', 'Ġab', '1', '2', '3']),
    ('smollm', '\n\n1  2', ['ĊĊ', '1', 'ĠĠ', '2']),
    ('gpt-2', '\n\n1  2', ['Ċ', 'Ċ', '1', 'Ġ', 'Ġ', '2']),
    ('gpt-2', 'ab123', ['ab', '123']),
    # Qwen2 cuts single digits, Llama 3 up to three.
    ('qwen2', 'ab123', ['ab', '1', '2', '3']),
    ('llama-bpe', '1231', ['123', '1']),
    ('llama-bpe', "a's", ['a', "'s"]),
    # Special tokens are found in text; blanks beside them stay.
    ('smollm', 'a<think> ab<|end|>', ['a', '<think>', 'Ġab', '<|end|>']),
  ],
)
def test_text_is_cut_as_its_pre_tokenizer_says(pre, text, tokens, tmp_path):
  metadata = {'tokenizer.ggml.pre': pre}
  path = write(tmp_path / 'x.gguf', 'qwen2', metadata=metadata)
  tokenizer = tokenizer_of(path)
  encoded = tokenizer.encode(text, add_special_tokens=False)
  assert encoded.tokens == tokens
  assert encoded.ids == [TOKENS.index(token) for token in tokens]
  assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_padding_rows_are_no_tokens_and_only_control_tokens_are_special(
  tmp_path,
):
  tokenizer = tokenizer_of(write(tmp_path / 'x.gguf', 'qwen2'))
  assert tokenizer.get_vocab_size() == len(TOKENS)
  ids = [TOKENS.index(t) for t in ('a', '<think>', '<|eot|>', 'b', '<|end|>')]
  assert tokenizer.decode(ids) == 'a<think>b'


def test_first_token_is_added_only_if_the_file_says_so(tmp_path):
  says = {'tokenizer.ggml.add_bos_token': True}
  tokenizer = tokenizer_of(write(tmp_path / 'x', 'qwen2', metadata=says))
  assert tokenizer.encode('ab').tokens == ['<|start|>', 'ab']
  tokenizer = tokenizer_of(write(tmp_path / 'y', 'qwen2'))
  assert tokenizer.encode('ab').tokens == ['ab']


def test_files_of_llama_3_need_not_say_that_a_first_token_is_added(tmp_path):
  says = {'tokenizer.ggml.pre': 'llama-bpe'}
  tokenizer = tokenizer_of(write(tmp_path / 'x', 'llama', metadata=says))
  assert tokenizer.encode('ab').tokens == ['<|start|>', 'ab']
  says['tokenizer.ggml.add_bos_token'] = False
  tokenizer = tokenizer_of(write(tmp_path / 'y', 'llama', metadata=says))
  assert tokenizer.encode('ab').tokens == ['ab']


UNSUPPORTED = [
  ({'architecture': 'gemma'}, {}, "model_type='gemma'"),
  ({'split.count': 2}, {}, 'one part of several; .*--merge'),
  ({'llama.block_count': None}, {}, 'llama.block_count is missing'),
  ({'llama.expert_count': 8}, {}, 'mixtures of experts'),
  ({'llama.rope.dimension_count': 4}, {}, 'part of head_dim=8'),
  ({'llama.rope.scaling.type': 'yarn'}, {}, 'llama.rope.scaling.factor'),
  (
    {'llama.feed_forward_length': 25},
    {},
    'ffn_down.weight has shape',
  ),
  ({'tokenizer.ggml.model': 'llama'}, {}, "tokenizer.ggml.model='llama'"),
  ({'tokenizer.ggml.pre': 'tekken'}, {}, "tokenizer.ggml.pre='tekken'"),
  ({'tokenizer.ggml.merges': None}, {}, 'tokenizer.ggml.merges is missing'),
  ({}, {'blk.1.ffn_up.weight': None}, 'blk.1.ffn_up.weight is missing'),
  ({}, {'blk.0.attn_q.bias': np.zeros(32, np.float32)}, 'attn_q.bias first'),
  (
    {},
    {'rope_freqs.weight': np.array([1, 1, 2, 4], np.float32)},
    'not that of Llama 3 with factor 4',
  ),
]


@pytest.mark.parametrize(('metadata', 'tensors', 'message'), UNSUPPORTED)
def test_unsupported_file_is_one_line_that_names_it(
  metadata, tensors, message, tmp_path
):
  path = tmp_path / 'x.gguf'
  write(path, 'llama', metadata=metadata, tensors=tensors)
  with pytest.raises(ValueError, match=message) as error:
    gguf.read(path)
  assert '\n' not in str(error.value)
  assert str(error.value).startswith(str(path))


@pytest.mark.parametrize('keep', [0, 3, 100, 2000, -500])
def test_damaged_file_is_one_line_that_names_it(keep, tmp_path):
  path = write(tmp_path / 'x.gguf', 'llama')
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match='damaged, cut short') as error:
    gguf.read(path)
  assert '\n' not in str(error.value)
  assert str(error.value).startswith(str(path))


def test_missing_file_and_missing_package_are_named(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match='absent.gguf: no such file'):
    gguf.read(tmp_path / 'absent.gguf')
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(ImportError, match=r"pip install -e '\.\[gguf\]'"):
    gguf.read(tmp_path / 'x.gguf')
