"""A Hugging Face folder whose model says a few known things, for tests of chat.

A Markov chain over bytes: each token's logits depend on the token before alone.
It thinks 'hm', then writes accented letters, two bytes each, as the noise has
it; at temperature 0 it never stops.
"""

import json
import pathlib

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from grpo_jax.models import hf, transformer

LETTERS = 'èéàùêîô'  # the first has the lowest id of the second bytes
THOUGHT = '<think>hm</think>'
TEMPLATE = (
  '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}'
  '{% if add_generation_prompt %}[assistant]{% endif %}'
)
_ADDED = ['<eos>', '[user]', '[assistant]', '<think>', '</think>']
_SIZE = 264  # rows of the model, of which the tokenizer knows 261


def backend() -> tokenizers.Tokenizer:
  """Bytes as tokens, by GPT-2's names for them."""
  vocab = {
    c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
  }
  found = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
  found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  found.decoder = decoders.ByteLevel()
  found.add_special_tokens(_ADDED[:3])
  found.add_tokens(_ADDED[3:])
  return found


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes the folder; with a chat template."""
  config = transformer.Config(
    vocab_size=_SIZE, num_layers=1, embed_dim=_SIZE, num_heads=1,
    num_kv_heads=1, head_dim=2, mlp_dim=8, tied_head=False,
  )  # fmt: skip
  ones = {k: np.ones((1, _SIZE), np.float32) for k in ('attn_norm', 'mlp_norm')}
  declared = transformer.declare(config)
  # Layers that add nothing leave the token's own one-hot to the head.
  layers = {
    k: np.zeros(p.shape, np.float32) for k, p in declared['layers'].items()
  }
  params = {
    'embed': np.eye(_SIZE, dtype=np.float32),
    'layers': layers | ones,
    'final_norm': np.ones(_SIZE, np.float32),
    'head': _head(backend()),
  }
  texts = {
    'tokenizer.json': backend().to_str(),
    'tokenizer_config.json': json.dumps({'eos_token': '<eos>'}),
    'chat_template.jinja': TEMPLATE,
  }
  hf.save(folder, params, config, files=texts)
  return folder


def _head(tokenizer):
  """[V D]: column t holds what may follow token t."""
  logits = np.full((_SIZE, _SIZE), -30.0, np.float32)
  *_, eos, user, assistant, think, done = range(256 + len(_ADDED))
  del user
  h, m = tokenizer.encode('hm').ids
  lead = tokenizer.encode('é').ids[0]
  follow = {assistant: [think], think: [h], h: [m], m: [done], done: [lead]}
  follow[lead] = [tokenizer.encode(x).ids[1] for x in LETTERS]
  follow |= {x: [lead] for x in follow[lead]}
  for before, after in follow.items():
    logits[after, before] = 0.0
  # One letter in five is the last.
  logits[eos, follow[lead]] = -np.log(4)
  # RMSNorm has made the one-hot this long.
  return logits / np.sqrt(_SIZE)
