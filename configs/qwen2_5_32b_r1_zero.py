"""R1-Zero's recipe on Qwen2.5-32B with 32k tokens, for 512 chips of TPU v5p.

As `qwen2_5_7b_r1_zero`, with the paper's 32,768 tokens a completion. Each chip
of a group of four (tensor) holds heads and mlp in quarters; the four samples of
a prompt that it updates on are taken one at a time. Branches are decoded from
an int8 cache, so `logprob_gap/mean` is to be watched.

Compiled for v5p:8x8x8 (configs/compiled); not run on hardware yet.
"""

from configs import pod, qwen2_5_7b_r1_zero


def get_config():
  c = qwen2_5_7b_r1_zero.get_config()
  c.init_from = 'models/Qwen2.5-32B'
  c.launch.update(topology='v5p:8x8x8', size='qwen2_5_32b')
  pod.split_samples(c, fsdp=32, data=4, tensor=4)
  pod.lengths(c, prompt=1024, completion=32_768)
  # All 8,192 completions at their limit are 137 GB a chip in bfloat16.
  c.sample.cache_dtype = 'int8'
  c.updates.update(group_microbatches=4, logits_chunk=512)
  c.checkpoint.every = 1  # 29 minutes
  return c
