r"""The reward of multiple choice: the chosen option is the reference's.

Stage 5 of a step. An answer names an option by its letter, or repeats its text
in full; whatever else it says, or several letters, chooses nothing.
"""

from collections.abc import Mapping
import re

from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import no_answer
from grpo_jax.rewards.rules import Reward

_WRAPPED = re.compile(r'\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}')
# 'B', '(B)', 'B.', 'B)', 'B:', each alone or with the option's text behind.
_LABEL = re.compile(r'(?:\(([A-Z])\)|([A-Z])[.):]|([A-Z])(?!\S))\s*(.*)', re.S)
# A further label in what should be the option's text: 'B) or C', 'B. C.'.
_HEDGE = re.compile(
  r'\([A-Z]\)|(?<![A-Za-z])[A-Z][.):](?!\S)'
  r'|^[A-Z]$|(?:[,;/&]|\b(?:or|and)\b)\s*[A-Z](?![A-Za-z])'
)


def option(*, task, extract: str = 'tags') -> Reward:
  """1.0 where the answer chooses the option that `example.answer` names.

  An answer is '(B)', 'B', 'B.', 'B)' or 'B:', 'B) text', or an option's text;
  the letter of one alone may be small, case and spaces of a text do not
  matter, and LaTeX's \\text{} around it is dropped. Where `example.data` has
  'options' (texts in the order of their letters, or letter -> text), a text
  must be the option's own. Without, any text may follow a letter that holds no
  further label, and there is no answer by text.

  Args:
    task: unused, see `rules`.
    extract: where the answer stands, as for `correct`.
  """
  del task
  find = text.extractor(extract)

  def reward(completion, example):
    answer = find(completion)
    if not answer.strip():  # 'None' may be an option
      return no_answer('option', extract)
    return float(same_option(answer, example))

  return reward


def same_option(answer: str, example) -> bool:
  """Whether an answer chooses the example's option, as `option` tells it."""
  options = _options(example)
  chosen = _letter(answer, options)
  return bool(chosen) and chosen == _letter(example.answer, options)


def _options(example) -> dict[str, str]:
  """Letter -> text; {} where the example does not list its options."""
  given = example.data.get('options', {})
  if not isinstance(given, Mapping):
    given = {chr(ord('A') + i): option for i, option in enumerate(given)}
  return {str(k).strip().upper(): _plain(str(v)) for k, v in given.items()}


def _letter(answer: str, options: Mapping[str, str]) -> str:
  """The option that an answer names; '' for none, or more than one."""
  answer = _WRAPPED.sub(r'\1', answer.strip()).strip()
  short = len(answer.strip('().:')) == 1
  label = _LABEL.fullmatch(answer.upper() if short else answer)
  by_text = [k for k, v in options.items() if v == _plain(answer)]
  # A letter is a label before it is the text of an option that is a letter.
  if by_text and not (
    short and label and answer.strip('().:').upper() in options
  ):
    return by_text[0] if len(by_text) == 1 else ''
  if not label:
    return ''
  letter = label[1] or label[2] or label[3]
  rest = label[4].strip()
  if label[3] and rest:
    return ''  # 'B text': a sentence may begin so ('A bird')
  if options:
    known = letter in options and (not rest or options[letter] == _plain(rest))
    return letter if known else ''
  return '' if _HEDGE.search(rest) else letter


def _plain(option: str) -> str:
  r"""A text as options are compared: case, spaces, \text, full stop aside."""
  option = _WRAPPED.sub(r'\1', option)
  return ' '.join(option.split()).casefold().removesuffix('.')
