"""One process at a time writes a workdir."""

import errno
import fcntl
import os
import subprocess
import sys

import jax
import pytest
import tiny

from grpo_jax import cli


def test_a_workdir_in_use_is_refused_until_its_process_ends(tmp_path):
  workdir = tmp_path / 'deep' / 'run'
  code = (
    'import pathlib, sys\n'
    'from grpo_jax import cli\n'
    'held = cli.lock(pathlib.Path(sys.argv[1]))\n'
    'print("held", flush=True)\n'
    'sys.stdin.read()\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code, workdir],
    cwd=tiny.REPO,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(
      ValueError,
      match=f'^{workdir} is in use by process {other.pid}; wait for it to end '
      'or use another --workdir$',
    ):
      cli.lock(workdir)
    # Nothing can clean up after that.
    other.kill()
  cli.lock(workdir).close()


def test_a_workdir_can_be_taken_again_once_it_is_let_go(tmp_path):
  first = cli.lock(tmp_path)
  with pytest.raises(ValueError, match=f'by process {os.getpid()};'):
    cli.lock(tmp_path)
  # Another is free all the while.
  cli.lock(tmp_path / 'other').close()
  first.close()
  with cli.lock(tmp_path):
    assert (tmp_path / '.lock').read_text() == str(os.getpid())
  # Nobody's, and the same bytes after every run.
  assert (tmp_path / '.lock').read_text() == ''


def fail_with(number):
  def flock(*_):
    raise OSError(number, os.strerror(number))

  return flock


@pytest.mark.parametrize('name', ['ENOTSUP', 'ENOLCK', 'ENOSYS'])
def test_a_file_system_without_locks_is_used_without(
  tmp_path, monkeypatch, name
):
  monkeypatch.setattr(fcntl, 'flock', fail_with(getattr(errno, name)))
  with cli.lock(tmp_path), cli.lock(tmp_path):
    pass


def test_another_failure_to_lock_is_not_passed_over(tmp_path, monkeypatch):
  monkeypatch.setattr(fcntl, 'flock', fail_with(errno.EIO))
  with pytest.raises(OSError, match='Input/output error'):
    cli.lock(tmp_path)


def test_the_other_hosts_of_a_run_come_with_the_first(tmp_path, monkeypatch):
  with cli.lock(tmp_path):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    cli.lock(tmp_path).close()


@pytest.mark.parametrize('job', ['train', 'sft'])
def test_a_job_leaves_a_workdir_in_use_alone(tmp_path, job):
  with cli.lock(tmp_path):
    done = tiny.job(job, f'--workdir={tmp_path}')
    assert [p.name for p in tmp_path.iterdir()] == ['.lock']
  assert done.code == 2
  assert done.err == (
    f'error: {tmp_path} is in use by process {os.getpid()}; wait for it to end '
    'or use another --workdir\n'
  )
