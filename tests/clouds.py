"""Recording stand-ins for gcloud, xpk and kubectl, and for a pod's worker."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from launch import bucket, ship, tpu_pod, worker

ME = ['-c', 'user.name=a', '-c', 'user.email=a@b']
ROOT = pathlib.Path(__file__).resolve().parents[1]
WHERE = ['--project=my-project', '--zone=us-east5-a']
POD = ['--name=r1', *WHERE]
NEW = ['--accelerator_type=v5p-128']
FAST = ['--poll_seconds=0', '--retry_seconds=0']
JOB = ['python', '-m', 'grpo_jax.train', '--workdir=gs://my-bucket/r1']
HOSTILE = [
  "a; touch x", '$(touch x)', '`touch x`', 'a"b\'c', 'a\nb', 'a b', '-x', 'A',
  '', 'a/../b', 'a&b', 'a|b', 'é', 'a\n',
]  # fmt: skip
# Appends its arguments to a file and answers by the first reply that fits.
# With a folder `worker`, ssh and scp really happen there; with a file `twice`,
# each again, as gcloud does where a connection ended with an error.
STAND_IN = """#!{python} -SE
import json, os, subprocess, sys
here = {folder!r}
argv = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(here + '/calls', 'a') as file:
  file.write(json.dumps(argv) + '\\n')
with open(here + '/replies') as file:
  replies = json.load(file)
text = ' '.join(argv)
reply = next((r for r in replies if r['to'] in text), None)
if reply:
  replies.remove(reply)
  with open(here + '/replies', 'w') as file:
    json.dump(replies, file)
  sys.stdout.write(reply['out'])
  sys.stderr.write(reply['err'])
  sys.exit(reply['code'])
home = here + '/worker'
if os.path.isdir(home) and 'ssh' in argv:
  command = [a for a in argv if a.startswith('--command=')][0][10:]
  os.environ['HOME'] = home
  if os.path.exists(here + '/twice'):
    subprocess.run(['bash', '-c', command])
  os.execvp('bash', ['bash', '-c', command])
if os.path.isdir(home) and 'scp' in argv:
  with open(argv[5], 'rb') as source:
    with open(home + '/' + argv[6].partition(':')[2], 'wb') as copy:
      copy.write(source.read())
"""
# As the Python of a worker: records how it was called, saves on SIGTERM. Its
# pip loses the connection once where there is a file `cut`, and goes on.
PYTHON = """#!{python} -SE
import json, os, signal, sys, time
def note(name, text):
  with open({folder!r} + '/' + name, 'a') as file:
    file.write(text + '\\n')
if sys.argv[1:4] == ['-m', 'pip', 'install']:
  note('pips', 'begin')
  if os.path.exists({folder!r} + '/cut'):
    os.remove({folder!r} + '/cut')
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.5)
  note('pips', 'end' if os.path.exists('grpo_jax/train.py') else 'no code')
if sys.argv[1:3] == ['-m', 'pip']:
  sys.exit()
def save(*_):
  note('terms', 'SIGTERM')
  time.sleep(0.3)
  open({folder!r} + '/saved', 'w').close()
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
note('jobs', 'started')
with open({folder!r} + '/job.partial', 'w') as file:
  json.dump([sys.argv[1:], os.environ['LIBTPU_INIT_ARGS'], os.getcwd()], file)
os.rename({folder!r} + '/job.partial', {folder!r} + '/job')
while os.path.exists({folder!r} + '/long'):
  time.sleep(0.02)
print('trained')
sys.exit(int('--fail' in sys.argv))
"""


# The tools of a worker that mount: gcsfuse notes its calls, `sudo` does what it
# may and brings gcsfuse by apt-get.
GCSFUSE = """#!/bin/sh
if [ "$1" = --version ]; then
  echo "gcsfuse version $(cat {folder}/version) (Go version go1.24.0)"
  exit
fi
echo "$*" >>{folder}/mounts
for at; do :; done
if [ -e {folder}/refuses ]; then
  echo 'mounting'
  echo 'Error: bucket "b" not found' >&2
  exit 1
