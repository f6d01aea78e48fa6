"""The process that runs the program: whole, or call by call.

Descriptors: 0 the program's input, 1 and 2 its output, 3 what this file reads
(settings, then the source), 4 requests and 5 replies where it is tested.
After the program's first line nothing that this process says is believed; it
only returns what the program computed.
"""

import marshal
import os
import sys
import types

import confine
import values

_LONGEST = 1 << 30


def main(folder: str):
  """Confines itself and runs; never returns.

  Args:
    folder: this file's, to be taken off the import path.
  """
  settings = marshal.loads(values.receive(3, longest=_LONGEST))
  source = values.receive(3, longest=_LONGEST)
  os.close(3)
  confine.enter(**settings['confine'])
  os.environ.clear()
  sys.path.remove(folder)
  sys.argv = ['program.py']
  if settings['probe']:
    # A small module that nothing here has loaded: the library can be read.
    __import__('colorsys')
    os.write(1, b'confined')
    os._exit(0)
  code = 1
  try:
    if settings['entry_point']:
      _serve(source, settings['entry_point'])
    else:
      _execute(source, '__main__')
    code = 0
  except SystemExit as leaving:
    code = _exit_code(leaving.code)
  except BaseException:
    sys.excepthook(*sys.exc_info())
  _leave(code)


def _execute(source: bytes, name: str) -> dict:
  module = types.ModuleType(name)
  sys.modules[name] = module
  exec(compile(source, 'program.py', 'exec', dont_inherit=True), vars(module))
  return vars(module)


def _serve(source: bytes, entry_point: str):
  """Replies to each request (token, arguments) with (token, result)."""
  function = _execute(source, 'program')[entry_point]
  while (request := values.receive(4, longest=_LONGEST)) is not None:
    token, arguments = request[:16], request[16:]
    try:
      args, kwargs = values.decode(arguments)
      reply = b'R' + values.encode(function(*args, **kwargs))
    except Exception as error:
      reply = b'E' + values.encode(type(error).__name__)
    values.send(5, token, reply)


def _exit_code(code) -> int:
  if code is None:
    return 0
  if isinstance(code, int):
    return code & 255
  print(code, file=sys.stderr)
  return 1


def _leave(code: int):
  """What the interpreter does at its end, without the supervisor's frames."""
  try:
    if 'threading' in sys.modules:
      sys.modules['threading']._shutdown()
    if 'atexit' in sys.modules:
      sys.modules['atexit']._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
  except BaseException:
    code = 1
  finally:
    os._exit(code)
