"""R1's reward models (2501.12948v2, 3.1): helpfulness and safety.

  --config=configs/r1/reward_model.py:helpful  66,000 pairs, on the summary
  --config=configs/r1/reward_model.py:safety   106,000 labelled answers, whole

Both: batch 256, learning rate 6e-6, one epoch, 8,192 tokens in training and no
limit at scoring, a scalar head on R1's architecture. The pairs are of gaps
above 1 and balanced in length over the set.

Not told, and ours: how lengths are balanced (`drop`), the optimizer's other
numbers, what is held out (2 %), and the body (Qwen2.5-7B for DeepSeek-V3). The
data are not public: name yours with --config.reward_model.path.
"""

from configs import base

# Of rows, 2 % held out: one epoch. Balancing leaves fewer pairs.
UPDATES = {'helpful': 252, 'safety': 405}


def get_config(kind: str = 'helpful'):
  if kind not in UPDATES:
    raise ValueError(
      f'no reward model {kind!r} here; there are {", ".join(UPDATES)}'
    )
  c = base.get_config()
  c.init_from = 'models/Qwen2.5-7B'
  c.steps = UPDATES[kind]
  c.prompt.template = 'plain'
  c.sample.update(max_prompt_length=2048, trunk_multiple=128)
  c.reward_model.update(
    batch_size=256,
    max_length=8192,
    test_share=0.02,
    test_rows=1024,
  )
  if kind == 'helpful':
    c.reward_model.loss = dict(name='pairwise')
    c.reward_model.update(
      part='summary', min_margin=1.0, balance_lengths='drop'
    )
  else:
    c.reward_model.loss = dict(name='pointwise')
    c.reward_model.part = 'all'
  c.optimizer.update(learning_rate=6e-6, schedule='constant')
  c.updates.update(remat='full', length_multiple=256)
  c.eval.every = 50
  c.checkpoint.update(every=50, keep_last=2, best_metric='eval/accuracy')
  return c
