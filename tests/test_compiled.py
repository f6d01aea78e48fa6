"""What the TPU compiler says of the smallest config is what is kept as text.

Needs libtpu, which `make parity` installs in its environment. To renew all:
  python -m launch.compile_check --all --out=configs/compiled
"""

import importlib.util
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]
COMPILED = REPO / 'configs' / 'compiled'


def numbers(table):
  """What is to stay: the rows of programs without what took how long here."""
  programs, _, _ = table.partition('received by each device')
  rows = re.findall(
    r'^(publish|prefill|decode a token|logprobs|update) +(.*)$', programs, re.M
  )
  assert len(rows) == 5, table
  return {
    name: [float(x) for x in rest.split()[1:-1]] for name, rest in rows[:5]
  }


def run(*command):
  """Python with these arguments, in a process that may load libtpu."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("no libtpu: pip install -e '.[tpu]'")
  # Not as tests compile: without optimizations, for eight devices.
  env = {k: v for k, v in os.environ.items() if k[:4] not in ('JAX_', 'XLA_')}
  done = subprocess.run(
    [sys.executable, *command],
    cwd=REPO, env=env, check=False, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  return done


def test_two_slices_compile_and_lie_along_data():
  done = run(
    *('-m', 'launch.compile_check', '--config=configs/quickstart_tpu.py'),
    *('--topology=2xv5e:2x2', '--config.mesh.data=2'),
  )
  assert done.stdout.startswith('2xv5e:2x2: 8 devices, mesh data 2 x fsdp 4')
  # Gradients are summed over the slices.
  update = re.search(r'^  update +(.*)$', done.stdout, re.M).group(1)
  assert 'all-reduce' in update


MESHES = """
import numpy as np
from launch import compile_check, estimate
from grpo_jax import sharding
for topology, shape in (
  ('v5p:4x4x4', dict(data=2, fsdp=32)), ('v5p:4x4x4', dict(data=4, fsdp=16)),
  ('v5e:4x4', dict(data=2, fsdp=4, tensor=2)),
  ('2xv5p:2x2x2', dict(data=4, fsdp=4)),
):
  mesh = sharding.make_mesh(shape, estimate.devices_of(topology))
  assert len(set(mesh.devices.flat)) == mesh.size
  # A slice has whole rows of `data`.
  of = np.vectorize(lambda d: getattr(d, 'slice_index', 0))(mesh.devices)
  assert (of == of[:, :1, :1, :1]).all()
  print(*mesh.devices.shape)
"""


def test_an_axis_of_a_mesh_need_not_be_whole_axes_of_the_torus():
  done = run('-c', MESHES)
  assert done.stdout.split('\n')[:3] == ['2 32 1 1', '4 16 1 1', '2 4 1 2']


KERNELS = """
from launch import compile_check, estimate
import functools
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from grpo_jax import sharding
from grpo_jax.models import causal, remat

mesh = sharding.make_mesh({'fsdp': 4}, estimate.devices_of('v5p:2x2x1'))
attend = functools.partial(
  causal.splash, mesh=mesh, rows=PartitionSpec('fsdp', None), heads='tensor'
)
at = lambda shape, *axes: jax.ShapeDtypeStruct(
  shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes))
)
for name, policy in remat.POLICIES.items():
  def layer(x, w):
    y = x @ w
    return x + attend(y, y, y) @ w, None
  if name != 'none':
    layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
  loss = lambda w, x: jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)
  x, w = at((4, 1, 2, 256, 128), 'fsdp'), at((3, 128, 128))
  text = jax.jit(jax.grad(loss)).lower(w, x).compile().as_text()
  print(name, text.count('custom_call_target="tpu_custom_call"'))
"""


def test_an_attention_kernel_whose_output_is_kept_does_not_run_again():
  done = run('-c', KERNELS)
  # Forward, and backward to queries and to keys; the loop's body counts once.
  assert done.stdout.split('\n')[:4] == [
    'none 3', 'full 4', 'attention 3', 'dots 3'
  ]  # fmt: skip


PRODUCTS = """
from launch import compile_check, estimate
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from grpo_jax import policy, sharding

mesh = sharding.make_mesh({'fsdp': 4}, estimate.devices_of('v5e:2x2'))
x = jax.ShapeDtypeStruct(
  (512, 512), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())
)
for name in ('bfloat16', 'float32'):
  policy.dtype_of(name, mesh)
  text = jax.jit(lambda a, b: a @ b).lower(x, x).compile().as_text()
  print(name, 'operand_precision={highest,highest}' in text)