fi
touch "$at/.mounted"
"""
SUDO = """#!/bin/sh
echo "$*" >>{folder}/sudo
case "$*" in
  mkdir*|chown*) exec "$@";;
  tee*) cat;;
  *install*)
    test -e {folder}/gcsfuse || {{ echo 'E: no package' >&2; exit 100; }}
    echo 3.0.0 >{folder}/version
    cp {folder}/gcsfuse {folder}/bin/gcsfuse;;
esac
"""
MOUNTPOINT = """#!/bin/sh
test -e "$2/.mounted"
"""


class Cloud:
  """The stand-ins: what they will answer, what they were asked."""

  def __init__(self, folder):
    self.folder = folder
    (folder / 'bin').mkdir()
    for name in ('gcloud', 'xpk', 'kubectl'):
      self.script(folder / 'bin' / name, STAND_IN)
    self.script(folder / 'gcsfuse', GCSFUSE)
    self.script(folder / 'bin' / 'gcsfuse', GCSFUSE)
    self.script(folder / 'bin' / 'sudo', SUDO)
    self.script(folder / 'bin' / 'mountpoint', MOUNTPOINT)
    (folder / 'version').write_text('3.4.1')
    self.write([])

  def script(self, path, text):
    path.write_text(text.format(python=sys.executable, folder=str(self.folder)))
    path.chmod(0o755)

  def write(self, replies):
    (self.folder / 'replies').write_text(json.dumps(replies))

  def answers(self, to, out='', err='', code=0):
    """The next call with `to` in it gets this, once."""
    left = json.loads((self.folder / 'replies').read_text())
    self.write([*left, dict(to=to, out=out, err=err, code=code)])

  def states(self, *states):
    for state in states:
      if state == 'NONE':
        self.answers('describe', err='ERROR: NOT_FOUND: no resource', code=1)
      else:
        self.answers('describe', json.dumps({'state': {'state': state}}))

  def reports(self, *reports):
    """Of one look each: 'exit 0' or, for two workers, 'exit 0, running -'."""
    for report in reports:
      lines = [
        f'worker t1v-w-{i} {one} abc0\n'
        for i, one in enumerate(report.split(', '))
      ]
      self.answers('echo "worker', ''.join(lines))

  def has_worker(self):
    pod = self.folder / 'worker' / worker.HOME
    (pod / 'venv' / 'bin').mkdir(parents=True)
    self.script(pod / 'venv' / 'bin' / 'python', PYTHON)
    return pod

  def job(self):
    """JOB as a worker gets it."""
    return [*JOB[:-1], f'--workdir={bucket.ROOT}/my-bucket/r1']

  def noted(self, name):
    """The calls of a tool of the worker."""
    path = self.folder / name
    return path.read_text().splitlines() if path.exists() else []

  def calls(self):
    path = self.folder / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def verbs(self):
    """describe, create, scp, ... and for ssh what it does."""
    scripts = {
      'pip install': 'install', 'mountpoint': 'mount', 'setsid': 'start',
      'echo "worker': 'report', 'kill -TERM': 'stop', 'awk': 'log',
    }  # fmt: skip
    return [
      next((v for k, v in scripts.items() if k in call[-1]), call[4])
      for call in self.calls()
    ]


@pytest.fixture(scope='module')
def repository(tmp_path_factory):
  """A little one to ship: this one takes its time to pack."""
  root = tmp_path_factory.mktemp('repository')
  (root / 'grpo_jax').mkdir()
  (root / 'grpo_jax' / 'train.py').touch()
  for arguments in (
    ['init', '-q'],
    ['add', '.'],
    [*ME, 'commit', '-qm', 'one'],
  ):
    subprocess.run(['git', *arguments], check=True, cwd=root)
  return root


@pytest.fixture
def cloud(tmp_path, monkeypatch, repository):
  made = Cloud(tmp_path)
  monkeypatch.setattr(ship, 'ROOT', repository)
  # With a space: every use of it must be quoted.
  monkeypatch.setattr(bucket, 'ROOT', str(tmp_path / 'the gcs'))
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  return made


def pod(command, *arguments, job=()):
  argv = ['tpu_pod', command, *POD, *FAST, *arguments]
  return tpu_pod.main([*argv, '--', *job] if job else argv)


def until(true):
  deadline = time.monotonic() + 10
  while not true():
    assert time.monotonic() < deadline
    time.sleep(0.02)
