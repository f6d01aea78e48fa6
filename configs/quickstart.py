"""GRPO on sums by rule rewards alone, from the base of `quickstart_base`."""

from configs import quickstart_base


def get_config():
  c = quickstart_base.get_config()
  c.init_from = 'runs/quickstart/base'
  c.steps = 150
  c.prompts_per_step = 16
  c.group_size = 16
  c.sample.update(
    temperature=1.0, max_prompt_length=16, max_completion_length=24, chunk=24
  )
  c.optimizer.update(
    learning_rate=2e-4,
    schedule='linear',
    final_fraction=0.0,
    warmup_steps=0,
    weight_decay=0.0,
  )
  # Without them a random reward moves the base as well: a random walk (LOG.md).
  c.algorithm.kl_coef = 0.3
  c.rewards.format.weight = 0.1
  c.updates.microbatches = 8
  c.checkpoint.update(every=50, keep_last=1, keep_best=0)
  c.eval.update(
    prompts=200, samples=64, batch_prompts=50, ks=(1, 64), votes=(16,)
  )
  return c
