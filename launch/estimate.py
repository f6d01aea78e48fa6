"""Compiles a step's programs for a TPU slice and reads off what they need.

See `compile_check` for what the numbers are and are not.
"""

from collections.abc import Callable
import math
import re
import time

import jax
from jax.experimental import topologies

from launch import (
  chips,
  flops,
  hlo,
  sampling_programs,
  step_programs,
  xla_flags,
)
from launch.program import bytes_of, Program
from launch.report import Compiled, Report

# Share of the peak at which splash attention is taken to run: by the schedule
# that the compiler gives its three kernels it is 0.78 (LOG.md).
KERNEL_SPEED = 0.7
# And of the HBM bandwidth, for the kernel of decoding, whose schedule takes
# 0.4 of the time that its bytes do.
KERNEL_BANDWIDTH = 0.8
# What the compiler says of a program that it finds no room for.
_NEEDED = re.compile(r'temporaries \(([\d.]+)([KMG])\) exceeds available HBM')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


def devices_of(topology: str) -> list:
  """The devices of a slice, or of several ('2xv5p:4x4x4'), for the compiler.

  Raises:
    ValueError: no such slice, or libtpu is not installed.
  """
  chips.of_topology(topology)
  count, name = chips.slices_of(topology)
  try:
    return topologies.get_topology_desc(
      platform='tpu', topology_name=name, num_slices=count
    ).devices
  except Exception as error:  # of several kinds, by version
    reason = ' '.join(str(error).split())[:200]
    raise ValueError(
      f"topology {topology!r}: {reason}; names are as in 'v5e:4x4' or "
      "'2xv5p:4x4x4', and libtpu is needed: pip install -e '.[tpu]'"
    ) from None


def compiled(
  program: Program, chip: chips.Chip, *, head_dim: int, devices: int
) -> Compiled:
  """Compiles a program and reads its numbers.

  Args:
    program: bound to devices of a topology.
    chip: theirs.
    head_dim: tells queries and keys among a kernel's arguments.
    devices: how many.
  """
  start = time.monotonic()
  lowered = program.fn.lower(*program.args)
  try:
    found = lowered.compile(compiler_options=xla_flags.of_chip(chip))
  except jax.errors.JaxRuntimeError as error:
    return _too_large(program, str(error), time.monotonic() - start)
  seconds = time.monotonic() - start
  memory = found.memory_analysis()
  account = hlo.account(found.as_text(), head_dim=head_dim)
  # Decoding is counted by the token, what its program does besides by the run.
  whole, once = account.with_a_trip(), 0.0
  if not program.times:
    once = max(_seconds(account, chip))
    [whole] = account.data_loops
  compute, transfer = _seconds(whole, chip)
  kept = memory.argument_size_in_bytes - memory.alias_size_in_bytes
  return Compiled(
    name=program.name,
    times=program.times,
    arguments=memory.argument_size_in_bytes,
    caches=program.caches,
    unread=program.unread,
    temporaries=memory.temp_size_in_bytes,
    peak=kept
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    + program.beside,
    compute=compute,
    transfer=transfer,
    once=once,
    flops=flops.count(program.fn, *program.args) + devices * whole.kernel_flops,
    collectives=whole.collectives,
    data_loops=len(account.data_loops),
    compile_seconds=seconds,
  )


def _seconds(account, chip):
  """Of fusions and kernels, and of collectives."""
  compute = account.cycles / chip.clock
  cores = chip.flops / chip.devices
  compute += account.kernel_flops / (KERNEL_SPEED * cores)
  bandwidth = chip.hbm_bandwidth / chip.devices
  compute += account.kernel_bytes / (KERNEL_BANDWIDTH * bandwidth)
  return compute, account.received / (chip.ici_bandwidth / chip.devices)


def _too_large(program, error, seconds):
  """What is known of a program that the compiler finds no room for.

  Raises:
    ValueError: that is not what the compiler says.
  """
  needed = _NEEDED.search(error)
  if needed is None:
    raise ValueError(f'{program.name}: {" ".join(error.split())[:500]}')
  temporaries = int(float(needed.group(1)) * _UNITS[needed.group(2)])
  arguments = bytes_of(program.args)
  return Compiled(
    name=program.name,
    times=program.times,
    arguments=arguments,
    caches=program.caches,
    unread=program.unread,
    temporaries=temporaries,
    peak=arguments + temporaries + program.beside,
    compute=math.inf,
    transfer=math.inf,
    flops=flops.count(program.fn, *program.args),
    once=0.0,
    collectives={},
    data_loops=0,
    compile_seconds=seconds,
  )


def check(
  cfg,
  topology: str,
  *,
  lengths: tuple[int, int],
  say: Callable[[str], None],
  until_misfit: bool = False,
) -> Report:
  """Compiles every program of the config's job.

  Args:
    cfg: of the job.
    topology: the slice.
    lengths: mean and longest completion of a step; 0 for a quarter of the
      limit, and for the limit.
    say: told what is being compiled.
    until_misfit: begin with the update, which needs most, and stop at the first
      program that does not fit.
  """
  if not topology:
    raise ValueError(
      'which slice? --topology=v5p:4x4x4, or launch.topology in the config'
    )
  chip, devices = chips.of_topology(topology), devices_of(topology)
  pol = step_programs.open_policy(cfg, devices)
  numbers = step_programs.numbers(cfg)
  mean, longest = lengths
  longest = longest if longest else numbers['completion']
  lengths = mean if mean else longest // 4, longest
  if not 0 < lengths[0] <= longest <= numbers['completion']:
    raise ValueError(
      f'completions of {lengths[0]} tokens on average and {longest} at most: '
      f'the config has a limit of {numbers["completion"]}'
    )
  asked, found = list(step_programs.of_config(cfg, pol, lengths)), []
  if until_misfit:
    asked.sort(key=lambda program: program.name != 'update')
  for program in asked:
    say(f'{topology}: compiling {program.name}')
    head_dim = program.head_dim or pol.model.head_dim
    found.append(
      compiled(program, chip, head_dim=head_dim, devices=len(devices))
    )
    if until_misfit and found[-1].peak > chip.usable:
      break
  sampled = cfg.launch.job == 'train'
  return Report(
    topology=topology,
    mesh=dict(pol.mesh.shape),
    numbers=numbers,
    model=pol.model,
    chip=chip,
    devices=len(devices),
    programs=tuple(found),
    lengths=lengths,
    decoding=sampling_programs.schedule(cfg, pol, lengths) if sampled else [],
  )
