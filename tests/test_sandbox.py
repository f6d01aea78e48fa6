"""The sandbox: attacks score nothing, harm nothing and leave nothing."""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import ctypes
import os
import pathlib
import socket
import tempfile
import time

import pytest

from grpo_jax.rewards import (
  code_execution,
  sandbox,
  sandbox_modes,
  sandbox_settings,
)
from grpo_jax.rewards.jail import processes
from tests import attacks

LIMITS = sandbox.Limits(
  wall_seconds=20.0,  # of attacks that are to end by themselves
  cpu_seconds=1,
  memory_mb=160,
  output_bytes=1 << 16,
  processes=16,
  file_mb=1,
)
_SET_SUBREAPER = 36


@pytest.fixture(scope='module', params=['bubblewrap', 'rlimits'])
def place(request):
  try:
    return sandbox_modes.active(request.param)
  except ValueError as error:
    pytest.skip(str(error))


@pytest.fixture(scope='module', autouse=True)
def orphans_come_here():
  """What a sandbox left running would become a child of this process."""
  libc = ctypes.CDLL(None)
  assert libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0) == 0
  yield
  libc.prctl(_SET_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def outside(monkeypatch):
  """A folder that anyone may write in, and where sandboxes put theirs."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    folder.chmod(0o777)
    (folder / 'secret').write_text(attacks.RIGHT)
    (folder / 'kept').write_text('kept')
    for path in folder.iterdir():
      path.chmod(0o666)
    (folder / 'tmp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder / 'tmp'))
    yield folder


@contextlib.contextmanager
def listener():
  with socket.create_server(('127.0.0.1', 0)) as server:
    server.setblocking(False)
    yield server.getsockname()[1]
    with pytest.raises(BlockingIOError):  # nobody came
      server.accept()


def state(folder):
  """What may not change: processes, memory that outlives them, files."""
  shared = pathlib.Path('/proc/sysvipc/shm').read_text().count('\n')
  files = {
    path.name: (path.is_dir() or path.read_text(), path.stat().st_mode)
    for path in folder.iterdir()
  }
  return (
    set(processes.descendants(os.getpid())),
    shared,
    files,
    os.listdir(folder / 'tmp'),
    [f for f in ('/tmp', '/dev/shm') if 'left_by_a_program' in os.listdir(f)],
  )


def filled(source, folder, port):
  return (
    source.replace('@SECRET@', f'{folder}/secret')
    .replace('@OUTSIDE@', str(folder))
    .replace('@JAIL@', str(sandbox_settings.JAIL))
    .replace('@PORT@', str(port))
  )


def check(source, place, limits=LIMITS):
  return sandbox.check(
    source,
    test=attacks.TEST,
    entry_point='double',
    limits=limits,
    sandbox=place,
  )


def test_there_are_enough_attacks():
  assert len(attacks.ATTACKS) + len(attacks.WHOLE) >= 80


@pytest.mark.parametrize('name', attacks.ATTACKS)
def test_an_attack_on_a_test_scores_0_and_leaves_nothing(name, place, outside):
  for layer, names in attacks.NEEDS.items():
    needed = layer == 'seccomp' or place.mode == 'rlimits'
    if needed and name in names and layer not in place.layers:
      pytest.skip(f'not prevented here, without {layer}')
  outcomes, source = attacks.ATTACKS[name]
  wall = 1.5 if 'time' in outcomes else LIMITS.wall_seconds
  before = state(outside)
  start = time.monotonic()
  with listener() as port:
    result = check(
      filled(source, outside, port),
      place,
      sandbox.Limits(**{**vars(LIMITS), 'wall_seconds': wall}),
    )
  assert result.outcome in outcomes.split('|'), result
  assert state(outside) == before
  # Ending is part of it: nothing resists being killed.
  assert time.monotonic() - start < wall + 10


@pytest.mark.parametrize('name', attacks.WHOLE)
def test_an_attack_on_an_output_scores_0_and_leaves_nothing(
  name, place, outside
):
  before = state(outside)
  result = sandbox.run(
    attacks.WHOLE[name],
    stdin=attacks.INPUT,
    limits=sandbox.Limits(**{**vars(LIMITS), 'wall_seconds': 1.5}),
    sandbox=place,
  )
  right = code_execution.same_output(result.output, attacks.OUTPUT)
  assert not (right and result.outcome == 'exited 0'), result
  assert state(outside) == before


def test_right_programs_pass_still(place, outside):
  before = state(outside)
  limits = sandbox.Limits()
  assert check(attacks.RIGHT, place, limits).outcome == 'passed'
  result = sandbox.run(
    attacks.ADDS, stdin=attacks.INPUT, limits=limits, sandbox=place
  )
  assert (result.outcome, result.output) == ('exited 0', b'42\n')
  assert state(outside) == before


def test_what_honest_programs_need_is_there(place, outside):
  source = """
import collections, dataclasses, math, random, re, subprocess, sys, threading
import tempfile, typing
@dataclasses.dataclass
class Point:
  x: int
def double(x):
  with tempfile.NamedTemporaryFile('w+') as file:
    file.write(str(2 * x)); file.seek(0)
    found = []
    thread = threading.Thread(target=lambda: found.append(int(file.read())))
    thread.start(); thread.join()
  shell = subprocess.run(['/bin/sh', '-c', 'echo 1'], capture_output=True)
  sys.setrecursionlimit(20_000)
  deep = lambda n: n and deep(n - 1)
  assert int(shell.stdout) == 1 and deep(10_000) == 0
  return Point(found[0]).x
"""
  result = check(source, place, sandbox.Limits())
  assert result.outcome == 'passed', result


def test_hundreds_of_programs_at_once_leave_no_zombie(place, outside):
  before = state(outside)
  sources = [attacks.RIGHT, attacks.ATTACKS['leaves a detached process'][1]]
  with ThreadPoolExecutor(max_workers=8) as pool:
    results = list(
      pool.map(
        lambda i: check(sources[i % 5 == 0], place, sandbox.Limits()).outcome,
        range(200),
      )
    )
  assert results == ['failed' if i % 5 == 0 else 'passed' for i in range(200)]
  assert state(outside) == before


def test_programs_do_not_reach_one_another(place, outside):
  killer = (
    'import os\nwhile True:\n  try: os.kill(-1, 9)\n  except OSError: pass'
  )
  limits = sandbox.Limits(wall_seconds=3.0)
  with ThreadPoolExecutor(max_workers=2) as pool:
    killing = pool.submit(check, killer, place, limits)
    while not killing.done():
      result = check(attacks.RIGHT, place, sandbox.Limits())
      assert result.outcome == 'passed', result


def test_a_grader_that_goes_takes_its_programs_along(place, outside):
  before = state(outside)
  request = sandbox._request(
    'import time\ntime.sleep(1000)', '', None, sandbox.Limits(wall_seconds=1e4),
    place, str(outside / 'tmp' / 'work'),
  )  # fmt: skip
  (outside / 'tmp' / 'work').mkdir()
  process = sandbox._start()
  process.stdin.write(request)
  process.stdin.flush()
  deadline = time.monotonic() + 20
  while len(processes.descendants(process.pid)) < 1:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  for pipe in (process.stdin, process.stdout, process.stderr):
    pipe.close()
  assert process.wait(20) == 0
  assert state(outside) == before


def test_the_process_of_a_program_never_held_the_test(outside):
  source = """
import re, sys
hits, needle = [], ''.join(['SEC', 'RET', 'TEST']).encode()
for line in open('/proc/self/maps'):
  start, end, kind = re.match(r'(\\w+)-(\\w+) (...)', line).groups()
  if kind.startswith('r') and '[v' not in line:
    with open('/proc/self/mem', 'rb', 0) as file:
      file.seek(int(start, 16))
      memory = file.read(int(end, 16) - int(start, 16))
    # The test would be found with its other half.
    for match in re.finditer(needle, memory):
      hits.append(memory[match.end() : match.end() + 5])
assert hits and b'OTHER' not in hits
def double(x): return 42
"""
  # Nothing that would keep it from reading all of its memory.
  place = sandbox.Sandbox('rlimits', '', (), ())
  result = sandbox.check(
    source,
    test='SECRETTESTOTHER = 42\nassert double(1) == SECRETTESTOTHER',
    entry_point='double',
    prefix='# SECRETTESTOTHER\n',
    limits=sandbox.Limits(),
    sandbox=place,
  )
  assert result.outcome == 'passed', result


@pytest.mark.parametrize(
  'layer, name',
  [
    ('landlock', 'reads a file of the grader'),
    ('landlock', 'writes outside'),
    ('seccomp', 'leaves a file in memory'),
    ('seccomp', 'opens a socket of local daemons'),
  ],
)
def test_without_a_layer_its_attack_succeeds(layer, name, outside):
  """So the attacks are real, and what `not_prevented` says is true."""
  full = sandbox_modes.active('rlimits')
  if layer not in full.layers:
    pytest.skip(f'{layer} does not work here')
  less = sandbox.Sandbox(
    'rlimits', '', tuple(x for x in full.layers if x != layer), full.users
  )
  if sandbox_settings.closed_to_others() and 'user' in less.layers:
    less = sandbox.Sandbox(
      'rlimits', '', tuple(x for x in less.layers if x != 'user'), ()
    )
  outside.chmod(0o777)
  source = filled(attacks.ATTACKS[name][1], outside, 0)
  assert check(source, less).outcome == 'passed'


def test_a_signal_to_all_processes_changes_no_outcome(place, monkeypatch):
  """As a machine that shuts down sends it; the job still ends its step."""
  begun, start = [], sandbox._start

  def started():
    begun.append(start())
    return begun[-1]

  monkeypatch.setattr(sandbox, '_start', started)
  with ThreadPoolExecutor() as pool:
    source = 'import time; time.sleep(1); print("done")'
    result = pool.submit(sandbox.run, source, limits=LIMITS, sandbox=place)
    while not begun:
      time.sleep(0.01)
    begun[0].terminate()
    assert result.result().output == b'done\n'
  assert len(begun) == 2
