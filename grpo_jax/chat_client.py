"""Requests to a server that speaks OpenAI's chat completions, tried again."""

from collections.abc import Callable, Mapping
import dataclasses
import http.client
import json
import os
import time
from typing import Any
import urllib.error
import urllib.request

# Requests that tell enough: where none of so many is answered, it is the
# endpoint or how it is asked, and not what one of them says.
ENOUGH = 32
_LONGEST_WAIT = 60.0
# Worth another try: too many requests, timeouts, a server's own troubles.
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
# Of what one request says: a filter of contents, a context that is too long.
_OF_REQUEST = (400, 413, 422)
# What a reader may raise on an answer that is not as it should be.
_UNREADABLE = (
  ArithmeticError, AttributeError, LookupError, TypeError, ValueError
)  # fmt: skip


class EndpointError(ValueError):
  """The endpoint refused, or gave no answer."""


class Unanswered(EndpointError):
  """No answer after all tries."""


class RequestError(EndpointError):
  """This request has no answer that can be read; others may have."""


def key_of(variable: str, *, field: str) -> str:
  """The key that an environment variable holds; '' sends none.

  Args:
    variable: its name, '' for an endpoint that wants no key.
    field: of the config that names it, for the error.

  Raises:
    ValueError: it is not set, or nothing that a header can hold.
  """
  # Files and pipes end in a newline.
  key = os.environ.get(variable, '').strip()
  if variable and not key:
    raise ValueError(
      f"the endpoint's key is not there: set the environment variable "
      f"{variable}, or {field}='' if it needs none"
    )
  # Or http.client would say so, with the key in its message.
  if not (key.isascii() and key.isprintable()):
    raise ValueError(
      f'the key in the environment variable {variable} is of {len(key)} '
      'characters, some of which no header can hold (line breaks, or beyond '
      'ASCII); set it again'
    )
  return key


@dataclasses.dataclass
class Client:
  """An endpoint.

  Attributes:
    url: base URL, as 'https://api.openai.com/v1'.
    key: '' sends none.
    timeout: seconds of a request.
    tries: requests for an answer, with waits of `first_wait`, twice that, ...
      seconds between them, or as long as the endpoint asks for.
    first_wait: seconds.
    unanswered: requests, the last in a row, that had no answer at all. Threads
      may ask: it is about that many.
  """

  url: str
  key: str
  timeout: float
  tries: int
  first_wait: float = 1.0
  unanswered: int = 0

  @property
  def address(self) -> str:
    """Where requests go."""
    return f'{self.url.rstrip("/")}/chat/completions'

  def post(
    self,
    body: Mapping[str, Any],
    *,
    read: Callable[[Mapping[str, Any]], Any] = lambda answer: answer,
  ) -> Any:
    """What `read` makes of the endpoint's answer.

    Args:
      body: of the request.
      read: None, or an error, for an answer that it cannot read; that is
        tried again.

    Raises:
      Unanswered: no answer after all tries.
      RequestError: this one was refused, or its answer could not be read.
      EndpointError: any would be refused.
    """
    wait = pause = self.first_wait
    kind, trouble = Unanswered, ''
    for attempt in range(self.tries):
      if attempt:
        time.sleep(pause)
        wait = min(2 * wait, _LONGEST_WAIT)
      pause = wait
      try:
        answer = self._once(body)
      except urllib.error.HTTPError as error:
        trouble = f'{error.code} {error.reason}: {_message(error)}'
        if error.code not in _PASSING:
          self.unanswered = 0
          kind = RequestError if error.code in _OF_REQUEST else EndpointError
          raise kind(f'{self.address} refused: {trouble}') from None
        kind, asked = Unanswered, _asked_wait(error.headers)
        pause = wait if asked is None else asked
      except (OSError, http.client.HTTPException, ValueError) as error:
        kind, trouble = Unanswered, f'{type(error).__name__}: {error}'
      else:
        self.unanswered = 0
        found = _try(read, answer)
        if found is not None:
          return found
        kind = RequestError
        trouble = f'an answer that could not be read: {_told(answer)}'
    self.unanswered += kind is Unanswered
    raise kind(
      f'{self.address} gave no answer in {self.tries} tries, the last: '
      f'{trouble}'
    )

  def _once(self, body):
    headers = {'Content-Type': 'application/json'}
    if self.key:
      headers['Authorization'] = f'Bearer {self.key}'
    request = urllib.request.Request(
      self.address,
      json.dumps(body, sort_keys=True).encode(),
      headers,
    )
    with _OPENER.open(request, timeout=self.timeout) as answer:
      return json.load(answer)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  """The key is for the address that was named, and for no other."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    raise urllib.error.HTTPError(
      req.full_url, code, f'redirects to {newurl}, name that', headers, fp
    )


_OPENER = urllib.request.build_opener(_NoRedirects)


def written(choice: Mapping[str, Any]) -> str:
  """What a choice of an answer says; some servers give it in parts."""
  content = (choice.get('message') or {}).get('content') or ''
  if isinstance(content, str):
    return content
  return ''.join(part.get('text') or '' for part in content)


def _try(read, answer):
  try:
    return read(answer)
  except _UNREADABLE:
    return None


def _message(error):
  """What the endpoint says is wrong, in one line."""
  try:
    content = error.read().decode('utf-8', 'replace')
  except (OSError, http.client.HTTPException):
    return ''
  try:
    return _told(json.loads(content))
  except ValueError:
    return _line(content)


def _told(answer):
  """The error of an answer, or else all of it, in one line."""
  found = answer.get('error') if isinstance(answer, dict) else None
  if isinstance(found, dict) and isinstance(found.get('message'), str):
    found = found['message']
  if isinstance(found, str):
    return _line(found)
  return _line(json.dumps(found if found else answer))


def _line(text):
  return ' '.join(text.split())[:300]


def _asked_wait(headers):
  """Seconds that the endpoint asks to wait, None if it does not."""
  try:
    asked = float(headers.get('Retry-After', ''))
  except ValueError:
    return None
  # Neither NaN nor a time in the past.
  return min(asked, _LONGEST_WAIT) if asked >= 0 else None
