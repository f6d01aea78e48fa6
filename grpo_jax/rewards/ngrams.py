"""The penalty for saying the same again: repeated n-grams.

Stage 5 of a step. Of the text, not of its tokens: a tokenizer may write equal
words in different ways.
"""

import re
import unicodedata

from grpo_jax.rewards.rules import Reward

# Thai, Lao, Burmese, Khmer, kana and Han have no spaces between words.
_SPACELESS = (
  '\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff'
  '\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
)
_UNIT = re.compile(rf'[{_SPACELESS}]|[^\W{_SPACELESS}]{{1,40}}|[^\w\s]')


def repetition(*, task, size: int = 4, max_penalty: float = 1.0) -> Reward:
  """-max_penalty (1 - distinct n-grams / n-grams); 0.0 where none is twice.

  The formula of open-r1 (after Demystifying Long CoT, 2502.03373).
  Units, in lower case: words, every mark of punctuation, and the single
  characters of scripts that put no spaces between words. (open-r1 splits at
  spaces alone, and sees no repetition in '1+1+1+1'.) A text of fewer units
  than `size` has no n-gram: 0.0.

  Args:
    task: unused, see `rules`.
    size: n, units of an n-gram.
    max_penalty: what a text of one n-gram only would approach.

  Raises:
    ValueError: size not positive, or a negative penalty.
  """
  del task
  if size < 1 or max_penalty < 0:
    raise ValueError(
      f'repetition: size={size} must be at least 1 and '
      f'max_penalty={max_penalty} not negative'
    )

  def reward(completion, example):
    distinct, total = count(completion, size)
    if not total:
      return 0.0
    # Not -max_penalty * 0: that is -0.0.
    return max_penalty * (distinct / total - 1.0)

  return reward


def count(text: str, size: int) -> tuple[int, int]:
  """Distinct n-grams and all n-grams, of `size` units."""
  found = units(text)
  grams = list(zip(*(found[i:] for i in range(size)), strict=False))
  return len(set(grams)), len(grams)


def units(text: str) -> list[str]:
  """What n-grams are made of; a run of letters is cut after 40."""
  return _UNIT.findall(unicodedata.normalize('NFC', text).lower())
