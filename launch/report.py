"""What the programs of a step need on a TPU slice, in numbers and in words.

See `compile_check` for what the numbers are and are not.
"""

import dataclasses
import math

from grpo_jax.models.architecture import Config
from launch import chips, flops

_GIB = 2**30
# Programs whose time follows the longest completion of a step.
_BY_LENGTH = (
  'reward model', 'teacher logprobs', 'logprobs', 'values', 'update',
  'critic update',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Compiled:
  """One program on one device.

  Attributes:
    name, times: of the `Program`.
    arguments, temporaries, peak: bytes of HBM.
    caches: those of the arguments that are branch caches.
    unread: those of which a run reads a few rows.
    seconds: of one run, or of one token's decoding: the longer of `compute` and
      `transfer`.
    compute: seconds of fusions and kernels; infinite, as is `transfer`, where
      the compiler finds no room for the program.
    transfer: seconds of collectives at the full ICI bandwidth.
    once: seconds of decoding's program besides its tokens.
    flops: of one run on all devices, splash kernels included.
    collectives: kind -> bytes received.
    data_loops: loops whose trips only the data knows, counted once.
    compile_seconds: here.
  """

  name: str
  times: float
  arguments: int
  caches: int
  unread: int
  temporaries: int
  peak: int
  compute: float
  transfer: float
  once: float
  flops: float
  collectives: dict[str, float]
  data_loops: int
  compile_seconds: float

  @property
  def seconds(self) -> float:
    return max(self.compute, self.transfer)

  @property
  def read(self) -> int:
    """Bytes of the arguments that a run reads."""
    return self.arguments - self.unread


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
  lengths: tuple[int, int]  # mean and longest completion assumed
  decoding: list[tuple[float, int]]  # of `sampling_programs.schedule`

  @property
  def peak(self) -> int:
    """Bytes of the program that needs most."""
    return max(p.peak for p in self.programs)

  @property
  def hbm(self) -> float:
    """Bytes of a device that programs may use."""
    return self.chip.usable

  @property
  def fits(self) -> bool:
    return self.peak <= self.hbm

  @property
  def utilisation(self) -> float:
    """Model FLOPs of an update over those that the chips could do."""
    seconds = self.of('update').seconds
    possible = seconds * self.chip.flops * self.devices / self._cores
    return self.model_flops / possible

  @property
  def model_flops(self) -> float:
    """Of one update: forward once and backward once, nothing again."""
    n = self.numbers
    sizes = {k: n[k] for k in ('prompts', 'group', 'prompt', 'completion')}
    return flops.of_update(self.model, **sizes)

  @property
  def bandwidth(self) -> float:
    """Bytes that a token's decoding must read over what HBM gives in it."""
    decode = self.of('decode a token')
    if decode is None:
      return 0.0
    given = decode.seconds * self.chip.hbm_bandwidth / self._cores
    return decode.read / given

  @property
  def step_seconds(self) -> float:
    """One step whose longest completion is `lengths[1]`."""
    longest = self.lengths[1] / self.numbers['completion']
    total = 0.0
    for program in self.programs:
      part = longest if program.name in _BY_LENGTH else 1.0
      total += part * program.times * program.seconds
    return total + self._decoding()

  @property
  def tokens_per_second(self) -> float:
    """Completion tokens a second and chip."""
    n = self.numbers
    tokens = n['step_prompts'] * n['group'] * self.lengths[0]
    return tokens * self._cores / (self.step_seconds * self.devices)

  def of(self, name: str) -> Compiled | None:
    """The program of that name, where the job has it."""
    return next((p for p in self.programs if p.name == name), None)

  def table(self) -> str:
    """For people."""
    n, m = self.numbers, self.model
    lines = [
      f'{self.topology}: {self.devices} devices, mesh '
      + ' x '.join(f'{k} {v}' for k, v in self.mesh.items()),
      f'{flops.in_products(m) / 1e9:.3g}B parameters in products; '
      + ', '.join(f'{k} {v}' for k, v in n.items()),
      '',
      f'{"program":16s}{"times":>7s}{"args GiB":>10s}{"temps":>9s}{"peak":>9s}'
      f'{"compute s":>11s}{"ICI s":>10s}{"TFLOP":>11s}{"compiled s":>12s}',
    ]
    for p in self.programs:
      times = f'{p.times:g}' if p.times else 'tokens'
      lines.append(
        f'{p.name:16s}{times:>7s}{p.arguments / _GIB:10.3g}'
        f'{p.temporaries / _GIB:9.3g}{p.peak / _GIB:9.3g}{p.compute:11.3g}'
        f'{p.transfer:10.3g}{p.flops / 1e12:11.4g}{p.compile_seconds:12.0f}'
      )
    lines += ['', 'received by each device, GiB a run:']
    for p in self.programs:
      kinds = (f'{k} {v / _GIB:.3g}' for k, v in sorted(p.collectives.items()))
      lines.append(f'  {p.name:16s}' + (', '.join(kinds) or 'nothing'))
    lines += [
      f'{p.name}: {p.data_loops} loops whose trips only the data knows '
      'count once'
      for p in self.programs
      # Decoding is such a loop, and counts a token.
      if p.data_loops > (not p.times)
    ]
    lines += [
      '',
      f'memory       {self.peak / _GIB:.3g} of {self.hbm / _GIB:.4g} GiB a '
      f'device: {"fits" if self.fits else "DOES NOT FIT"}',
      f'update       {self.utilisation:.1%} model-FLOPs utilisation',
    ]
    if decode := self.of('decode a token'):
      lines += [
        f'decode       {self.bandwidth:.1%} of HBM bandwidth, all slots full; '
        f'{decode.once:.3g} s a chunk besides',
        f'step         {self.step_seconds:.3g} s with completions of '
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
    """For programs: as JSON has it, null for what never ends."""
    return with_nulls(self._facts())

  def _facts(self):
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

  def _decoding(self) -> float:
    """Seconds of decoding, of which caches fill and grow."""
    decode = self.of('decode a token')
    if decode is None:
      return 0.0
    caches, total = decode.caches / decode.read, 0.0
    for share, tokens in self.decoding:
      read = 1 - caches * (1 - share)
      total += tokens * decode.seconds * read + decode.once
    return total


def with_nulls(value):
  """The same with None for infinity, which JSON has not."""
  if isinstance(value, dict):
    return {k: with_nulls(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [with_nulls(v) for v in value]
  return None if value == math.inf else value
