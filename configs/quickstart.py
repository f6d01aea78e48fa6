"""GRPO on sums by rule rewards alone, from the base of `quickstart_base`."""

from configs import quickstart_base


def get_config():
  c = quickstart_base.get_config()
  c.init_from = 'runs/quickstart/base'
  # None of the sums that the base was shown.
  c.task.part = 'questions'
  c.steps = 200
  c.prompts_per_step = 32
  c.group_size = 16
  c.sample.update(
    temperature=1.0, max_prompt_length=16, max_completion_length=24, chunk=24
  )
  c.optimizer.update(
    learning_rate=1.5e-4,
    schedule='linear',
    final_fraction=0.0,
    warmup_steps=0,
    weight_decay=0.0,
  )
  # Against the walk that a random reward sends the base on (LOG.md); k2, as k3
  # would hold the right habit back as well.
  c.algorithm.update(kl=dict(name='k2'), kl_coef=0.6)
  c.rewards.format.weight = 0.1
  c.updates.microbatches = 16
  c.checkpoint.update(every=50, keep_last=1, keep_best=0)
  c.eval.update(
    prompts=200, samples=64, batch_prompts=50, ks=(1, 64), votes=(16,)
  )
  return c
