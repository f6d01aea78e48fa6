"""The child process of `pool.py`: a pickled question in, a line of JSON out.

Started by its file name and free of imports from this package, so that a
worker never loads JAX nor the program that started it. Its argument is what it
judges, as a Python literal: `(name, {argument: value})` of a function below.

request   (token, seconds, question): pickled, as only our own side writes it
reply     {"right": bool, "fault": '' or why nothing could be judged, "token":
          the request's}: JSON, as code that hides in an answer could write one

Some graders run the answer as Python code. The process it runs in holds no
secret, sits in a folder that is gone, and refuses what reaches outside. That
keeps out what a policy stumbles on; it is no sandbox against an attacker.
"""

import ast
import contextlib
import json
import logging
import os
import pickle
import resource
import signal
import sys

_MEMORY = 4 << 30  # bytes; 10**10**10 asks for about this much and more

# Audit events of what reaches outside: processes, signals, sockets, files. By
# name, not all but a few: late imports raise events of many other kinds, and a
# right answer must not be refused for one.
_OUTSIDE = ('os.', 'socket.', 'subprocess.')
_LOOKING = ('os.listdir', 'os.scandir')  # imports look into folders
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main():
  # Replies have a descriptor of their own: what libraries print is no reply.
  replies = os.fdopen(os.dup(1), 'w', encoding='ascii', buffering=1)
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  # Sent to all processes of a machine, while the job ends its step: it needs
  # verdicts until then, and ends this process by ending its input.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  _limit_memory()
  logging.disable(logging.CRITICAL)
  # Seconds of imports: under the memory limit, before 'ready'.
  name, arguments = ast.literal_eval(sys.argv[1])
  judge = {'math_verify': math_verify, 'reasoning_gym': reasoning_gym}[name](
    **arguments
  )
  sys.addaudithook(_refuse)

  print(json.dumps({'ready': True}), file=replies)
  while True:
    try:
      token, seconds, question = pickle.load(sys.stdin.buffer)
    except EOFError:
      return
    # With its default action SIGALRM ends even a process that sits in one
    # long C call, and so no orphan outlives its parent by more than this.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
      verdict = judge(*question)
    except Exception:
      verdict = 'unread'
    signal.setitimer(signal.ITIMER_REAL, 0)
    fault = verdict if isinstance(verdict, str) else ''
    reply = {'right': not fault and bool(verdict), 'fault': fault}
    print(json.dumps(reply | {'token': token}), file=replies)


def math_verify():
  """Judges (gold, answer), two texts, by Math-Verify.

  Of what it cannot read, only equal texts are right, and the rest a fault:
  'unread_reference' or 'unread'.
  """
  import math_verify as package

  def judge(gold, answer):
    # The package's own timeouts are off: they only bound Python code.
    parsed = [
      package.parse(_as_latex(text), parsing_timeout=None)
      for text in (gold, answer)
    ]
    # Gold first: the comparison is not symmetric.
    if package.verify(*parsed, timeout_seconds=None):
      return True
    for found, fault in zip(
      parsed, ('unread_reference', 'unread'), strict=True
    ):
      if all(isinstance(one, str) for one in found):
        return fault
    return False

  return judge


def reasoning_gym(*, dataset: str, settings: dict):
  """Judges (entry, answer) by the generator's own score; only 1 is right."""
  import reasoning_gym as package

  source = package.create_dataset(dataset, **settings)
  return lambda entry, answer: source.score_answer(answer, entry) == 1.0


def _as_latex(text: str) -> str:
  """Marks the whole answer as one expression, so no part of it can match."""
  text = text.replace('**', '^')
  if '$' in text or '\\boxed' in text:
    return text
  return f'${text}$'


def _refuse(event: str, arguments: tuple):
  """An audit hook; it cannot be taken off again."""
  outside = event.startswith(_OUTSIDE) and event not in _LOOKING
  if outside or (event == 'open' and arguments[2] & _WRITING):
    raise PermissionError(f'{event} while an answer is judged')


def _limit_memory():
  # Refused where a lower limit is set already, or the system has none.
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


if __name__ == '__main__':
  main()
