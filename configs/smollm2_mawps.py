"""GRPO on SmolLM2-135M-Instruct and MAWPS word problems, in two stages.

  python -m grpo_jax.sft --config=configs/smollm2_mawps.py:format \\
    --workdir=runs/mawps_format
  python -m grpo_jax.train --config=configs/smollm2_mawps.py \\
    --workdir=runs/mawps

The first teaches the format, in ten updates. With worked examples in the prompt
instead (`:shots`), RL alone learns the format and little else (LOG.md).

Give the original files with --config.task.folder=FOLDER; without it they are
downloaded.
"""

from configs import smollm2

SHOTS = (
  (
    'Tom has 3 apples. He buys 4 more apples. How many apples does he have?',
    '<think>3 + 4 = 7</think><answer>7</answer>',
  ),
  (
    'Ann had 12 pencils. She gave 5 to Sam. How many pencils are left?',
    '<think>12 - 5 = 7</think><answer>7</answer>',
  ),
  (
    'There are 6 boxes with 8 toys in each. How many toys are there in all?',
    '<think>6 * 8 = 48</think><answer>48</answer>',
  ),
  (
    '20 sweets are shared equally by 4 children. How many does each get?',
    '<think>20 / 4 = 5</think><answer>5</answer>',
  ),
)


def get_config(stage: str = 'rl'):
  if stage not in ('format', 'rl', 'shots'):
    raise ValueError(f'no stage {stage!r} here; there are format, rl, shots')
  c = smollm2.get_config()
  c.task = dict(name='mawps', split='train', folder='', data_dir='')
  # Two steps of three-digit numbers fit.
  c.sample.update(max_prompt_length=192, max_completion_length=48, chunk=24)
  c.steps = 60
  if stage == 'format':
    c.steps = 10
    c.sft.update(batch_size=32, max_length=48)
    c.optimizer.update(learning_rate=3e-5, warmup_steps=2)
    c.eval.every = 0
  elif stage == 'rl':
    c.init_from = 'runs/mawps_format'
  else:
    c.prompt.shots = SHOTS
    c.sample.max_prompt_length = 448
  return c
