"""Tokenizer files of a Hugging Face folder from the metadata of a GGUF file.

Below gguf.py. Only byte-level BPE ('gpt2' in GGUF), which is what Llama 3,
SmolLM2 and Qwen have.
"""

import json

from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  Regex,
  Tokenizer,
)

# Values of tokenizer.ggml.token_type.
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5

_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}"
  r'| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN2 = _SPLIT.format(number=r'\p{N}')
_LLAMA3 = _SPLIT.format(number=r'\p{N}{1,3}')
# tokenizer.ggml.pre -> how text is cut before merging.
_PRE = {
  'qwen2': _QWEN2,
  'deepseek-r1-qwen': _QWEN2,
  'llama-bpe': _LLAMA3,
  'llama3': _LLAMA3,
  'llama-v3': _LLAMA3,
  'smollm': None,
  'gpt-2': None,
}


def files(metadata: dict, max_length: int) -> dict[str, str]:
  """Texts by file name.

  Args:
    metadata: of the GGUF file, by key.
    max_length: the model's context, in tokens.

  Returns:
    tokenizer.json, tokenizer_config.json with the chat template, and
    generation_config.json with every end-of-text id.

  Raises:
    ValueError: another kind of tokenizer, or something is missing.
  """
  kind = metadata.get('tokenizer.ggml.model')
  if kind != 'gpt2':
    raise ValueError(
      f'tokenizer.ggml.model={kind!r} is not supported, only gpt2 (byte-level '
      'BPE); use the Hugging Face folder of this model'
    )
  ids = _special_ids(metadata)
  tokens = _need(metadata, 'tokens')
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': max_length,
    'clean_up_tokenization_spaces': False,
    **{f'{name}_token': tokens[i] for name, i in ids.items()},
  }
  if 'tokenizer.chat_template' in metadata:
    config['chat_template'] = metadata['tokenizer.chat_template']
  generation = {
    f'{name}_token_id': i for name, i in ids.items() if name != 'unk'
  }
  ends = [ids.get('eos')] + [
    metadata.get(f'tokenizer.ggml.{end}_token_id') for end in ('eot', 'eom')
  ]
  ends = list(dict.fromkeys(i for i in ends if i is not None))
  if ends:
    generation['eos_token_id'] = ends if len(ends) > 1 else ends[0]
  return {
    'tokenizer.json': _build(metadata, ids).to_str(pretty=True),
    'tokenizer_config.json': _dump(config),
    'generation_config.json': _dump(generation),
  }


def _build(metadata, ids):
  """A `tokenizers.Tokenizer`."""
  tokens, types = _need(metadata, 'tokens'), _need(metadata, 'token_type')
  size = len(tokens)
  # Rows that only pad the embedding are no tokens: they must not be sampled.
  while size and types[size - 1] == _UNUSED:
    size -= 1
  vocab = {token: i for i, token in enumerate(tokens[:size])}
  merges = [tuple(m.split(' ')) for m in _need(metadata, 'merges')]
  pre = _need(metadata, 'pre')
  # As Llama 3's own tokenizer.json: a whole word in the vocabulary stays whole.
  whole_words = _PRE.get(pre) == _LLAMA3
  tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
  tokenizer.pre_tokenizer = _pre_tokenizer(pre)
  if _PRE[pre] == _QWEN2:
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.decoder = decoders.ByteLevel()
  # Files of Llama 3 leave it out, and llama.cpp takes it for granted there.
  wanted = metadata.get('tokenizer.ggml.add_bos_token', _PRE[pre] == _LLAMA3)
  if wanted and 'bos' in ids:
    bos = tokens[ids['bos']]
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f'{bos} $A', special_tokens=[(bos, ids['bos'])]
    )
  for token, kind in zip(tokens[:size], types[:size], strict=True):
    if kind in (_CONTROL, _USER_DEFINED):
      special = kind == _CONTROL
      added = AddedToken(token, normalized=False, special=special)
      tokenizer.add_tokens([added])
  return tokenizer


def _pre_tokenizer(pre):
  if pre not in _PRE:
    raise ValueError(
      f'tokenizer.ggml.pre={pre!r} is not supported, only {", ".join(_PRE)}; '
      'use the Hugging Face folder of this model'
    )
  byte_level = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=_PRE[pre] is None
  )
  if pre == 'gpt-2':
    return byte_level
  if pre == 'smollm':
    # First the digits, as in SmolLM2's tokenizer.json and in llama.cpp;
    # without it, blanks before a digit would become other tokens.
    first = pre_tokenizers.Digits(individual_digits=True)
  else:
    first = pre_tokenizers.Split(Regex(_PRE[pre]), 'isolated')
  return pre_tokenizers.Sequence([first, byte_level])


def _special_ids(metadata):
  keys = {'bos': 'bos', 'eos': 'eos', 'unk': 'unknown', 'pad': 'padding'}
  ids = {
    name: metadata.get(f'tokenizer.ggml.{key}_token_id')
    for name, key in keys.items()
  }
  return {name: i for name, i in ids.items() if i is not None}


def _need(metadata, key):
  value = metadata.get(f'tokenizer.ggml.{key}')
  if value is None:
    raise ValueError(
      f'metadata tokenizer.ggml.{key} is missing; use the Hugging Face folder '
      'of this model'
    )
  return value


def _dump(value):
  return json.dumps(value, indent=2, ensure_ascii=False) + '\n'
