"""MAWPS: one and two step word problems.

Koncel-Kedziorski et al., MAWPS: A Math Word Problem Repository, NAACL 2016.
The union of four of its sets, tidied and without duplicates. The source has
no split, so it is made here, by hash.
"""

from fractions import Fraction
import html
import itertools
import operator
import pathlib
import re

import tensorflow_datasets as tfds

from grpo_jax.rewards import text
from grpo_jax.tasks import common, prepared

_FILES = tuple(
  f'{name}.jsonl' for name in ('addsub', 'multiarith', 'singleeq', 'singleop')
)
_TEST_SHARE = 0.2
_NUMERAL = re.compile(r'[0-9]+(?:\.[0-9]+)?')
_OPERATIONS = {
  '+': operator.add,
  '-': operator.sub,
  '*': operator.mul,
  '/': operator.truediv,
}


class MawpsBuilder(tfds.core.GeneratorBasedBuilder):
  """Questions and numeric answers."""

  name = 'grpo_mawps'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='download', version='1.0.0')]
  SOURCE = (
    'https://raw.githubusercontent.com/microsoft/ToRA/main/src/data/mawps/'
  )

  def __init__(self, *, folder: str = '', **kwargs):
    self._folder = folder
    super().__init__(file_format='array_record', **kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='One and two step arithmetic word problems.',
      homepage='https://aclanthology.org/N16-1136',
      features=tfds.features.FeaturesDict(
        {'question': tfds.features.Text(), 'answer': tfds.features.Text()}
      ),
    )

  def _split_generators(self, dl_manager):
    if self._folder:
      folder = pathlib.Path(self._folder).expanduser()
      paths = [folder / name for name in _FILES]
    else:
      paths = dl_manager.download([self.SOURCE + name for name in _FILES])
    return {s: self._generate_examples(paths, s) for s in ('train', 'test')}

  def _generate_examples(self, paths, split):
    for key, (question, answer) in _unique(paths).items():
      if _split(key) == split:
        yield key, {'question': question, 'answer': answer}


def mawps(*, split: str, folder: str = '', data_dir: str = '') -> common.Task:
  """The problems of a split made by hash: about a fifth is 'test'.

  Near duplicates differ in a word and keep their numbers, so problems with
  the same numbers in the same order share a split: no test problem is a train
  problem reworded.

  Args:
    split: 'train' or 'test'.
    folder: of the original addsub.jsonl, multiarith.jsonl, singleeq.jsonl and
      singleop.jsonl (fields input, target); '' downloads them.
    data_dir: where prepared data goes; '' is tfds' default.
  """
  common.check_arguments('mawps', split=split)
  rows = prepared.read(
    MawpsBuilder, split=split, files=_FILES, folder=folder, data_dir=data_dir
  )

  def make(i):
    row = rows[i]
    completion = worked(row['question'], row['answer'])
    return common.Example(row['question'], row['answer'], completion)

  source = folder if folder else 'mawps'
  return common.Task(len(rows), make, common.same_number, source=source)


def worked(question: str, answer: str) -> str:
  """A completion with the steps of the first expression that fits.

  The source gives no solutions. One or two operations on numbers of the
  question, in any order, that give the answer are most often the right ones;
  where none do, the answer stands alone.
  """
  numerals = _NUMERAL.findall(re.sub(r'(?<=\d),(?=\d{3})', '', question))
  steps = _steps([Fraction(n) for n in numerals], Fraction(answer))
  thought = f'<think>{steps}</think>' if steps else ''
  return f'{thought}<answer>{answer}</answer>'


def _steps(numbers: list[Fraction], answer: Fraction) -> str:
  """One operation, or else two, from numbers to the answer; '' without any."""
  for depth in (1, 2):
    for chosen in itertools.permutations(numbers, depth + 1):
      for operations in itertools.product('+-*/', repeat=depth):
        value, written = chosen[0], []
        for sign, other in zip(operations, chosen[1:], strict=True):
          if sign == '/' and not other:
            break
          result = _OPERATIONS[sign](value, other)
          written.append(
            f'{_shown(value)} {sign} {_shown(other)} = {_shown(result)}'
          )
          value = result
        if len(written) == depth and value == answer:
          return ', '.join(written)
  return ''


def _shown(value: Fraction) -> str:
  return str(value) if value.denominator == 1 else f'{float(value):g}'


def tidy(question: str) -> str:
  """One form for the sources' several: spacing, quotes, capitals, entities."""
  out = html.unescape(question).replace('\N{RIGHT SINGLE QUOTATION MARK}', "'")
  out = re.sub(r"\s+('s|'t|n't)\b", r'\1', out)
  out = re.sub(r'\s+([.,?!;:])(?!\d)', r'\1', out)
  out = re.sub(r'\$\s+(?=\d)', '$', ' '.join(out.split()))
  # The lookbehind leaves initials and 'a.m.' alone.
  out = re.sub(
    r'(?<=\w\w[.?!] )[a-z]', lambda match: match.group().upper(), out
  )
  return out[:1].upper() + out[1:]


def normalise(question: str) -> str:
  """Words and numbers alone: what makes two questions the same."""
  plain = re.sub(r'(?<=\d),(?=\d{3})', '', tidy(question).lower())
  return ' '.join(re.findall(r'[a-z]+|\d+(?:\.\d+)?', plain))


def _unique(paths) -> dict[str, tuple[str, str]]:
  """normalised question -> (question, answer), without contradictions.

  A question with two different answers is dropped, as neither is sure.
  """
  found: dict[str, tuple[str, str]] = {}
  unsure = set()
  for row in prepared.original_rows(paths, ('input', 'target')):
    answer = _answer(row['target'])
    key = normalise(row['input'])
    if found.setdefault(key, (tidy(row['input']), answer))[1] != answer:
      unsure.add(key)
  return {k: v for k, v in found.items() if k not in unsure}


def _answer(target) -> str:
  try:
    return text.format_number(target)
  except ValueError:
    raise ValueError(f'mawps: target={target!r} is no number') from None


def _split(key: str) -> str:
  numbers = ' '.join(_NUMERAL.findall(key))
  return common.split_of(numbers if numbers else key, test_share=_TEST_SHARE)
