"""The process that runs a trusted test against an untrusted program.

The test's `candidate` is a stand-in: each call goes to the other process as
plain data and comes back as plain data, marked with a random token of that
call. So the program has no hand on the test, its `assert`, its frames or its
verdict; all it can do is return values, die, or take too long.
"""

import builtins
import os

import confine
import values

# They would end a loop of the test early, without a word.
_SILENT = (StopIteration, StopAsyncIteration)


class _BrokenError(BaseException):
  """The program does not answer as it must; no `except Exception` stops it."""


class _Candidate:
  """Calls the program's function in the other process."""

  def __init__(self, requests: int, replies: int, *, longest: int):
    self._requests, self._replies = requests, replies
    self._longest = longest
    self.calls, self.broken = 0, False

  def call(self, *args, **kwargs):
    if self.broken:
      raise _BrokenError
    self.calls += 1
    token = os.urandom(16)
    try:
      values.send(self._requests, token, values.encode((args, kwargs)))
      reply = values.receive(self._replies, longest=self._longest)
      if reply is None or reply[:16] != token:
        raise ValueError('no reply, or the reply to something else')
      kind, value = reply[16:17], values.decode(reply[17:])
      if kind == b'R':
        return value
      error = _exception(value)
    except Exception:
      self.broken = True
      raise _BrokenError from None
    raise error


def main(
  test: dict, settings: dict, *, requests: int, replies: int, verdict: int
):
  """Confines itself, runs the test, writes b'passed' or b'failed'.

  Args:
    test: 'prefix' (code with the test's helpers, may be ''), 'test' and
      'entry_point'. The test's `check`, if it defines one, is called with the
      candidate; the entry point's name is the candidate too.
    settings: of `confine.enter`.
    requests, replies, verdict: descriptors.
  """
  passed = False
  try:
    longest = settings.pop('longest')
    confine.enter(**settings)
    os.environ.clear()
    # Imported here: the program has started meanwhile.
    __import__('random').seed(0)  # a reward is a function of the completion
    candidate = _Candidate(requests, replies, longest=longest)
    function = candidate.call
    space = {'__name__': 'test'}
    exec(_compiled(test['prefix']), space)
    space[test['entry_point']] = function
    exec(compile(test['test'], 'test.py', 'exec'), space)
    if 'check' in space:
      space['check'](function)
    passed = candidate.calls > 0 and not candidate.broken
  except BaseException:
    passed = False
  finally:
    os.write(verdict, b'passed' if passed else b'failed')
    os._exit(0)


def _compiled(prefix):
  """What comes before the program, which may be what its last line lacks."""
  try:
    return compile(prefix, 'prefix.py', 'exec')
  except SyntaxError:
    return compile(f'{prefix.rstrip()} pass', 'prefix.py', 'exec')


def _exception(name) -> Exception:
  """The built-in exception of that name, or a RuntimeError that names it."""
  kind = getattr(builtins, name, None) if isinstance(name, str) else None
  if not (isinstance(kind, type) and issubclass(kind, Exception)):
    return RuntimeError(str(name))
  if issubclass(kind, _SILENT):
    raise ValueError(f'the program raised {name}')
  try:
    return kind('raised by the program')
  except TypeError:
    return RuntimeError(name)
