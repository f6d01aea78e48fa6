"""Where every parameter of the real-size configs lies, kept as text.

A change of a rule or a mesh shows here as a difference to read. To accept it:
  UPDATE_GOLDEN=1 python -m pytest tests/test_golden_shardings.py
"""

import math
import os
import pathlib
import runpy

import jax
from jax.sharding import AbstractMesh
import pytest

from grpo_jax import sharding
from grpo_jax.models import families, transformer
from grpo_jax.models import params as params_lib

FOLDER = pathlib.Path(__file__).parent / 'reference' / 'shardings'
CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
# 'file:argument', as for --config.
NAMES = (
  'qwen2_5_1_5b', 'qwen2_5_7b_r1_zero', 'qwen2_5_32b_r1_zero', 'qwen3_8b',
  'llama3_1_8b_distill',
  'r1/real_stages:zero', 'r1/real_stages:sft_cold', 'r1/real_stages:reasoning',
  'r1/real_stages:sft_verified', 'r1/real_stages:all_scenarios',
  'distill:qwen_1_5b', 'distill:qwen_7b', 'distill:qwen_14b',
  'distill:qwen_32b', 'distill:llama_8b', 'distill:llama_70b',
)  # fmt: skip


def config_of(name):
  file, _, argument = name.partition(':')
  get_config = runpy.run_path(str(CONFIGS / f'{file}.py'))['get_config']
  return get_config(*([argument] if argument else []))


def described(name):
  """A line for each parameter and set of rules: shape, spec, bytes a device."""
  cfg = config_of(name)
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
  path = FOLDER / f'{name.replace("/", "_").replace(":", "_")}.txt'
  if os.environ.get('UPDATE_GOLDEN'):
    path.parent.mkdir(exist_ok=True)
    path.write_text(described(name))
  assert described(name) == path.read_text()


def test_every_config_of_a_published_size_is_among_them():
  named = set()
  for path in CONFIGS.rglob('*.py'):
    found = runpy.run_path(str(path))
    if 'get_config' not in found or path.parent.name == 'sweeps':
      continue
    file = str(path.relative_to(CONFIGS).with_suffix(''))
    names = [f'{file}:{size}' for size in found.get('SIZES', ())]
    for name in names if names else [file]:
      if config_of(name).launch.size:
        named.add(name)
  assert named == set(NAMES)
