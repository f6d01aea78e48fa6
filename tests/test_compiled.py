"""What the TPU compiler says of the smallest config is what is kept as text.

Needs libtpu, which `make parity` installs in its environment. To renew all:
  python -m launch.compile_check --all --out=configs/compiled
"""

import importlib.util
import os
import pathlib
import re
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


def test_the_smallest_config_compiles_to_what_is_kept():
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("no libtpu: pip install -e '.[tpu]'")
  # Not as tests compile: without optimizations, for eight devices.
  env = {k: v for k, v in os.environ.items() if k[:4] not in ('JAX_', 'XLA_')}
  done = subprocess.run(
    [
      sys.executable, '-m', 'launch.compile_check',
      '--config=configs/quickstart_tpu.py',
    ],
    cwd=REPO, env=env, check=False, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  kept = (COMPILED / 'quickstart_tpu.txt').read_text()
  wanted, got = numbers(kept), numbers(done.stdout)
  assert got.keys() == wanted.keys()
  for name in wanted:
    # Arguments, temporaries and peak in GiB, seconds, TFLOP, to three digits;
    # another libtpu may schedule a little differently.
    assert got[name] == pytest.approx(wanted[name], rel=0.05), name


@pytest.mark.parametrize(
  'path', sorted(COMPILED.glob('*.txt')), ids=lambda path: path.stem
)
def test_every_config_that_was_compiled_fits_its_slice(path):
  text = path.read_text()
  assert ': fits\n' in text and 'DOES NOT FIT' not in text
  assert (REPO / 'configs' / f'{path.stem}.py').exists()
