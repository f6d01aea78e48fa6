"""The language consistency reward: how much of a thought is in one language.

Stage 5 of a step. What is written in no language is taken out, words of other
scripts are told by their letters, and languages of one script by py3langid (a
naive Bayes model of byte n-grams that comes with the package). It knows whole
texts; here it scores single words, and the labels of a thought's words are the
most probable sequence that seldom changes language (Viterbi). So two languages
within one sentence are told apart, and a name takes the language around it.
"""

import collections
from collections.abc import Callable, Sequence
import functools
import importlib.util
import re
import unicodedata

import numpy as np

from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import record
from grpo_jax.rewards.rules import Reward

# The languages that words of a script may be in. More of them, near others,
# would make short words harder to tell: these are the most written ones.
LANGUAGES = {
  'latin': (
    *('en', 'de', 'fr', 'es', 'it', 'pt', 'nl', 'pl', 'sv'),
    *('da', 'cs', 'ro', 'hu', 'tr', 'vi', 'id', 'fi'),
  ),
  'cyrillic': ('ru', 'uk', 'bg'),
  'arabic': ('ar', 'fa'),
  'greek': ('el',),
  'hebrew': ('he',),
  'devanagari': ('hi',),
  'hangul': ('ko',),
  'han': ('zh', 'ja'),
}
MIN_WORDS = 10  # of a text that is worth judging
# Nats a change of language costs, between words and between sentences, and the
# weight of words that begin with a capital: the best of several on sentences of
# Django's translations, mixed at random. On those of other programs, 98 % of
# words then get their language, and 99.5 % where a text has only one.
_SWITCH, _SWITCH_SENTENCE, _CAPITALISED = 5.0, 2.0, 0.5
# Han and kana have no spaces between words; a word is about two characters.
_CHARACTERS_A_WORD = 2

_LATIN = 'A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff'
_HAN, _KANA = '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff', '\u3040-\u30ff'
_TOKEN = re.compile(
  rf"(?P<latin>[{_LATIN}]+(?:['’][{_LATIN}]+)*)"
  r'|(?P<cyrillic>[\u0400-\u052f]+)'
  r'|(?P<arabic>[\u0620-\u065f\u066e-\u06d3\u06fa-\u06ff\u200c]+)'
  r'|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff]+)'
  r'|(?P<hebrew>[\u0590-\u05ff]+)'
  r'|(?P<devanagari>[\u0900-\u0963\u0971-\u097f]+)'
  r'|(?P<hangul>[\u1100-\u11ff\uac00-\ud7af]+)'
  rf'|(?P<han>[{_HAN}{_KANA}\U00020000-\U0003ffff])'
  r'|(?P<other>[^\W\d_])|(?P<end>[.!?。！？…\n]+)'
)
# Delimited parts that are code or mathematics. One that is left open is prose:
# a lone mark must not hide all that follows.
_PARTS = (
  ('```', '```'),
  ('~~~', '~~~'),
  (r'\[', r'\]'),
  (r'\(', r'\)'),
  ('$$', '$$'),
  (r'\begin{', r'\end'),
  ('[asy]', '[/asy]'),
)
_END = re.compile(r'\\end\{[^{}\n]*\}')
_NO_LANGUAGE = re.compile(
  r'`[^`\n]*`'
  # Dollars hug their formula; '$5 and $6' are prices.
  r'|\$(?![\s$])[^$\n]*(?<!\s)\$(?![0-9])'
  r'|\\[A-Za-z]+'
  r'|https?://\S+|www\.\S+|</?[A-Za-z]+>'
  # Names with digits or underscores: x1, H2O, max_value.
  r'|(?<![A-Za-z0-9_])[A-Za-z]*[0-9_][A-Za-z0-9_]*'
  r'|\b(?:sin|cos|tan|log|ln|exp|lim|gcd|lcm|mod|max|min|sqrt)\b'
)


