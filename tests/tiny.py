"""A run small enough for tests, and jobs as a user starts them.

The config is this file itself: `--config=tests/tiny.py`. `job` runs a command
to its end in a fork of a process that has already imported JAX, which saves
seconds each; `start` is the true command, for what signals do to it.
"""

import atexit
import dataclasses
import errno
import functools
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).parents[1]
# What differs between two equal runs: clocks and memory.
MEASURED = ('time/', 'tokens_per_s/', 'memory/')


def ways(prompts=1, samples=1, positions=1):
  """Devices that rows are split over, as `Policy.ways` tells them."""
  return dict.fromkeys(('train', 'sample'), (prompts, samples, positions))


def get_config():
  """One layer, sums of two or three digits, a coin among the rewards."""
  # Here, as tests import this file for its helpers alone.
  from configs import base
  from grpo_jax import tasks

  c = base.get_config()
  c.steps = 10
  c.model.update(
    num_layers=1,
    embed_dim=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    mlp_dim=32,
  )
  c.tokenizer = dict(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)
  c.task = dict(
    name='arithmetic', split='train', seed=0, size=100, min_ops=1, max_ops=2,
    max_number=9, steps_share=0.0, wrong_share=0.0,
  )  # fmt: skip
  # A fresh model is never right; without the coin nothing would be learned.
  c.rewards = c.rewards.to_dict() | dict(coin=dict(name='random', weight=1.0))
  c.prompts_per_step = 4
  c.group_size = 4
  c.sample.update(
    max_prompt_length=16, max_completion_length=8, chunk=8, trunk_multiple=8
  )
  c.algorithm.kl_coef = 0.1
  c.updates.update(minibatches=2, logits_chunk=8, length_multiple=8)
  c.optimizer.learning_rate = 3e-2
  c.sft.update(batch_size=16, max_length=8)
  c.eval.update(
    every=1, prompts=5, samples=2, batch_prompts=4, ks=(1, 2), votes=(2,)
  )
  c.generate.update(prompts=5, batch_prompts=4)
  c.checkpoint.every = 2
  c.log.update(samples_every=2, tensorboard=False)
  return c


@dataclasses.dataclass(frozen=True)
class Done:
  """A job that has ended."""

  code: int  # negative: killed by that signal
  out: str
  err: str


def job(name: str, *flags: str, full_at: int = 0) -> Done:
  """Runs `python -m grpo_jax.<name> --config=tests/tiny.py <flags>`.

  Args:
    name: of the job.
    flags: a --config among them replaces the tiny one; '--config=' asks for
      none at all.
    full_at: the step whose checkpoint finds the disk full; 0 for none.
  """
  server = _server()
  with tempfile.TemporaryDirectory() as folder:
    files = [os.path.join(folder, n) for n in ('out', 'err')]
    asked = [name, _with_config(flags), *files, full_at]
    server.stdin.write(json.dumps(asked) + '\n')
    server.stdin.flush()
    code = int(server.stdout.readline())
    out, err = (pathlib.Path(f).read_text() for f in files)
  return Done(code, out, err)


def start(name: str, *flags: str, **options) -> subprocess.Popen:
  """The same as a process of its own, under way; `options` are Popen's."""
  command = [sys.executable, '-m', f'grpo_jax.{name}', *_with_config(flags)]
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  where = dict(cwd=REPO, env=environment())
  return subprocess.Popen(command, **pipes | where | options)


def finish(process: subprocess.Popen) -> Done:
  """Waits for a started job."""
  out, err = process.communicate(timeout=300)
  return Done(process.returncode, out, err)


@functools.cache
def run(name: str) -> pathlib.Path:
  """Workdir of a run of this job that nothing interrupted; do not change it."""
  workdir = _folder() / name
  done = job(name, f'--workdir={workdir}')
  assert done.code == 0, done.err
  return workdir


def rows(workdir: pathlib.Path) -> list[dict]:
  """Rows of metrics.jsonl without what is measured."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(x).items() if not k.startswith(MEASURED)}
    for x in lines
  ]


def stop(completion, example):
  """A rewriter that asks its own job to end."""
  os.kill(os.getpid(), signal.SIGTERM)
  return completion


def refuse_implicit_reads(setattr):
  """Guards reads of arrays as accelerators do: on a CPU JAX lets them pass."""
  from jax._src.array import ArrayImpl
  from jax._src.lib import guard_lib

  value = ArrayImpl._value

  def guarded(self):
    here = guard_lib.thread_local_state()
    refused = here.device_to_host == guard_lib.TransferGuardLevel.DISALLOW
    if refused and not here.explicit_device_get and self._npy_value is None:
      raise RuntimeError(f'{self.aval} is read by mistake')
    return value.fget(self)

  setattr(ArrayImpl, '_value', property(guarded))


def _with_config(flags):
  if not any(flag.startswith('--config=') for flag in flags):
    flags = (f'--config={__file__}', *flags)
  return [
    f'--compilation_cache={_folder()}/programs',
    *(flag for flag in flags if flag != '--config='),
  ]


@functools.cache
def _folder():
  """Of this test session, which its processes share."""
  folder = tempfile.TemporaryDirectory(prefix='grpo_jax_tests_')
  atexit.register(folder.cleanup)
  return pathlib.Path(folder.name)


def environment():
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    # One device; optimizing takes longer than running.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'PYTHONPATH': str(REPO),
  }


@functools.cache
def _server():
  server = subprocess.Popen(
    [sys.executable, __file__],
    cwd=REPO,
    env=environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  # The end of its input ends it.
  atexit.register(server.communicate)
  return server


def _serve():
  # No job may be among these: `python -m` wants to import it first.
  from grpo_jax import answers, checkpoints, metrics, questions  # noqa: F401

  refuse_implicit_reads(setattr)
  for line in sys.stdin:
    name, argv, out, err, full_at = json.loads(line)
    child = os.fork()
    if not child:
      _become(name, argv, out, err, full_at)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


def _become(name, argv, out, err, full_at):
  """In the fork: runs the job as `python -m` does, and exits."""
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
  if full_at:
    _fill_disk(full_at)
  sys.argv = [name, *argv]
  sys.path.insert(0, os.getcwd())
  code = 0
  try:
    runpy.run_module(f'grpo_jax.{name}', run_name='__main__', alter_sys=True)
  except SystemExit as end:
    code = 0 if end.code is None else end.code
  except BaseException:
    sys.excepthook(*sys.exc_info())
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _fill_disk(step):
  """Fails where orbax, having written the arrays, gives a step its name."""
  rename = os.rename

  def full(source, *args, **kwargs):
    if str(source).endswith(f'{step}.orbax-checkpoint-tmp'):
      raise OSError(errno.ENOSPC, 'No space left on device')
    return rename(source, *args, **kwargs)

  os.rename = os.replace = full


if __name__ == '__main__':
  _serve()
