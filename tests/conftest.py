"""Shape checks of signatures, eight host devices, programs kept a session."""

import atexit
import os
import shutil
import tempfile

# Before JAX starts: one process can then build meshes of 1 to 8 devices.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Tests spend their time compiling tiny programs, not running them.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# Many tests compile what another has; the workers of a session share it.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  folder = tempfile.mkdtemp(prefix='grpo_jax_programs_')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  os.environ |= {
    'JAX_COMPILATION_CACHE_DIR': folder,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
flags = os.environ.get('XLA_FLAGS', '')
if 'host_platform_device_count' not in flags:
  # Eight devices on two busy cores may be late for a collective; by default
  # the process is aborted after 40 seconds of waiting for them.
  os.environ['XLA_FLAGS'] = (
    f'{flags} --xla_force_host_platform_device_count=8'
    ' --xla_cpu_collective_call_warn_stuck_timeout_seconds=120'
    ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
  ).strip()

from jaxtyping import install_import_hook  # noqa: E402

CHECKED = [
  'advantages', 'logprobs', 'losses', 'sampling', 'models.attention',
  'models.transformer',
]  # fmt: skip
install_import_hook(
  [f'grpo_jax.{name}' for name in CHECKED], 'beartype.beartype'
)

import pathlib  # noqa: E402

from clouds import cloud, repository  # noqa: E402, F401
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from grpo_jax.models import transformer  # noqa: E402
from grpo_jax.models.params import is_param  # noqa: E402

# First, so that no worker is left with one of them in the end.
SLOW = (
  'test_hosts', 'test_trajectory', 'test_algorithms', 'test_traps',
  'test_presets', 'test_sharding', 'test_bad_input', 'test_tasks',
  'test_recipe_runs',
)  # fmt: skip
DATA = pathlib.Path(__file__).parents[1] / '..' / 'shared' / 'data'


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.stem not in SLOW)


@pytest.fixture
def data_folder():
  if not DATA.exists():
    pytest.skip(f'no data folder at {DATA}')
  return DATA


@pytest.fixture(scope='session')
def model():
  """A model small enough to reason about, with every grouping above 1."""
  return transformer.Config(
    vocab_size=20,
    num_layers=2,
    embed_dim=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=32,
  )


@pytest.fixture(scope='session')
def params(model):
  """Large enough weights that every part of the model matters."""
  rng = np.random.default_rng(0)

  def draw(param):
    if param.init == 'ones':
      return jnp.asarray(rng.uniform(0.5, 1.5, param.shape), jnp.float32)
    return jnp.asarray(rng.normal(0, 0.1, param.shape), jnp.float32)

  return jax.tree.map(draw, transformer.declare(model), is_leaf=is_param)
