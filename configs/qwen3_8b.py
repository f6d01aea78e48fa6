"""GRPO (`modern`) on Qwen3-8B and GSM8K, for 64 chips of TPU v5p.

Put the weights (a Hugging Face folder) where `init_from` says, or give
--init_from. Compiled for v5p:4x4x4 (configs/compiled); not run on hardware yet.
"""

from configs import modern, pod


def get_config():
  c = modern.get_config()
  pod.grpo(c, model='Qwen3-8B', size='qwen3_8b', topology='v5p:4x4x4')
  c.prompts_per_step, c.group_size = 128, 16
  pod.split_samples(c, fsdp=32, data=2, sampling=2)
  pod.lengths(c, prompt=1024, completion=8192)
  c.updates.update(minibatches=4, microbatches=1, logits_chunk=128)
  c.optimizer.learning_rate = 1e-6
  c.checkpoint.every = 5  # 19 minutes
  return c
