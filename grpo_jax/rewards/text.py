"""What a completion says: its tags, its final answer and its numbers.

Plain text in, plain text out. Every function is total (any text, balanced or
not, gives a result) and linear in the length of the text, because a policy
under training writes everything sooner or later.
"""

from decimal import Decimal
from fractions import Fraction
import re

# In the order in which a completion has them.
TAGS = ('<think>', '</think>', '<answer>', '</answer>')
THINK, END_THINK, ANSWER, END_ANSWER = TAGS

# [0-9], not \d: \d also matches digits of other scripts.
_DIGITS = r'(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)'
_DECIMAL = rf'(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)'
_NUMBER = re.compile(rf'[+-]?{_DECIMAL}')
_FRACTION = re.compile(r'([+-]?[0-9]+) ?/ ?([0-9]+)')
# In running text a sign belongs to a number unless it follows an operand,
# and a point or comma only when digits follow it ('It is 12.').
_IN_TEXT = re.compile(
  rf'(?:(?<![\w.)])[+-])?\$?(?:{_DIGITS}(?:\.[0-9]+)?(?:/[0-9]+)?|\.[0-9]+)'
)
_PLAIN_WORDS = re.compile(r"[A-Za-z\s$%.:=']*")
_WRAPPING = re.compile(r'\*\*|\\[()$]|\\text\{([^{}]*)\}')
_LONGEST_NUMBER = 400  # int() of a longer literal may raise


def tags(text: str) -> str:
  """The strict answer: what the only answer pair holds, '' when out of place.

  In its place means: one opening and one closing tag in this order, nothing
  but whitespace after them, and no thought that begins or ends behind them.
  """
  if text.count(ANSWER) != 1 or text.count(END_ANSWER) != 1:
    return ''
  start, end = text.index(ANSWER) + len(ANSWER), text.index(END_ANSWER)
  if end < start or text[end + len(END_ANSWER) :].strip():
    return ''
  inside = text[start:end].strip()
  if THINK in inside or END_THINK in inside:
    return ''
  before = text[:start]
  if before.rfind(THINK) > before.rfind(END_THINK):
    return ''  # the thought is still open: the answer is part of it
  return inside


def _inside(text: str) -> str:
  """What `tags` finds, with the indentation of its first line."""
  if not tags(text):
    return ''
  start = text.index(ANSWER) + len(ANSWER)
  return text[start : text.index(END_ANSWER)].strip('\n').rstrip()


def boxed(text: str) -> str:
  r"""What the last `\boxed{...}` holds, '' without one that closes."""
  opening = r'\boxed{'
  at = text.rfind(opening)
  if at < 0:
    return ''
  start, depth = at + len(opening), 1
  for match in re.finditer(r'\\.|[{}]', text[start:], flags=re.DOTALL):
    depth += {'{': 1, '}': -1}.get(match.group(), 0)
    if depth == 0:
      return text[start : start + match.start()].strip()
  return ''


def last_number(text: str) -> str:
  """The last number as '12', '-1000', '0.5' or '3/4'; '' without one.

  A minus counts when no operand precedes it: '10-5' ends in '5'.
  """
  found = _IN_TEXT.findall(_ascii_minus(text))
  return re.sub(r'[$,]', '', found[-1]) if found else ''


def lenient(text: str) -> str:
  """The last answer pair, else the last box, else the last number.

  Dollar signs, a full stop, LaTeX wrapping and words around a single number
  ('$12', '12 apples', 'x = 12.') are dropped; an answer that is no number, or
  holds several, is kept as it stands.
  """
  found = _last_pair(text)
  if not found:
    found = boxed(text)
  if not found:
    return last_number(text)
  return _bare_number(found)


def program(completion: str) -> str:
  """The program of a completion, '' without one.

  What its one answer pair holds, or else the completion itself; of that, the
  last fenced block, or for an answer without fences, all of it.
  """
  answer = _inside(completion)
  if answer:
    return code_of(answer)
  blocks = _fenced(completion)
  return blocks[-1] if blocks else ''


def code_of(answer: str) -> str:
  """The program of an answer: its last fenced block, or all of it."""
  blocks = _fenced(answer)
  return blocks[-1] if blocks else answer


def reply(text: str) -> str:
  """What a reader is told: the completion without thought and answer tags.

  What follows the last </think>, or else begins with the answer; all of a text
  without tags. '' where a thought is opened and never closed.
  """
  _, closed, told = text.rpartition(END_THINK)
  if not closed:
    at = text.find(ANSWER)
    if at < 0 and THINK in text:
      return ''
    told = text[max(at, 0) :]
  return told.replace(ANSWER, '').replace(END_ANSWER, '').strip()


PARTS = {'all': str, 'summary': reply}


def part_of(completion: str, part: str) -> str:
  """The part of a completion that is scored, a name of `PARTS`.

  Raises:
    ValueError: no such part.
  """
  if part not in PARTS:
    raise ValueError(f'part={part!r} is not one of {", ".join(PARTS)}')
  return PARTS[part](completion)


EXTRACTORS = {
  'tags': tags,
  'boxed': boxed,
  'last_number': last_number,
  'lenient': lenient,
  'program': program,
  'reply': reply,
}


