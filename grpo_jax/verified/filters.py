"""What is fit to be learned from: filters of completions.

Between verification and the verified set (`keep`). Every function is a factory
`name(*, ...)` that returns `fits(completion, example) -> bool`, total like a
reward; a config lists them by name. R1 (2501.12948v2, B.3.2 and B.3.3) names
what it drops: unreadable, repetitive and mixed-language traces, long
paragraphs, code blocks. How it tells them, and every threshold, is not
disclosed: those here are ours.
"""

from collections.abc import Callable
import re
from typing import Any
import unicodedata

from grpo_jax.rewards import languages, ngrams, text
from grpo_jax.rewards.completion import with_tokens

Filter = Callable[[str, Any], bool]

_FENCE = re.compile(r'^\s*(?:```|~~~)', re.MULTILINE)
_BREAK = re.compile(r'\n[^\S\n]*\n')
_RUN = re.compile(r'\w+')


def finished() -> Filter:
  """Stopped by itself, not cut at the length limit."""
  return lambda completion, example: (
    with_tokens(completion, 'finished').finished
  )


def tokens(*, least: int = 1, most: int) -> Filter:
  """least <= length in tokens <= most, EOS included."""
  if not 1 <= least <= most:
    raise ValueError(f'filter tokens: 1 <= least={least} <= most={most}')
  return lambda completion, example: (
    least <= with_tokens(completion, 'tokens').tokens <= most
  )


def well_formed(*, thought: bool = True, summary: bool = False) -> Filter:
  """As the reward `format`: see `text.well_formed`."""
  return lambda completion, example: text.well_formed(
    completion, thought=thought, summary=summary
  )


def readable(*, odd_share: float = 0.02, longest_word: int = 60) -> Filter:
  """Few odd characters and no endless words.

  Odd are control and private characters, unassigned code points and U+FFFD,
  which decoding leaves of half a character.

  Args:
    odd_share: of all characters, at most.
    longest_word: letters, digits and underscores in a row, at most; not of
      scripts that put no spaces between words.
  """
  if not 0 <= odd_share <= 1 or longest_word < 1:
    raise ValueError(
      f'filter readable: odd_share={odd_share} must be in [0, 1] and '
      f'longest_word={longest_word} at least 1'
    )

  def fits(completion, example):
    odd = sum(map(_is_odd, completion))
    if odd > odd_share * len(completion):
      return False
    runs = (m.group() for m in _RUN.finditer(completion))
    # A run of Han is no word: its characters are units of their own.
    return not any(
      len(run) > longest_word
      and len(ngrams.units(run[: longest_word + 1])) <= longest_word / 2
      for run in runs
    )

  return fits


def one_language(
  *, target: str = '', least: float = 0.9, min_words: int = 10
) -> Filter:
  """The thought's words are in one language, but for a few.

  As the reward `language` counts them (R1 eq. 7).

  Args:
    target: that language, an ISO 639-1 code of `languages.LANGUAGES`; '' for
      whichever the thought has most of.
    least: share of the words that are in it.
    min_words: a thought of fewer words has no language to judge, and fits: so
      do sums, which have none.
  """
  # Of whichever language, one of those that are told apart.
  languages.check_target(target or 'en', of='filter one_language')
  if not 0 < least <= 1 or min_words < 1:
    raise ValueError(
      f'filter one_language: least={least} must be in (0, 1] and '
      f'min_words={min_words} at least 1'
    )

  def fits(completion, example):
    counts = languages.words_by_language(text.thought(completion))
    total = sum(counts.values())
    if total < min_words:
      return True
    own = counts.get(target, 0.0) if target else max(counts.values())
    return own >= least * total

  return fits


def no_repetition(*, size: int = 4, most: float = 0.3) -> Filter:
  """At most this share of the n-grams has been there before.

  As the reward `repetition` counts them.

  Args:
    size: n, words or marks.
    most: 1 - distinct n-grams / n-grams, at most.
  """
  if not 0 <= most <= 1:
    raise ValueError(f'filter no_repetition: most={most} must be in [0, 1]')
  penalty = ngrams.repetition(task=None, size=size)
  return lambda completion, example: -penalty(completion, example) <= most


def no_long_paragraphs(*, words: int = 300) -> Filter:
  """No paragraph of the thought, up to a blank line, has more words.

  A Chinese or Japanese character counts as a word.
  """
  if words < 1:
    raise ValueError(f'filter no_long_paragraphs: words={words} < 1')

  def fits(completion, example):
    paragraphs = _BREAK.split(text.thought(completion))
    return all(len(words_of(p)) <= words for p in paragraphs)

  return fits


def no_code_blocks() -> Filter:
  """No fenced block in the thought; the answer may be a program."""
  return lambda completion, example: (
    _FENCE.search(text.thought(completion)) is None
  )


def thought_words(*, least: int = 1, most: int = 0) -> Filter:
  """The thought has at least so many words, and at most; 0: any number.

  Numbers are words, marks are none: '08;06;15' has three.
  """
  if least < 0 or most < 0 or 0 < most < least:
    raise ValueError(
      f'filter thought_words: least={least} and most={most} leave nothing'
    )

  def fits(completion, example):
    found = len(words_of(text.thought(completion)))
    return least <= found and (not most or found <= most)

  return fits


def words_of(prose: str) -> list[str]:
  """Units of n-grams that are no marks."""
  return [unit for unit in ngrams.units(prose) if unit[0].isalnum()]


def normalised(content: str) -> str:
  """What two texts that differ in whitespace alone have in common."""
  return ' '.join(content.split())


def overlap(one: str, other: str, *, size: int) -> float:
  """Jaccard index of the texts' n-gram sets: 1.0 for equal ones.

  A text of fewer units than `size` is one n-gram.
  """
  a, b = (_grams(content, size) for content in (one, other))
  return len(a & b) / len(a | b) if a | b else 1.0


def _grams(content: str, size: int) -> set[tuple[str, ...]]:
  found = tuple(ngrams.units(content))
  return {found[i : i + size] for i in range(max(1, len(found) - size + 1))}


def _is_odd(character: str) -> bool:
  if character in '\n\t\r':
    return False
  return character == '\N{REPLACEMENT CHARACTER}' or unicodedata.category(
    character
  ) in ('Cc', 'Cn', 'Co', 'Cs')
