"""Distillation by SFT on Llama-3.1-8B, for 32 chips of TPU v5p.

R1's supervised fine-tuning of small models (2501.12948v2, B.4.3): batch 64,
cosine from 5e-5 to a tenth, 32,768 tokens. The set is a JSONL file of prompts
and completions: --config.task.path.

Compiled for v5p:2x4x4 (configs/compiled); not run on hardware yet.
"""

from configs import base, pod


def get_config():
  c = base.get_config()
  c.init_from = 'models/Llama-3.1-8B'
  c.launch.update(job='sft', topology='v5p:2x4x4', size='llama3_1_8b')
  c.task = dict(
    name='jsonl', split='train', path='data/distill.jsonl',
    prompt_field='prompt', answer_field='', completion_field='completion',
  )  # fmt: skip
  c.steps = 25_000
  c.mesh.fsdp = 32
  pod.lengths(c, prompt=1024, completion=32_768)
  c.sft.update(batch_size=64, max_length=32_768)
  c.updates.update(microbatches=2, logits_chunk=512)
  c.optimizer.update(learning_rate=5e-5, schedule='cosine', final_fraction=0.1)
  return c
