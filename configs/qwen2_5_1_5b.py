"""GRPO (`modern`) on Qwen2.5-1.5B and GSM8K, for 16 chips of TPU v5e.

Put the weights (a Hugging Face folder) where `init_from` says, or give
--init_from. Compiled for v5e:4x4 (configs/compiled); not run on hardware yet.
"""

from configs import modern, pod


def get_config():
  c = modern.get_config()
  c.init_from = 'models/Qwen2.5-1.5B'
  c.launch.update(topology='v5e:4x4', size='qwen2_5_1_5b')
  c.task = dict(name='gsm8k', split='train', folder='', data_dir='')
  c.prompts_per_step, c.group_size = 64, 16
  c.mesh = dict(data=1, fsdp=16, tensor=1)
  pod.lengths(c, prompt=512, completion=2048)
  c.updates.update(minibatches=4, microbatches=1, logits_chunk=64)
  c.optimizer.learning_rate = 1e-6
  return c
