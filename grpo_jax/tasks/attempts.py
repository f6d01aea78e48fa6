"""Pairs to be found by trying: the longer the search, the likelier the answer.

  search  '3 8 5 2 9 4=11'   3+5=08 no; 8+2=10 no; 2+9=11   the pair: 2+9
  lookup  '3 8 5 2 9 4=3'    (the same filler)              the third number: 5

In `search` a thought tries pairs of the listed numbers in any order and may
stop and guess at any time. With q the share of pairs that are right, n tries
find one with probability 1 - (1 - q)^n: thinking longer pays, and how much can
be computed. In `lookup` the answer stands in the question and tries are idle.
A thought seldom repairs itself: 'wait, 2+9=11'.
"""

import itertools
import random

from grpo_jax.tasks import common

ALPHABET = '0123456789+=;, abcdefghijklmnopqrstuvwxyz'
KINDS = ('search', 'lookup')
_TRIES = 10_000


def attempts(
  *,
  split: str,
  size: int,
  kind: str = 'search',
  numbers: int = 6,
  stop_share: float = 0.65,
  repair_share: float = 0.02,
  part: str = '',
  seed: int = 0,
) -> common.Task:
  """Questions whose reference thoughts are short and often stop too early.

  Args:
    split: 'train' or 'test': about a tenth of all questions, by hash; in
      `search` by sets of numbers, of which six of 1 .. 9 make 936 with targets.
    size: number of examples.
    kind: 'search' or 'lookup'.
    numbers: listed, all different, 1 .. 9.
    stop_share: chance that a thought of the corpus ends after a try, found or
      not: the number of tries is geometric with mean 1 / stop_share.
    repair_share: chance that a try is written down wrong and repaired.
    part: of the split, by another hash: 'corpus' or 'questions' for a half
      each, so that RL asks nothing that its base model was shown; '' for both.
    seed: of the generator; splits and parts are disjoint across seeds too.

  Raises:
    ValueError: an argument out of range.
  """
  common.check_arguments('attempts', split=split, size=size)
  if kind not in KINDS:
    raise ValueError(f'attempts: kind={kind!r} must be one of {KINDS}')
  if not 3 <= numbers <= 9:
    raise ValueError(f'attempts: numbers={numbers} must be 3 .. 9')
  common.check_part('attempts', part)
  common.check_shares(
    'attempts', stop_share=stop_share, repair_share=repair_share
  )

  def make(i):
    draw = random.Random(f'attempts/{kind}/{seed}/{split}{part}/{i}')
    listed, target = _question(draw, kind, numbers, split, part)
    tried, last = _tries(
      draw, listed, target, kind=kind, stop=stop_share, repair=repair_share
    )
    if kind == 'search':
      answer, found = _solution(listed, target), f'{last[0]}+{last[1]}'
    else:
      answer = found = str(listed[target - 1])
    prompt = f'{" ".join(map(str, listed))}={target}'
    completion = f'<think>{tried}</think><answer>{found}</answer>'
    facts = {'kind': kind, 'listed': listed, 'target': target}
    return common.Example(prompt, answer, completion, facts)

  make(0)
  return common.Task(size, make, _check)


def _check(answer: str, example: common.Example) -> bool:
  facts = example.data
  if facts['kind'] == 'lookup':
    return common.same_number(answer, example)
  parts = answer.strip().split('+')
  if len(parts) != 2 or not all(p.isascii() and p.isdigit() for p in parts):
    return False
  if max(map(len, parts)) > 2:
    return False
  a, b = map(int, parts)
  both = a in facts['listed'] and b in facts['listed'] and a != b
  return both and a + b == facts['target']


def _question(draw, kind, numbers, split, part):
  """Numbers and a target of split and part."""
  for _ in range(_TRIES):
    listed = tuple(draw.sample(range(1, 10), numbers))
    if kind == 'search':
      target = sum(draw.sample(listed, 2))
    else:
      target = draw.randint(1, numbers)
    # In `search` the order of the numbers makes no other problem.
    same = sorted(listed) if kind == 'search' else listed
    if common.is_of(f'{tuple(same)}{target}', split, part):
      return listed, target
  raise ValueError(f'attempts: no {split} question in {_TRIES} draws')


def _tries(draw, listed, target, *, kind, stop, repair):
  """What a thought says, and the pair that it stops at."""
  pairs = list(itertools.combinations(listed, 2))
  draw.shuffle(pairs)
  said = []
  for a, b in pairs:
    found = kind == 'search' and a + b == target
    total = f'{a}+{b}={a + b:02d}'
    if draw.random() < repair:
      total = f'{a}+{b}={(a + b + draw.randint(1, 9)) % 20:02d} wait, {total}'
    said.append(total if found else f'{total} no')
    if found or draw.random() < stop:
      break
  return '; '.join(said), (a, b)


def _solution(listed, target):
  pairs = itertools.combinations(listed, 2)
  return next(f'{a}+{b}' for a, b in pairs if a + b == target)
