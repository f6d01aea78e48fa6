"""What a report shows of the sampled completions, and counts in them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
import json
from typing import Any

import numpy as np

from grpo_jax.rewards import text
from grpo_jax.text_measures import REFLECTIVE, reflective_words

# Characters kept of a long text: of its begin and of its end.
_KEPT = {'prompt': (2000, 1000), 'thought': (4000, 2000), 'rest': (2000, 2000)}


def split(completion: str) -> tuple[str, str]:
  """The thought with its tags as they stand there, and what follows it.

  Together they are the completion: a missing or doubled tag stays visible.
  """
  before, closed, after = completion.partition(text.END_THINK)
  if closed:
    return before + closed, after
  at = completion.find(text.ANSWER)
  if at >= 0:
    return completion[:at], completion[at:]
  return (completion, '') if text.THINK in completion else ('', completion)


def measures(
  rows: Iterable[Mapping[str, Any]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Means of the logged completions of each step.

  Completions that a teacher gave are left out.

  Returns:
    steps, and by name: 'thought/tokens' (those of the completion, by the
    thought's share of its characters), 'reflective/each' (the ten words, a
    completion), 'reflective/per_1000' (for 1,000 tokens of completion) and
    'words/wait' ... of each word, a completion.
  """
  found = defaultdict(list)
  for row in rows:
    if row.get('given') or 'completion' not in row:
      continue
    whole = row['completion']
    thought, tokens = text.thought(whole), row.get('length', 0)
    words = reflective_words(whole)
    share = len(thought) / max(len(whole), 1)
    counts = [words.count(word) for word in REFLECTIVE]
    found[row['step']].append((tokens, tokens * share, len(words), *counts))
  steps = np.array(sorted(found), np.int64)
  if not steps.size:
    return steps, {}
  means = np.array([np.mean(found[step], 0) for step in steps.tolist()])
  tokens, thoughts, words, *each = means.T
  curves = {
    'thought/tokens': thoughts,
    'reflective/each': words,
    'reflective/per_1000': 1000 * words / np.maximum(tokens, 1),
  }
  counts = zip(REFLECTIVE, each, strict=True)
  return steps, curves | {f'words/{w}': c for w, c in counts}


def browsable(
  rows: Sequence[Mapping[str, Any]],
  *,
  extract: Mapping[str, str],
  limit: int,
) -> dict[str, Any]:
  """Completions for the page, of as many steps as `limit` bytes hold.

  Steps are kept evenly spaced, the first and the last among them: whole, or
  if these two do not fit, ever fewer rows of each, and then ever less text.

  Args:
    rows: of samples.jsonl.
    extract: domain -> name of an extractor, see `rules.extractors_of`.
    limit: bytes of JSON.

  Returns:
    {'rows': [...], 'steps': kept, 'logged': all that there are, 'each': rows
    kept of a step, None of whole ones}.
  """
  by_step = defaultdict(list)
  for row in rows:
    if 'completion' in row:
      by_step[row['step']].append(row)
  logged = [by_step[step] for step in sorted(by_step)]
  most = max(map(len, logged), default=1)
  for each, share in _ever_less(most):
    steps = [
      [_shown(row, extract, share) for row in step[:each]] for step in logged
    ]
    kept = _evenly([_size(shown) for shown in steps], limit)
    if len(kept) >= min(2, len(logged)):
      break
  # A row is there in any case: an empty browser would say that none are.
  kept = kept or list(range(len(logged)))[:1]
  return {
    'rows': [row for index in kept for row in steps[index]],
    'steps': len(kept),
    'logged': len(logged),
    'each': each if each < most else None,
  }


def _ever_less(rows):
  """Rows of a step, and the share of `_KEPT`."""
  while rows > 1:
    yield rows, 1.0
    rows //= 2
  for halved in range(7):
    yield 1, 0.5**halved


def _shown(row, extract, share):
  thought, rest = split(row['completion'])
  name, answer = extract.get(row.get('domain'), extract['']), None
  if name != 'program':  # that is all of the text
    answer = text.extractor(name)(row['completion'])[:200]
  return {
    'step': row['step'],
    'prompt': _cut(row.get('prompt', ''), 'prompt', share),
    'thought': _cut(thought, 'thought', share),
    'rest': _cut(rest, 'rest', share),
    'answer': answer,
    'expected': str(row.get('answer', ''))[:200],
    'reward': _number(row.get('reward')),
    'parts': {k: _number(v) for k, v in row.get('rewards', {}).items()},
    'advantage': _number(row.get('advantage')),
    'length': row.get('length', 0),
    'finished': bool(row.get('finished', True)),
    'given': bool(row.get('given')),
  }


def _cut(whole, kind, share):
  begin, end = (int(share * kept) for kept in _KEPT[kind])
  out = len(whole) - begin - end
  if out <= 0:
    return whole
  return f'{whole[:begin]}\n[... {out} characters ...]\n{whole[-end:]}'


def _number(value):
  # Non-finite numbers are written by name: a missing reward is 'nan'.
  if value is None or isinstance(value, str):
    return None
  return float(f'{value:.4g}')


def _size(shown):
  """Bytes in the file, where '<' takes six."""
  dumped = json.dumps(shown, ensure_ascii=False)
  return len(dumped.encode('utf-8', 'replace')) + 5 * dumped.count('<')


def _evenly(sizes, limit):
  """Indices, as many as fit into the limit together."""
  sizes, count = np.array(sizes), len(sizes)
  while count:
    index = np.linspace(0, len(sizes) - 1, count).round().astype(int)
    total = int(sizes[index].sum())
    if total <= limit:
      return index.tolist()
    # Two at least are tried, as those between them may be the long ones.
    count = min(count - 1, max(int(count * limit / total), 2))
  return []