def extractor(name: str):
  """The function of that name, or a ValueError that lists them."""
  if name not in EXTRACTORS:
    raise ValueError(
      f'extract={name!r} is unknown; choose from {sorted(EXTRACTORS)}'
    )
  return EXTRACTORS[name]


def is_empty(answer: str) -> bool:
  """Whether nothing was answered; 'None' is how a failed parse prints."""
  return answer.strip().casefold() in ('', 'none')


def parse_number(text: str) -> Fraction | None:
  """The exact value of '12', '-1,000', '3.0', '.5' or '3/4'; None otherwise.

  Currency, units and exponents are not numbers here.
  """
  text = _ascii_minus(text.strip())
  if len(text) > _LONGEST_NUMBER:
    return None
  if _NUMBER.fullmatch(text):
    return Fraction(text.replace(',', '').rstrip('.'))
  ratio = _FRACTION.fullmatch(text)
  if ratio and int(ratio.group(2)):
    return Fraction(int(ratio.group(1)), int(ratio.group(2)))
  return None


def same_number(answer: str, gold: str) -> bool:
  """Whether both are numbers and exactly equal ('3.0' is '3')."""
  left, right = parse_number(answer), parse_number(gold)
  return left is not None and left == right


def format_number(value: int | float) -> str:
  """'43' for 43.0, '0.5' for .5, '2/3' for 0.6666666667.

  Decimals that were cut at nine or more digits become the fraction they came
  from, so that an exact comparison can be passed.
  """
  exact = Fraction(str(value))
  near = exact.limit_denominator(1000)
  if near and abs(exact - near) < Fraction(1, 10**9):
    exact = near
  if exact.denominator == 1:
    return str(exact.numerator)
  if not _terminates(exact.denominator):
    return f'{exact.numerator}/{exact.denominator}'
  decimal = Decimal(exact.numerator) / Decimal(exact.denominator)
  return format(decimal.normalize(), 'f')


def well_formed(text: str, *, thought: bool, summary: bool = False) -> bool:
  """Whether text is <think>..</think><answer>..</answer> and nothing else.

  Whitespace is allowed around the pairs, an empty pair is not. Without
  `thought` the thought may be left out. With `summary` other text may stand
  between the pairs.
  """
  rest = text.strip()
  counts = [rest.count(t) for t in (THINK, END_THINK, ANSWER, END_ANSWER)]
  if counts == [1, 1, 1, 1] and rest.startswith(THINK):
    inside, rest = rest[len(THINK) :].split(END_THINK)
    rest = rest.strip()
    if not inside.strip() or ANSWER in inside or END_ANSWER in inside:
      return False
    if summary and ANSWER in rest:
      rest = rest[rest.index(ANSWER) :]
  elif thought or counts != [0, 0, 1, 1]:
    return False
  if not (rest.startswith(ANSWER) and rest.endswith(END_ANSWER)):
    return False
  return bool(rest[len(ANSWER) : -len(END_ANSWER)].strip())


def thought(text: str) -> str:
  """What stands inside <think>..</think>, or else before the answer.

  The prompt may hold the opening tag, and a completion that was cut no closing
  one; without either tag, all that precedes the first answer is the thought.
  """
  before, closed, _ = text.partition(END_THINK)
  if not closed:
    before = text.partition(ANSWER)[0]
  return before.partition(THINK)[2] if THINK in before else before


def _terminates(denominator: int) -> bool:
  """Whether a fraction in lowest terms has a finite decimal form."""
  for factor in (2, 5):
    while denominator % factor == 0:
      denominator //= factor
  return denominator == 1


def _last_pair(text: str) -> str:
  end = text.rfind(END_ANSWER)
  start = text.rfind(ANSWER, 0, end) if end >= 0 else -1
  return '' if start < 0 else text[start + len(ANSWER) : end].strip()


def _bare_number(answer: str) -> str:
  """The number of an answer that is one number and plain words around it."""
  inner = boxed(answer)
  if inner:
    answer = inner
  bare = _WRAPPING.sub(r'\1', _ascii_minus(answer)).strip().removesuffix('.')
  found = list(_IN_TEXT.finditer(bare))
  if len(found) != 1 or parse_number(bare) is not None:
    return bare
  start, end = found[0].span()
  # A letter at its side makes it a factor or a name ('2x', 'x2'), not the
  # answer.
  touching = bare[max(start - 1, 0) : start] + bare[end : end + 1]
  if not _PLAIN_WORDS.fullmatch(bare[:start] + bare[end:]) or any(
    c.isalpha() for c in touching
  ):
    return bare
  return re.sub(r'[$,]', '', found[0].group())


def _ascii_minus(text: str) -> str:
  return text.replace('\N{MINUS SIGN}', '-')


def _fenced(completion: str) -> list[str]:
  """The fenced code blocks that close, in order."""
  blocks, block, fence = [], [], ''
  for line in completion.split('\n'):
    bare = line.strip()
    if fence:
      # A block ends with at least as many marks, and nothing after them.
      if bare.startswith(fence) and not bare.strip(fence[0]):
        blocks.append('\n'.join(block))
        fence = ''
      else:
        block.append(line)
    else:
      marks = re.match(r'`{3,}(?=[^`]*$)|~{3,}', bare)
      if marks:
        block, fence = [], marks.group()
  return blocks
