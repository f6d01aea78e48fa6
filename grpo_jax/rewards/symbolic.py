"""The Math-Verify reward: mathematical equality of LaTeX and expressions.

Stage 5 of a step; the work happens in the processes of `pool.py`, so a host
thread that waits for it leaves the device and other graders running.
"""

from collections.abc import Callable
import importlib.util
import re

from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import no_answer, record
from grpo_jax.rewards.pool import Pool
from grpo_jax.rewards.rules import Reward

_LONGEST = 2000  # characters; a longer "answer" is no answer

# How people write numbers and Math-Verify does not read them, as whole answers.
_NUMBER = r'[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)'
_GROUPED = re.compile(
  r'([+-]?[0-9]{1,3}(?:(?:,|\{,\}|\\[,;: !]|,\\!|[ ~\u00a0\u202f])[0-9]{3})+)'
  r'(\.[0-9]+)?'
)
_SCIENTIFIC = re.compile(rf'({_NUMBER})[eE]([+-]?[0-9]+)')
_MIXED = re.compile(r'([+-]?[0-9]+) ([0-9]+)/([0-9]+)')
_COUNTED = re.compile(rf'({_NUMBER}) ([A-Za-z]{{3,}}(?: [A-Za-z]{{3,}})*)\.?')
# Words that change a number rather than count something.
_NO_UNIT = re.compile(
  r'(?:(?:hundred|thousand|million|billion|trillion|dozen|score|percent|half|'
  r'third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|'
  r'thousandth|root|power)s?|halves|squared|cubed|factorial|choose|base|mod|'
  r'modulo|and|plus|minus|times|over|not|alpha|beta|gamma|delta|theta|lambda|'
  r'sigma|omega|phi|sqrt|sin|cos|tan|log|exp)\b'
)
# A product of four variables and more is seldom an answer: it is a word.
_WORD = re.compile(r'[A-Za-z]{4,}(?: [A-Za-z]+)*')
_FRACTION = re.compile(
  r'\\[dt]?frac ?(?:\{ ?(-?[0-9]+) ?\}|([0-9])) ?(?:\{ ?([0-9]+) ?\}|([0-9]))'
)
_SPACING = re.compile(r'\\(?:left|right|[,;:!])(?![A-Za-z])')
_LOOSE = re.compile(r'(?<![0-9A-Za-z]) | (?![0-9A-Za-z])')
_AS_TEXT = re.compile(r'\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}\.?')


def math_verify(
  *, task, extract: str = 'tags', workers: int = 2, seconds: float = 5.0
) -> Reward:
  """1.0 where Math-Verify finds the answer equal to `example.answer`.

  Both are rewritten before, see `readable`; words are compared as words, as
  Math-Verify would take them for products of variables, equal to any anagram.

  Args:
    task: unused, see `rules`.
    extract: where the answer stands, as for `correct`.
    workers: grading processes.
    seconds: wall time an item may take; beyond it, the answer is wrong.

  Raises:
    ValueError: Math-Verify is not installed.
  """
  del task
  find = text.extractor(extract)
  equal = checker(workers=workers, seconds=seconds)

  def reward(completion, example):
    answer = find(completion)
    if text.is_empty(answer):
      return no_answer('math_verify', extract)
    return float(equal(answer, example.answer))

  return reward


def checker(
  *, workers: int = 2, seconds: float = 5.0
) -> Callable[[str, str], bool]:
  """(answer, reference) -> whether they are equal; total, any thread may call.

  What `math_verify` pays for, and the verifier 'math' of tasks accepts.

  Args:
    workers: grading processes, started when first needed.
    seconds: wall time an item may take; beyond it, the answer is wrong.

  Raises:
    ValueError: Math-Verify is not installed.
  """
  if importlib.util.find_spec('math_verify') is None:
    raise ValueError(
      'equal mathematics needs a package: pip install math-verify'
    )
  pool = Pool(name='math_verify', workers=workers, seconds=seconds)

  def equal(answer, reference):
    if text.is_empty(answer):
      return False
    if len(answer) > _LONGEST:
      record('math_verify/too_long', f'{len(answer)} characters; graded wrong')
      return False
    gold, answer = readable(reference), readable(answer)
    if _WORD.fullmatch(gold) and _WORD.fullmatch(answer):
      return gold.casefold() == answer.casefold()
    return pool.grade(gold, answer)

  return equal


def spelling(answer: str) -> str:
  r"""One text for the spellings of an answer, by which votes are counted.

  '04', '4' and '4.0' are one answer, so are '1/2', '0.5', '\frac12' and
  '$\dfrac{1}{2}$'. Of others, case, spaces around marks and LaTeX's spacing do
  not matter. Texts are compared, not mathematics, which would take a worker for
  every two: the votes for '2(x+1)' and '2x+2' are split.
  """
  answer = ' '.join(answer.split())
  if len(answer) > _LONGEST:
    return answer.lower()
  answer = ' '.join(_SPACING.sub(' ', readable(answer)).split())
  answer = _FRACTION.sub(
    lambda m: rf'\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}', answer
  )
  ratio = answer
  if found := _FRACTION.fullmatch(answer.removeprefix('-')):
    sign = '-' if answer.startswith('-') else ''
    ratio = f'{sign}{found[1]}/{found[3]}'.replace('--', '')
  number = text.parse_number(ratio)
  return _LOOSE.sub('', answer).lower() if number is None else str(number)


def readable(answer: str) -> str:
  r"""An answer as Math-Verify reads it; most are as they were.

  '\$5' is 5, '1\,000' and '1 000' are 1000, '1.5e3' is a power of ten, '3 1/2'
  is a mixed number, '5 miles' is 5 and '\text{Monday}' is a word.
  """
  answer = answer.replace('\N{MINUS SIGN}', '-').replace(r'\$', '').strip()
  for left, right in (('**', '**'), ('$', '$'), (r'\(', r'\)')):
    inside = answer.removeprefix(left).removesuffix(right)
    if answer == f'{left}{inside}{right}' and left not in inside:
      answer = inside.strip()
  if found := _AS_TEXT.fullmatch(answer):
    answer = found[1].strip()
  if found := _COUNTED.fullmatch(answer):
    answer = answer if _NO_UNIT.search(found[2]) else found[1]
  if found := _GROUPED.fullmatch(answer):
    answer = re.sub('[^0-9+-]', '', found[1]) + (found[2] if found[2] else '')
  if found := _SCIENTIFIC.fullmatch(answer):
    return rf'{found[1]} \times 10^{{{found[2]}}}'
  if found := _MIXED.fullmatch(answer):
    return rf'{found[1]}\frac{{{found[2]}}}{{{found[3]}}}'
  return answer
