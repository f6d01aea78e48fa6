"""Landlock: which files a process and its descendants may touch.

A security module of Linux >= 5.13 that needs no privileges; see
https://docs.kernel.org/userspace-api/landlock.html. Later kernels also keep
signals and abstract sockets inside.
"""

import ctypes
import os
import struct

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14  # truncate
# The rights that each version of the interface knows.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_IOCTL_DEV, _NET_BIND_CONNECT, _SCOPE_SOCKET_SIGNAL = 1 << 15, 3, 3


def version(libc) -> int:
  """Of the kernel's interface; 0 without one."""
  return max(0, libc.syscall(_CREATE, None, 0, 1))


def rules(libc, *, reads, devices, writes) -> int:
  """A descriptor of rules, to be given to `restrict`; -1 without Landlock.

  Args:
    reads: files and folders that may be read and run.
    devices: files that may be read and written.
    writes: folders in which anything may be done.
  """
  known = version(libc)
  if not known:
    return -1
  handled = _RIGHTS[min(known, 3)] | (_IOCTL_DEV if known >= 5 else 0)
  attributes = [handled]
  attributes += [_NET_BIND_CONNECT] if known >= 4 else []
  attributes += [_SCOPE_SOCKET_SIGNAL] if known >= 6 else []
  attr = struct.pack(f'<{len(attributes)}Q', *attributes)
  ruleset = libc.syscall(_CREATE, attr, len(attr), 0)
  if ruleset < 0:
    return -1
  for paths, rights in ((reads, _READ), (devices, _DEVICE), (writes, handled)):
    for path in paths:
      _add(libc, ruleset, path, rights & handled)
  return ruleset


def restrict(libc, ruleset: int) -> bool:
  """Applies the rules, for good; no_new_privs must be set before."""
  return libc.syscall(_RESTRICT, ruleset, 0) == 0


def _add(libc, ruleset: int, path: str, rights: int):
  try:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
  except FileNotFoundError:
    return
  if not os.path.isdir(path):
    rights &= _OF_FILES
  rule = ctypes.create_string_buffer(struct.pack('<Qi', rights, fd))
  if libc.syscall(_ADD, ruleset, 1, rule, 0) != 0:
    raise OSError(ctypes.get_errno(), f'no Landlock rule for {path}')
  os.close(fd)
