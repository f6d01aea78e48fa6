"""A language model as judge, behind any OpenAI-compatible endpoint.

The prompt, and how logprobs become a preference, are those of AlpacaEval 2's
weighted annotator (weighted_alpaca_eval_gpt4_turbo): 'm' or 'M' is the answer,
and P(m) / (P(m) + P(M)) the preference. Every annotation is kept in a file: the
same question is never paid for twice.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
import hashlib
import json
import math
import pathlib
import threading
from typing import Any

import numpy as np

from grpo_jax import chat_client
from grpo_jax.alpaca import judge_prompt
from grpo_jax.alpaca.judges import Pair
from grpo_jax.rewards.fault_counts import record


@dataclasses.dataclass
class Cost:
  """What has been asked; tokens as the endpoint counts them.

  `refused` had no answer that could be read, and are asked again next time.
  """

  requests: int = 0
  cached: int = 0
  refused: int = 0
  tokens_in: int = 0
  tokens_out: int = 0

  def dollars(self, *, price_in: float, price_out: float) -> float:
    """At prices for a million tokens."""
    return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


class Endpoint:
  """The judge; `cost` grows as it is asked."""

  def __init__(
    self,
    url: str,
    *,
    model: str,
    key_from: str,
    orders: str,
    logprobs: bool,
    parallel: int,
    timeout: float,
    tries: int,
    cache: pathlib.Path,
    first_wait: float = 1.0,
  ):
    """Asks nothing yet.

    Args:
      url: base URL, as 'https://api.openai.com/v1'.
      model: the name that the endpoint knows the judge by.
      key_from: environment variable of the key; '' sends none.
      orders: 'both': each pair is asked twice, either answer first, and the
        preferences averaged; 'random': once, the order by hash of the
        instruction.
      logprobs: ask for them, at temperature 1 as AlpacaEval does. Without any
        the written answer counts, and an endpoint that gives none is asked
        again at temperature 0.
      parallel: requests at a time.
      timeout: seconds of a request.
      tries: of a request, with waits of 1, 2, 4, ... seconds between them, or
        as long as the endpoint asks for.
      cache: JSON lines file of annotations; its folder must exist.
      first_wait: seconds.

    Raises:
      ValueError: no key in the environment.
    """
    self.model, self.orders, self.logprobs = model, orders, logprobs
    self.parallel, self.cost = parallel, Cost()
    key = chat_client.key_of(key_from, field='win_rate.endpoint.key_from')
    self.client = chat_client.Client(
      url, key, timeout=timeout, tries=tries, first_wait=first_wait
    )
    self.lock, self.cache = threading.Lock(), cache
    self.refusal = self.unread = ''  # the last that was
    self.known = _read_cache(cache)
    # As of the config; `logprobs` is what is asked for as long as they come.
    self.weighed = logprobs
    self.draws = any('drawn' in row for row in self.known.values())

  def __call__(self, pairs: Sequence[Pair]) -> np.ndarray:
    """[n] preferences for the outputs.

    Raises:
      chat_client.EndpointError: refused whatever is asked, no answer after all
        tries, or none that names m or M. What was answered before is in the
        cache: the same command goes on from there.
    """
    questions = [
      (i, reference_first)
      for i, pair in enumerate(pairs)
      for reference_first in _orders(pair, self.orders)
    ]
    with futures.ThreadPoolExecutor(self.parallel) as pool:
      asked = [pool.submit(self._ask, pairs[i], ref) for i, ref in questions]
      try:
        told = [future.result() for future in asked]
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    self._need_answers(1)
    if questions and np.all(np.isnan(told)):
      raise chat_client.EndpointError(
        f'{self.model} answered neither m nor M, the last: {self.unread!r}; '
        f'{self.cost.requests} requests, {self.cost.tokens_in} tokens in, '
        f'{self.cost.tokens_out} out'
      )
    found = [[] for _ in pairs]
    for (i, _), preference in zip(questions, told, strict=True):
      found[i].append(preference)
    # One that could not be read leaves its pair unknown: half of it is biased.
    return np.array([np.mean(each) for each in found])

  def _ask(self, pair, reference_first):
    """The preference for the output, of one order."""
    shown = (pair.reference, pair.output)[:: 1 if reference_first else -1]
    with self.lock:
      row = self._find(pair.instruction, shown)
      self.cost.cached += row is not None
      body = self._body(pair.instruction, *shown, logprobs=self.logprobs)
    if row is None:
      row = self._answer(body)
      if row is None:
        return math.nan
      weighed, said = row.pop('weighed'), row.pop('said')
      drawn = body['temperature'] > 0 and not weighed
      with self.lock:
        self._pay(row)
        if row['first'] is None:
          self.unread = said
        if drawn:
          # One of the two by chance. Nor will others have logprobs.
          self.logprobs, self.draws = False, True
          row = {'first': None, 'drawn': True}
        self._keep({'key': _keys(body)[0], **row})
      if drawn:
        return self._ask(pair, reference_first)
    first = row['first']
    if first is None:
      return math.nan
    return 1 - first if reference_first else first

  def _answer(self, body):
    """As of `read_answer`; None for a request that is refused by itself."""
    try:
      return self.client.post(body, read=read_answer)
    except chat_client.RequestError as error:
      record('win_rate/refused', str(error))
      with self.lock:
        self.cost.refused += 1
        self.refusal = str(error)
      self._need_answers(chat_client.ENOUGH)
      return None
    except chat_client.Unanswered as error:
      raise chat_client.Unanswered(
        f'{error}; start the same command again later, what was answered is '
        'kept'
      ) from None

  def _need_answers(self, least):
    """EndpointError where so many were refused, and no other was not."""
    cost = self.cost
    if cost.refused >= least and not cost.requests + cost.cached:
      raise chat_client.EndpointError(
        f'none of {cost.refused} requests had an answer, the last: '
        f'{self.refusal}'
      )

  def _find(self, instruction, shown):
    """What is in the cache: weighed, or else as this endpoint answers."""
    for logprobs in (True, False) if self.weighed else (False,):
      if self.weighed and not logprobs and not self.draws:
        return None  # asked without once: another measure
      body = self._body(instruction, *shown, logprobs=logprobs)
      keys = _keys(body, self.client.address)
      row = next((self.known[k] for k in keys if k in self.known), None)
      if row is not None and 'drawn' not in row:
        return row
    return None

  def _body(self, instruction, first, second, *, logprobs):
    body = {
      'model': self.model,
      'messages': judge_prompt.messages(instruction, first, second),
      'max_tokens': 1,
      # Of no effect on logprobs; without them the likelier answer is wanted.
      'temperature': 1 if logprobs else 0,
    }
    if logprobs:
      body |= {'logprobs': True, 'top_logprobs': 5}
    return body

  def _pay(self, row):
    self.cost.requests += 1
    self.cost.tokens_in += row['tokens_in']
    self.cost.tokens_out += row['tokens_out']

  def _keep(self, row):
    self.known[row['key']] = row
    with self.cache.open('a', encoding='utf-8') as file:
      file.write(json.dumps(row) + '\n')


def _orders(pair, orders):
  """Whether the reference is shown first, each time it is asked."""
  if orders == 'both':
    return (True, False)
  digest = hashlib.sha256(pair.instruction.encode('utf-8', 'replace')).digest()
  return (digest[0] % 2 == 0,)


def read_answer(answer: Mapping[str, Any]) -> dict[str, Any] | None:
  """What an answer says: 'first', 'weighed', 'said', tokens.

  'first' is the preference for the answer shown first or None, 'weighed'
  whether logprobs said it, 'said' its text. None for an answer without a
  choice, as some servers tell of errors. Raises what it may on one of another
  form: see `chat_client.Client.post`.
  """
  choices, usage = answer.get('choices'), answer.get('usage') or {}
  if not choices:
    return None
  top = _top(choices[0])
  said = chat_client.written(choices[0]).strip()
  written = {'m': 1.0, 'M': 0.0}.get(said)
  return {
    'first': _first_preferred(top) if top else written,
    'weighed': bool(top),
    'said': said,
    'tokens_in': int(usage.get('prompt_tokens') or 0),
    'tokens_out': int(usage.get('completion_tokens') or 0),
  }


def _top(choice):
  """Logprobs of the likeliest first tokens; empty where none are given."""
  listed = (choice.get('logprobs') or {}).get('content') or [{}]
  return {t['token']: t['logprob'] for t in listed[0].get('top_logprobs') or []}


def _first_preferred(top):
  """P(m) / (P(m) + P(M))."""
  known = [top[name] for name in ('m', 'M') if name in top]
  if not known:
    return None
  both = float(np.logaddexp.reduce(known))
  return math.exp(top.get('m', -math.inf) - both)


def _keys(body, address=''):
  """Of the cache, whoever serves the model; before, the address was in it."""
  content = json.dumps(body, sort_keys=True)
  both = (content, f'{address} {content}')
  return [hashlib.sha256(one.encode()).hexdigest() for one in both]


def _read_cache(path):
  """key -> row. A line that was cut when a process was killed is ended.

  What prefers neither is left out, to be asked again, and what is no
  annotation.
  """
  if not path.exists():
    return {}
  content, known = path.read_text(encoding='utf-8', errors='replace'), {}
  if content and not content.endswith('\n'):
    with path.open('a', encoding='utf-8') as file:
      file.write('\n')
  for line in content.splitlines():
    try:
      row = json.loads(line)
      key, first = row['key'], row['first']
    except (ValueError, TypeError, KeyError):
      continue
    if first is not None or 'drawn' in row:
      known[key] = row
  return known
