"""Compiles every program of a step for a TPU slice, without any TPU.

  python -m launch.compile_check --config=configs/qwen2_5_7b_r1_zero.py
  python -m launch.compile_check --config=C --topology=v5p:4x4x4
  python -m launch.compile_check --config=C --search=4  # which mesh, and parts
  python -m launch.compile_check --all --out=configs/compiled

Needs libtpu (pip install -e '.[tpu]'), no network and no accelerator; a program
takes a minute or more to compile. Prints a table and, last, one line of JSON.
Exit status 1 where the step does not fit the chips.

What the numbers are: bytes are the compiler's. Seconds are the cycles that the
TPU compiler expects of each fusion, times the trips of its loops, at the chip's
clock; attention kernels are added by arithmetic, at `estimate.KERNEL_SPEED` of
the peak, and that of decoding at `estimate.KERNEL_BANDWIDTH` of HBM's; a
program takes as long as that or as its collectives, if those are longer, as
they run beside it. None of it was measured on hardware.
"""

import os

# Before JAX is imported: the host compiles, and asks nobody for a TPU.
os.environ.update(
  JAX_PLATFORMS='cpu',
  TPU_SKIP_MDS_QUERY='1',
  TPU_WORKER_HOSTNAMES='localhost',
  # No chip is taken, so several of these may run.
  ALLOW_MULTIPLE_LIBTPU_LOAD='1',
)

import json
import pathlib
import runpy
import sys

from absl import flags
import jax

from grpo_jax import cli
from launch import estimate, search

_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs'

_topology = flags.DEFINE_string(
  'topology',
  '',
  'TPU slice, as in v5p:4x4x4, or several, as in 2xv5p:4x4x4; default: '
  'launch.topology',
)
_mean = flags.DEFINE_integer(
  'mean_length',
  0,
  'tokens of a completion on average; default: a quarter of the longest',
)
_longest = flags.DEFINE_integer(
  'max_length', 0, 'longest completion of a step; default: the limit'
)
_out = flags.DEFINE_string(
  'out', '', 'write the table to this file too; with --all, tables to a folder'
)
_search = flags.DEFINE_integer(
  'search',
  0,
  'compile up to so many meshes, each with as few microbatches as fit, and '
  'list them fastest first; minutes each',
)
_all = flags.DEFINE_bool(
  'all', False, 'check every config of configs/ that names a slice'
)


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Checks one config, the layouts of one, or all configs."""
  del workdir
  # What is compiled for devices that are not here cannot be read back.
  jax.config.update('jax_compilation_cache_dir', None)
  if _all.value:
    _refuse_beside_all()
  topology = _topology.value or cfg.launch.topology
  how = dict(lengths=(_mean.value, _longest.value), say=_progress)
  out = pathlib.Path(_out.value) if _out.value else None
  if _all.value:
    fits = _check_all(out, how)
  elif _search.value:
    found = search.search(cfg, topology, meshes=_search.value, **how)
    _tell(search.table(found), out, [one.as_json() for one in found])
    fits = found[0].fits
  else:
    found = estimate.check(cfg, topology, **how)
    _tell(found.table(), out, found.as_json())
    fits = found.fits
  sys.exit(0 if fits else 1)


def _refuse_beside_all():
  for arg in sys.argv[1:]:
    flag = arg.split('=')[0].lstrip('-')
    if flag.partition('.')[0] in ('config', 'topology', 'search'):
      raise ValueError(f'--all takes no --{flag}: every config has its own')


def _check_all(out: pathlib.Path | None, how) -> bool:
  """Checks every config with a slice of its own; whether all fit."""
  fits = {}
  for name, cfg in _configs():
    if not cfg.launch.topology:
      continue
    _progress(name)
    found = estimate.check(cfg, cfg.launch.topology, **how)
    file = out and out / f'{name.replace(":", "_")}.txt'
    _tell(found.table(), file, {'config': name} | found.as_json())
    fits[name] = found.fits
  for name, one in fits.items():
    _progress(f'{name}: {"fits" if one else "DOES NOT FIT"}')
  return all(fits.values())


def _configs():
  """('file:argument', config) of every file, those in folders too.

  A file whose configs are of several sizes has them in `SIZES`, by argument.
  """
  for path in sorted(_CONFIGS.rglob('*.py')):
    module = runpy.run_path(str(path))
    name = str(path.relative_to(_CONFIGS).with_suffix(''))
    if sizes := module.get('SIZES'):
      for size in sizes:
        yield f'{name}:{size}', module['get_config'](size)
    elif 'get_config' in module:
      yield name, module['get_config']()


def _tell(text: str, file: pathlib.Path | None, numbers) -> None:
  # First: whoever reads the output may not read it to its end.
  if file is not None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding='utf-8')
  print(text)
  print(json.dumps(numbers), flush=True)


def _progress(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == '__main__':
  cli.main(run)
