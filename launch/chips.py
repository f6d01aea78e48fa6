"""What a TPU chip can do, as published.

From the tables "key chip specifications" of https://cloud.google.com/tpu/docs:
/v4, /v5e, /v5p, /v6e and /tpu7x, read in November 2026. What programs may use
of a device's memory is what the TPU compiler says when one does not fit
(libtpu 0.0.42).
"""

import dataclasses
import re

_GIB, _GB, _TERA = 2**30, 1e9, 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip.

  Attributes:
    name: as in a topology's name ('v5p:4x4x4').
    flops: peak of bf16 matrix products a second.
    hbm: bytes of memory.
    usable: bytes that programs may use of a device's.
    hbm_bandwidth: bytes a second.
    ici_bandwidth: bytes a second received over all links to other chips of the
      slice: half of what the tables call bidirectional.
    clock: cycles a second, as the compiler counts them: the peak over the
      products that the chip's matrix units begin in one cycle.
    devices: JAX devices a chip, to the compiler. On v4 hardware JAX joins a
      chip's two, which the compiler alone does not.
    accelerator: of `gcloud`'s --accelerator-type, before the size.
    fusion_kib: of a core's own memory that a fusion may use; 0 leaves it to the
      compiler. See `xla_flags`.
  """

  name: str
  flops: float
  hbm: float
  usable: float
  hbm_bandwidth: float
  ici_bandwidth: float
  clock: float
  devices: int
  accelerator: str
  fusion_kib: int = 0


def _chip(
  name, tflops, hbm_gib, usable_gib, hbm_gbs, ici_gbs, units, accelerator,
  devices=1, fusion_kib=0,
):  # fmt: skip
  """`units`: multiply-adds of all matrix units in one cycle."""
  return Chip(
    name=name,
    flops=tflops * _TERA,
    hbm=hbm_gib * _GIB,
    usable=usable_gib * _GIB,
    hbm_bandwidth=hbm_gbs * _GB,
    ici_bandwidth=ici_gbs * _GB / 2,
    clock=tflops * _TERA / (2 * units),
    devices=devices,
    accelerator=accelerator,
    fusion_kib=fusion_kib,
  )


CHIPS = {
  c.name: c
  for c in (
    _chip('v4', 275, 32, 15.25, 1200, 600, 8 * 128**2, 'v4', devices=2),
    _chip(
      'v5e',
      197,
      16,
      15.75,
      819,
      400,
      4 * 128**2,
      'v5litepod',
      fusion_kib=50_000,
    ),
    _chip('v5p', 459, 95, 95, 2765, 1200, 8 * 128**2, 'v5p', fusion_kib=50_000),
    _chip(
      'v6e', 918, 32, 31.25, 1640, 800, 4 * 256**2, 'v6e', fusion_kib=98_304
    ),
    _chip(
      'tpu7x', 2307, 192, 94.75, 7380, 1200, 8 * 256**2, 'tpu7x', devices=2
    ),  # fmt: skip
  )
}


def slices_of(topology: str) -> tuple[int, str]:
  """How many slices, and each one's name: 2, 'v5p:4x4x4' of '2xv5p:4x4x4'."""
  count, name = re.fullmatch(r'(?:(\d+)x)?(.*)', topology).groups()
  return int(count or 1), name


def of_accelerator(kind: str) -> Chip | None:
  """The chip of a slice as `gcloud` and xpk call it (v5p-128), if known."""
  family = kind.partition('-')[0]
  return next((c for c in CHIPS.values() if c.accelerator == family), None)


def of_topology(topology: str) -> Chip:
  """The chip of 'v5p:4x4x4'; ValueError for one that is not in the table."""
  name = slices_of(topology)[1].partition(':')[0]
  if name not in CHIPS:
    raise ValueError(
      f'topology {topology!r}: no chip {name!r}; there are {", ".join(CHIPS)}, '
      "as in 'v5p:4x4x4'"
    )
  return CHIPS[name]
