"""R1-Zero's recipe on Qwen2.5-7B, for a TPU v5p slice of 64 chips.

`r1`'s algorithm and rates, with 8,192 tokens a completion. Questions are
GSM8K's; name others by --config.task. Put the weights (the base model's Hugging
Face folder) where `init_from` says, or give --init_from.

Compiled for v5p:4x4x4 (configs/compiled); not run on hardware yet.
"""

from configs import pod, r1


def get_config():
  c = r1.get_config()
  pod.grpo(c, model='Qwen2.5-7B', size='qwen2_5_7b', topology='v5p:4x4x4')
  pod.split_samples(c, fsdp=16, data=4, sampling=2)
  pod.lengths(c, prompt=1024, completion=8192)
  # In four parts an update has room for what its products give, and computes
  # none but the head's twice.
  c.updates.update(
    microbatches=2, group_microbatches=2, remat='dots', logits_chunk=1024
  )
  c.checkpoint.every = 3  # 21 minutes, what a preemption loses
  return c
