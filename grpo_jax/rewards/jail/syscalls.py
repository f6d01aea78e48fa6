"""Seccomp: the system calls that no program under test needs.

A filter of the kernel's (seccomp-bpf), installed without privileges and kept
by every descendant. Refused calls fail with EPERM, so an honest program gets
an exception and not a death. See `man 2 seccomp`; numbers are from the
kernel's syscall tables for x86_64 and aarch64.
"""

import ctypes
import os
import struct

# name: (x86_64, aarch64), None where an architecture lacks the call.
_ALWAYS = {
  # network, also by the sockets of local daemons; pairs of sockets stay
  'socket': (41, 198),
  # other processes: their memory, descriptors, limits, scheduling
  'ptrace': (101, 117), 'process_vm_readv': (310, 270),
  'process_vm_writev': (311, 271), 'pidfd_getfd': (438, 438),
  'process_madvise': (440, 440), 'kcmp': (312, 272),
  'setpriority': (141, 140), 'ioprio_set': (251, 30),
  'sched_setaffinity': (203, 122), 'sched_setscheduler': (144, 119),
  'sched_setparam': (142, 118), 'sched_setattr': (314, 274),
  'migrate_pages': (256, 238), 'move_pages': (279, 239),
  # memory that outlives a process or counts for none
  'shmget': (29, 194), 'shmat': (30, 196), 'shmctl': (31, 195),
  'semget': (64, 190), 'semop': (65, 193), 'semctl': (66, 191),
  'semtimedop': (220, 192), 'msgget': (68, 186), 'msgsnd': (69, 189),
  'msgrcv': (70, 188), 'msgctl': (71, 187), 'mq_open': (240, 180),
  'mq_unlink': (241, 181), 'memfd_create': (319, 279),
  'memfd_secret': (447, 447), 'add_key': (248, 217),
  'request_key': (249, 218), 'keyctl': (250, 219),
  # namespaces and mounts
  'unshare': (272, 97), 'setns': (308, 268), 'mount': (165, 40),
  'umount2': (166, 39), 'pivot_root': (155, 41), 'chroot': (161, 51),
  'open_tree': (428, 428), 'move_mount': (429, 429), 'fsopen': (430, 430),
  'fsconfig': (431, 431), 'fsmount': (432, 432), 'fspick': (433, 433),
  'mount_setattr': (442, 442), 'open_tree_attr': (467, 467),
  # ways around path checks or this filter, and where kernels had their holes
  'name_to_handle_at': (303, 264), 'open_by_handle_at': (304, 265),
  'io_uring_setup': (425, 425), 'io_uring_enter': (426, 426),
  'io_uring_register': (427, 427), 'bpf': (321, 280),
  'perf_event_open': (298, 241), 'userfaultfd': (323, 282),
  'personality': (135, 92), 'syslog': (103, 116),
}  # fmt: skip
# Besides, where the program runs as the user who grades it.
_SAME_USER = {
  'kill': (62, 129), 'tkill': (200, 130), 'tgkill': (234, 131),
  'rt_sigqueueinfo': (129, 138), 'rt_tgsigqueueinfo': (297, 240),
  'pidfd_send_signal': (424, 424),
  # Landlock (truncate: its first two versions) does not stop these on files
  # outside
  'truncate': (76, 45),
  'chmod': (90, None), 'fchmod': (91, 52), 'fchmodat': (268, 53),
  'fchmodat2': (452, 452), 'chown': (92, None), 'fchown': (93, 55),
  'lchown': (94, None), 'fchownat': (260, 54), 'utime': (132, None),
  'utimes': (235, None), 'futimesat': (261, None), 'utimensat': (280, 88),
  'setxattr': (188, 5), 'lsetxattr': (189, 6), 'fsetxattr': (190, 7),
  'setxattrat': (463, 463), 'removexattr': (197, 14),
  'lremovexattr': (198, 15), 'fremovexattr': (199, 16),
  'removexattrat': (466, 466), 'file_setattr': (469, 469),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), 435
_PRLIMIT, _FCNTL, _SOCKETPAIR = (302, 261), (72, 25), (53, 199)
_IOCTL, _PRCTL = (16, 29), (157, 167)

_AF_UNIX = 1
_PR_SET_DUMPABLE = 4  # would hide its open files
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag of clone()
# By these the kernel would signal others for the program.
_F_SETOWN, _F_SETOWN_EX, _FIOSETOWN, _SIOCSPGRP = 8, 15, 0x8901, 0x8902
_ARCHITECTURES = {'x86_64': 0xC000003E, 'aarch64': 0xC00000B7}
_X32 = 0x40000000  # numbers of a second table of x86_64

# Classic BPF.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
  _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]


def refuse(libc, *, same_user: bool) -> bool:
  """Installs the filter; False where the kernel or architecture has none.

  no_new_privs must be set before.
  """
  content = program(os.uname().machine, same_user=same_user)
  if content is None:
    return False
  buffer = ctypes.create_string_buffer(content, len(content))
  fprog = _Program(len(content) // 8, ctypes.addressof(buffer))
  return (
    libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(fprog), 0, 0) == 0
  )


def program(machine: str, *, same_user: bool) -> bytes | None:
  """The filter as the kernel reads it; None for another architecture."""
  if machine not in _ARCHITECTURES:
    return None
  column = list(_ARCHITECTURES).index(machine)
  ops = [
    _op(_LOAD, 4),  # the architecture: 32-bit calls have other numbers
    _op(_EQUAL, _ARCHITECTURES[machine], 1, 0),
    _op(_RETURN, _KILL),
    _op(_LOAD, 0),  # the number of the call
    _op(_AT_LEAST, _X32, 0, 1),
    _op(_RETURN, _KILL),
  ]
  table = _ALWAYS | (_SAME_USER if same_user else {})
  for numbers in table.values():
    if numbers[column] is not None:
      ops += _if_equal(numbers[column], _ERRNO | _EPERM)
  # Its flags are behind a pointer; without it, clone() is what libc takes.
  ops += _if_equal(_CLONE3, _ERRNO | _ENOSYS)
  refuse = _op(_RETURN, _ERRNO | _EPERM)
  for number, argument, tests in (
    (_CLONE, 0, [_op(_ANY_BIT, _NEW_NAMESPACES, 0, 1), refuse]),
    (_PRLIMIT, 0, [_op(_EQUAL, 0, 1, 0), refuse]),  # 0: itself
    (_SOCKETPAIR, 0, [_op(_EQUAL, _AF_UNIX, 1, 0), refuse]),
    (_PRCTL, 0, [_op(_EQUAL, _PR_SET_DUMPABLE, 0, 1), refuse]),
    (_FCNTL, 1, [_op(_EQUAL, _F_SETOWN, 1), _op(_EQUAL, _F_SETOWN_EX, 0, 1)]),
    (_IOCTL, 1, [_op(_EQUAL, _FIOSETOWN, 1), _op(_EQUAL, _SIOCSPGRP, 0, 1)]),
  ):
    tests += [refuse] if tests[-1] != refuse else []
    body = [_op(_LOAD, 16 + 8 * argument), *tests, _op(_RETURN, _ALLOW)]
    ops += [_op(_EQUAL, number[column], 0, len(body)), *body]
  ops.append(_op(_RETURN, _ALLOW))
  return b''.join(ops)


def _if_equal(value: int, result: int) -> list[bytes]:
  return [_op(_EQUAL, value, 0, 1), _op(_RETURN, result)]


def _op(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
  return struct.pack('<HBBI', code, true, false, k)
