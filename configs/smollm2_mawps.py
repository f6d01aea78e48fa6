"""GRPO on SmolLM2-135M-Instruct and MAWPS word problems.

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


def get_config():
  c = smollm2.get_config()
  c.task = dict(name='mawps', split='train', folder='', data_dir='')
  c.prompt.shots = SHOTS
  c.sample.update(max_prompt_length=448, max_completion_length=32, chunk=16)
  return c
