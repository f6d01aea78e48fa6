"""Word problems in two toy languages that share no word.

  en  tom has 4 figs, gets 3, eats 2?
    <think>4 then 3 is 07, then 2 is 05</think><answer>tom has 05 figs</answer>
  it  leo ha 4 noci, trae 3, cede 2?
    <think>4 piu 3 fa 07, via 2 fa 05</think><answer>leo ha 05 noci</answer>

The thought of 'en' has one word, then, for both signs: which one it was stands
in the question alone. 'it' says it, piu or via. So a chain in the other
language's words helps with questions in 'en', and mixing pays there.

Words of one kind are equally long, so that a term of the thought stands at one
of few distances from its term of the question: a small model learns to copy it
in minutes.
"""

import dataclasses
import hashlib
import random
import re

from grpo_jax.tasks import common

ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789,.? '
_TRIES = 10_000
_INTEGER = re.compile(r'[0-9]{1,9}')


@dataclasses.dataclass(frozen=True)
class Language:
  """Words by their place in a problem."""

  names: tuple[str, ...]
  things: tuple[str, ...]
  has: str
  verbs: dict[str, str]  # sign -> what the question says
  signs: dict[str, str]  # sign -> what the thought says
  makes: str
  filler: str

  @property
  def words(self) -> frozenset[str]:
    """All of them."""
    listed = (*self.names, *self.things, self.has, self.makes, self.filler)
    return frozenset((*listed, *self.verbs.values(), *self.signs.values()))


LANGUAGES = {
  'en': Language(
    names=('tom', 'ann', 'bob', 'sue'),
    things=('figs', 'nuts', 'eggs', 'pies'),
    has='has',
    verbs={'+': 'gets', '-': 'eats'},
    signs={'+': 'then', '-': 'then'},
    makes='is',
    filler='well',
  ),
  'it': Language(
    names=('leo', 'pia', 'ugo', 'eva'),
    things=('noci', 'pere', 'mele', 'uova'),
    has='ha',
    verbs={'+': 'trae', '-': 'cede'},
    signs={'+': 'piu', '-': 'via'},
    makes='fa',
    filler='bene',
  ),
}


def bilingual(
  *,
  split: str,
  size: int,
  ops: int = 2,
  max_number: int = 9,
  languages: tuple[str, ...] = ('en', 'it'),
  part: str = '',
  seed: int = 0,
  steps_share: float = 1.0,
  wrong_share: float = 0.0,
  mixed_share: float = 0.0,
  filler_share: float = 0.0,
) -> common.Task:
  """Problems whose answer, in words, holds exactly one number: the right one.

  An example's `data` has 'language' and 'words', all words of that language,
  for the reward `lexicon`.

  Args:
    split: 'train' or 'test': about a tenth of all sums, by hash of their
      numbers, whatever their words and language.
    size: number of examples.
    ops: how often something is got or lost.
    max_number: numbers of the question are 1 .. max_number, at most 9; running
      totals stay in 0 .. 99.
    languages: asked in turn at random.
    part: of the split, by another hash: 'corpus' or 'questions' for a half
      each, so that a base is not pretrained on sums that RL asks; '' for all.
    seed: of the generator; splits and parts are disjoint across seeds too.
    steps_share: share of completions with a thought. The others blurt out a
      summary.
    wrong_share: share of those whose number is wrong: the first two terms read
      as one.
    mixed_share: share of thoughts in which every clause is in a language drawn
      at random.
    filler_share: share of thoughts that begin with a word that says nothing.

  Raises:
    ValueError: an argument out of range, or no such sum in split and part.
  """
  _check_arguments(
    split, size, ops, max_number, languages, part,
    steps_share=steps_share, wrong_share=wrong_share,
    mixed_share=mixed_share, filler_share=filler_share,
  )  # fmt: skip

  def make(i):
    draw = random.Random(f'bilingual/{seed}/{split}/{part}/{i}')
    name = draw.choice(languages)
    language = LANGUAGES[name]
    terms, totals = _sum(draw, ops, max_number, split, part)
    who, what = draw.choice(language.names), draw.choice(language.things)

    def summary(number):
      return f'{who} {language.has} {number:02d} {what}'

    first, *rest = terms
    clauses = (f', {language.verbs[s]} {n}' for s, n in map(tuple, rest))
    prompt = f'{who} {language.has} {first} {what}{"".join(clauses)}?'
    number, thought = totals[-1], ''
    if draw.random() < steps_share:
      mixed = draw.random() < mixed_share
      filler = draw.random() < filler_share
      thought = _thought(draw, language, terms, totals, mixed, filler)
    elif draw.random() < wrong_share:
      number = _misread(terms, totals[-1])
    completion = f'{thought}<answer>{summary(number)}</answer>'
    data = {'language': name, 'words': language.words}
    return common.Example(prompt, str(totals[-1]), completion, data)

  make(0)  # no such sums: say so at the start
  return common.Task(size, make, _check)


