"""What a program leaves: its processes and files, their size and their end."""

import contextlib
import os
import time

_KILL, _STOP = 9, 19
_PAGE = os.sysconf('SC_PAGE_SIZE')
_MOST_FILES = 10_000
_DYING = 0.01  # seconds from a signal to a death, as a rule


def descendants(root: int) -> dict[int, int]:
  """pid -> resident bytes, of everything below `root`."""
  children: dict = {}
  resident = {}
  for name in os.listdir('/proc'):
    if name.isdigit():
      stat = _stat(name)
      if stat:
        children.setdefault(int(stat[1]), []).append(int(name))
        resident[int(name)] = int(stat[21]) * _PAGE
  found, todo = {}, [root]
  while todo:
    for pid in children.get(todo.pop(), ()):
      found[pid] = resident[pid]
      todo.append(pid)
  return found


def tasks_of_user(uid: int) -> int:
  """Processes and threads of a user, as RLIMIT_NPROC counts them."""
  count = 0
  for name in os.listdir('/proc'):
    with contextlib.suppress(OSError):
      if name.isdigit() and os.stat(f'/proc/{name}').st_uid == uid:
        stat = _stat(name)
        count += int(stat[17]) if stat else 0
  return count


def end(pids: list[int], uids: list[int]):
  """Kills every descendant of this process and waits for each.

  Orphans of the tree come to this process (it is their subreaper), so when it
  has no children left, nothing is left.

  Args:
    pids: children, to begin with.
    uids: users whose every process goes at once, which no fork outruns.
  """
  for pid in pids:
    _signal(pid, _KILL)
  deadline = time.monotonic() + _DYING
  while not _reap():
    if time.monotonic() > deadline:
      for uid in uids:
        _kill_user(uid)
      kill_tree(os.getpid())
      deadline = time.monotonic() + _DYING
    time.sleep(0.001)


def kill_tree(root: int):
  """Kills what is below a process: stopped first, as who forks runs ahead.

  A signal that waits for a process makes its fork fail, so each round leaves
  only what the one before had not seen.
  """
  stopped: set = set()
  while new := set(descendants(root)) - stopped:
    for pid in new:
      _signal(pid, _STOP)
    stopped |= new
  for pid in stopped:
    _signal(pid, _KILL)


def disk(folder: str, *, most: int) -> bool:
  """Whether a folder holds more than `most` bytes, or too many files."""
  size = count = 0
  todo = [folder]
  try:
    while todo:
      with os.scandir(todo.pop()) as entries:
        for entry in entries:
          stat = entry.stat(follow_symlinks=False)
          size += stat.st_blocks * 512
          count += 1
          if entry.is_dir(follow_symlinks=False):
            todo.append(entry.path)
          if size > most or count > _MOST_FILES:
            return True
  except FileNotFoundError:
    return False  # removed while we looked
  except OSError:
    return True  # too deep to look into, or closed to us
  return False


def too_many_files(pid: int, folder: str) -> bool:
  """Whether a folder that is a file system of a process's own has too many."""
  try:
    if os.path.samefile(f'/proc/{pid}/root', '/'):
      return False  # not inside yet: the folder is another
    stat = os.statvfs(f'/proc/{pid}/root{folder}')
  except OSError:
    return False
  return stat.f_files - stat.f_ffree > _MOST_FILES


def clear(folder: str):
  """Removes a folder, whatever a program has left in it.

  Links are not followed. Folders are emptied by moving their folders up, so
  that none is too deep, and opened to their owner first.
  """
  with contextlib.suppress(FileNotFoundError):
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
      while names := os.listdir(top):
        for name in names:
          if not _unlink(name, top):
            _flatten(name, top)
    finally:
      os.close(top)
    os.rmdir(folder)


def _flatten(name: str, top: int):
  """Removes a folder of `top`; its folders go to `top` under new names."""
  os.chmod(name, 0o700, dir_fd=top)
  below = os.open(
    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top
  )
  try:
    for entry in os.listdir(below):
      if not _unlink(entry, below):
        os.chmod(entry, 0o700, dir_fd=below)
        new = os.urandom(16).hex()
        os.rename(entry, new, src_dir_fd=below, dst_dir_fd=top)
  finally:
    os.close(below)
  os.rmdir(name, dir_fd=top)


def _unlink(name: str, folder: int) -> bool:
  """False for a folder."""
  try:
    os.unlink(name, dir_fd=folder)
  except (IsADirectoryError, PermissionError):
    return False
  return True


def _stat(pid: str) -> list[bytes]:
  """Fields of /proc/PID/stat from the third on; [] of a process now gone."""
  try:
    with open(f'/proc/{pid}/stat', 'rb') as file:
      return file.read().rpartition(b')')[2].split()
  except OSError:
    return []


def _reap() -> bool:
  """Whether no child is left, dead or alive."""
  try:
    while os.waitpid(-1, os.WNOHANG)[0]:
      pass
  except ChildProcessError:
    return True
  return False


def _kill_user(uid: int):
  pid = os.fork()
  if pid == 0:
    try:
      os.setresuid(uid, uid, uid)
      _signal(-1, _KILL)  # all of this user's, but not the one who asks
    finally:
      os._exit(0)
  os.waitpid(pid, 0)


def _signal(pid: int, number: int):
  with contextlib.suppress(OSError):
    os.kill(pid, number)
