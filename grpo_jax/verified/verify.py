"""Judges of answers that no rule can check, given the reference answer.

R1 lets DeepSeek-V3 judge them (2501.12948v2, B.3.3), which answers with JSON:
an analysis, and correct or incorrect. Its whole prompt is not ours to quote;
`PROMPT` asks for the same.

Every function is a factory `name(*, ...)` that returns `judge(completion,
example) -> 1.0, 0.0`, or None where there was no verdict: a component of the
reward like any other.
"""

from collections.abc import Callable
import json
import os
import re
import time
import urllib.error
import urllib.request

from grpo_jax.hooks import load
from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import record

PROMPT = """You grade an answer against a reference.

Question:
{question}

Reference answer:
{reference}

Answer to grade:
{answer}

Is the answer correct, that is, does it say the same as the reference answer?
Ignore differences of form. Reply with JSON and nothing else:
{"analysis": "one or two sentences", "verdict": "correct" or "incorrect"}"""

_FIELD = re.compile(r'\{(question|reference|answer)\}')
_JSON = re.compile(r'\{.*\}', re.DOTALL)
# Of HTTP: worth another try.
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


def none() -> Callable | None:
  """The rewards alone decide."""


def function(*, path: str) -> Callable:
  """A function of yours, 'module:function'.

  (completion, example) -> whether it is correct, None for no verdict.
  """
  return load(path, field='keep.judge.path')


def endpoint(
  *,
  url: str,
  model: str,
  key_variable: str = 'OPENAI_API_KEY',
  tries: int = 4,
  pause: float = 1.0,
  timeout: float = 120.0,
) -> Callable:
  """Any server that speaks OpenAI's chat completions.

  What is judged is the completion without its thought. An unfinished thought
  leaves nothing to judge and is wrong.

  Args:
    url: up to '/v1', without '/chat/completions'.
    model: as the server calls it.
    key_variable: the environment variable with the key; a server of your own
      may want none.
    tries: requests until there is a verdict. After the last there is none.
    pause: seconds before the second; doubles with each.
    timeout: seconds that one may take.
  """
  if not url.startswith(('http://', 'https://')):
    raise ValueError(f'keep.judge.url={url!r} must begin with http(s)://')
  if tries < 1:
    raise ValueError(f'keep.judge.tries={tries} must be at least 1')

  def judge(completion, example):
    shown = shown_answer(completion)
    if text.is_empty(shown):
      return 0.0
    given = dict(
      question=example.prompt, reference=example.answer, answer=shown
    )
    # At once: what is put in may hold such names too.
    content = _FIELD.sub(lambda match: given[match.group(1)], PROMPT)
    for number in range(tries):
      if number:
        time.sleep(pause * 2 ** (number - 1))
      try:
        reply = _ask(url, model, content, key_variable, timeout)
      except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        code = getattr(error, 'code', None)
        if isinstance(error, urllib.error.HTTPError) and code not in _PASSING:
          raise ValueError(f'judge {url}: HTTP {code}') from None
        record('judge/failed', f'{type(error).__name__}: {error}')
        continue
      found = verdict(reply)
      if found is not None:
        return found
      record('judge/unread', reply[:200])
    return None

  return judge


def shown_answer(completion: str) -> str:
  """What a reader sees: after the thought, '' while it is open."""
  before, closed, after = completion.partition('</think>')
  if closed:
    return after.strip()
  return '' if '<think>' in before else before.strip()


def verdict(reply: str) -> float | None:
  """1.0 for correct, 0.0 for incorrect, None for anything else."""
  found = _JSON.search(reply)
  try:
    told = json.loads(found.group())['verdict'] if found else None
  except (ValueError, KeyError, TypeError, RecursionError):
    return None
  return {'correct': 1.0, 'incorrect': 0.0}.get(str(told).strip().lower())


def _ask(url, model, content, key_variable, timeout) -> str:
  headers = {'Content-Type': 'application/json'}
  if key := os.environ.get(key_variable):
    headers['Authorization'] = f'Bearer {key}'
  body = {
    'model': model,
    'temperature': 0.0,
    'messages': [{'role': 'user', 'content': content}],
  }
  request = urllib.request.Request(
    f'{url.rstrip("/")}/chat/completions',
    data=json.dumps(body).encode(),
    headers=headers,
  )
  with urllib.request.urlopen(request, timeout=timeout) as response:
    answer = json.load(response)
  return answer['choices'][0]['message']['content']
