"""What answers to checkable questions are worth: right, by vote, how long."""

import numpy as np

from grpo_jax import measures, rewards
from grpo_jax.rewards import symbolic, text


def summarise(
  task, examples, completions, finished, lengths, *, ks, votes, extract, texts
) -> dict:
  """Measures of completions [Q][n] to Q examples.

  Returns:
    'pass@1/DOMAIN' of a mixture;
    'pass@k' (strict: the answer that `extract` finds, domain -> function, ''
    for all others: see `rules.extractors_of`), each with '_stderr'; 'lenient'
    (pass@1 of whatever looks like a final answer; of programs the strict
    one); 'cons@k'; lengths in tokens, also of right and wrong answers;
    'truncated'; 'distinct_problems', as small generators repeat themselves;
    what `texts(completions, examples, lengths, right)` measures (see
    `text_measures.of_answers`); per-problem pass@1.
  """
  strict, lenient, canonical = _judged(task, examples, completions, extract)
  result = {}
  prompts = np.array([example.prompt for example in examples])

  def add(name, per_problem, of=slice(None)):
    result.update(measures.mean(name, per_problem[of], prompts[of]))

  add('pass@1', strict.mean(1))
  for domain in sorted({example.domain for example in examples} - {''}):
    of = np.array([example.domain == domain for example in examples])
    add(f'pass@1/{domain}', strict.mean(1), of)
  for k in ks:
    add(f'pass@{k}', measures.pass_at_k(strict, k))
  for k in votes:
    add(f'cons@{k}', measures.cons_at_k(canonical, strict, k))
  add('lenient', lenient.mean(1))
  for name, chosen in (('right', strict), ('wrong', ~strict)):
    if chosen.any():
      result[f'mean_length_{name}'] = float(lengths[chosen].mean())
  # Whether harder questions have longer answers.
  result['length_by_difficulty'] = measures.rank_correlation(
    1 - strict.mean(1), lengths.mean(1)
  )
  result |= texts(completions, examples, lengths, strict)
  result |= {
    'mean_length': float(lengths.mean()),
    'truncated': float(1 - finished.mean()),
    'answered': float(np.mean([bool(a) for row in canonical for a in row])),
    'problems': len(examples),
    'distinct_problems': len({example.prompt for example in examples}),
    'samples': lengths.shape[1],
    'per_problem': strict.mean(1).tolist(),
    'examples': [
      {
        'prompt': example.prompt,
        'answer': example.answer,
        'completion': row[0],
        'right': bool(right[0]),
      }
      for example, row, right in zip(
        examples[:10], completions, strict, strict=False
      )
    ],
  }
  return result


def _judged(task, examples, completions, extract):
  """What is right by `extract`, by the lenient rule, and what was answered.

  Returns:
    Two bool arrays [Q n], and spellings [Q][n] to vote by.
  """
  finders = [extract.get(e.domain, extract['']) for e in examples]

  def judge(finders):
    found = [
      [find(c) for c in row]
      for find, row in zip(finders, completions, strict=True)
    ]
    # In threads, as a verifier may wait for a process.
    right = rewards.grade(found, examples, {'right': verify})['right']
    return found, right == 1.0

  def verify(answer, example):
    return not text.is_empty(answer) and task.verify(answer, example)

  given, strict = judge(finders)
  # There is one way only to find a program or a summary, and running the
  # former takes its time.
  one_way = [find in (text.program, text.reply) for find in finders]
  others = [_nothing if one else text.lenient for one in one_way]
  lenient = np.where(np.array(one_way)[:, None], strict, judge(others)[1])
  return strict, lenient, [[_spelling(a) for a in row] for row in given]


def _spelling(answer: str) -> str:
  """What is voted for; '' where nothing was answered."""
  return '' if text.is_empty(answer) else symbolic.spelling(answer)


def _nothing(completion: str) -> str:
  del completion
  return ''
