"""The language consistency reward of tasks that know their languages' words.

Stage 5 of a step. `languages.language` guesses the language of real words;
here an example lists them.
"""

import re

from grpo_jax.rewards import text
from grpo_jax.rewards.rules import Reward

_WORD = re.compile(r'[^\W\d_]+')


def lexicon(*, task, min_words: int = 3) -> Reward:
  """Words of the thought in the asker's language over its words (R1, eq. 7).

  The asker's words are `example.data['words']`. Digits and symbols are no
  words. A thought of fewer than `min_words` words scores 0, or an empty one
  would be perfect; an example without a list, as one that is not asked in any
  such language, scores 0 too.

  Args:
    task: unused, see `rules`.
    min_words: words of a thought that is worth judging.

  Raises:
    ValueError: min_words not positive.
  """
  del task
  if min_words < 1:
    raise ValueError(f'lexicon: min_words={min_words} must be at least 1')

  def reward(completion, example):
    known = example.data.get('words', frozenset())
    words = _WORD.findall(text.thought(completion).lower())
    if len(words) < min_words:
      return 0.0
    return sum(word in known for word in words) / len(words)

  return reward
