"""Judges of answers that no rule can check, given the reference answer.

R1 lets DeepSeek-V3 judge them (2501.12948v2, B.3.3), which answers with JSON:
an analysis, and correct or incorrect. Its whole prompt is not ours to quote;
`PROMPT` asks for the same.

Every function is a factory `name(*, ...)` that returns `judge(completion,
example) -> 1.0, 0.0`, or None where there was no verdict. It decides in place
of the reward that `keep.right` names, and is in no sum.
"""

from collections.abc import Callable
import json
import re

from grpo_jax import chat_client
from grpo_jax.hooks import load
from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import guarded, record

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
# Not in what asks for either: "verdict": "correct" or "incorrect".
_VERDICT = re.compile(
  r'"verdict"\s*:\s*"(correct|incorrect)"(?=\s*(?:[,}]|\Z))', re.IGNORECASE
)


def none() -> Callable | None:
  """The rewards alone decide."""


def function(*, path: str) -> Callable:
  """A function of yours, 'module:function'.

  (completion, example) -> whether it is correct, None for no verdict; nor is
  there one where it raises, which is counted and logged once.
  """
  own = load(path, field='keep.judge.path')
  return guarded(own, name='judge/failed', instead=None, so='no verdict')


def endpoint(
  *,
  url: str,
  model: str,
  key_from: str = 'OPENAI_API_KEY',
  tries: int = 4,
  first_wait: float = 1.0,
  timeout: float = 120.0,
) -> Callable:
  """Any server that speaks OpenAI's chat completions.

  What is judged is the completion without its thought. An unfinished thought
  leaves nothing to judge and is wrong.

  Args:
    url: up to '/v1', without '/chat/completions'.
    model: as the server calls it.
    key_from: environment variable of the key; '' sends none.
    tries: requests until there is a verdict. After the last there is none, nor
      where the server refuses what is asked (a filter of contents, a context
      that is too long).
    first_wait: seconds before the second; doubles with each.
    timeout: seconds that one may take.
  """
  if not url.startswith(('http://', 'https://')):
    raise ValueError(f'keep.judge.url={url!r} must begin with http(s)://')
  if tries < 1:
    raise ValueError(f'keep.judge.tries={tries} must be at least 1')
  client = chat_client.Client(
    url,
    chat_client.key_of(key_from, field='keep.judge.key_from'),
    timeout=timeout,
    tries=tries,
    first_wait=first_wait,
  )

  def judge(completion, example):
    shown = text.reply(completion)
    if text.is_empty(shown):
      return 0.0
    given = dict(
      question=example.prompt, reference=example.answer, answer=shown
    )
    # At once: what is put in may hold such names too.
    content = _FIELD.sub(lambda match: given[match.group(1)], PROMPT)
    body = {
      'model': model,
      'temperature': 0.0,
      'messages': [{'role': 'user', 'content': content}],
    }
    try:
      return client.post(body, read=_read)
    except chat_client.RequestError as error:
      record('judge/refused', str(error))
    except chat_client.Unanswered as error:
      # It is gone: what it is asked now would stay unjudged in the set.
      if client.unanswered >= chat_client.ENOUGH:
        raise chat_client.Unanswered(
          f'{error}, and none to {client.unanswered} requests in a row; start '
          'the same command again when it can be reached'
        ) from None
      record('judge/failed', str(error))
    return None

  return judge


def verdict(reply: str) -> float | None:
  """1.0 for correct, 0.0 for incorrect, None for anything else.

  JSON after the thought is read, or else the last "verdict": "..." there is:
  models write TeX into strings, and braces around the JSON.
  """
  _, closed, told = reply.rpartition(text.END_THINK)
  if not closed and reply.lstrip().startswith(text.THINK):
    return None
  found = _JSON.search(told)
  try:
    given = json.loads(found.group(), strict=False)['verdict']
  except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
    given = next(iter(_VERDICT.findall(told)[-1:]), None)
  return {'correct': 1.0, 'incorrect': 0.0}.get(str(given).strip().lower())


def _read(answer) -> float | None:
  reply = chat_client.written(answer['choices'][0])
  found = verdict(reply)
  if found is None:
    record('judge/unread', reply[:200])
  return found
