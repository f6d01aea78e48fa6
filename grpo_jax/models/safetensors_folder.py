"""Reading the files of a Hugging Face folder, with one-line errors.

Below hf.py: knows files and tensor names, not models.
"""

from collections.abc import Iterator
import contextlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import safetensors

_FLOATS = ('F32', 'F16', 'BF16', 'F64')
INDEX = 'model.safetensors.index.json'
# Rows of a matrix compared at a time.
_ROWS = 4096


def read_json(folder: str | os.PathLike, file: str) -> dict:
  """A JSON object; FileNotFoundError or ValueError name file and remedy."""
  folder = Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(
      f'{folder}: no such folder; name one with config.json and *.safetensors'
    )
  path = folder / file
  if not path.is_file():
    raise FileNotFoundError(
      f'{path}: missing; fetch it from where the model came'
    )
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(
      f'{path}: not JSON ({error}); fetch it again from where the model came'
    ) from None
  if not isinstance(value, dict):
    raise ValueError(f'{path}: not a JSON object; fetch it again')
  return value


@contextlib.contextmanager
def open_tensors(folder: str | os.PathLike) -> Iterator[dict]:
  """Tensor name -> a slice reader (`safetensors` get_slice), while open."""
  folder = Path(folder)
  with contextlib.ExitStack() as stack:
    tensors = {}
    for file, names in _files(folder).items():
      opened = stack.enter_context(_open(folder / file))
      held = set(opened.keys())
      absent = sorted(set(names or held) - held)
      if absent:
        raise ValueError(
          f'{folder / file}: lacks {absent[0]} and {len(absent) - 1} more '
          f'tensors that {INDEX} promises; fetch both files again'
        )
      for name in held:
        if name in tensors:
          raise ValueError(
            f'{folder / file}: {name} is in another file too; fetch the '
            'folder again'
          )
        tensors[name] = opened.get_slice(name)
    yield tensors


def check(folder: str | os.PathLike, tensors: dict, expected: dict) -> None:
  """Fails unless the tensors are those expected (name -> shape)."""
  missing = sorted(set(expected) - set(tensors))
  if missing:
    raise ValueError(
      f'{folder}: {len(missing)} of {len(expected)} tensors are missing, '
      f'{missing[0]} first; the folder is incomplete or config.json is of '
      'another model: fetch it again'
    )
  for name, shape in expected.items():
    found = tuple(tensors[name].get_shape())
    if found != shape:
      raise ValueError(
        f'{folder}: {name} has shape {found} where config.json implies '
        f'{shape}; one of the two is of another model: fetch both again'
      )
    dtype = tensors[name].get_dtype()
    if dtype not in _FLOATS:
      raise ValueError(
        f'{folder}: {name} is {dtype}, not one of {", ".join(_FLOATS)}; '
        'use an unquantised checkpoint'
      )
  left = sorted(n for n in set(tensors) - set(expected) if not _known(n))
  if left:
    raise ValueError(
      f'{folder}: {len(left)} tensors have no place in the model, {left[0]} '
      'first; config.json is of another model or the model is not supported'
    )
  if 'lm_head.weight' in tensors and 'lm_head.weight' not in expected:
    _check_tied(folder, tensors)


def _files(folder):
  """File -> the tensors an index promises in it, or None without an index."""
  if (folder / 'model.safetensors').is_file():
    return {'model.safetensors': None}
  if not (folder / INDEX).is_file():
    raise FileNotFoundError(
      f'{folder}: neither model.safetensors nor {INDEX}; save the model as '
      'safetensors, or fetch them from where it came'
    )
  weight_map = read_json(folder, INDEX).get('weight_map')
  if not isinstance(weight_map, dict):
    raise ValueError(f'{folder / INDEX}: no weight_map; fetch it again')
  files = {}
  for name, file in weight_map.items():
    files.setdefault(file, []).append(name)
  return files


def _open(path):
  if not path.is_file():
    raise FileNotFoundError(
      f'{path}: missing, though {INDEX} names it; fetch it from where the '
      'model came'
    )
  try:
    return safetensors.safe_open(path, 'numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path}: damaged or cut short at {path.stat().st_size} bytes '
      f'({error}); fetch it again'
    ) from None


def _known(name):
  """Whether a tensor may be left over: old buffers and a tied head's copy."""
  return name.endswith('.rotary_emb.inv_freq') or name == 'lm_head.weight'


def _check_tied(folder, tensors):
  head = tensors['lm_head.weight']
  embed = tensors['model.embed_tokens.weight']
  rows = embed.get_shape()[0]
  same = head.get_shape() == embed.get_shape() and all(
    np.array_equal(head[i:j], embed[i:j])
    for i, j in itertools.pairwise((*range(0, rows, _ROWS), rows))
  )
  if not same:
    raise ValueError(
      f'{folder}: lm_head.weight differs from model.embed_tokens.weight '
      'though config.json ties them; set tie_word_embeddings to false'
    )
