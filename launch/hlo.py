"""What a compiled program does, read off its optimised HLO.

The compiler's own cost analysis counts the body of a loop once and knows no
time for Pallas kernels. Its HLO says more: every fusion carries the cycles that
the TPU compiler expects it to take, and every loop its condition. `account`
walks the program from its entry and multiplies by trip counts.
"""

import dataclasses
import math
import re

from grpo_jax.models import decode_kernel

_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
  's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8,
  'f8e4m3fn': 1, 'f8e5m2': 1, 's4': 0.5, 'u4': 0.5,
}  # fmt: skip
_COLLECTIVES = (
  'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
  'collective-permute',
)  # fmt: skip
_HEAD = re.compile(r'^(?:ENTRY )?%([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'([a-z][a-z0-9]*)\[([0-9,]*)\]')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(
  r'(calls|condition|body|to_apply|branch_computations)='
  r'(\{[^}]*\}|%[\w.\-]+)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHANNEL = re.compile(r'channel_id=(\d+)')
_KERNEL = re.compile(r'custom_call_target="tpu_custom_call"')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of HLO."""

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  line: str

  @property
  def called(self) -> dict[str, list[str]]:
    """Attribute -> the computations it names."""
    return {
      kind: re.findall(r'%([\w.\-]+)', names)
      for kind, names in _CALLED.findall(self.line)
    }


@dataclasses.dataclass
class Account:
  """Sums over one run of a program on one device.

  Attributes:
    cycles: the compiler's, of everything but collectives and kernels.
    collectives: kind -> bytes that this device receives.
    kernel_flops: of splash attention, counted by its shapes.
    kernel_bytes: that kernels of decoding read and write, all slots full.
    data_loops: one trip of each loop whose trips only the data knows, such as
      decoding's; not in the sums.
  """

  cycles: float = 0.0
  collectives: dict[str, float] = dataclasses.field(default_factory=dict)
  kernel_flops: float = 0.0
  kernel_bytes: float = 0.0
  data_loops: list['Account'] = dataclasses.field(default_factory=list)

  @property
  def received(self) -> float:
    """Bytes of all collectives."""
    return sum(self.collectives.values())

  def with_a_trip(self) -> 'Account':
    """The sums with each data loop's trip in them, once."""
    whole = dataclasses.replace(self, collectives=dict(self.collectives))
    for loop in self.data_loops:
      trip = loop.with_a_trip()
      whole.cycles += trip.cycles
      whole.kernel_flops += trip.kernel_flops
      whole.kernel_bytes += trip.kernel_bytes
      for kind, size in trip.collectives.items():
        whole.collectives[kind] = whole.collectives.get(kind, 0.0) + size
    return whole


def account(text: str, *, head_dim: int) -> Account:
  """The sums of a program.

  Args:
    text: `compiled.as_text()`.
    head_dim: H, by which queries and keys of a kernel are known.
  """
  computations, entry = parse(text)
  found = Account()
  _walk(computations, entry, 1.0, found, head_dim, timed=True)
  return found


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
  """Computation -> name -> instruction, and the entry's name."""
  computations, entry, current = {}, '', None
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      current = computations.setdefault(head.group(1), {})
      entry = head.group(1) if line.startswith('ENTRY') else entry
    elif current is not None and (found := _INSTRUCTION.match(line)):
      current[found.group(1)] = _instruction(*found.groups(), line)
  return computations, entry


def size_of(shape: str) -> float:
  """Bytes of an array or of all arrays of a tuple."""
  return sum(
    _BYTES.get(kind, 0) * math.prod(_numbers(dims))
    for kind, dims in _ARRAY.findall(shape)
  )


def _instruction(name, rest, line):
  # The shape ends at the first space outside of parentheses.
  at, depth = 0, 0
  while rest[at] != ' ' or depth:
    depth += (rest[at] in '([{') - (rest[at] in ')]}')
    at += 1
  shape, rest = rest[:at], rest[at + 1 :]
  opcode, _, rest = rest.partition('(')
  inside = rest.partition(')')[0]
  return Instruction(
    name, shape, opcode, tuple(re.findall(r'%([\w.\-]+)', inside)), line
  )


def _walk(computations, name, times, found, head_dim, *, timed, seen=None):
  """Adds `times` runs of a computation.

  A fusion's cycles are those of all that is fused: inside, only collectives
  and kernels are still counted.

  A collective that goes on beside other work is written in the fusion that
  starts it, in those that hide it and in the one that ends it, each time with
  the same channel: `seen` has the channels of this run.
  """
  seen = set() if seen is None else seen
  inside = computations[name]
  for ins in inside.values():
    cycles = _CYCLES.search(ins.line)
    kind = ins.opcode.removesuffix('-start')
    if kind in _COLLECTIVES:
      channel = _CHANNEL.search(ins.line)
      if channel is None or channel.group(1) not in seen:
        held = found.collectives
        held[kind] = held.get(kind, 0.0) + times * _received(ins, inside, kind)
      if channel is not None:
        seen.add(channel.group(1))
    elif timed and cycles:
      found.cycles += times * int(cycles.group(1))
    if ins.opcode == 'custom-call' and _KERNEL.search(ins.line):
      _add_kernel(ins, inside, times, found, head_dim)
    called = ins.called
    if ins.opcode == 'while':
      trips, into = _trips(computations, inside, ins), found
      if trips is None:
        trips, into = 1, Account()
        found.data_loops.append(into)
      _walk(
        computations,
        *called['body'],
        times * trips,
        into,
        head_dim,
        timed=timed,
      )
    elif ins.opcode == 'conditional':
      # The dearest branch would be as good a guess: all are counted once.
      for branch in called.get('branch_computations', ()):
        _walk(computations, branch, times, found, head_dim, timed=timed)
    else:
      still = timed and not cycles
      for callee in called.get('calls', ()):
        _walk(
          computations, callee, times, found, head_dim, timed=still, seen=seen
        )


def _add_kernel(ins, inside, times, found, head_dim):
  if decode_kernel.NAME in ins.name:
    arrays = [ins.shape, *(inside[o].shape for o in ins.operands)]
    found.kernel_bytes += times * sum(map(size_of, arrays))
  else:
    found.kernel_flops += times * _attention_flops(ins, inside, head_dim)


def _attention_flops(ins, inside, head_dim):
  """Products of a splash kernel: what its causal mask leaves.

  Forward two products of queries with keys, backward four for keys and values
  and three for queries, each over the pairs that the mask shows: of S keys, the
  C queries see all but the half of the last C.
  """
  tensors = [
    _numbers(dims)
    for o in ins.operands
    for _, dims in _ARRAY.findall(inside[o].shape)
  ]
  q, k = [t for t in tensors if len(t) >= 3 and t[-1] == head_dim][:2]
  products = 4 if '_dkv' in ins.name else 3 if '_dq' in ins.name else 2
  pairs = q[-2] * (k[-2] - q[-2] / 2)
  return products * 2 * math.prod(q[:-2]) * pairs * head_dim


def _received(ins, inside, kind):
  if kind == 'reduce-scatter':
    # What others send of this device's part: as much as it holds before.
    return sum(size_of(inside[o].shape) for o in ins.operands if o in inside)
  size = size_of(ins.shape)
  if ins.opcode.endswith('-start') and ins.shape.startswith('('):
    size /= 2  # operand and result
  return 2 * size if kind == 'all-reduce' else size


def _trips(computations, inside, loop):
  """Trips of a loop that counts from 0 to a constant; None for another."""
  known = _TRIPS.search(loop.line)
  if known:
    return int(known.group(1))
  [condition] = loop.called['condition']
  body = computations[condition]
  # The last line: what is returned. Any other end than a count, as of decoding
  # once every completion has stopped, is the data's.
  *_, root = body.values()
  if root.opcode != 'compare' or 'direction=LT' not in root.line:
    return None
  bound = body[root.operands[1]]
  if bound.opcode == 'get-tuple-element':
    index = int(re.search(r'index=(\d+)', bound.line).group(1))
    start = inside.get(loop.operands[0])
    if start is None or start.opcode != 'tuple':
      return None
    bound = inside.get(start.operands[index])
  if bound is None or bound.opcode != 'constant':
    return None
  return int(re.search(r'constant\((\d+)\)', bound.line).group(1))


def _numbers(text):
  return [int(n) for n in text.split(',') if n]
