"""The quickstart's GRPO on four TPU v5e chips: the smallest run on a slice.

From the base that `make quickstart` leaves. For seeing that a slice works, not
for speed: a chip is idle with a million parameters. Compiled for v5e:2x2
(configs/compiled); not run on hardware yet.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.launch.topology = 'v5e:2x2'
  c.mesh.update(data=1, fsdp=4)
  c.sample.trunk_multiple = 128
  c.updates.microbatches = 1
  return c
