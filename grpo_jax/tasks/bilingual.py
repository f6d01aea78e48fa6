"""Word problems in two toy languages that share no word.

  en  tom has 4 figs, gets 3, eats 2?
      <think>4 then 3 is 07, then 2 is 05</think><answer>05</answer>
  it  leo ha 4 noci, trae 3, cede 2?
      <think>4 piu 3 fa 07, via 2 fa 05</think><answer>05</answer>

With a summary in the asker's language, as `rewrite` makes it for a cold start,
'tom has 05 figs' stands between the thought and the answer.

The thought of 'en' has one word, then, for both signs: which one it was stands
in the question alone. 'it' says it, piu or via. So a chain in the other
language's words helps with questions in 'en', and mixing pays there.

Words of one kind are equally long, so that a term of the thought stands at one
of few distances from its term of the question: a small model learns to copy it
in minutes.
"""

import dataclasses
import random

from grpo_jax.rewards import text
from grpo_jax.tasks import common

ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789,.? '
_TRIES = 10_000


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
  summary_share: float = 0.0,
) -> common.Task:
  """Problems whose answer is a number.

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
    steps_share: share of completions with a thought. The others blurt out an
      answer.
    wrong_share: share of those that are wrong: the first two terms read as one.
    mixed_share: share of thoughts in which every clause is in a language drawn
      at random.
    filler_share: share of thoughts that begin with a word that says nothing.
    summary_share: share of completions with a thought that have a summary.

  Raises:
    ValueError: an argument out of range, or no such sum in split and part.
  """
  _check_arguments(
    split, size, ops, max_number, languages, part,
    steps_share=steps_share, wrong_share=wrong_share,
    mixed_share=mixed_share, filler_share=filler_share,
    summary_share=summary_share,
  )  # fmt: skip

  def make(i):
    draw = random.Random(f'bilingual/{seed}/{split}/{part}/{i}')
    name = draw.choice(languages)
    language = LANGUAGES[name]
    terms, totals = _sum(draw, ops, max_number, split, part)
    who, what = draw.choice(language.names), draw.choice(language.things)
    first, *rest = terms
    clauses = (f', {language.verbs[t[0]]} {t[1:]}' for t in rest)
    prompt = f'{who} {language.has} {first} {what}{"".join(clauses)}?'
    number, worked = totals[-1], ''
    if draw.random() < steps_share:
      mixed = draw.random() < mixed_share
      filler = draw.random() < filler_share
      worked = _thought(draw, language, terms, totals, mixed, filler)
      if draw.random() < summary_share:
        worked += _summary(prompt, f'{number:02d}')
    elif draw.random() < wrong_share:
      number = _misread(terms, totals[-1])
    completion = f'{worked}<answer>{number:02d}</answer>'
    data = {'language': name, 'words': language.words}
    return common.Example(prompt, str(totals[-1]), completion, data)

  make(0)  # no such sums: say so at the start
  return common.Task(size, make, common.same_number)


def rewrite(completion: str, example: common.Example) -> str:
  """A verified trace as <think>thought</think>summary<answer>number</answer>.

  The summary adds no reasoning. For `keep.rewrite`; '' drops a trace without
  thought or answer.
  """
  thought, answer = text.thought(completion).strip(), text.tags(completion)
  if not thought or not answer:
    return ''
  said = _summary(example.prompt, answer)
  return f'<think>{thought}</think>{said}<answer>{answer}</answer>'


def _summary(prompt: str, answer: str) -> str:
  """'tom has 4 figs, gets 3?' and '07' -> 'tom has 07 figs'."""
  who, has, _, what, *_ = prompt.replace(',', ' ').split()
  return f'{who} {has} {answer} {what}'


def _thought(draw, language, terms, totals, mixed, filler):
  first, *rest = terms
  start = f'{language.filler}, {first}' if filler else first
  said = []
  for i, term in enumerate(rest):
    chosen = LANGUAGES[draw.choice(list(LANGUAGES))] if mixed else language
    sign = chosen.signs[term[0]]
    said.append(f'{sign} {term[1:]} {chosen.makes} {totals[i]:02d}')
  return f'<think>{start} {", ".join(said)}</think>'


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
    if common.is_of(''.join(terms), split, part):
      return terms, totals
  raise ValueError(
    f'bilingual: no sum of ops={ops} and max_number={max_number} in '
    f'split={split!r}, part={part!r}; raise one of them'
  )


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
  common.check_part('bilingual', part)
  common.check_shares('bilingual', **shares)
