"""What a program leaves: its processes and files, their size and their end."""

import os
import time

_KILL, _STOP = 9, 19
_PAGE = os.sysconf('SC_PAGE_SIZE')
_MOST_FILES, _DEEPEST = 1000, 50
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
    if name.isdigit():
      try:
        owner = os.stat(f'/proc/{name}').st_uid
      except OSError:
        continue  # gone
      stat = _stat(name) if owner == uid else []
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


def disk(folder: str, pids, *, most: int) -> bool:
  """Whether a folder holds more than `most` bytes, or is a maze.

  Args:
    folder: to look into.
    pids: processes whose open files count also where they were removed.
    most: bytes.
  """
  size = count = 0
  todo = [(folder, 0)]
  try:
    while todo:
      path, depth = todo.pop()
      with os.scandir(path) as entries:
        for entry in entries:
          size += entry.stat(follow_symlinks=False).st_blocks * 512
          count += 1
          if entry.is_dir(follow_symlinks=False):
            todo.append((entry.path, depth + 1))
          if size > most or count > _MOST_FILES or depth > _DEEPEST:
            return True
    return size + _removed(pids, os.stat(folder)) > most
  except FileNotFoundError:
    return False  # removed while we looked
  except OSError:
    return True  # closed to us


def _removed(pids, folder) -> int:
  """Bytes of files without a name that processes hold open.

  Args:
    pids: the processes.
    folder: os.stat of the folder they work in, which they own.
  """
  sizes: dict = {}
  hidden = [pid for pid in pids if not _look(pid, folder.st_dev, sizes)]
  if hidden:
    mine = (os.getegid(), os.geteuid())
    # Root without its capabilities is let in as their owner only.
    os.setegid(folder.st_gid)
    os.seteuid(folder.st_uid)
    for pid in hidden:
      _look(pid, folder.st_dev, sizes)
    os.seteuid(mine[1])
    os.setegid(mine[0])
  return sum(sizes.values())


def _look(pid: int, device: int, sizes: dict) -> bool:
  """Adds a process's nameless files of that device; False if kept out."""
  try:
    descriptors = os.listdir(f'/proc/{pid}/fd')
  except PermissionError:
    return False
  except OSError:
    return True  # it is gone
  for fd in descriptors:
    try:
      stat = os.stat(f'/proc/{pid}/fd/{fd}')
    except PermissionError:
      return False
    except OSError:
      continue  # closed meanwhile, which must not hide those after it
    if stat.st_dev == device and not stat.st_nlink:
      sizes[stat.st_ino] = stat.st_blocks * 512
  return True


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
  """Removes a folder, whatever a program that is gone has left in it.

  Links are not followed, folders are opened to their owner first, and no path
  is used, as it may be too long: one descriptor walks down and, by '..', up.
  """
  if os.path.islink(folder):
    os.unlink(folder)
  if not os.path.lexists(folder):
    return
  here = _enter(folder, None)
  try:
    above, names, inner = [], [], _empty(here)
    while True:
      if inner:
        name = inner.pop()
        here = _enter(name, here)
        above.append(inner)
        names.append(name)
        inner = _empty(here)
      elif names:
        here = _enter('..', here)
        os.rmdir(names.pop(), dir_fd=here)
        inner = above.pop()
      else:
        break
  finally:
    os.close(here)
  os.rmdir(folder)


def _enter(name: str, here: int | None) -> int:
  """Opens a folder of `here` and closes `here`."""
  flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
  try:
    below = os.open(name, flags, dir_fd=here)
  except PermissionError:
    os.chmod(name, 0o700, dir_fd=here)
    below = os.open(name, flags, dir_fd=here)
  os.fchmod(below, 0o700)  # to remove what is inside
  if here is not None:
    os.close(here)
  return below


def _empty(folder: int) -> list[str]:
  """Removes all but the folders in a folder; their names."""
  inner = []
  with os.scandir(folder) as entries:
    found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
  for name, is_folder in found:
    if is_folder:
      inner.append(name)
    else:
      os.unlink(name, dir_fd=folder)
  return inner


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
  try:
    os.kill(pid, number)
  except OSError:
    return  # gone
