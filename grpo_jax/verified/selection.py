"""Which completions become records of a verified set, and what is counted.

Two parts. `sift` looks at one prompt: right, fit, not said before, rewritten.
`Chooser` and `draw` look at the whole set, in the order of the prompts:
duplicates of other prompts, the limit, records of other sources. All pure, so
that a set is a function of (config, seed). A completion that is dropped counts
under the first reason that applies.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import math

import numpy as np

from grpo_jax.verified.filters import normalised, overlap

# Reasons that are no filter's name, in the order in which they apply; filters
# come after min_reward.
REASONS = (
  'unjudged', 'wrong', 'empty', 'min_reward', 'duplicate', 'near_duplicate',
  'per_prompt', 'rewrite', 'limit',
)  # fmt: skip
_ROUNDING = 1e-5
# Bounds of the histogram of pass rates: none, four quarters, all.
BINS = ('0', '(0, .25]', '(.25, .5]', '(.5, .75]', '(.75, 1)', '1')


@dataclasses.dataclass(frozen=True)
class Rules:
  """What of a prompt's completions is kept.

  Attributes:
    min_reward: of the whole reward, at least.
    filters: (name, fits) pairs, in order.
    rewrite: (completion, example) -> text, '' to drop it; None leaves all.
    still_right: (text, example) -> whether a rewritten one is right.
    count: text -> its tokens, EOS included.
    near_size: n of the n-grams whose overlap makes near duplicates.
    near: overlap from which on two completions to a prompt are such; above 1
      none are.
    per_prompt: completions kept of a prompt, the first; 0 for all.
  """

  min_reward: float
  filters: Sequence[tuple[str, Callable]]
  rewrite: Callable | None
  still_right: Callable
  count: Callable[[str], int]
  near_size: int
  near: float
  per_prompt: int


def sift(
  index: int,
  example,
  completions: Sequence[str],
  rewards: np.ndarray,
  right: np.ndarray,
  rules: Rules,
) -> dict:
  """A row of progress: what is kept of one prompt, as JSON.

  Args:
    index: of the prompt, as they are asked.
    example: the prompt.
    completions: G of them.
    rewards: [G] whole rewards.
    right: [G] 1.0 where right; NaN where that is not known.
    rules: see there.
  """
  dropped, kept = collections.Counter(), []
  for g, completion in enumerate(completions):
    reason = _unfit(completion, example, rewards[g], right[g], rules)
    if not reason:
      reason = _repeats(completion, [c for c, _ in kept], rules)
    if not reason and 0 < rules.per_prompt <= len(kept):
      reason = 'per_prompt'
    final, tokens = str(completion), getattr(completion, 'tokens', 0)
    if not reason and rules.rewrite is not None:
      final = rules.rewrite(completion, example)
      if final and rules.still_right(final, example):
        tokens = rules.count(final)
      else:
        reason = 'rewrite'
    if reason:
      dropped[reason] += 1
      continue
    row = dict(sample=g, completion=final, tokens=tokens)
    kept.append((completion, row | {'reward': float(rewards[g])}))
  return {
    'index': int(index),
    'prompt': example.prompt,
    'answer': example.answer,
    'judged': int((~np.isnan(right)).sum()),
    'right': int((right == 1.0).sum()),
    'dropped': dict(dropped),
    'kept': [row for _, row in kept],
  }


def _unfit(completion, example, reward, right, rules) -> str:
  """Why not, by itself; '' where nothing speaks against it."""
  if np.isnan(right):
    return 'unjudged'
  if right != 1.0:
    return 'wrong'
  # A policy may end at once, and nothing can be learned of it.
  if not completion.strip():
    return 'empty'
  # A reward that is missing is no reason where none is asked for.
  # It is a sum in float32, where 1 + 0.3 + 0.3 is 1.5999999.
  least = rules.min_reward - _ROUNDING
  if rules.min_reward > -math.inf and not reward >= least:
    return 'min_reward'
  for name, fits in rules.filters:
    if not fits(completion, example):
      return name
  return ''


def _repeats(completion, kept, rules) -> str:
  """Why not, beside what is kept of the prompt."""
  if normalised(completion) in map(normalised, kept):
    return 'duplicate'
  if any(
    overlap(completion, one, size=rules.near_size) >= rules.near for one in kept
  ):
    return 'near_duplicate'
  return ''


class Chooser:
  """Takes rows of progress in the order of prompts, gives records.

  Attributes:
    dropped: reason -> completions.
    prompts: of the rows taken, those after the limit left out.
    samples: completions that were sampled for them.
    pass_rates: bin -> prompts.
    kept: records given.
  """

  def __init__(self, *, source: str, limit: int = 0):
    """Args: source: name of the records; limit: records at most, 0 for all."""
    self.source, self.limit = source, limit
    self.dropped = collections.Counter()
    self.pass_rates = dict.fromkeys((*BINS, 'unjudged'), 0)
    self.prompts = self.samples = self.kept = 0
    self.seen: set[bytes] = set()

  @property
  def full(self) -> bool:
    """Whether no other row can change the set."""
    return 0 < self.limit <= self.kept

  def add(self, row: Mapping) -> Iterator[dict]:
    """The records of a prompt."""
    if self.full:
      return
    rate = row['right'] / row['judged'] if row['judged'] else float('nan')
    self.prompts += 1
    self.samples += sum(row['dropped'].values()) + len(row['kept'])
    self.pass_rates[bin_of(rate)] += 1
    self.dropped.update(row['dropped'])
    for one in row['kept']:
      key = key_of(row['prompt'], one['completion'])
      if key in self.seen:
        self.dropped['duplicate'] += 1
      elif self.full:
        self.dropped['limit'] += 1
      else:
        self.seen.add(key)
        self.kept += 1
        yield {
          'prompt': row['prompt'],
          'completion': one['completion'],
          'source': self.source,
          'answer': row['answer'],
          'reward': one['reward'],
          'pass_rate': rate,
          'tokens': one['tokens'],
          'index': row['index'],
          'sample': one['sample'],
        }

  def count(self, rows: Iterable[Mapping]) -> None:
    """Takes rows whose records are not wanted yet."""
    for row in rows:
      collections.deque(self.add(row), maxlen=0)


def draw(
  examples: Iterable,
  *,
  wanted: int | None,
  source: str,
  seen: set[bytes],
  count: Callable[[str], int],
) -> Iterator[dict]:
  """Records of another source: its own completions, not judged again.

  Args:
    examples: (index, example) pairs in the order in which they are drawn.
    wanted: records, None for all; those that are in the set already, and empty
      ones, do not count.
    source: its name.
    seen: keys of the set so far; grows.
    count: text -> its tokens, EOS included.

  Raises:
    ValueError: there are not so many.
  """
  found = 0
  for index, example in examples:
    if wanted is not None and found == wanted:
      return
    key = key_of(example.prompt, example.completion)
    if key in seen or not example.completion.strip():
      continue
    seen.add(key)
    found += 1
    yield {
      'prompt': example.prompt,
      'completion': example.completion,
      'source': source,
      'answer': example.answer,
      'reward': float('nan'),
      'pass_rate': float('nan'),
      'tokens': count(example.completion),
      'index': index,
      'sample': 0,
    }
  if wanted is not None and found < wanted:
    raise ValueError(
      f'keep.mix: {source} has {found} records that are not in the set yet '
      f'and {wanted} are asked for; lower its count or share'
    )


def shares_to_counts(own: int, shares: Sequence[float]) -> list[int]:
  """Records of each source that make up its share of the whole, rounded."""
  whole = own / (1.0 - sum(shares))
  return [round(share * whole) for share in shares]


def bin_of(rate: float) -> str:
  """The bin of a pass rate; 'unjudged' for NaN."""
  if np.isnan(rate):
    return 'unjudged'
  if rate in (0.0, 1.0):
    return BINS[0] if rate == 0.0 else BINS[-1]
  return BINS[1 + int(np.searchsorted((0.25, 0.5, 0.75), rate))]


def key_of(prompt: str, completion: str) -> bytes:
  """Equal for two records that differ in whitespace alone."""
  content = f'{normalised(prompt)}\0{normalised(completion)}'
  return hashlib.blake2b(
    content.encode('utf-8', 'backslashreplace'), digest_size=16
  ).digest()