def language(*, task, target: str = 'en', min_words: int = MIN_WORDS) -> Reward:
  """Words of the thought in the target language over its words (R1, eq. 7).

  Digits, code, LaTeX, URLs, symbols and single letters are no words. Two
  characters of Chinese or Japanese count as one word. Han characters are
  Japanese in a sentence that has kana, and Chinese otherwise. A thought of
  fewer than `min_words` words scores 0, or an empty one would be perfect. A
  language that is not in `LANGUAGES` is taken for one that is.

  Args:
    task: its first examples show whether they have a language; see `rules`.
    target: an ISO 639-1 code of `LANGUAGES`, or 'prompt': the language that the
      question is asked in, `example.data['language']`. An example of another
      code, or none, scores 0 and is counted as a fault.
    min_words: words of a thought that is worth judging.

  Raises:
    ValueError: a target that is not known, min_words not positive, or
      py3langid is not installed.
  """
  if target == 'prompt':
    for one in task.kinds:
      _check_asked(one.example(0))
  else:
    check_target(target)
  if min_words < 1:
    raise ValueError(f'language: min_words={min_words} must be at least 1')
  # Seconds; here, or every thread that grades would load the model for itself.
  for script, names in LANGUAGES.items():
    if len(names) > 1 and script != 'han':
      _scorer(script)

  def reward(completion, example):
    wanted = target
    if target == 'prompt':
      wanted = example.data.get('language')
      if wanted not in known():
        record('language/unknown', f'{wanted!r}; scored 0')
        return 0.0
    thought = text.thought(completion)
    return consistency(thought, wanted, min_words=min_words) or 0.0

  return reward


def known() -> list[str]:
  """The languages that can be told apart, by ISO 639-1."""
  return [name for names in LANGUAGES.values() for name in names]


def _check_asked(example):
  """ValueError where an example does not say what language it is in."""
  if 'language' not in example.data:
    raise ValueError(
      "language: target='prompt' reads the language of each question, and "
      f'{example.prompt[:60]!r} has none; of a jsonl task, name the field '
      "'language' in data_fields"
    )
  check_target(example.data['language'])


def check_target(target: str, *, of: str = 'reward language') -> None:
  """ValueError for a language that cannot be told, or without py3langid.

  Args:
    target: an ISO 639-1 code.
    of: what it is a target of, for errors.
  """
  if target not in known():
    there = ', '.join(known())
    raise ValueError(f'{of}: target={target!r} is not among {there}')
  if importlib.util.find_spec('py3langid') is None:
    raise ValueError(f'{of} needs the package: pip install py3langid')


def consistency(
  prose: str, target: str, *, min_words: int = MIN_WORDS
) -> float | None:
  """The share of a text's words in the target language; None of few words."""
  # No word is made of less than a token: the model need not be loaded.
  if len(_TOKEN.findall(prose)) < min_words:
    return None
  counts = words_by_language(prose)
  total = sum(counts.values())
  return counts.get(target, 0.0) / total if total >= min_words else None


def words_by_language(prose: str) -> dict[str, float]:
  """Language -> its words in a text; '' holds words of unknown scripts."""
  counts: dict[str, float] = {}
  # Words of each script, with the number of the sentence they stand in.
  spaced: dict[str, list[tuple[str, int]]] = {}
  for number, sentence in enumerate(_sentences(_prose(prose))):
    characters = [word for script, word in sentence if script == 'han']
    kana = any(re.match(f'[{_KANA}]', c) for c in characters)
    _add(counts, 'ja' if kana else 'zh', len(characters) / _CHARACTERS_A_WORD)
    for script, word in sentence:
      if script == 'other':
        _add(counts, '', 1)
      elif script != 'han' and len(word) > 1:
        spaced.setdefault(script, []).append((word, number))
  for script, words in spaced.items():
    for name in _labels(words, script):
      _add(counts, name, 1)
  return counts


