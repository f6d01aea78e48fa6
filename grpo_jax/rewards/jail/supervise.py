"""The process over one program: starts it, watches it, ends all of it.

Reads messages from 0: settings, source, input, and for a tested program the
test, which comes last so that the program's process, forked before, never
holds it. When nothing of the program is left, it writes its messages to 1: the
outcome and the program's output among them.

outcomes  passed, failed (of a test); exited N (by itself, or -N by a signal);
          time, output, memory, disk (over that limit); abandoned
"""

import fcntl
import marshal
import os
import select
import sys
import time

import checker
import confine
import processes
import untrusted
import values

_LONGEST = 1 << 30
_TICK = 0.1  # seconds between looks at memory and disk
_HIGH = 100  # descriptors are set aside above this
_ERRORS_KEPT = 2000  # bytes
_GONE = select.POLLERR | select.POLLNVAL


def main(folder: str):
  """Serves one program.

  Args:
    folder: of these files.
  """
  confine.supervisor()
  settings = marshal.loads(values.receive(0, longest=_LONGEST))
  source = values.receive(0, longest=_LONGEST)
  stdin = values.receive(0, longest=_LONGEST)
  uids = _users(settings)
  watch = _Watch(settings, time.monotonic() + settings['wall'])
  try:
    _start_program(watch, settings, source, stdin, folder)
    if watch.tested:
      _start_test(watch, settings)
    outcome = watch.run()
  finally:
    processes.end(watch.pids, uids)
    if settings['confine']['folder']:
      processes.clear(settings['confine']['folder'])
  outcome = watch.rest(outcome)
  if outcome == 'abandoned':
    return
  for part in (outcome.encode(), watch.output, watch.errors[-_ERRORS_KEPT:]):
    values.send(1, bytes(part))


def _users(settings: dict) -> list[int]:
  """Gives program and test each a user that nobody else is."""
  confined, checked = settings['confine'], settings['checker']
  if settings['users']:
    first, count = settings['users']
    # This process's id is its own, so these are too.
    pair = os.getpid() % count
    while first < 1 << 16 and processes.tasks_of_user(first + 2 * pair):
      pair = (pair + 1) % count  # somebody's, as such small ids may be
    confined['uid'] = first + 2 * pair
    checked['uid'] = confined['uid'] + 1
    if confined['folder']:
      os.chown(confined['folder'], confined['uid'], confined['uid'])
    return [confined['uid'], checked['uid']]
  # Their limit counts all that the user runs, elsewhere too.
  running = processes.tasks_of_user(os.getuid())
  checked['processes'] += running
  if confined['same_user']:
    confined['processes'] += running
  return []


def _start_program(watch, settings, source, stdin, folder):
  out, err = os.pipe(), os.pipe()
  requests, replies = (os.pipe(), os.pipe()) if watch.tested else ((), ())
  own = {k: settings[k] for k in ('confine', 'probe', 'entry_point')}
  head = values.message(marshal.dumps(own)) + values.message(source)
  fds = [_file(stdin), out[1], err[1], _file(head)]
  fds += [requests[0], replies[1]] if watch.tested else []
  command = settings['command']

  def work():
    if command:
      os.execve(command[0], command, settings['env'])
    untrusted.main(folder)

  watch.pids.append(_fork(fds, work))
  for fd in fds:
    os.close(fd)
  watch.outputs = (out[0], err[0])
  watch.channel = (requests[1], replies[0]) if watch.tested else ()


def _start_test(watch, settings):
  test = marshal.loads(values.receive(0, longest=_LONGEST))
  verdict = os.pipe()
  null = os.open(os.devnull, os.O_RDWR)
  fds = [null, null, null, *watch.channel, verdict[1]]

  def work():
    checker.main(test, settings['checker'], requests=3, replies=4, verdict=5)

  watch.pids.append(_fork(fds, work))
  for fd in fds[2:]:
    os.close(fd)
  watch.verdict = verdict[0]


def _fork(fds: list[int], work) -> int:
  """The pid of a child that does `work`, with these as 0, 1 ... and no more."""
  pid = os.fork()
  if pid:
    return pid
  try:
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in fds]
    for number, fd in enumerate(aside):
      os.dup2(fd, number)
    os.closerange(len(fds), os.sysconf('SC_OPEN_MAX'))
    work()
  except BaseException:
    sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
  finally:
    os._exit(70)


class _Watch:
  """What is seen of a program while it runs.

  Attributes:
    tested: whether a test gives the outcome.
    pids: of the program (under bubblewrap, bubblewrap's) and of its test.
    outputs: descriptors to read its output and its errors from.
    channel: the test's descriptors to the program.
    verdict: the descriptor on which the test says its verdict.
    output, errors: what the program wrote so far.
  """

  def __init__(self, settings: dict, deadline: float):
    self.tested = bool(settings['entry_point'])
    self.pids: list = []
    self.outputs, self.channel, self.verdict = (), (), -1
    self.output, self.errors = bytearray(), bytearray()
    self._settings, self._deadline = settings, deadline

  def run(self) -> str:
    """Until the program, its test or a limit ends it; the outcome."""
    ended, poll = os.pidfd_open(self.pids[0]), select.poll()
    watched = [*self.outputs, ended, *([self.verdict] if self.tested else [])]
    for fd in watched:
      poll.register(fd, select.POLLIN)
    poll.register(1, 0)  # an error there: whoever asked is gone
    look = time.monotonic() + _TICK
    while (now := time.monotonic()) < self._deadline:
      if now >= look:
        if over := self._over():
          return over
        look = time.monotonic() + _TICK
      wait = max(0.0, min(look, self._deadline) - now)
      for fd, event in poll.poll(wait * 1000 + 1):
        if fd in self.outputs:
          if not self._read(fd):
            poll.unregister(fd)
          if self._too_long():
            return 'output'
        elif fd == self.verdict:
          return self._verdict()
        elif fd == ended:
          return self._ended()
        elif event & _GONE:
          return 'abandoned'
    return 'time'

  def rest(self, outcome: str) -> str:
    """Reads on to the end, now that nobody writes any more; the outcome."""
    for fd in self.outputs:
      while not self._too_long() and self._read(fd):
        pass
    return 'output' if self._too_long() else outcome

  def _read(self, fd: int) -> bool:
    part = os.read(fd, 1 << 16)
    (self.output if fd == self.outputs[0] else self.errors).extend(part)
    return bool(part)

  def _too_long(self) -> bool:
    return len(self.output) + len(self.errors) > self._settings['output']

  def _verdict(self) -> str:
    said = os.read(self.verdict, 16)
    return 'passed' if said == b'passed' else 'failed'

  def _ended(self) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(self.pids[0], 0)[1])
    del self.pids[0]
    if not self.tested:
      return f'exited {code}'
    # It ends when its test lets go of it, which is after the verdict.
    if select.select([self.verdict], [], [], 0)[0]:
      return self._verdict()
    return 'failed'

  def _over(self) -> str:
    """The limit that all its processes together have crossed, or ''."""
    tree = processes.descendants(os.getpid())
    if sum(tree.values()) > self._settings['memory']:
      return 'memory'
    folder, most = self._settings['confine']['folder'], self._settings['disk']
    if folder:
      full = processes.disk(folder, tree, most=most)
    else:
      full = any(processes.too_many_files(pid, '/work') for pid in tree)
    return 'disk' if full else ''


def _file(content: bytes) -> int:
  """A descriptor that reads this."""
  fd = os.memfd_create('input')
  values.write(fd, content)
  os.lseek(fd, 0, os.SEEK_SET)
  return fd
