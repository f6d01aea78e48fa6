"""Where every parameter of the real-size configs lies, kept as text.

A change of a rule or a mesh shows here as a difference to read. To accept it:
  UPDATE_GOLDEN=1 python -m pytest tests/test_golden_shardings.py
"""

import importlib
import math
import os
import pathlib

import jax
from jax.sharding import AbstractMesh
import pytest

from grpo_jax import sharding
from grpo_jax.models import families, transformer
from grpo_jax.models import params as params_lib

FOLDER = pathlib.Path(__file__).parent / 'reference' / 'shardings'
NAMES = (
  'qwen2_5_1_5b', 'qwen2_5_7b_r1_zero', 'qwen2_5_32b_r1_zero', 'qwen3_8b',
  'llama3_1_8b_distill',
)  # fmt: skip


def described(name):
  """A line for each parameter and set of rules: shape, spec, bytes a device."""
  cfg = importlib.import_module(f'configs.{name}').get_config()
  sizes = tuple(cfg.mesh[axis] for axis in sharding.AXES)
  mesh = AbstractMesh(sizes, sharding.AXES)
  declared = transformer.declare(families.SIZES[cfg.launch.size])
  lines = [f'mesh {dict(zip(sharding.AXES, sizes, strict=True))}']
  for rules in ('train', 'sample'):
    found = sharding.param_shardings(declared, mesh, cfg.rules[rules])
    shapes = jax.tree_util.tree_flatten_with_path(
      declared, is_leaf=params_lib.is_param
    )[0]
    for (path, param), place in zip(
      shapes, jax.tree.leaves(found), strict=True
    ):
      local = math.prod(place.shard_shape(param.shape))
      lines.append(
        f'{rules:6s} {params_lib.name(path):18s} {list(param.shape)!s:26s} '
        f'{place.spec!s:62s} {local}'
      )
  return '\n'.join(lines) + '\n'


@pytest.mark.parametrize('name', NAMES)
def test_every_parameter_lies_where_it_did(name):
  path = FOLDER / f'{name}.txt'
  if os.environ.get('UPDATE_GOLDEN'):
    path.parent.mkdir(exist_ok=True)
    path.write_text(described(name))
  assert described(name) == path.read_text()


def test_every_config_of_a_published_size_is_among_them():
  folder = pathlib.Path(__file__).parents[1] / 'configs'
  named = {
    path.stem
    for path in folder.glob('*.py')
    if path.stem not in ('pod', '__init__')
    and importlib.import_module(f'configs.{path.stem}').get_config().launch.size
  }
  assert named == set(NAMES)