def _prose(content: str) -> str:
  """The text without code, mathematics, addresses and names with digits."""
  # In pieces, as its time is quadratic in a run of combining marks.
  pieces = (content[i : i + 1000] for i in range(0, len(content), 1000))
  content = ''.join(unicodedata.normalize('NFC', piece) for piece in pieces)
  content = _END.sub(r'\\end', content)
  for opening, closing in _PARTS:
    content = _without(content, opening, closing)
  return _NO_LANGUAGE.sub(' ', content)


def _without(content: str, opening: str, closing: str) -> str:
  kept, at = [], 0
  while (start := content.find(opening, at)) >= 0:
    end = content.find(closing, start + len(opening))
    if end < 0:
      break
    kept.append(content[at:start])
    at = end + len(closing)
  return ' '.join([*kept, content[at:]])


def _sentences(content: str) -> list[list[tuple[str, str]]]:
  """(script, word) of every word, by sentence."""
  found: list[list[tuple[str, str]]] = [[]]
  for match in _TOKEN.finditer(content):
    if match.lastgroup == 'end':
      found.append([])
    else:
      found[-1].append((match.lastgroup, match.group()))
  return found


def _labels(words: Sequence[tuple[str, int]], script: str) -> list[str]:
  """The languages of words of one script, each with its sentence's number.

  Once with all languages alike, then with those likelier that were found: a
  short word is seldom the only one of its language.
  """
  names = LANGUAGES[script]
  if len(names) == 1:
    return [names[0]] * len(words)
  scores = _scores([word for word, _ in words], script)
  sentences = [number for _, number in words]
  first = _most_probable(scores, sentences)
  found = np.bincount(first, minlength=len(names)) + 0.5
  prior = np.log(found / found.sum())
  return [names[i] for i in _most_probable(scores + prior, sentences)]


def _scores(words: Sequence[str], script: str) -> np.ndarray:
  """Log-likelihoods [word, language], of names and repeated words damped.

  Names look foreign. And the tenth 'Micah ran' is no tenth witness: py3langid
  too lets what occurs n times count log(1 + n).
  """
  score = _scorer(script)
  repeats = collections.Counter(word.lower() for word in words)
  scores = []
  for word in words:
    times = repeats[word.lower()]
    weight = np.log1p(times) / (times * np.log(2.0))
    if word[0].isupper():
      weight *= _CAPITALISED
    scores.append(weight * score(word[:40].lower()))
  return np.array(scores)


def _most_probable(scores: np.ndarray, sentences: Sequence[int]) -> list[int]:
  """The sequence of languages of highest score, by the Viterbi algorithm.

  best[l] = scores[word, l] + max(best[l], max_k best[k] - switch)
  """
  best, came_from = np.zeros(scores.shape[1]), []
  sentence = sentences[0]
  for row, number in zip(scores, sentences, strict=True):
    leader = int(best.argmax())
    switch = _SWITCH if number == sentence else _SWITCH_SENTENCE
    stays = best >= best[leader] - switch
    came_from.append(np.where(stays, np.arange(len(best)), leader))
    best = np.where(stays, best, best[leader] - switch) + row
    sentence = number
  label, labels = int(best.argmax()), []
  for pointers in reversed(came_from):
    labels.append(label)
    label = int(pointers[label])
  return labels[::-1]


@functools.cache
def _scorer(script: str) -> Callable[[str], np.ndarray]:
  """word -> log-likelihood in every language of the script, the best 0."""
  from py3langid import langid

  names = LANGUAGES[script]
  model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
  model.set_languages(names)

  @functools.lru_cache(maxsize=1 << 16)
  def score(word):
    # The spaces are part of what the model knows a word by.
    ranked = dict(model.rank(f' {word} '))
    scores = np.array([ranked[name] for name in names])
    # A word without a known n-gram has the lowest float in all languages.
    return scores - scores.max()

  return score


def _add(counts: dict[str, float], name: str, words: float):
  if words:
    counts[name] = counts.get(name, 0.0) + words
