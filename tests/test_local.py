"""Several processes on one machine: what each is told, and how all end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
import tiny

from launch import local

HEAD = """
import os, pathlib, signal, subprocess, sys, time
me = int(os.environ['GRPO_JAX_PROCESS'])
folder = pathlib.Path(sys.argv[1])
def touch(name):
  (folder / f'{name}{me}').touch()
"""


@pytest.fixture
def start(tmp_path):
  """Starts launch.local on some Python, with a folder to leave files in."""

  def start(code, *flags, kill_after=None, env=None):
    (tmp_path / 'job.py').write_text(HEAD + textwrap.dedent(code))
    own = ['-m', 'launch.local']
    if kill_after is not None:
      own = ['-c', 'import sys; from launch import local; '
             f'local._KILL_AFTER = {kill_after}; '
             'sys.exit(local.main(sys.argv[1:]))']  # fmt: skip
    job = [sys.executable, tmp_path / 'job.py', tmp_path]
    return subprocess.Popen(
      [sys.executable, *own, *flags, '--', *job],
      cwd=tiny.REPO,
      env={**os.environ, **({} if env is None else env)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture
def run(start):
  """The same to its end: (status, lines of stdout, lines of stderr)."""

  def run(*args, **options):
    process = start(*args, **options)
    out, err = process.communicate(timeout=20)
    return process.returncode, out.splitlines(), err.splitlines()

  return run


def wait_for(*paths):
  end = time.monotonic() + 20
  while not all(path.exists() for path in paths):
    assert time.monotonic() < end, f'{paths} do not come'
    time.sleep(0.02)


def is_over(pid):
  """Whether a process has ended, reaped or not."""
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] == 'Z'
  except FileNotFoundError:
    return True


@pytest.mark.parametrize('both', ['', '2>&1'])
def test_without_a_reader_all_end(tmp_path, both):
  """By SIGTERM, at which each leaves a file."""
  job = (tmp_path / 'job.py').absolute()
  job.write_text(
    'import pathlib, signal, sys, time\n'
    'def end(*_):\n'
    f'  pathlib.Path({str(tmp_path)!r}, sys.argv[1]).touch()\n'
    '  sys.exit(0)\n'
    'signal.signal(signal.SIGTERM, end)\n'
    'while True:\n'
    '  print("x" * 50, flush=True)\n'
    '  print("y" * 50, flush=True, file=sys.stderr)\n'
  )
  command = f'{sys.executable} -m launch.local --processes 1 --'
  done = subprocess.run(
    f'{command} {sys.executable} {job} ended {both} | head -1',
    shell=True, cwd=tiny.REPO, capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert done.stdout.startswith('[0] ') and done.stdout.count('\n') == 1
  assert 'Traceback' not in done.stderr
  assert (tmp_path / 'ended').exists()


def test_each_process_is_told_its_place_and_lines_begin_with_it(run):
  code = """
  import json
  names = ('GRPO_JAX_', 'XLA_', 'JAX_')
  told = {k: v for k, v in os.environ.items() if k.startswith(names)}
  print(json.dumps(told))
  print('a warning', file=sys.stderr)
  """
  status, out, err = run(
    code,
    *('--processes', '3', '--devices', '4'),
    env={
      'XLA_FLAGS': "--xla_a='b c' --xla_force_host_platform_device_count=8 --d",
      'JAX_PLATFORMS': 'tpu',
    },
  )
  assert status == 0
  assert sorted(err) == [f'[{i}] a warning' for i in range(3)]
  told = {int(x[1]): json.loads(x[4:]) for x in out}
  assert sorted(told) == [0, 1, 2]
  coordinator = told[0]['GRPO_JAX_COORDINATOR']
  host, port = coordinator.split(':')
  assert host == '127.0.0.1' and int(port) > 1023
  for i, env in told.items():
    flags = env.pop('XLA_FLAGS').split()
    assert flags == [
      "--xla_a='b", "c'", '--d', '--xla_force_host_platform_device_count=4'
    ]  # fmt: skip
    expected = {
      'GRPO_JAX_COORDINATOR': coordinator,
      'GRPO_JAX_PROCESSES': '3',
      'GRPO_JAX_PROCESS': str(i),
      'JAX_PLATFORMS': 'cpu',
      'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    }
    assert env.items() >= expected.items()


def test_lines_stay_whole_and_come_as_they_are_written(run, start):
  code = """
  for i in range(300):
    print(f'{me}' * 500)
  print(f'{me} and no end', end='')
  """
  status, out, _ = run(code, '--processes', '2')
  assert status == 0
  for me in '01':
    mine = [line[4:] for line in out if line.startswith(f'[{me}] ')]
    assert mine == [me * 500] * 300 + [f'{me} and no end']
  process = start("print('now'); time.sleep(60)", '--processes', '1')
  assert process.stdout.readline() == '[0] now\n'
  process.terminate()
  process.communicate(timeout=20)


def test_the_first_to_fail_gives_the_status_and_the_others_time_to_notice(
  run, tmp_path
):
  code = """
  signal.signal(signal.SIGTERM, lambda *_: touch('asked'))
  if me == 1:
    sys.exit(3)
  time.sleep(0.5)
  touch('noticed')
  sys.exit(4)
  """
  status, _, err = run(code, '--processes', '2')
  assert status == 3
  assert err == [
    '[local] process 1: exit status 3; the others have 60 s to end',
    '[local] process 0: exit status 4',
  ]
  assert (tmp_path / 'noticed0').exists()
  assert not (tmp_path / 'asked0').exists()


def test_after_the_grace_period_the_others_are_ended(run, tmp_path):
  code = """
  def asked(*_):
    touch('asked')
    if me == 0:
      sys.exit(0)
  signal.signal(signal.SIGTERM, asked)
  touch('ready')
  if me == 2:
    while not all((folder / f'ready{i}').exists() for i in range(2)):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
  while True:
    time.sleep(60)
  """
  begin = time.monotonic()
  status, _, err = run(
    code, '--processes', '3', '--grace', '0.3', kill_after=0.5
  )
  assert time.monotonic() - begin < 15
  assert status == 128 + 9
  assert (tmp_path / 'asked0').exists() and (tmp_path / 'asked1').exists()
  assert err == [
    '[local] process 2: killed by SIGKILL; the others have 0.3 s to end',
    '[local] their time is over; SIGTERM to [0, 1]',
    '[local] their time is over; SIGKILL to [1]',
    '[local] process 1: killed by SIGKILL',
  ]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_once_and_is_waited_for(start, tmp_path, number):
  code = """
  came = []
  signal.signal(signal.SIGTERM, lambda *_: came.append(1))
  touch('ready')
  while not came:
    time.sleep(0.01)
  time.sleep(0.3 * (1 + me))
  touch(f'saved{len(came)}_')
  sys.exit(143)
  """
  process = start(code, '--processes', '2')
  wait_for(tmp_path / 'ready0', tmp_path / 'ready1')
  process.send_signal(number)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 143
  assert f'[local] {number.name}; waiting for all to end; again to' in err
  assert (tmp_path / 'saved1_0').exists() and (tmp_path / 'saved1_1').exists()


def test_a_second_signal_kills(start, tmp_path):
  code = """
  signal.signal(signal.SIGTERM, lambda *_: touch('asked'))
  touch('ready')
  while True:
    time.sleep(60)
  """
  process = start(code, '--processes', '2')
  wait_for(tmp_path / 'ready0', tmp_path / 'ready1')
  process.terminate()
  wait_for(tmp_path / 'asked0', tmp_path / 'asked1')
  process.terminate()
  process.communicate(timeout=20)
  assert process.returncode == 128 + 9


def test_what_a_process_has_started_does_not_stay_behind(run, tmp_path):
  code = """
  child = subprocess.Popen(['sleep', '300'], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
  (folder / f'pid{me}').write_text(str(child.pid))
  if me == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  """
  status, _, _ = run(code, '--processes', '2', '--grace', '0.3')
  assert status == 128 + 9
  for me in range(2):
    assert is_over(int((tmp_path / f'pid{me}').read_text()))


@pytest.mark.parametrize(
  'argv, saying',
  [
    (['--processes', '2'], 'no command; it follows a --'),
    (['--processes', '0', '--', 'true'], '--processes=0 must be at least 1'),
    (['--devices', '0', '--', 'true'], '--devices=0 must be at least 1'),
    (['--', 'no_such_command'], 'no_such_command: No such file'),
  ],
)
def test_a_mistake_is_told_in_one_line(argv, saying):
  # As a file, too.
  done = subprocess.run(
    [sys.executable, tiny.REPO / 'launch' / 'local.py', *argv],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert saying in done.stderr.splitlines()[-1]


def test_a_free_port_can_be_listened_on():
  port = local.free_port()
  with socket.socket() as found:
    found.bind(('127.0.0.1', port))
