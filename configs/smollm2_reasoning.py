"""GRPO on SmolLM2-135M-Instruct and a reasoning-gym task it half knows.

  --config=configs/smollm2_reasoning.py:chain_sum

The part after the colon is one of `TASKS`.
"""

from configs import smollm2

# Generator, its settings, and worked examples for the prompt, of which none is
# a held-out question.
TASKS = {
  'chain_sum': (
    dict(dataset='chain_sum', min_terms=2, max_terms=3, min_digits=1,
         max_digits=1),
    (
      ('State the final answer to the following arithmetic problem: 4 + 3 =',
       '<answer>7</answer>'),
      ('State the final answer to the following arithmetic problem: 9 - 2 =',
       '<answer>7</answer>'),
      ('State the final answer to the following arithmetic problem: 8 + 6 =',
       '<answer>14</answer>'),
      ('State the final answer to the following arithmetic problem: 3 - 5 =',
       '<answer>-2</answer>'),
    ),
  ),
  'products': (
    dict(dataset='products', min_terms=2, max_terms=2, min_digits=1,
         max_digits=1),
    (
      ('Solve the following multiplication: 2 * 3. Give only the result as '
       'your final answer.', '<answer>6</answer>'),
      ('Solve the following multiplication: 7 * 4. Give only the result as '
       'your final answer.', '<answer>28</answer>'),
      ('Solve the following multiplication: 5 * 5. Give only the result as '
       'your final answer.', '<answer>25</answer>'),
      ('Solve the following multiplication: 8 * 9. Give only the result as '
       'your final answer.', '<answer>72</answer>'),
    ),
  ),
  'gcd': (
    dict(dataset='gcd', min_numbers=2, max_numbers=2, min_value=2,
         max_value=30),
    (
      ('Find the Greatest Common Divisor (GCD) of these numbers: 8, 12. Give '
       'only the GCD as your final answer.', '<answer>4</answer>'),
      ('Find the Greatest Common Divisor (GCD) of these numbers: 9, 7. Give '
       'only the GCD as your final answer.', '<answer>1</answer>'),
      ('Find the Greatest Common Divisor (GCD) of these numbers: 10, 15. Give '
       'only the GCD as your final answer.', '<answer>5</answer>'),
      ('Find the Greatest Common Divisor (GCD) of these numbers: 6, 18. Give '
       'only the GCD as your final answer.', '<answer>6</answer>'),
    ),
  ),
  'number_filtering': (
    dict(dataset='number_filtering', min_numbers=3, max_numbers=3,
         min_decimals=0, max_decimals=1, min_value=-50, max_value=50),
    (
      ("Remove all numbers larger than 5.5 in this list: ['7', '2.1', '-30']\n"
       'Return the new list in the same format.',
       "<answer>['2.1', '-30']</answer>"),
      ("Keep all numbers smaller than -3 in this list: ['-8.2', '0', '15']\n"
       'Return the new list in the same format.',
       "<answer>['-8.2']</answer>"),
    ),
  ),
  'letter_counting': (
    dict(dataset='letter_counting', min_words=1, max_words=1),
    (
      ('How many times does the letter "e" appear in the text: "seed"?',
       '<answer>2</answer>'),
      ('How many times does the letter "a" appear in the text: "banana"?',
       '<answer>3</answer>'),
      ('How many times does the letter "t" appear in the text: "hat"?',
       '<answer>1</answer>'),
      ('How many times does the letter "o" appear in the text: "moon"?',
       '<answer>2</answer>'),
    ),
  ),
}  # fmt: skip


# Where an answer is longer than a number: lists take a token a digit.
SAMPLE = {
  'number_filtering': dict(max_completion_length=40, chunk=20),
}


def get_config(task: str = 'chain_sum'):
  if task not in TASKS:
    raise ValueError(f'no task {task!r} here; there are {", ".join(TASKS)}')
  settings, shots = TASKS[task]
  c = smollm2.get_config()
  c.steps = 50
  c.eval.prompts = 400  # small generators repeat themselves
  c.task = dict(
    name='reasoning_gym',
    split='train',
    seed=0,
    size=20_000,
    test_share=0.3,
    **settings,
  )
  c.prompt.shots = shots
  c.sample.update(SAMPLE.get(task, {}))
  return c
