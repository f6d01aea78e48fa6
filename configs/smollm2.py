"""What the SmolLM2-135M-Instruct experiments share: `make smollm2` first.

Prompts show worked examples, which the model needs to answer in tags at all;
the trunk they make is computed once for the 16 short answers of a group.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.init_from = 'models/smollm2-135m-instruct'
  c.steps = 150
  # With four, steps are so noisy that a rate of 1e-5 collapses (LOG.md).
  c.prompts_per_step = 8
  c.group_size = 16
  c.prompt.update(chat=True)
  c.sample.update(
    max_prompt_length=384,
    max_completion_length=24,
    chunk=12,
    trunk_multiple=32,
  )
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='tags'),
    format=dict(name='format', weight=0.1, thought=False),
  )
  c.updates.update(microbatches=4, logits_chunk=8, length_multiple=8)
  c.optimizer.update(learning_rate=1e-5, warmup_steps=5)
  c.eval.update(prompts=200, samples=8, ks=(1, 8), votes=(8,), batch_prompts=8)
  c.checkpoint.update(every=25, keep_last=1, keep_best=0)
  c.log.update(samples_every=5)
  return c
