"""Which mesh, how many microbatches: those that fit, fastest first.

For each mesh that divides the config's numbers, the config's own first and then
in the order in which arithmetic expects the least traffic between chips, the
compiler is asked for the fewest parts of a minibatch that fit. The config's
rules and its 'context' stay: what lies over 'data', 'fsdp' and 'tensor' is not
varied, how long those axes are is.
"""

from collections.abc import Callable, Iterator
import copy
import dataclasses
import itertools
import math

from grpo_jax import sharding
from grpo_jax.models.architecture import Config
from launch import chips, estimate, flops, step_programs
from launch.report import Report

_AXES = ('data', 'fsdp', 'tensor')


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh, and the parts of a minibatch that are taken one at a time."""

  data: int
  fsdp: int
  tensor: int
  microbatches: int = 1
  group_microbatches: int = 1

  def of(self, cfg):
    """The config with this layout."""
    cfg = copy.deepcopy(cfg)
    cfg.mesh.update({axis: getattr(self, axis) for axis in _AXES})
    cfg.updates.microbatches = self.microbatches
    cfg.updates.group_microbatches = self.group_microbatches
    return cfg


def search(
  cfg,
  topology: str,
  *,
  meshes: int,
  lengths: tuple[int, int],
  say: Callable[[str], None],
) -> list[Report]:
  """Reports of the best layouts, fastest first, then those that never fit.

  Args:
    cfg, topology, lengths, say: as `estimate.check` takes them.
    meshes: how many are compiled at most.
  """
  found = []
  for mesh in itertools.islice(candidates(cfg, topology, say=say), meshes):
    for layout in parts(cfg, mesh, topology):
      say(f'{topology}: trying {layout}')
      checked = estimate.check(
        layout.of(cfg), topology, lengths=lengths, say=say, until_misfit=True
      )
      if checked.fits:
        break
    found.append(checked)
  if not found:
    raise ValueError(
      f'no mesh over {topology} divides the numbers of the config: see '
      'prompts_per_step, group_size, updates.minibatches and the model'
    )
  return sorted(found, key=lambda one: (not one.fits, one.step_seconds))


def candidates(
  cfg, topology: str, *, say: Callable[[str], None] = lambda _: None
) -> Iterator[Layout]:
  """Meshes that the config's numbers divide over; its own, then least traffic.

  Args:
    cfg, topology: as `search` takes them.
    say: told which are left out, and why.
  """
  chip, devices = chips.of_topology(topology), estimate.devices_of(topology)
  count, possible = len(devices) // cfg.mesh.context, []
  for data, tensor in itertools.product(_divisors(count), _divisors(count)):
    if count % (data * tensor):
      continue
    layout = Layout(data, count // (data * tensor), tensor)
    try:
      trial = layout.of(cfg)
      pol = step_programs.open_policy(trial, devices)
      state = step_programs.state_bytes(trial, pol)
    except ValueError as error:
      say(f'{layout}: {error}')
      continue
    if state > chip.usable:
      say(f'{layout}: its state alone is {state / 2**30:.1f} GiB a device')
      continue
    other = any(cfg.mesh[a] not in (-1, getattr(layout, a)) for a in _AXES)
    possible.append((other, traffic(cfg, pol.model, layout), layout))
  for *_, layout in sorted(possible, key=lambda one: one[:2]):
    yield layout


def parts(cfg, mesh: Layout, topology: str) -> Iterator[Layout]:
  """One part, two, four ...: prompts first, which share no trunk."""
  numbers = step_programs.numbers(cfg)
  pol = step_programs.open_policy(mesh.of(cfg), estimate.devices_of(topology))
  pol = pol.for_groups_of(numbers['group'])
  by_prompt, by_sample, _ = pol.rows('train').ways
  prompts = numbers['prompts'] // by_prompt
  samples = numbers['group'] // by_sample
  for total in (2**i for i in range((prompts * samples).bit_length())):
    microbatches = math.gcd(prompts, total)
    rest = total // microbatches
    if samples % rest == 0:
      yield dataclasses.replace(
        mesh, microbatches=microbatches, group_microbatches=rest
      )


def traffic(cfg, model: Config, layout: Layout) -> float:
  """Bytes that a device receives in an update, by arithmetic, in one part.

  What weights and rows lie over is the config's to say (`rules.train`). Weights
  [in bf16] are gathered over the axes that only their storage is split over,
  for the forward pass, its repetition and the backward pass, and gradients
  [fp32] are summed; where products are split, each layer sums its two outputs
  over their axes in both passes and its repetition.
  """
  sizes = {axis: getattr(layout, axis) for axis in _AXES}
  sizes['context'] = cfg.mesh.context

  def over(*names):
    return {a for n in names for a in sharding.axes_of(cfg.rules.train[n])}

  def ways(axes):
    return math.prod(sizes[axis] for axis in axes)

  products = over('mlp', 'heads')
  stored = over('embed') - products
  rows = over('prompts', 'samples', 'positions')
  weights = flops.in_products(model) / ways(products)
  kept = 1 - 1 / ways(stored)
  gathers = 3 * 2 * weights * kept + 4 * weights * kept
  copies = ways(rows - stored - products)
  sums = 2 * 4 * weights / ways(stored) * (1 - 1 / copies)
  n = step_programs.numbers(cfg)
  tokens = n['prompts'] * (n['group'] * n['completion'] + n['prompt'])
  outputs = (
    2 * 2 * tokens / ways(rows) * model.embed_dim
  )  # bf16, there and back
  shared = 3 * 2 * model.num_layers * outputs * (1 - 1 / ways(products))
  return gathers + sums + shared


def table(reports: list[Report]) -> str:
  """For people."""
  lines = [
    f'{"data":>5s}{"fsdp":>6s}{"tensor":>8s}{"microbatches":>14s}'
    f'{"of a group":>12s}{"peak GiB":>10s}{"update s":>10s}{"MFU":>7s}'
    f'{"step s":>9s}{"tok/s/chip":>12s}'
  ]
  for one in reports:
    n, mesh = one.numbers, one.mesh
    line = (
      f'{mesh["data"]:5d}{mesh["fsdp"]:6d}{mesh["tensor"]:8d}'
      f'{n["microbatches"]:14d}{n.get("group_microbatches", 1):12d}'
      f'{one.peak / 2**30:10.1f}'
    )
    if one.fits:
      line += (
        f'{one.of("update").seconds:10.2f}{one.utilisation:7.1%}'
        f'{one.step_seconds:9.1f}{one.tokens_per_second:12.0f}'
      )
    else:
      line += f'  does not fit in {one.hbm / 2**30:.4g} GiB'
    lines.append(line)
  return '\n'.join(lines) + '\n'


def _divisors(n):
  return [i for i in range(1, n + 1) if n % i == 0]
