"""Generated instructions that a program can check, after IF-Eval (2311.07911).

'Write about the sea. Answer in at most 20 words. Use only small letters.' An
answer is right when it follows all of them (IF-Eval's strict accuracy of
prompts). Reference completions follow them too, in nonsense prose: they teach
obedience, not style.
"""

import random

from grpo_jax.tasks import checkers, common

_SUBJECTS = (
  'the sea', 'a garden', 'the night sky', 'a long walk', 'old houses', 'bread',
  'a river', 'the first snow', 'learning to swim', 'a market', 'birds', 'music',
  'a train ride', 'the moon', 'a good friend', 'wind', 'colours', 'a harbour',
)  # fmt: skip
_WORDS = (
  'apple', 'bridge', 'candle', 'dream', 'echo', 'forest', 'garden', 'harbour',
  'island', 'journey', 'lantern', 'mountain', 'orange', 'pebble', 'river',
  'shadow', 'stone', 'summer', 'window', 'winter',
)  # fmt: skip
_PHRASES = (
  'that is all', 'so it goes', 'thank you for reading', 'here it is',
  'once more with care', 'nothing else matters', 'see for yourself',
)  # fmt: skip
_TRIES = 1000
_TOLD = {
  'at_most_words': 'Answer in at most {} words.',
  'at_least_words': 'Answer in at least {} words.',
  'starts_with': 'Begin with the words "{}".',
  'ends_with': 'End with the words "{}".',
  'lowercase': 'Use only small letters.',
  'capitals': 'Use only capital letters.',
  'includes': 'Include the word "{}".',
  'excludes': 'Do not use the word "{}".',
  'bullets': 'Make a list of exactly {} points, each line beginning with "- ".',
  'no_commas': 'Use no commas.',
}


def instructions(
  *,
  split: str,
  size: int,
  seed: int = 0,
  fewest: int = 1,
  most: int = 3,
  kinds: tuple[str, ...] = (),
) -> common.Task:
  """Prompts with instructions whose following can be checked.

  Args:
    split: 'train' or 'test': about a tenth of all prompts, by hash.
    size: number of examples.
    seed: of the generator; the splits are disjoint across seeds too.
    fewest, most: instructions of a prompt, uniform between them. No two
      contradict each other: there is at most one of each row of
      `checkers.FAMILIES`.
    kinds: which instructions, names of `checkers.CHECKERS`; () for all.

  Raises:
    ValueError: an unknown kind, bounds that cannot be met, or so few kinds that
      no prompt is of the split.
  """
  common.check_arguments('instructions', split=split, size=size)
  unknown = sorted(set(kinds) - set(checkers.CHECKERS))
  if unknown:
    raise ValueError(
      f'instructions: kinds={unknown} are unknown; there are: '
      f'{", ".join(checkers.CHECKERS)}'
    )
  families = [
    [kind for kind in family if not kinds or kind in kinds]
    for family in checkers.FAMILIES
  ]
  families = [family for family in families if family]
  if not 1 <= fewest <= most <= len(families):
    raise ValueError(
      f'instructions: fewest={fewest}, most={most}: needs 1 <= fewest <= most '
      f'<= {len(families)}, as there is one of each family of kinds at most'
    )

  def make(i):
    draw = random.Random(f'instructions/{seed}/{split}/{i}')
    for _ in range(_TRIES):
      chosen = draw.sample(families, draw.randint(fewest, most))
      asked = _asked(draw, sorted(draw.choice(family) for family in chosen))
      prompt = ' '.join([
        f'Write about {draw.choice(_SUBJECTS)}.',
        *(_TOLD[kind].format(value) for kind, value in asked.items()),
      ])  # fmt: skip
      if common.split_of(prompt) == split:
        data = {'instructions': asked}
        return common.Example(prompt, '', _written(draw, asked), data)
    raise ValueError(
      f'instructions: no {split} prompt in {_TRIES} draws; allow more kinds'
    )

  make(0)  # too few prompts: say so at the start
  return common.Task(size, make, _check)


def _check(answer, example):
  return all(checkers.follows(answer, example.data['instructions']).values())


def _asked(draw: random.Random, kinds: list[str]) -> dict:
  """A value for each kind; None where there is nothing to choose."""
  phrases = draw.sample(_PHRASES, 2)
  values = {
    'at_most_words': draw.choice((25, 30, 40, 50)),
    'at_least_words': draw.choice((20, 30, 40)),
    'starts_with': phrases[0],
    'ends_with': phrases[1],
    'includes': draw.choice(_WORDS),
    'excludes': draw.choice(_WORDS),
    'bullets': draw.randint(2, 4),
  }
  return {kind: values.get(kind) for kind in kinds}


def _written(draw: random.Random, asked: dict) -> str:
  """An answer that follows: words in lines, edges in lines of their own."""
  banned = asked.get('excludes')
  words = [word for word in _WORDS if word != banned]
  wanted = asked.get('at_least_words', 8)
  lines = [
    [draw.choice(words) for _ in range(3)]
    for _ in range(asked.get('bullets', 1))
  ]
  while sum(map(len, lines)) < wanted:
    lines[-1].append(draw.choice(words))
  if 'includes' in asked:
    lines[0][0] = asked['includes']
  mark = '- ' if 'bullets' in asked else ''
  text = '\n'.join(
    [
      *([asked['starts_with']] if 'starts_with' in asked else []),
      *(mark + ' '.join(line) for line in lines),
      *([asked['ends_with']] if 'ends_with' in asked else []),
    ]
  )
  return text.upper() if 'capitals' in asked else text
