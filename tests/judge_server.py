"""A stand-in for an OpenAI-compatible endpoint, on this machine."""

import contextlib
import http.server
import json
import math
import threading


class Server(http.server.ThreadingHTTPServer):
  """Prefers the longer answer with P = 0.8, or what `answers` says.

  Attributes:
    asked: bodies of the requests, in order, with their headers.
    answers: of (status, headers, body) to give first, one a request.
    reply: request -> such an answer, after those.
    logprobs: whether it knows logprobs.
  """

  def __init__(self):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.asked, self.answers, self.logprobs = [], [], True
    self.reply = lambda body: (200, {}, None)

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_port}/v1'


@contextlib.contextmanager
def running():
  server = Server()
  # It looks that often whether to end.
  thread = threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  )
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    server.server_close()


def completion(first: float | None, *, logprobs: bool) -> dict:
  """The answer of a judge that prefers the first with this probability."""
  top = {} if first is None else {'m': first, 'M': 1 - first}
  written = 'neither' if first is None else 'mM'[first < 0.5]
  choice = {'message': {'role': 'assistant', 'content': written}}
  if logprobs:
    listed = [
      # Some mass is elsewhere, as it is with real judges.
      {'token': token, 'logprob': math.log(0.9 * p) if p else -99.0}
      for token, p in {**top, 'The': 0.1}.items()
    ]
    choice['logprobs'] = {'content': [{'top_logprobs': listed}]}
  usage = {'prompt_tokens': 100, 'completion_tokens': 1}
  return {'choices': [choice], 'usage': usage}


def filtered(status: int = 400) -> tuple:
  """The answer of an endpoint to what it will not read."""
  return (status, {}, {'error': {'message': 'content filter'}})


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    length = int(self.headers['Content-Length'])
    body = json.loads(self.rfile.read(length))
    self.server.asked.append({'path': self.path, 'headers': dict(self.headers)}
                             | body)  # fmt: skip
    given = self.server.answers
    status, headers, answer = given.pop(0) if given else self.server.reply(body)
    if answer is None:
      answer = completion(_longer(body), logprobs=self.server.logprobs)
    content = (
      answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    )
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_):
    pass


def _longer(body):
  """0.8 for the first answer if it is the longer one."""
  _, first, second = body['messages'][1]['content'].split('"output": """')
  first, second = (text.split('"""')[0] for text in (first, second))
  return 0.8 if len(first) > len(second) else 0.2
