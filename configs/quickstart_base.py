"""A tiny base model: sums, most of them answered badly.

85 % of the documents blurt out an answer, mostly a wrong one; 15 % write out
the running totals first. About a million parameters, character tokens.
"""

from configs import base
from grpo_jax import tasks


def get_config():
  c = base.get_config()
  c.steps = 2000
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
    part='corpus',
    seed=0,
    size=1_000_000,
    min_ops=4,
    max_ops=4,
    max_number=5,
    steps_share=0.15,
    wrong_share=0.9,
  )
  c.sft.update(batch_size=32, loss_on='completion', max_length=24)
  c.optimizer.update(
    learning_rate=2e-3,
    schedule='cosine',
    warmup_steps=50,
    weight_decay=0.1,
  )
  c.updates.update(
    microbatches=2, remat='dots', logits_chunk=24, length_multiple=8
  )
  c.cpu_devices = 2
  c.mesh.update(data=-1, fsdp=1)
  c.checkpoint.update(every=500, keep_last=1, keep_best=0)
  return c
