"""R1's reward models (2501.12948v2, 3.1): helpfulness and safety.

  --config=configs/r1/reward_model.py:helpful  66,000 pairs, on the summary
  --config=configs/r1/reward_model.py:safety   106,000 labelled answers, whole

Both: batch 256, learning rate 6e-6, one epoch, 8,192 tokens in training and no
limit at scoring, a scalar head on R1's architecture. The pairs are of gaps
above 1 and balanced in length over the set. The numbers are in
`recipe_parts.reward_model`, which the recipe at real size has too.

Not disclosed, and ours: how lengths are balanced (`weigh`), the optimizer's
other numbers, what is held out (2 %), and the body (Qwen2.5-7B for
DeepSeek-V3). The data are not public: name yours with
--config.reward_model.path.
"""

from configs import base, recipe_parts


def get_config(kind: str = 'helpful'):
  c = base.get_config()
  c.init_from = 'models/Qwen2.5-7B'
  c.prompt.template = 'plain'
  c.sample.update(max_prompt_length=2048, trunk_multiple=128)
  recipe_parts.reward_model(c, kind)
  c.updates.update(remat='full', length_multiple=256)
  return c
