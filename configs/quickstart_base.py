"""A tiny base model: sums, most of them answered badly.

85 % of the documents blurt out an answer, half of those a wrong one; 15 % write
out the running totals first. About a million parameters, character tokens.
"""

from configs import base
from grpo_jax import tasks


def get_config():
  c = base.get_config()
  c.steps = 900
  c.model.update(
    num_layers=4,
    embed_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=448,
  )
  c.tokenizer = dict(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)
  c.task = dict(
    name='arithmetic',
    split='train',
    seed=0,
    size=1_000_000,
    min_ops=4,
    max_ops=4,
    max_number=5,
    steps_share=0.15,
    wrong_share=0.8,
  )
  c.sft.update(batch_size=96, loss_on='completion', max_length=24)
  c.optimizer.update(
    learning_rate=5e-3,
    schedule='cosine',
    warmup_steps=50,
    weight_decay=0.1,
  )
  c.updates.update(
    microbatches=4, remat='dots', logits_chunk=24, length_multiple=8
  )
  c.checkpoint.update(every=450, keep_last=1, keep_best=0)
  return c
