"""The child process of `pool.py`: one grading request a line, one reply a line.

Started by its file name and free of imports from this package, so that a
worker never loads JAX nor the program that started it.

request   {"gold": str, "answer": str, "seconds": float}
reply     {"right": bool}
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys

_MEMORY = 4 << 30  # bytes; 10**10**10 asks for about this much and more


def main():
  # Replies have a descriptor of their own: what libraries print is no reply.
  replies = os.fdopen(os.dup(1), 'w', encoding='ascii', buffering=1)
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  _limit_memory()
  logging.disable(logging.CRITICAL)
  import math_verify  # seconds of work: under the memory limit, before 'ready'

  print(json.dumps({'ready': True}), file=replies)
  for line in sys.stdin:
    request = json.loads(line)
    # With its default action SIGALRM ends even a process that sits in one
    # long C call, and so no orphan outlives its parent by more than this.
    signal.setitimer(signal.ITIMER_REAL, request['seconds'])
    right = _grade(math_verify, request['gold'], request['answer'])
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps({'right': right}), file=replies)


def _grade(math_verify, gold: str, answer: str) -> bool:
  try:
    # The package's own timeouts are off: they only bound Python code.
    parsed = [
      math_verify.parse(_as_latex(text), parsing_timeout=None)
      for text in (gold, answer)
    ]
    # Gold first: the comparison is not symmetric.
    return bool(math_verify.verify(*parsed, timeout_seconds=None))
  except Exception:
    return False


def _as_latex(text: str) -> str:
  """Marks the whole answer as one expression, so no part of it can match."""
  text = text.replace('**', '^')
  if '$' in text or '\\boxed' in text:
    return text
  return f'${text}$'


def _limit_memory():
  # Refused where a lower limit is set already, or the system has none.
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


if __name__ == '__main__':
  main()
