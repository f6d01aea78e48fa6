"""What the texts of sampled answers are like, beyond right and wrong (host).

The measures of R1's stage table that are read off completions: how long is
thought, with how many reflective words, how much of it is gibberish, whether
format and language are kept. Each is a pure function of texts.
"""

from collections.abc import Callable, Sequence
import re

import numpy as np

from grpo_jax import measures
from grpo_jax.rewards import languages, ngrams, text
from grpo_jax.rewards.fault_counts import record
from grpo_jax.rewards.lexicon import share_of_known

# DeepSeek-R1 (2501.12948v2) C.2. Whole words: 'errors' is not counted.
REFLECTIVE = (
  'wait', 'mistake', 'however', 'but', 'retry', 'error', 'verify', 'wrong',
  'evaluate', 'check',
)  # fmt: skip
_WORD = re.compile(rf'\b({"|".join(REFLECTIVE)})\b', re.IGNORECASE)
_TAG = re.compile('|'.join(text.TAGS))
# Our own choice, as the paper gives none: half of at least 16 4-grams repeated.
_NGRAM, _FEWEST, _REPEATED = 4, 16, 0.5
# What no tokenizer's text has but in undecodable bytes; tab, newlines are text.
_UNREADABLE = re.compile('[\ufffd\x00-\x08\x0e-\x1f\x7f]')


def reflective_words(completion: str) -> list[str]:
  """Those of the ten words that the thought holds, in lower case, in order."""
  return [word.lower() for word in _WORD.findall(text.thought(completion))]


def is_gibberish(completion: str) -> bool:
  """Whether the text repeats itself or cannot be parsed.

  Repetition: at least half of its 4-grams (see `ngrams.units`) have been seen
  before, of 16 or more. Unparsable: tags doubled or out of order, or characters
  that are no text. A completion cut within its thought is neither.
  """
  distinct, total = ngrams.count(completion, _NGRAM)
  if total >= _FEWEST and 1 - distinct / total >= _REPEATED:
    return True
  if _UNREADABLE.search(completion):
    return True
  found = tuple(_TAG.findall(completion))
  # The prompt may hold the opening tag, or an answer come without a thought.
  return all(
    found != text.TAGS[begin : begin + len(found)] for begin in range(3)
  )  # fmt: skip


def of_answers(
  completions: Sequence[Sequence[str]],
  examples: Sequence,
  lengths: np.ndarray,
  right: np.ndarray,
  *,
  count_tokens: Callable[[str], int],
  follows_format: Callable[..., float],
  language: str,
) -> dict[str, float]:
  """Measures of n answers to each of Q questions.

  Args:
    completions: [Q][n].
    examples: [Q], whose `data['words']`, if there, are their language's.
    lengths: [Q n] tokens.
    right: [Q n] bool.
    count_tokens: text -> its tokens.
    follows_format: (completion, example) -> 1.0 or 0.0.
    language: what other thoughts should be in, an ISO 639-1 code, unless
      `data['language']` says it.

  Returns:
    'thinking_length' in tokens, also of right and wrong answers where there are
    any ('thinking_length_right', ...). A thought is what `text.thought` finds:
    of a text without tags, all of it.
    'reflective_words' an answer, 'reflective_per_1k' tokens of completion,
    'reflective_share' of the answers that hold any.
    'reflective_gain': pass@1 of answers with such words minus that of answers
    to the same question without; left out where no question has both.
    'gibberish', 'format': shares of answers.
    'language_consistency': mean share of a thought's words in the language,
    over thoughts of ten words or more (three, where an example lists its
    language's words); left out where there are none.
    Each mean over answers has a '_stderr', clustered by prompt.
  """
  thinking = _table(completions, lambda c: count_tokens(text.thought(c)))
  words = _table(completions, lambda c: len(reflective_words(c)))
  means = {
    'thinking_length': thinking,
    'reflective_words': words,
    'reflective_share': words > 0,
    'gibberish': _table(completions, is_gibberish),
    'format': np.array(
      [
        [float(follows_format(c, example)) for c in row]
        for row, example in zip(completions, examples, strict=True)
      ]
    ),
  }
  prompts = np.array([example.prompt for example in examples])
  result = {}
  for name, values in means.items():
    result |= measures.mean(name, values.mean(1), prompts)
  for name, chosen in (('right', right), ('wrong', ~right)):
    if chosen.any():
      result[f'thinking_length_{name}'] = float(thinking[chosen].mean())
  tokens = max(float(lengths.sum()), 1.0)
  result['reflective_per_1k'] = float(1000 * words.sum() / tokens)
  result |= _gain(words > 0, right, prompts)
  result |= _language(completions, examples, language)
  return result


def _gain(chosen, right, prompts):
  """Of the chosen answers over the others, at equal difficulty."""
  both = np.flatnonzero(chosen.any(1) & ~chosen.all(1))
  if not both.size:
    return {}
  per_question = np.array(
    [right[q][chosen[q]].mean() - right[q][~chosen[q]].mean() for q in both]
  )
  return measures.mean('reflective_gain', per_question, prompts[both])


def _language(completions, examples, language):
  def share(completion, example):
    thought, known = text.thought(completion), example.data.get('words')
    if known is None:
      wanted = example.data.get('language', language)
      if wanted not in languages.known():
        record('language/unknown', f'{wanted!r}; not measured')
        return None
      return languages.consistency(thought, wanted)
    return share_of_known(thought, known)

  found = [
    [share(c, example) for c in row]
    for row, example in zip(completions, examples, strict=True)
  ]
  judged = [[s for s in row if s is not None] for row in found]
  known = [q for q, row in enumerate(judged) if row]
  if not known:
    return {}
  return measures.mean(
    'language_consistency',
    [np.mean(judged[q]) for q in known],
    [examples[q].prompt for q in known],
  )


def _table(completions, measure):
  """[Q n] float of a measure of each completion."""
  return np.array([[float(measure(c)) for c in row] for row in completions])
