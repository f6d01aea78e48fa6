"""Bytes and seconds of a step on a TPU slice, as its compiler expects them.

See `compile_check` for what the numbers are and are not.
"""

from collections.abc import Callable
import dataclasses
import time

from jax.experimental import topologies

from grpo_jax.models.architecture import Config
from grpo_jax.sampling import capacities
from launch import chips, flops, hlo, step_programs
from launch.step_programs import Program
from launch.xla_flags import TPU_FLAGS

# Share of the peak at which attention kernels are taken to run.
KERNEL_SPEED = 0.5
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Compiled:
  """One program on one device.

  Attributes:
    name, times: of the `Program`.
    arguments, temporaries, peak: bytes of HBM.
    seconds: of one run: the longer of `compute` and `transfer`.
    compute: seconds of fusions and kernels.
    transfer: seconds of collectives at the full ICI bandwidth.
    flops: of one run on all devices, kernels included.
    collectives: kind -> bytes received.
    compile_seconds: here.
  """

  name: str
  times: float
  arguments: int
  temporaries: int
  peak: int
  compute: float
  transfer: float
  flops: float
  collectives: dict[str, float]
  compile_seconds: float

  @property
  def seconds(self) -> float:
    return max(self.compute, self.transfer)


def devices_of(topology: str) -> list:
  """The devices of a slice, for the compiler.

  Raises:
    ValueError: no such slice, or libtpu is not installed.
  """
  chips.of_topology(topology)
  try:
    return topologies.get_topology_desc(
      platform='tpu', topology_name=topology
    ).devices
  except Exception as error:  # of several kinds, by version
    reason = ' '.join(str(error).split())[:200]
    raise ValueError(
      f"topology {topology!r}: {reason}; names are as in 'v5e:4x4' or "
      "'v5p:4x4x4', and libtpu is needed: pip install -e '.[tpu]'"
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
  found = lowered.compile(compiler_options=TPU_FLAGS)
  seconds = time.monotonic() - start
  memory = found.memory_analysis()
  account = hlo.account(found.as_text(), head_dim=head_dim)
  cores = chip.flops / chip.devices
  compute = account.cycles / chip.clock
  compute += account.kernel_flops / (KERNEL_SPEED * cores)
  received = sum(account.collectives.values())
  kept = memory.argument_size_in_bytes - memory.alias_size_in_bytes
  return Compiled(
    name=program.name,
    times=program.times,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=kept
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    + program.beside,
    compute=compute,
    transfer=received / (chip.ici_bandwidth / chip.devices),
    flops=flops.count(program.fn, *program.args)
    + devices * account.kernel_flops,
    collectives=account.collectives,
    compile_seconds=seconds,
  )


@dataclasses.dataclass(frozen=True)
class Report:
  """A step of a config on a slice."""

  topology: str
  mesh: dict[str, int]
  numbers: dict[str, int]  # of the step: prompts, group, lengths, parts
  model: Config
  chip: chips.Chip
  devices: int
  programs: tuple[Compiled, ...]
  cache_share: float  # of what decode reads, at the last capacity
  lengths: tuple[int, int]  # mean and longest completion assumed

  @property
  def fits(self) -> bool:
    return max(p.peak for p in self.programs) <= self.chip.hbm / self._cores

  @property
  def utilisation(self) -> float:
    """Model FLOPs of an update over those that the chips could do."""
    seconds = self._of('update').seconds
    possible = seconds * self.chip.flops * self.devices / self._cores
    return self.model_flops / possible

  @property
  def model_flops(self) -> float:
    """Of one update: forward once and backward once, nothing again."""
    n = self.numbers
    rows = n['prompts'] * n['group']
    tokens = rows * n['completion'] + n['prompts'] * n['prompt']
    pairs = rows * n['completion'] * (n['prompt'] + n['completion'] / 2)
    pairs += n['prompts'] * n['prompt'] ** 2 / 2
    m = self.model
    attention = 4 * m.num_layers * m.num_heads * m.head_dim * pairs
    return 6 * in_products(m) * tokens + 3 * attention

  @property
  def bandwidth(self) -> float:
    """Bytes that a token's decoding must read over what HBM gives in it."""
    decode = self._of('decode a token')
    if decode is None:
      return 0.0
    given = decode.seconds * self.chip.hbm_bandwidth / self._cores
    return decode.arguments / given

  @property
  def step_seconds(self) -> float:
    """One step whose longest completion is `lengths[1]`."""
    longest = self.lengths[1] / self.numbers['completion']
    total = 0.0
    for program in self.programs:
      part = longest if program.name in ('logprobs', 'update') else 1.0
      total += part * program.times * program.seconds
    return total + self._decoding()

  @property
  def tokens_per_second(self) -> float:
    """Completion tokens a second and chip."""
    n = self.numbers
    tokens = n['step_prompts'] * n['group'] * self.lengths[0]
    return tokens * self._cores / (self.step_seconds * self.devices)

  def table(self) -> str:
    """For people."""
    n, m = self.numbers, self.model
    lines = [
      f'{self.topology}: {self.devices} devices, mesh '
      + ' x '.join(f'{k} {v}' for k, v in self.mesh.items()),
      f'{in_products(m) / 1e9:.2f}B parameters in products; '
      + ', '.join(f'{k} {v}' for k, v in n.items()),
      '',
      f'{"program":16s}{"times":>7s}{"args GiB":>10s}{"temps":>8s}{"peak":>8s}'
      f'{"compute s":>11s}{"ICI s":>9s}{"TFLOP":>10s}{"compiled s":>12s}',
    ]
    for p in self.programs:
      times = f'{p.times:g}' if p.times else 'tokens'
      lines.append(
        f'{p.name:16s}{times:>7s}{p.arguments / _GIB:10.2f}'
        f'{p.temporaries / _GIB:8.2f}{p.peak / _GIB:8.2f}{p.compute:11.4f}'
        f'{p.transfer:9.4f}{p.flops / 1e12:10.1f}{p.compile_seconds:12.0f}'
      )
    lines += ['', 'received by each device, GiB a run:']
    for p in self.programs:
      kinds = (f'{k} {v / _GIB:.2f}' for k, v in sorted(p.collectives.items()))
      lines.append(f'  {p.name:16s}' + (', '.join(kinds) or 'nothing'))
    peak = max(p.peak for p in self.programs) / _GIB
    hbm = self.chip.hbm / self._cores / _GIB
    lines += [
      '',
      f'memory       {peak:.1f} of {hbm:.0f} GiB a device: '
      + ('fits' if self.fits else 'DOES NOT FIT'),
      f'update       {self.utilisation:.1%} model-FLOPs utilisation',
    ]
    if self._of('decode a token'):
      lines += [
        f'decode       {self.bandwidth:.1%} of HBM bandwidth, all slots full',
        f'step         {self.step_seconds:.1f} s with completions of '
        f'{self.lengths[0]} tokens on average and {self.lengths[1]} at most: '
        f'{self.tokens_per_second:.0f} tokens/s a chip',
      ]
    if not self.fits:
      lines += [
        'remedies     more microbatches (updates.microbatches, '
        'group_microbatches), updates.remat=full, a smaller',
        '             updates.logits_chunk, mesh.tensor twice as large, fewer '
        'prompts_per_step, a larger slice',
      ]
    return '\n'.join(lines) + '\n'

  def as_json(self) -> dict:
    """For programs."""
    return {
      'topology': self.topology,
      'mesh': self.mesh,
      'numbers': self.numbers,
      'fits': self.fits,
      'update_utilisation': self.utilisation,
      'decode_bandwidth': self.bandwidth,
      'step_seconds': self.step_seconds,
      'tokens_per_second_per_chip': self.tokens_per_second,
      'programs': [
        dataclasses.asdict(p) | {'seconds': p.seconds} for p in self.programs
      ],
    }

  @property
  def _cores(self) -> int:
    return self.chip.devices

  def _of(self, name) -> Compiled | None:
    return next((p for p in self.programs if p.name == name), None)

  def _decoding(self) -> float:
    """Seconds of decoding, in the capacities that the sampler grows by."""
    decode = self._of('decode a token')
    if decode is None:
      return 0.0
    limit, longest = self.numbers['completion'], self.lengths[1]
    total, done = 0.0, 0
    for capacity in capacities(limit, self.numbers['chunk']):
      steps = min(capacity, longest) - done
      share = 1 - self.cache_share * (1 - capacity / limit)
      total += steps * decode.seconds * share
      done += steps
      if done == longest:
        break
    return total


def check(
  cfg, topology: str, *, lengths: tuple[int, int], say: Callable[[str], None]
) -> Report:
  """Compiles every program of the config's job.

  Args:
    cfg: of the job.
    topology: the slice.
    lengths: mean and longest completion of a step; 0 for a quarter of the
      limit, and for the limit.
    say: told what is being compiled.
  """
  if not topology:
    raise ValueError(
      'which slice? --topology=v5p:4x4x4, or launch.topology in the config'
    )
  chip, devices = chips.of_topology(topology), devices_of(topology)
  pol = step_programs.open_policy(cfg, devices)
  found = []
  for program in step_programs.of_config(cfg, pol):
    say(f'{topology}: compiling {program.name}')
    found.append(
      compiled(program, chip, head_dim=pol.model.head_dim, devices=len(devices))
    )
  numbers = step_programs.numbers(cfg)
  mean, longest = lengths
  longest = longest if longest else numbers['completion']
  return Report(
    topology=topology,
    mesh=dict(pol.mesh.shape),
    numbers=numbers,
    model=pol.model,
    chip=chip,
    devices=len(devices),
    programs=tuple(found),
    cache_share=step_programs.cache_share(cfg, pol),
    lengths=(mean if mean else longest // 4, longest),
  )


def in_products(m: Config) -> float:
  """Parameters that a token is multiplied with: all but an untied embedding."""
  attention = m.embed_dim * m.head_dim * (2 * m.num_heads + 2 * m.num_kv_heads)
  layer = attention + 3 * m.embed_dim * m.mlp_dim
  return m.num_layers * layer + m.vocab_size * m.embed_dim
