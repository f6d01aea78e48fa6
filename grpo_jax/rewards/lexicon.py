"""The language consistency reward of tasks that know their languages' words.

Stage 5 of a step. `languages.language` guesses the language of real words;
here an example lists them.
"""

from collections.abc import Set
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
    share = share_of_known(text.thought(completion), known, min_words=min_words)
    return 0.0 if share is None else share

  return reward


def share_of_known(
  prose: str, known: Set[str], *, min_words: int = 3
) -> float | None:
  """The share of a text's words that are known; None of few words."""
  words = _WORD.findall(prose.lower())
  if len(words) < min_words:
    return None
  return sum(word in known for word in words) / len(words)
