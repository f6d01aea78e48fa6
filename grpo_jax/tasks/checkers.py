"""What a program can check of an answer: its words, case, edges and lines.

Each checker is pure: (answer, value) -> whether it follows the instruction.
"""

from collections.abc import Callable
import re

_BULLET = re.compile(r'^\s*[-*]\s+\S', re.MULTILINE)
_EDGES = ' \n\t.!?"\''


def follows(answer: str, asked: dict) -> dict[str, bool]:
  """Which instructions an answer follows; none, if it is empty.

  Args:
    answer: the final summary, without its thought.
    asked: kind -> value, as in `Example.data['instructions']`.
  """
  answer = answer.strip()
  return {
    kind: bool(answer) and CHECKERS[kind](answer, value)
    for kind, value in asked.items()
  }


def at_most_words(answer: str, count: int) -> bool:
  return len(answer.split()) <= count


def at_least_words(answer: str, count: int) -> bool:
  return len(answer.split()) >= count


def starts_with(answer: str, phrase: str) -> bool:
  """Whatever the case, quotes and marks around it."""
  words = answer.lstrip(_EDGES).casefold()
  return re.match(rf'{re.escape(phrase.casefold())}\b', words) is not None


def ends_with(answer: str, phrase: str) -> bool:
  """Whatever the case, quotes and marks around it."""
  words = answer.rstrip(_EDGES).casefold()
  return re.search(rf'\b{re.escape(phrase.casefold())}$', words) is not None


def lowercase(answer: str, _: None) -> bool:
  return answer.islower()


def capitals(answer: str, _: None) -> bool:
  return answer.isupper()


def includes(answer: str, word: str) -> bool:
  return re.search(rf'\b{re.escape(word)}\b', answer, re.I) is not None


def excludes(answer: str, word: str) -> bool:
  return not includes(answer, word)


def bullets(answer: str, count: int) -> bool:
  return len(_BULLET.findall(answer)) == count


def no_commas(answer: str, _: None) -> bool:
  return ',' not in answer


# One of a family at most: their instructions contradict each other.
FAMILIES = (
  ('at_most_words', 'at_least_words'),
  ('starts_with',),
  ('ends_with',),
  ('lowercase', 'capitals'),
  ('includes', 'excludes'),
  ('bullets',),
  ('no_commas',),
)
CHECKERS: dict[str, Callable[[str, object], bool]] = {
  'at_most_words': at_most_words,
  'at_least_words': at_least_words,
  'starts_with': starts_with,
  'ends_with': ends_with,
  'lowercase': lowercase,
  'capitals': capitals,
  'includes': includes,
  'excludes': excludes,
  'bullets': bullets,
  'no_commas': no_commas,
}
