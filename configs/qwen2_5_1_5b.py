"""GRPO (`modern`) on Qwen2.5-1.5B and GSM8K, for 16 chips of TPU v5e.

Put the weights (a Hugging Face folder) where `init_from` says, or give
--init_from. Compiled for v5e:4x4 (configs/compiled); not run on hardware yet.
"""

from configs import modern, pod


def get_config():
  c = modern.get_config()
  pod.grpo(c, model='Qwen2.5-1.5B', size='qwen2_5_1_5b', topology='v5e:4x4')
  c.prompts_per_step, c.group_size = 64, 16
  c.mesh.fsdp = 16
  pod.lengths(c, prompt=512, completion=2048)
  c.updates.update(minibatches=4, microbatches=1, logits_chunk=64)
  c.optimizer.learning_rate = 1e-6
  c.checkpoint.every = 25  # 17 minutes
  return c
