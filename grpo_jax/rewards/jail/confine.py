"""Takes a process's rights away, for good: limits, user, files, calls.

Called by the process itself, after its descriptors are set and before it runs
anything it was given. What holds is inherited by all its descendants.
"""

import ctypes
import os
import resource
import struct
import sys

import landlock
import syscalls

_PDEATHSIG, _DUMPABLE, _KEEPCAPS, _NO_NEW_PRIVS, _SUBREAPER = 1, 4, 8, 38, 36
_NEWNET, _NEWIPC = 0x40000000, 0x08000000
_ARENAS_MAX = -8
_OPEN_FILES = 64
_READ_SEARCH = 1 << 2  # CAP_DAC_READ_SEARCH: reading past permissions
_DEVICES = ('/dev/null', '/dev/zero', '/dev/urandom', '/dev/random')


def supervisor():
  """Makes this process one that others cannot look into, and that orphans
  of its tree come to."""
  # The kernel, short of memory, looks here first; children inherit it.
  try:
    fd = os.open('/proc/self/oom_score_adj', os.O_WRONLY)
    os.write(fd, b'1000')
    os.close(fd)
  except OSError as error:
    sys.stderr.write(f'oom_score_adj: {error}\n')
  libc = ctypes.CDLL(None, use_errno=True)
  libc.prctl(_DUMPABLE, 0, 0, 0, 0)
  libc.prctl(_SUBREAPER, 1, 0, 0, 0)


def enter(
  *,
  cpu: int,
  memory: int,
  file: int,
  processes: int,
  uid: int | None,
  read_past: bool,
  folder: str,
  reads: list[str],
  layers: list[str],
  same_user: bool,
) -> None:
  """Confines this process.

  Args:
    cpu: seconds of each process.
    memory: bytes of address space of each process.
    file: bytes of each file written.
    processes: processes and threads of the user.
    uid: the user and group to become; None stays as it is.
    read_past: keeps the right to read past permissions, where the interpreter
      lies in a folder that no other user enters; Landlock bounds it.
    folder: the one to work and write in; '' changes nothing.
    reads: files and folders that Landlock leaves readable.
    layers: those to apply of 'network namespace', 'user', 'landlock' and
      'seccomp'; where one fails, this raises.
    same_user: no other wall is between this process and the grader's.

  Raises:
    OSError: one could not be.
  """
  libc = ctypes.CDLL(None, use_errno=True)
  if os.getsid(0) != os.getpid():
    os.setsid()
  if 'network namespace' in layers:
    _check(libc.unshare(_NEWNET | _NEWIPC) == 0, 'network namespace')
  # Made before the user changes, who may not reach the paths.
  ruleset = -1
  if 'landlock' in layers:
    writes = [folder] if folder else []
    ruleset = landlock.rules(libc, reads=reads, devices=_DEVICES, writes=writes)
    _check(ruleset >= 0, 'landlock')
  if folder:
    os.chdir(folder)
  _limit(cpu=cpu, memory=memory, file=file, processes=processes)
  # Else glibc reserves 64 MB for each thread.
  getattr(libc, 'mallopt', lambda *_: 0)(_ARENAS_MAX, 1)
  if 'user' in layers:
    _become(libc, uid, read_past=read_past)
  elif os.geteuid() == 0:
    _keep(libc, 0)  # a root that may not change its user
  libc.prctl(_PDEATHSIG, 9, 0, 0, 0)
  if folder:
    # A supervisor without privileges, too, is to see its open files.
    libc.prctl(_DUMPABLE, 1, 0, 0, 0)
  _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, 'no_new_privs')
  if ruleset >= 0:
    _check(landlock.restrict(libc, ruleset), 'landlock')
    os.close(ruleset)
  if 'seccomp' in layers:
    _check(syscalls.refuse(libc, same_user=same_user), 'seccomp')


def _limit(*, cpu: int, memory: int, file: int, processes: int):
  limits = {
    resource.RLIMIT_CPU: cpu,
    resource.RLIMIT_AS: memory,
    resource.RLIMIT_FSIZE: file,
    resource.RLIMIT_NPROC: processes,
    resource.RLIMIT_NOFILE: _OPEN_FILES,
    # Not 0, which does not keep a kernel from piping the core to a program.
    resource.RLIMIT_CORE: 1,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
  }
  for kind, value in limits.items():
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _become(libc, uid: int, *, read_past: bool):
  if read_past:
    libc.prctl(_KEEPCAPS, 1, 0, 0, 0)
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)
  if read_past:
    _keep(libc, _READ_SEARCH)


def _keep(libc, capabilities: int):
  """Gives up all of root's rights but these of the first 32."""
  header = struct.pack('<Ii', 0x20080522, 0)
  rights = struct.pack('<6I', capabilities, capabilities, 0, 0, 0, 0)
  _check(libc.capset(header, rights) == 0, 'user')


def _check(done: bool, layer: str):
  if not done:
    error = ctypes.get_errno()
    raise OSError(error, f'{layer}: {os.strerror(error)}')