def language_of(prompt: str) -> str:
  """The language most of a text's words are of; '' of none."""
  words = re.findall('[a-z]+', prompt)
  counts = {
    name: sum(word in language.words for word in words)
    for name, language in LANGUAGES.items()
  }
  best = max(counts, key=counts.__getitem__)
  return best if counts[best] else ''


def _check(answer: str, example: common.Example) -> bool:
  numbers = _INTEGER.findall(answer)
  return len(numbers) == 1 and int(numbers[0]) == int(example.answer)


def _thought(draw, language, terms, totals, mixed, filler):
  first, *rest = terms
  said = [f'{language.filler}, {first}' if filler else first]
  for i, (sign, number) in enumerate(map(tuple, rest)):
    chosen = LANGUAGES[draw.choice(list(LANGUAGES))] if mixed else language
    comma = ',' if i else ''
    said.append(
      f'{comma} {chosen.signs[sign]} {number} {chosen.makes} {totals[i]:02d}'
    )
  return f'<think>{"".join(said)}</think>'


def _sum(draw, ops, max_number, split, part):
  """Terms ['4', '+3', '-2'] and running totals [7, 5], of split and part."""
  for _ in range(_TRIES):
    total = draw.randint(1, max_number)
    terms, totals = [str(total)], []
    for _ in range(ops):
      # One of the signs keeps any total within bounds.
      sign, number = draw.choice('+-'), draw.randint(1, max_number)
      if not 0 <= total + int(f'{sign}{number}') <= 99:
        sign = '-' if sign == '+' else '+'
      total += int(f'{sign}{number}')
      terms.append(f'{sign}{number}')
      totals.append(total)
    written = ''.join(terms)
    if common.split_of(written) == split and part in ('', _part_of(written)):
      return terms, totals
  raise ValueError(
    f'bilingual: no sum of ops={ops} and max_number={max_number} in '
    f'split={split!r}, part={part!r}; raise one of them'
  )


def _part_of(written: str) -> str:
  digest = hashlib.sha256(f'part/{written}'.encode()).digest()
  return 'corpus' if digest[0] < 128 else 'questions'


def _misread(terms, total):
  guess = 10 * int(terms[0]) + int(terms[1][1:])
  return guess if guess != total else guess + 1


def _check_arguments(split, size, ops, max_number, languages, part, **shares):
  common.check_arguments('bilingual', split=split, size=size)
  if ops < 1:
    raise ValueError(f'bilingual: ops={ops} must be at least 1')
  if not 1 <= max_number <= 9:
    raise ValueError(f'bilingual: max_number={max_number} must be 1 .. 9')
  unknown = [name for name in languages if name not in LANGUAGES]
  if unknown or not languages:
    raise ValueError(
      f'bilingual: languages={languages!r} must name some of '
      f'{", ".join(LANGUAGES)}'
    )
  if part not in ('', 'corpus', 'questions'):
    raise ValueError(
      f"bilingual: part={part!r} must be 'corpus', 'questions' or ''"
    )
  for name, share in shares.items():
    if not 0.0 <= share <= 1.0:
      raise ValueError(f'bilingual: {name}={share} must be between 0 and 1')
