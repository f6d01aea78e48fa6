def get_config():
  from configs import base
  from grpo_jax import tasks
  c = base.get_config()
  c.steps = 4
  c.model.update(num_layers=1, embed_dim=32, num_heads=2, num_kv_heads=1, head_dim=16, mlp_dim=32)
  c.tokenizer = dict(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)
  c.task = dict(name='arithmetic', split='train', seed=0, size=100, min_ops=1, max_ops=2)
  c.prompts_per_step = 4
  c.group_size = 4
  c.sample.update(max_prompt_length=16, max_completion_length=8, chunk=8)
  c.updates.update(minibatches=2, logits_chunk=8, length_multiple=8)
  c.algorithm.kl_coef = 0.1
  c.checkpoint.update(every=2)
  c.eval.update(every=2, prompts=4, samples=2, batch_prompts=4, ks=(1,2), votes=(2,))
  c.sft.update(batch_size=4, max_length=24)
  c.log.update(samples_every=2)
  return c
