"""The real run of `smollm2_reasoning` on four TPU v5e chips: a first pod run.

Small and cheap, with everything that larger configs have: 64 prompts of worked
examples x 16 answers, parameters split over the chips. `make smollm2` first.
Compiled for v5e:2x2 (configs/compiled); not run on hardware yet.
"""

from configs import smollm2_reasoning


def get_config():
  c = smollm2_reasoning.get_config()
  c.launch.update(topology='v5e:2x2', size='smollm2_135m')
  c.prompts_per_step = 64
  c.sample.trunk_multiple = 128
  c.updates.update(microbatches=2, length_multiple=8)
  return c