"""


def test_products_of_fp32_round_nothing_to_bf16_where_fp32_is_asked_for():
  done = run('-c', PRODUCTS)
  assert done.stdout.split('\n')[:2] == ['bfloat16 False', 'float32 True']


DECODING = """
from launch import compile_check, estimate, hlo
import functools
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from grpo_jax import sharding
from grpo_jax.models import cache, decoding

for topology in ('v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'):
  devices = estimate.devices_of(topology)
  mesh = sharding.make_mesh({'fsdp': 2, 'tensor': 2}, devices)
  attend = functools.partial(
    decoding.kernel, mesh=mesh, rows=PartitionSpec('fsdp', None), heads='tensor'
  )
  at = lambda shape, kind, *axes: jax.ShapeDtypeStruct(
    shape, kind, sharding=NamedSharding(mesh, PartitionSpec(*axes))
  )
  for kind in (jnp.bfloat16, jnp.int8):
    here = lambda *shape, kind=kind: at(shape, kind, 'fsdp', None, 'tensor')
    scale = here(4, 3, 2, 1024, kind=jnp.float32) if kind == jnp.int8 else None
    found = jax.jit(attend).lower(
      here(4, 3, 14, 1, 128, kind=jnp.bfloat16),
      cache.Keys(here(4, 3, 2, 128, 1024), scale),
      cache.Values(here(4, 3, 2, 1024, 128), scale),
      (*(at((4, 2, 128, 128), jnp.bfloat16, 'fsdp', 'tensor'),) * 2,
       at((4, 128), jnp.bool_, 'fsdp')),
      t=at((), jnp.int32), start=at((4, 3), jnp.int32, 'fsdp'),
    ).compile()
    account = hlo.account(found.as_text(), head_dim=128)
    print(topology, kind.__name__, int(account.kernel_bytes))
"""


def test_the_kernel_of_decoding_compiles_and_its_bytes_count():
  done = run('-c', DECODING)
  lines = [line.split() for line in done.stdout.splitlines()]
  assert [line[:2] for line in lines] == [
    [topology, kind]
    for topology in ('v5e:2x2', 'v5p:2x2x1', 'v6e:2x2')
    for kind in ('bfloat16', 'int8')
  ]
  # Keys and values of 2 x 3 branches and one head on each device, and little
  # else; in int8 half of it, and scales of four bytes.
  caches = 2 * 6 * 1024 * 128
  for _, kind, size in lines:
    most = caches * 2 if kind == 'bfloat16' else caches + 2 * 6 * 1024 * 4
    assert most < int(size) < 1.05 * most


def test_the_smallest_config_compiles_to_what_is_kept():
  done = run('-m', 'launch.compile_check', '--config=configs/quickstart_tpu.py')
  kept = (COMPILED / 'quickstart_tpu.txt').read_text()
  wanted, got = numbers(kept), numbers(done.stdout)
  assert got.keys() == wanted.keys()
  for name in wanted:
    # Arguments, temporaries and peak in GiB, seconds, TFLOP, to three digits;
    # another libtpu may schedule a little differently.
    assert got[name] == pytest.approx(wanted[name], rel=0.05), name


@pytest.mark.parametrize(
  'path', sorted(COMPILED.rglob('*.txt')), ids=lambda path: path.stem
)
def test_every_config_that_was_compiled_fits_its_slice(path):
  text = path.read_text()
  assert ': fits\n' in text and 'DOES NOT FIT' not in text
  assert config_of(path).launch.topology in text


def config_of(path):
  """Of FILE.txt, or of FILE_ARGUMENT.txt of --config=FILE.py:ARGUMENT."""
  name = str(path.relative_to(COMPILED).with_suffix(''))
  for n in range(len(name), 0, -1):
    file = REPO / 'configs' / f'{name[:n]}.py'
    if file.exists():
      return runpy.run_path(str(file))['get_config'](
        *filter(None, [name[n + 1 :]])
      )
  raise FileNotFoundError(path)


def step_seconds(text):
  """The table's estimate, or that of the only program, an update."""
  if step := re.search(r'^step +(\S+) s', text, re.M):
    return float(step[1])
  columns = re.search(r'^update +(.*)$', text, re.M)[1].split()
  return float(columns[4])


@pytest.mark.parametrize(
  'path',
  [p for p in sorted(COMPILED.rglob('*.txt')) if p.stem != 'quickstart_tpu'],
  ids=lambda path: path.stem,
)
def test_a_preemption_costs_a_quarter_to_half_an_hour_of_steps(path):
  # Nothing is saved for a notice of 30 s: a step is longer.
  every = config_of(path).checkpoint.every
  lost = every * step_seconds(path.read_text())
  assert lost >= 900 and (lost <= 1800 or every == 1)
