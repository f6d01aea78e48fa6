"""Makes the reference folders and logits beside it, with `transformers`.

  python tests/reference/make_reference.py [FOLDER]

Needs torch and transformers (see `make parity`); tests read what it wrote.
Each family is one tiny model with random weights of a size that makes every
part of it matter: with the usual 0.02 all logits would be nearly equal.
"""

from pathlib import Path
import sys

import numpy as np
import torch
import transformers

BASE = {
  'vocab_size': 64,
  'hidden_size': 32,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 512,
  'bos_token_id': None,
  'eos_token_id': 3,
}
# Wavelengths are 6.3, 30, 140 and 664 positions: with these bounds Llama 3's
# scaling keeps two, blends one and stretches one.
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 500.0,
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 256,
}
CONFIGS = {
  'llama': transformers.LlamaConfig(
    **BASE, rope_parameters=LLAMA3, tie_word_embeddings=True
  ),
  'qwen2': transformers.Qwen2Config(**BASE, tie_word_embeddings=True),
  # Heads times their size is not the width.
  'qwen3': transformers.Qwen3Config(
    **BASE, head_dim=6, tie_word_embeddings=False
  ),
}
ROWS, LENGTH = 2, 40


def make(name: str) -> transformers.PreTrainedModel:
  """A model in float32 whose every parameter is random."""
  model = transformers.AutoModelForCausalLM.from_config(
    CONFIGS[name], dtype=torch.float32
  )
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for path, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if path.endswith('norm.weight'):
        parameter.copy_(1 + 0.2 * noise)
      elif parameter.ndim == 1 or 'embed' in path:
        parameter.copy_(0.5 * noise)
      else:
        parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)
  return model.eval()


def logits(model: transformers.PreTrainedModel, ids: np.ndarray) -> np.ndarray:
  """[rows, length, vocabulary], float32."""
  with torch.no_grad():
    return model(torch.from_numpy(ids)).logits.numpy()


def token_ids() -> np.ndarray:
  """[rows, length] int64."""
  return np.random.default_rng(0).integers(0, 64, (ROWS, LENGTH))


def main(folder: Path) -> None:
  for name in CONFIGS:
    model = make(name)
    model.save_pretrained(folder / name)
    ids = token_ids()
    np.savez(folder / f'{name}.npz', ids=ids, logits=logits(model, ids))


if __name__ == '__main__':
  main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
