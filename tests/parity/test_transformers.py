"""Live comparison with `transformers`: folders, logits, SmolLM2's answers.

Run by `make parity`. SMOLLM2_GGUF names the file of SmolLM2-135M-Instruct.
"""

import importlib.util
import os
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from grpo_jax.models import cache as caches
from grpo_jax.models import (
  causal,
  decode_step,
  families,
  hf,
  params,
  stacking,
  transformer,
)
from grpo_jax.structs import Prompts

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.parity

REFERENCE = Path(__file__).parents[1] / 'reference'
FAMILIES = ['llama', 'qwen2', 'qwen3']
# float32 on both sides and logits of up to 12; see test_hf.py.
TOLERANCE = 1e-4


@pytest.fixture(scope='module')
def maker():
  spec = importlib.util.spec_from_file_location(
    'make_reference', REFERENCE / 'make_reference.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def tensors_of(folder):
  out = {}
  for file in Path(folder).glob('*.safetensors'):
    out |= load_file(file)
  return out


def assert_same_tensors(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    assert a[name].tobytes() == b[name].tobytes(), name


def loaded_by_transformers(folder, **kwargs):
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True, **kwargs
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  return model.eval()


def our_logits(config, weights, ids):
  """[rows, length, V] of whole texts without a trunk."""

  @jax.jit
  def run(weights, ids):
    length = ids.shape[1]
    hidden, _ = transformer.forward(
      config,
      weights,
      ids[:, None],
      jnp.broadcast_to(jnp.arange(length), (len(ids), 1, length)),
      causal.full,
      dtype=jnp.float32,
    )
    head = transformer.head(weights)
    return jnp.einsum('qgcd,vd->qgcv', hidden, head)[:, 0]

  return np.asarray(run(weights, jnp.asarray(ids, jnp.int32)))


@pytest.mark.parametrize('family', FAMILIES)
def test_stored_references_are_what_transformers_gives_today(family, maker):
  model = maker.make(family)
  ids = maker.token_ids()
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  if model.config.tie_word_embeddings:
    del state['lm_head.weight']
  assert_same_tensors(tensors_of(REFERENCE / family), state)
  with np.load(REFERENCE / f'{family}.npz') as stored:
    np.testing.assert_array_equal(stored['ids'], ids)
    np.testing.assert_allclose(
      stored['logits'], maker.logits(model, ids), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shard', ['5GB', '20KB'])
def test_written_back_folder_loads_in_transformers_unchanged(
  family, dtype, shard, maker, tmp_path
):
  model = maker.make(family).to(getattr(torch, dtype))
  model.save_pretrained(tmp_path / 'source', max_shard_size=shard)
  config = hf.read_config(tmp_path / 'source')
  weights = hf.load(tmp_path / 'source')
  hf.save(
    tmp_path / 'written',
    weights,
    config,
    files={
      name: (tmp_path / 'source' / name).read_text()
      for name in ('config.json', 'generation_config.json')
    },
    dtype=jnp.dtype(dtype),
    max_shard_bytes=20_000 if shard == '20KB' else 5e9,
  )
  assert len(list((tmp_path / 'written').glob('*.safetensors'))) > (
    shard == '20KB'
  )
  assert_same_tensors(
    tensors_of(tmp_path / 'written'), tensors_of(tmp_path / 'source')
  )
  again = loaded_by_transformers(tmp_path / 'written')
  assert again.dtype == model.dtype
  assert again.generation_config.eos_token_id == 3
  ids = maker.token_ids()
  ours = our_logits(config, weights, ids)
  # Loaded in float32, because a model cast from bfloat16 keeps the rounding of
  # its RoPE frequencies.
  source, again = (
    loaded_by_transformers(tmp_path / x, dtype=torch.float32)
    for x in ('source', 'written')
  )
  theirs = maker.logits(again, ids)
  np.testing.assert_array_equal(theirs, maker.logits(source, ids))
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize('family', FAMILIES)
def test_padded_vocabulary_gives_the_same_logits(family, maker, tmp_path):
  model = maker.make(family)
  model.resize_token_embeddings(50, pad_to_multiple_of=48)
  model.save_pretrained(tmp_path / 'x')
  config = hf.read_config(tmp_path / 'x')
  assert config.vocab_size == 96
  ids = maker.token_ids()
  ours = our_logits(config, hf.load(tmp_path / 'x'), ids)
  theirs = maker.logits(model, ids)
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


BORN_HERE = transformer.Config(
  vocab_size=64,
  num_layers=2,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=24,
)
VARIANTS = {
  'llama': {},
  'llama_untied': {'tied_head': False, 'norm_eps': 1e-5},
  'llama_head_dim': {'head_dim': 12},
  'llama_linear': {'rope_scaling': ('linear', 4.0), 'rope_theta': 500.0},
  'llama_llama3': {
    'rope_scaling': ('llama3', 4.0, 1.0, 4.0, 256),
    'rope_theta': 500.0,
  },
  'qwen2': {'qkv_bias': True},
  'qwen2_untied': {'qkv_bias': True, 'tied_head': False, 'head_dim': 12},
  'qwen3': {'qk_norm': True},
  'qwen3_head_dim': {'qk_norm': True, 'tied_head': False, 'head_dim': 6},
}


@pytest.mark.parametrize('name', VARIANTS)
def test_model_born_here_loads_in_transformers(name, maker, tmp_path):
  config = transformer.Config(**{**vars(BORN_HERE), **VARIANTS[name]})
  rng = np.random.default_rng(0)

  def draw(param):
    spread = 0.3 * rng.normal(size=param.shape)
    return jnp.asarray(spread + (param.init == 'ones'), jnp.float32)

  weights = jax.tree.map(
    draw, transformer.declare(config), is_leaf=params.is_param
  )
  hf.save(tmp_path / 'x', weights, config)
  model = loaded_by_transformers(tmp_path / 'x')
  assert model.config.model_type == name.split('_')[0]
  assert model.dtype == torch.float32
  ids = maker.token_ids()
  np.testing.assert_allclose(
    our_logits(config, weights, ids),
    maker.logits(model, ids),
    atol=TOLERANCE,
    rtol=0,
  )
  # No default id may end an answer.
  assert model.generation_config.eos_token_id is None
  # And back through the folder that transformers writes.
  model.save_pretrained(tmp_path / 'y')
  assert hf.read_config(tmp_path / 'y') == config
  jax.tree.map(np.testing.assert_array_equal, hf.load(tmp_path / 'y'), weights)


@pytest.mark.parametrize('name', families.SIZES)
def test_tensors_of_every_published_size_are_those_of_transformers(name):
  config = families.SIZES[name]
  family = families.of_config(config)
  raw = family.to_hf(config)
  with torch.device('meta'):
    model = transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(**raw)
    )
  theirs = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  if config.tied_head:
    del theirs['lm_head.weight']
  plan = stacking.plan(transformer.declare(config), family.NAMES)
  assert {name: tensor.shape for name, tensor in plan.items()} == theirs


PROMPTS = [
  'What is the capital of France?',
  'What is 12 + 30?',
  'Write one sentence about the sea.',
  'List three colours.',
  'Who wrote "Romeo and Juliet"?',
  'Translate to French: good morning.',
  'A farmer has 17 sheep and buys 5 more. How many has he now?',
  "Don't explain; say yes or no: is ice cold?",
  'def add(a, b):\n    return',
  'Grüße aus Köln! Was heißt "apple" auf Deutsch?',
]
NEW_TOKENS = 24


@pytest.fixture(scope='module')
def smollm2(tmp_path_factory):
  """The GGUF file, what transformers reads from it, the folder we export."""
  path = os.environ.get('SMOLLM2_GGUF')
  if path is None:
    pytest.skip('SMOLLM2_GGUF does not name the file (see make parity)')
  path = Path(path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    path.parent, gguf_file=path.name
  )
  folder = tmp_path_factory.mktemp('smollm2') / 'hf'
  command = [sys.executable, '-m', 'grpo_jax.export']
  subprocess.run(
    [*command, f'--init_from={path.resolve()}', f'--out={folder}'],
    cwd=Path(__file__).parents[2],
    check=True,
  )
  return path, tokenizer, folder


def chat_ids(tokenizer, prompt):
  return tokenizer.apply_chat_template(
    [{'role': 'user', 'content': prompt}],
    add_generation_prompt=True,
    return_dict=True,
  )['input_ids']


def test_smollm2_prompts_are_tokenised_as_transformers_does(smollm2):
  _, theirs, folder = smollm2
  ours = transformers.AutoTokenizer.from_pretrained(folder)
  for prompt in PROMPTS:
    ids = chat_ids(theirs, prompt)
    assert chat_ids(ours, prompt) == ids
    assert ours.decode(ids) == theirs.decode(ids)
  assert ours.special_tokens_map == theirs.special_tokens_map
  assert len(ours) == len(theirs) == 49_152


def test_blanks_before_a_digit_are_the_only_difference(smollm2):
  # Reading a GGUF file, transformers forgets that SmolLM2 cuts out digits
  # first, which llama.cpp and SmolLM2's own tokenizer.json do.
  _, theirs, folder = smollm2
  ours = transformers.AutoTokenizer.from_pretrained(folder)
  assert ours.tokenize('a\n\n7') == ['a', 'ĊĊ', '7']
  assert theirs.tokenize('a\n\n7') == ['a', 'Ċ', 'Ċ', '7']


def greedy(config, weights, rows):
  """[rows, NEW_TOKENS] of prompts of unequal length, all at once."""
  width = max(map(len, rows)) - 1
  trunk = np.zeros((len(rows), width), np.int32)
  mask = np.zeros((len(rows), width), bool)
  for i, ids in enumerate(rows):
    trunk[i, width - len(ids) + 1 :] = ids[:-1]
    mask[i, width - len(ids) + 1 :] = True
  last = jnp.asarray([ids[-1] for ids in rows], jnp.int32)
  prompts = Prompts(
    trunk=jnp.asarray(trunk), trunk_mask=jnp.asarray(mask), last=last
  )
  shape = (len(rows), 1, config.num_kv_heads), NEW_TOKENS, config.head_dim
  empty = caches.empty(*shape, jnp.float32)

  @jax.jit
  def run(weights, prompts):
    trunk = transformer.prefill(config, weights, prompts, dtype=jnp.float32)
    layers = transformer.unstack(weights)

    def step(carry, t):
      tokens, cache = carry
      hidden, cache = decode_step.step(
        config,
        layers,
        tokens[:, None],
        t,
        decode_step.turns(config, trunk, t, None, (len(rows), 1)),
        trunk,
        cache,
        dtype=jnp.float32,
      )
      head = transformer.head(weights)
      logits = jnp.einsum('qgd,vd->qgv', hidden, head)[:, 0]
      tokens = jnp.argmax(logits, -1).astype(jnp.int32)
      return (tokens, cache), tokens

    start = (prompts.last, [empty] * config.num_layers)
    return jax.lax.scan(step, start, jnp.arange(NEW_TOKENS))[1].T

  return np.asarray(run(weights, prompts)).tolist()


def test_smollm2_greedy_answers_equal_transformers(smollm2):
  path, tokenizer, folder = smollm2
  model = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype=torch.float32
  ).eval()
  rows = [chat_ids(tokenizer, prompt) for prompt in PROMPTS]
  ours = greedy(hf.read_config(folder), hf.load(folder), rows)
  for prompt, ids, answer in zip(PROMPTS, rows, ours, strict=True):
    out = model.generate(
      torch.tensor([ids]),
      attention_mask=torch.ones(1, len(ids), dtype=torch.long),
      max_new_tokens=NEW_TOKENS,
      do_sample=False,
    )
    expected = out[0, len(ids) :].tolist()
    assert len(expected) > 1
    # transformers stops after an end token; ours is cut there.
    assert answer[: len(expected)] == expected, prompt
