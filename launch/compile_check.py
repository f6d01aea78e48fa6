"""Compiles every program of a step for a TPU slice, without any TPU.

  python -m launch.compile_check --config=configs/qwen2_5_7b_r1_zero.py
  python -m launch.compile_check --config=C --topology=v5p:4x4x4

Needs libtpu (pip install -e '.[tpu]'), no network and no accelerator; a program
takes a minute or more to compile. Prints a table and, last, one line of JSON.
Exit status 1 where the step does not fit the chips.

What the numbers are: bytes are the compiler's. Seconds are the cycles that the
TPU compiler expects of each fusion, times the trips of its loops, at the chip's
clock; attention kernels are added by arithmetic, at `estimate.KERNEL_SPEED` of
the peak; a program takes as long as that or as its collectives, if those are
longer, as they run beside it. None of it was measured on hardware.
"""

import os

# Before JAX is imported: the host compiles, and asks nobody for a TPU.
os.environ.update(
  JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost'
)

import json
import pathlib
import sys

from absl import flags

from grpo_jax import cli
from launch import estimate

_topology = flags.DEFINE_string(
  'topology', '', 'TPU slice, as in v5p:4x4x4; default: launch.topology'
)
_mean = flags.DEFINE_integer(
  'mean_length',
  0,
  'tokens of a completion on average; default: a quarter of the longest',
)
_longest = flags.DEFINE_integer(
  'max_length', 0, 'longest completion of a step; default: the limit'
)
_out = flags.DEFINE_string('out', '', 'write the table to this file too')


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Checks one config."""
  del workdir
  topology = _topology.value or cfg.launch.topology
  lengths = _mean.value, _longest.value
  report = estimate.check(cfg, topology, lengths=lengths, say=_progress)
  text = report.table()
  print(text)
  if _out.value:
    pathlib.Path(_out.value).write_text(text, encoding='utf-8')
  print(json.dumps(report.as_json()))
  sys.exit(0 if report.fits else 1)


def _progress(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == '__main__':
  cli.main(run)
