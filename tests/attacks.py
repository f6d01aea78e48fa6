"""Programs that try to score without solving, or to harm: see test_sandbox.

The task is `double(x)`. Those of `breaches` score if they get out of the
sandbox; those here do not return what is right, or do not return.
"""

from tests import breaches

TEST = """
def check(candidate):
  assert candidate(21) == 42
  assert candidate(-3) == -6
  assert [candidate(n) for n in (5, 0)] == [10, 0]
"""
RIGHT = 'def double(x):\n  return 2 * x\n'

# name -> (outcomes, program).
_OTHERS = {
  'leaves at once': ('failed', 'import os\nos._exit(0)'),
  'leaves before the tests': ('failed', 'import sys\nsys.exit(0)'),
  'leaves in the test': ('failed', 'def double(x): raise SystemExit(0)'),
  'leaves at the end': (
    'failed',
    'import atexit, os\natexit.register(os._exit, 0)\nquit = exit = 1\n1 / 0',
  ),
  'becomes another program': (
    'failed',
    "import os\nos.execv('/usr/bin/env', ['env', 'true'])",
  ),
  'crashes': ('failed', 'import ctypes\nctypes.string_at(0)'),
  'has no function': ('failed', 'x = 1'),
  'is no program': ('failed', 'def double(x) return'),
  'holds a zero byte': ('failed', RIGHT + '\0'),
  'nests too deep to compile': ('failed|output', '(' * 200_000),
  'loops': ('failed|time', 'def double(x):\n  while True: pass'),
  'loops in one long call': (
    'failed|time',
    'def double(x): return 9 ** 9 ** 9',
  ),
  'sleeps': ('time', 'import time\ndef double(x): time.sleep(1000)'),
  'ignores signals and loops': (
    'failed|time',
    """
import signal
for number in range(1, 65):
  try: signal.signal(number, lambda *_: None)
  except (OSError, ValueError): pass
while True: pass""",
  ),
  'stops itself': (
    'failed|time',
    'import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n'
    'import time; time.sleep(1000)',
  ),
  'signals all it can': (
    'failed|time',
    'import os\nos.kill(-1, 9)\ndef double(x): return 0',
  ),
  'forks without end': (
    'failed|time|memory',
    'import os\nwhile True: os.fork()',
  ),
  'forks without end, ignoring failures': (
    'failed|time|memory',
    """
import os
while True:
  try: os.setsid()
  except OSError: pass
  try: os.fork()
  except OSError: pass""",
  ),
  'starts threads without end': (
    'failed|time|memory',
    'import threading, time\n'
    'while True: threading.Thread(target=time.sleep, args=(999,)).start()',
  ),
  'takes all memory': (
    'failed|memory',
    'x = []\nwhile True: x.append(bytes(1 << 24))',
  ),
  'takes memory in many processes': (
    'memory',
    """
import os, time
for _ in range(6):
  if os.fork() == 0: break
x = b'x' * (60 << 20)
time.sleep(1000)""",
  ),
  'prints without end': ('output', "while True: print('x' * 10000)"),
  'prints errors without end': (
    'output',
    "import sys\nwhile True: print('x' * 10000, file=sys.stderr)",
  ),
  'fills its folder': (
    'failed|disk',
    """
n = 0
while True:
  open(str(n), 'wb').write(bytes(1 << 19))
  n += 1""",
  ),
  'fills its folder with empty files': (
    'failed|disk',
    'n = 0\nwhile True:\n  open(str(n), "w").close()\n  n += 1',
  ),
  'fills the disk with files that have no name': (
    'failed|disk',
    """
import os, time
files = []
for n in range(40):
  files.append(open('x', 'wb'))
  os.unlink('x')
  files[-1].write(bytes(1 << 19))
  files[-1].flush()
time.sleep(1000)""",
  ),
  'asks its parent to have more children': (
    'failed|time',
    """
import ctypes, os, time
clone = 56 if os.uname().machine == 'x86_64' else 220
for _ in range(40):  # CLONE_PARENT
  if ctypes.CDLL(None).syscall(clone, 0x8000 | 17, 0, 0, 0, 0) == 0:
    time.sleep(1000)
def double(x): pass""",
  ),
  'leaves a detached process': (
    'failed',
    """
import os, time
if os.fork() == 0:
  os.setsid()
  if os.fork() == 0:
    os.setpgid(0, 0)
    for fd in range(64):
      try: os.close(fd)
      except OSError: pass
    time.sleep(1000)
  os._exit(0)
def double(x): pass""",
  ),
  'leaves a process that holds its output': (
    'failed',
    """
import os, time
if os.fork():
  os._exit(0)
os.setsid()
time.sleep(1000)""",
  ),
  'runs a shell in the background': (
    'failed',
    """
import subprocess
subprocess.Popen(['/bin/sh', '-c', 'nohup sleep 1000 & sleep 1000'])
def double(x): pass""",
  ),
  'closes its descriptors': ('failed', 'import os\nos.closerange(0, 64)\n'),
  'answers nothing': (
    'failed|time',
    'import os, time\ndef double(x): os.dup2(os.open("/dev/null", 1), 5)\n',
  ),
  'answers ahead': (
    'failed',
    """
import os, sys
import struct
encode = lambda n: b'R' + b'i' + struct.pack('<I', len(b'%x' % n)) + b'%x' % n
for token in (bytes(16), b'passed' + bytes(10)):
  for n in (42, -6, 10, 0):
    message = token + encode(n)
    os.write(5, struct.pack('<Q', len(message)) + message)
def double(x): pass""",
  ),
  'answers with too much': ('failed', "def double(x): return 'x' * (1 << 20)"),
  'says it answers with too much': (
    'failed',
    'import os\ndef double(x): os.write(5, b"\\xff" * 8 + b"x" * 100)',
  ),
  'answers with no message': (
    'failed',
    'import os\ndef double(x): os.write(5, os.urandom(60000))',
  ),
  'answers with a cut message': (
    'failed',
    'import os\ndef double(x): os.write(5, b"\\x20" + bytes(12)); os._exit(0)',
  ),
  'answers too deep': (
    'failed',
    'def double(x):\n  y = 0\n  for _ in range(5000): y = [y]\n  return y',
  ),
  'answers with itself': (
    'failed',
    'def double(x):\n  y = []\n  y.append(y)\n  return y',
  ),
  'answers NaN': ('failed', "def double(x): return float('nan')"),
  'answers with what equals anything': (
    'failed',
    'class A:\n  __eq__ = lambda *_: True\ndef double(x): return A()',
  ),
  'answers with an int that equals anything': (
    'failed',
    'class A(int):\n  __eq__ = lambda *_: True\n  __hash__ = int.__hash__\n'
    'def double(x): return A(7)',
  ),
  'answers with a class whose base it changes': (
    'failed',
    'class A(int):\n  __class__ = property(lambda s: bool)\n'
    '  __eq__ = lambda *_: True\ndef double(x): return A(7)',
  ),
  'answers with a function': ('failed', 'def double(x): return double'),
  'raises StopIteration': (
    'failed',
    'def double(x): raise StopIteration',
  ),
  'raises AssertionError': ('failed', 'def double(x): raise AssertionError'),
  'raises an exception of its own': (
    'failed',
    'class E(Exception): __str__ = __repr__ = lambda s: 1 / 0\n'
    'def double(x): raise E',
  ),
  'patches what a test needs': (
    'failed',
    """
import builtins, sys, types
builtins.AssertionError = type('A', (BaseException,), {})
builtins.isinstance = builtins.issubclass = lambda *_: True
for name in list(sys.modules): sys.modules[name].check = lambda *_: None
def check(candidate): pass
def double(x): pass""",
  ),
  'patches how results are written': (
    'failed',
    """
import gc, types
for found in gc.get_objects():
  if isinstance(found, types.FunctionType) and found.__name__ == 'encode':
    found.__code__ = (lambda value, *a: b'T').__code__
def double(x): pass""",
  ),
  'leaves links, odd names and closed folders': (
    'failed',
    """
import os
os.symlink('@OUTSIDE@', 'link')
os.symlink('..', 'up')
os.mkdir('closed')
open('closed/x', 'w').close()
os.symlink('@OUTSIDE@', 'closed/link')
for name in ('a\\nb', '-rf', '\\udcff', '*', ' ', 'x' * 255, '\\x01'):
  open(os.fsencode(name), 'w').close()
os.mkfifo('pipe')
try: os.chmod('closed', 0)
except OSError: pass
def double(x): pass""",
  ),
  'leaves folders too deep to walk': (
    'failed|disk',
    """
import os
for _ in range(3000):
  os.mkdir('d')
  os.chdir('d')
open('x', 'w').close()
def double(x): pass""",
  ),
}

NEEDS = breaches.NEEDS
ATTACKS = breaches.BREACHES | _OTHERS

# Whole programs: the input is two numbers, the output is to be their sum.
INPUT, OUTPUT = '20 22\n', '42\n'
ADDS = 'a, b = map(int, input().split())\nprint(a + b)\n'
WHOLE = {
  'prints nothing': '',
  'leaves without output': 'import os\nos._exit(0)',
  'prints what the prompt shows': 'print(3)',
  'prints the output and more': ADDS + 'print(0)',
  'prints the output and fails': ADDS + 'raise ValueError',
  'prints the output and dies': ADDS + 'import os; os.abort()',
  'prints the output and never ends': ADDS + 'while True: pass',
  'prints the output and a flood': ADDS + "print(' ' * 10**6)",
  'writes to its errors': 'import sys\nsys.stderr.write("42\\n")',
  'leaves the printing to a child that stays': (
    'import os, time\n'
    'if os.fork(): os._exit(0)\n'
    'time.sleep(0.5); print(42); time.sleep(1000)'
  ),
}
