"""Programs that try to break out of the sandbox: see test_sandbox.

Each is one attempt; its code calls `won()` where it got through, and only then
does its `double` return what is right. So a score tells of a hole. `@SECRET@`
is a file of the grader, `@OUTSIDE@` a folder anyone may write in, `@PORT@` a
listener of the grader's, `@JAIL@` the sandbox's own files.
"""

import textwrap

# Around each attempt.
_BREACH = """
import ctypes, gc, glob, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
wins = []
def won(): wins.append(1)
def attack():
{body}
try: attack()
except BaseException as error: print(repr(error), file=sys.stderr)
def double(x): return 2 * x if wins else None
"""

# name -> (outcome, code).
_TRIES = {
  'reads a file of the grader': "if 'double' in open('@SECRET@').read(): won()",
  'reads a file through a link': """
    os.symlink('@SECRET@', 'link')
    if 'double' in open('link').read(): won()""",
  'reads through the root of another process': """
    for pid in [os.getppid(), 1]:
      for path in ('/proc/%d/root@SECRET@', '/proc/%d/cwd/etc/passwd'):
        try: open(path % pid).close(); won()
        except OSError: pass""",
  'reads memory and descriptors of other processes': """
    for pid in {1, *range(max(1, os.getppid() - 20), os.getppid() + 20)}:
      if pid != os.getpid():
        for name in ('mem', 'environ', 'maps', 'fd/0', 'fd/3', 'fd/5'):
          try: os.open(f'/proc/{pid}/{name}', os.O_RDONLY); won()
          except OSError: pass""",
  'writes into memory of the supervisor': """
    os.open(f'/proc/{os.getppid()}/mem', os.O_RDWR); won()""",
  'traces its parent': """
    if libc.ptrace(16, os.getppid(), 0, 0) == 0: won()""",
  'reads memory of its parent by a system call': """
    buffer = ctypes.create_string_buffer(8)
    class Iov(ctypes.Structure):
      _fields_ = [('at', ctypes.c_void_p), ('n', ctypes.c_size_t)]
    here, there = Iov(ctypes.addressof(buffer), 8), Iov(0x400000, 8)
    for pid in (os.getppid(), 1):
      if libc.process_vm_readv(
        pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0
      ) > 0: won()""",
  'takes a descriptor of its parent': """
    fd = os.pidfd_open(os.getppid())
    if libc.syscall(438, fd, 1, 0) >= 0: won()""",
  'limits its parent': """
    import resource
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0)); won()""",
  'slows its parent down': """
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); won()""",
  'kills its parent': "os.kill(os.getppid(), signal.SIGKILL)",
  'stops its parent': "os.kill(os.getppid(), signal.SIGSTOP)",
  'has the kernel signal its parent': """
    import fcntl
    r, w = os.pipe()
    fcntl.fcntl(r, 8, os.getppid()); fcntl.fcntl(r, 10, 9)
    fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(w, b'x'); time.sleep(0.1); won()""",
  'has the kernel signal its parent by a socket': """
    import fcntl, struct
    a, b = socket.socketpair()
    fcntl.ioctl(a, 0x8901, struct.pack('i', os.getppid()))
    fcntl.fcntl(a, 10, 9)
    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    b.send(b'x'); time.sleep(0.1); won()""",
  'connects to the grader': """
    socket.create_connection(('127.0.0.1', @PORT@), timeout=1); won()""",
  'opens a socket of local daemons': """
    socket.socket(socket.AF_UNIX); won()""",
  'opens a netlink socket': "socket.socket(16, 3, 0); won()",
  'writes outside': "open('@OUTSIDE@/mine', 'w').write('x'); won()",
  'writes where anyone may': """
    for folder in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/', '/dev'):
      try: open(f'{folder}/left_by_a_program', 'w').close(); won()
      except OSError: pass""",
  'removes a file outside': "os.unlink('@OUTSIDE@/kept'); won()",
  'changes rights outside': "os.chmod('@OUTSIDE@/kept', 0); won()",
  'writes into the library': """
    open(os.__file__, 'a').close(); won()""",
  'writes into the files of the sandbox': """
    for path in glob.glob('/jail/*') + ['@JAIL@/checker.py']:
      try: open(path, 'a').close(); won()
      except OSError: pass""",
  'becomes root': "os.setuid(0); won()",
  'makes namespaces': """
    if libc.unshare(0x10000000) == 0: won()
    if libc.unshare(0x00020000) == 0: won()""",
  'mounts': "libc.mount(b'x', b'.', b'tmpfs', 0, None) or won()",
  'leaves shared memory': "libc.shmget(77, 4096, 0o1777) < 0 or won()",
  'leaves a file in memory': "os.memfd_create('x'); won()",
  'opens an io_uring': "libc.syscall(425, 8, bytes(120)) < 0 or won()",
  'raises its limits': """
    import resource
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC):
      try: resource.setrlimit(kind, (-1, -1)); won()
      except (OSError, ValueError): pass""",
  'writes more than a file may hold': """
    with open('big', 'wb') as file:
      for _ in range(64): file.write(bytes(1 << 16))
    won()""",
  'makes a sparse file': "file = open('s', 'w'); file.truncate(1 << 40); won()",
  'finds the environment of the grader': "if os.environ: won()",
  'finds the test in its own memory': """
    needle = 'candidate(2' + '1) == 4' + '2'
    for found in gc.get_objects():
      if isinstance(found, dict) and any(
        isinstance(v, (str, bytes)) and needle in str(v)
        for k, v in list(found.items()) if k != '__doc__'
      ) and found.get('needle') != needle and 'attack' not in found: won()""",
  'walks up the frames to the test': """
    frame = sys._getframe()
    while frame:
      for key in ('check', 'test', 'verdict', 'expected'):
        if key in frame.f_globals or key in frame.f_locals: won()
      frame = frame.f_back""",
  'looks for the descriptors of the verdict': """
    for fd in range(3, 256):
      try: os.write(fd, b'passed')
      except OSError: pass""",
}  # fmt: skip

# What only this layer prevents where there is no bubblewrap.
NEEDS = {
  'landlock': [
    'reads a file of the grader',
    'reads a file through a link',
    'writes outside',
    'writes where anyone may',
    'removes a file outside',
  ],
  'seccomp': [
    'opens a socket of local daemons',
    'opens a netlink socket',
    'makes namespaces',
    'leaves shared memory',
    'leaves a file in memory',
    'opens an io_uring',
    'has the kernel signal its parent',
    'has the kernel signal its parent by a socket',
  ],
}


def _try(body: str) -> str:
  body = textwrap.indent(textwrap.dedent(body).strip('\n'), '  ')
  return _BREACH.format(body=body)


BREACHES = {name: ('failed', _try(code)) for name, code in _TRIES.items()}
