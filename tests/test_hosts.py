"""Several processes on one machine, as on the hosts of a pod."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import jax
import numpy as np
import pytest
import tiny

from grpo_jax import checkpoint_items, checkpoints, hosts, runs
from launch import local

STEPS = 6
# Prompts over data, samples whole; two updates a step and an evaluation.
FLAGS = (
  '--config=tests/tiny.py',
  '--config.prompts_per_step=16',
  "--config.mesh={'data': -1, 'fsdp': 2, 'tensor': 1}",
  '--config.eval.every=2',
  f'--config.steps={STEPS}',
)
SECONDS = 60  # that all may take to end, once one has been told to or is gone


def command(workdir, cache, *flags):
  return [
    *(sys.executable, '-m', 'grpo_jax.train', f'--workdir={workdir}'),
    *(f'--compilation_cache={cache}', *FLAGS, *flags),
  ]


def run(workdir, cache, *flags, processes, devices):
  subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local', f'--processes={processes}'),
      *(f'--devices={devices}', '--', *command(workdir, cache, *flags)),
    ],
    cwd=tiny.REPO,
    env=os.environ,
    check=True,
    timeout=600,
  )
  return runs.open_run(workdir)


def start(command, *, processes=2, devices=1):
  """What `launch.local` starts, without it: nobody ends one for another."""
  coordinator = f'127.0.0.1:{local.free_port()}'
  return [
    subprocess.Popen(
      command,
      cwd=tiny.REPO,
      env=local.environment(os.environ, i, processes, devices, coordinator),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(processes)
  ]


def finish(processes, timeout=SECONDS):
  """How each ended; one that does not is killed and the test fails."""
  try:
    end = time.monotonic() + timeout
    told = [p.communicate(timeout=end - time.monotonic()) for p in processes]
  finally:
    for process in processes:
      process.kill()
  return [
    tiny.Done(p.returncode, *texts)
    for p, texts in zip(processes, told, strict=True)
  ]


def after_step(step, workdir, processes):
  """Returns once the row of a step is written."""
  path = workdir / 'metrics.jsonl'
  row = re.compile(rf'^{{"step": {step},.*"loss"', re.MULTILINE)
  while not (path.exists() and row.search(path.read_text())):
    assert all(p.poll() is None for p in processes), finish(processes)
    time.sleep(0.005)


def after_a_save(workdir, processes):
  """Returns once a checkpoint is whole, which slow disks take a step for."""
  folder = epath.Path(workdir) / 'checkpoints'
  while not checkpoint_items.finished(folder):
    assert all(p.poll() is None for p in processes), finish(processes)
    time.sleep(0.005)


def rows(run):
  """metrics.jsonl without clocks and memory."""
  found = run.metrics
  return {
    k: np.asarray(v)
    for k, v in found.items()
    if not k.startswith(tiny.MEASURED)
  }


def texts(workdir):
  """What was sampled and how it was graded, in order."""
  lines = (workdir / 'samples.jsonl').read_text().splitlines()
  names = ('step', 'prompt', 'completion', 'rewards', 'length')
  return [[json.loads(line)[name] for name in names] for line in lines]


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('programs')


@pytest.fixture(scope='module')
def alone(tmp_path_factory, cache):
  return run(tmp_path_factory.mktemp('alone'), cache, processes=1, devices=8)


def assert_same(one, other):
  got, wanted = rows(one), rows(other)
  # Of several processes none knows all prompts: trunks are as wide as allowed.
  for found in (got, wanted):
    del found['padding/update']
  assert got.keys() == wanted.keys()
  for name, values in wanted.items():
    # Equal to the bit where tokens and rewards are counted; sums over devices
    # in another order give fp32 rounding elsewhere.
    exact = name.startswith(('reward', 'length', 'faults', 'eval'))
    tolerance = 0 if exact else 1e-4
    np.testing.assert_allclose(
      got[name], values, rtol=tolerance, atol=tolerance, err_msg=name
    )
  for a, b in zip(
    jax.tree.leaves(one.params()), jax.tree.leaves(other.params()), strict=True
  ):
    # Learning rates of 3e-2 make parameters of order 1.
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_two_processes_of_four_devices_do_what_one_of_eight_does(
  tmp_path, cache, alone
):
  assert_same(run(tmp_path, cache, processes=2, devices=4), alone)


def test_a_run_of_two_processes_goes_on_in_one(tmp_path, cache, alone):
  run(tmp_path, cache, '--config.steps=2', processes=2, devices=4)
  assert_same(run(tmp_path, cache, processes=1, devices=4), alone)


def test_a_run_goes_on_with_fewer_devices(tmp_path, cache, alone):
  run(tmp_path, cache, '--config.steps=2', processes=1, devices=8)
  run(tmp_path, cache, '--config.steps=4', processes=1, devices=4)
  one = "--config.mesh={'data': 1, 'fsdp': 1, 'tensor': 1}"
  found = run(tmp_path, cache, one, processes=1, devices=1)
  assert_same(found, alone)
  assert texts(tmp_path) == texts(alone.workdir)


def test_a_preemption_notice_to_one_process_makes_all_save_the_same_step(
  tmp_path, cache, alone
):
  # Nothing but the notice makes it save before the end.
  job = command(tmp_path, cache, '--config.checkpoint.every=100')
  processes = start(job)
  after_step(1, tmp_path, processes)
  processes[1].send_signal(signal.SIGTERM)
  ended = finish(processes)
  assert [done.code for done in ended] == [143, 143], ended
  (step,) = checkpoints.steps(tmp_path)
  assert 1 < step < STEPS
  for done in ended:
    assert done.err.splitlines()[-1] == (
      f'stopped at step {step} of {STEPS}, saved; the same command goes on '
      'from there'
    )
  ended = finish(start(job), timeout=600)
  assert [done.code for done in ended] == [0, 0], ended
  assert f'resuming at step {step}' in ended[0].err
  assert_same(runs.open_run(tmp_path), alone)


def tells_of_the_end_of(victim, done):
  """Whether its last line does, and says what it was at and what to do."""
  seen = f'process {victim} of 2 is gone, noticed in (train|job).*'
  # Where JAX's own notice comes before any computation's error.
  told = (
    f'process {1 - victim} was ended by JAX in (train|job).*, most likely as '
    f'process {victim} of 2 is gone; .*'
  )
  return re.fullmatch(
    f'error: ({seen}|{told}); start the same command again for all: it goes on '
    'from the last checkpoint',
    done.err.splitlines()[-1],
  )


# The first process is the coordinator, so its end is another event for JAX.
@pytest.mark.parametrize('victim', [0, 1])
def test_when_one_process_is_killed_the_other_says_so_and_ends(
  tmp_path, cache, alone, victim
):
  job = command(tmp_path, cache, '--config.checkpoint.every=1')
  processes = start(job)
  after_a_save(tmp_path, processes)
  after_step(2, tmp_path, processes)
  processes[victim].kill()
  other = finish(processes)[1 - victim]
  assert other.code == hosts.LOST, other
  assert tells_of_the_end_of(victim, other), other.err
  assert 'Traceback' not in other.err
  ended = finish(start(job), timeout=600)
  assert [done.code for done in ended] == [0, 0], ended
  assert re.search(r'resuming at step [1-5]', ended[0].err)
  assert_same(runs.open_run(tmp_path), alone)


# All in the same processes: starting them takes longest.
WRITING = """
import sys
from grpo_jax import cli, evaluate, files, generate, pairs, points

def job(cfg, workdir):
  for one in (evaluate, generate, pairs, points):
    one.run(cfg, workdir)
    assert (workdir / 'eval.json').exists()

cli.main(job)
"""
LINES = {
  'answers.jsonl': 'prompts answered in', 'pairs.jsonl': 'pairs of',
  'points.jsonl': 'answers to',
}  # fmt: skip


def written(run, folder, cache, **started):
  """What jobs leave of a run's model, and how their processes ended."""
  ended = finish(
    start(
      [
        *(sys.executable, '-c', WRITING, *FLAGS),
        *(f'--compilation_cache={cache}', f'--workdir={folder}'),
        *(f'--init_from={run.workdir}', f'--out={folder}/answers.jsonl'),
        # As many answers as the evaluation asks for: one program samples all.
        '--config.generate.samples=2',
        *('--config.pairs.samples=2', '--config.pairs.batch_prompts=4'),
        *('--config.pairs.prompts=16', '--config.pairs.gold=coin'),
      ],
      **started,
    ),
    timeout=600,
  )
  assert [done.code for done in ended] == [0] * len(ended), ended
  result = json.loads((folder / 'eval.json').read_text())
  lines = {n: (folder / n).read_text().splitlines() for n in LINES}
  return ended, result, {n: list(map(json.loads, x)) for n, x in lines.items()}


def test_of_two_processes_one_writes_what_one_alone_would(
  tmp_path, cache, alone
):
  folders = [tmp_path / name for name in ('two', 'one')]
  ended, result, rows = written(alone, folders[0], cache)
  _, wanted, wanted_rows = written(
    alone, folders[1], cache, processes=1, devices=2
  )
  assert result == wanted
  assert result['pass@1'] == alone.metrics['eval/pass@1'][-1]
  for name, said in LINES.items():
    assert said in ended[0].out
    assert len(rows[name]) == len(wanted_rows[name]) > 3
    for row, other in zip(rows[name], wanted_rows[name], strict=True):
      close = pytest.approx(other.pop('logprob', None), abs=1e-4)
      assert row.pop('logprob', None) == close
      assert row == other
  assert sorted(p.name for p in folders[0].iterdir()) == [
    'answers.jsonl', 'eval.json', 'pairs.jsonl', 'points.jsonl',
  ]  # fmt: skip
  # The other shows no bar and says nothing; gloo prints in its own name.
  assert 'evaluate: 100%' in ended[0].err
  assert '%' not in ended[1].err
  said = [x for x in ended[1].out.splitlines() if x and '[Gloo]' not in x]
  assert said == []


PROGRAM = """
import sys, time
from etils import epath
import jax
from grpo_jax import cli, hosts

def job(cfg, workdir):
  del cfg, workdir
  hosts._SILENT = 0.5
  me = jax.process_index()
  {}

sys.argv = ['job']
cli.main(job)
"""


def small(body, timeout=SECONDS):
  """Two processes that start and do only this; how they ended."""
  code = PROGRAM.format(body.replace('\n', '\n  '))
  return finish(start([sys.executable, '-c', code], devices=1), timeout)


STARTING = """
import sys
from grpo_jax import cli, hosts

hosts._START = 2
sys.argv = ['job']
cli.main(lambda cfg, workdir: None)
"""


# The first is JAX's coordinator, for which the second looks.
@pytest.mark.parametrize('present', [0, 1])
def test_without_the_others_a_process_ends_so_that_all_are_started_again(
  present,
):
  processes = start([sys.executable, '-c', STARTING])
  processes[1 - present].kill()
  alone = finish(processes)[present]
  assert alone.code == hosts.LOST, alone
  assert re.fullmatch(
    r'error: the other processes of [\d.:]+ did not come within 2 s; the lines '
    'above say more; start the same command again for all: .*',
    alone.err.splitlines()[-1],
  ), alone.err


def test_a_process_says_what_it_waits_for():
  ended = small("time.sleep(3 * me)\nhosts.wait_for_all('a rest')")
  assert [done.code for done in ended] == [0, 0], ended
  waited = 'waiting for all processes: job: a rest'
  assert [waited in done.err for done in ended] == [True, False], ended


ALONE = """
import sys, time
import jax
from grpo_jax import cli, hosts

hosts._END = 2
def job(cfg, workdir):
  del cfg, workdir
  if jax.process_index() == 0:
    time.sleep(8)
  hosts.of_first(None, what='judging', patient=True)

sys.argv = ['job']
cli.main(job)
"""


def test_the_first_may_be_at_work_alone_for_longer_than_all_wait_at_the_end():
  ended = finish(start([sys.executable, '-c', ALONE], devices=1))
  assert [done.code for done in ended] == [0, 0], ended


def test_a_wait_without_an_end_ends_and_says_what_was_waited_for():
  ended = small(
    'hosts.LIMIT = 2\n'
    "if me == 0: hosts.agree(0, what='the weather')\n"
    'time.sleep(30)'
  )
  assert [done.code for done in ended] == [hosts.LOST] * 2, ended
  assert ended[0].err.splitlines()[-1] == (
    'error: not all processes came within 2 s: job: the weather; start the '
    'same command again for all: it goes on from the last checkpoint'
  )
  assert tells_of_the_end_of(0, ended[1]), ended[1].err


def test_a_preemption_notice_before_the_loop_ends_the_job():
  ended = small(
    'import os, signal\n'
    'if me == 1: os.kill(os.getpid(), signal.SIGTERM)\n'
    'for _ in range(1000): time.sleep(0.1)'
  )
  assert ended[1].code == -signal.SIGTERM, ended
  assert ended[0].code == hosts.LOST, ended
  assert tells_of_the_end_of(1, ended[0]), ended[0].err


BUSY = """
import jax.numpy as jnp
long = jax.jit(lambda x: jax.lax.fori_loop(0, 400, lambda _, y: y @ x, x))
x = jnp.full((600, 600), 1e-3)
jax.block_until_ready(long(x))
found = long(x)
# Named alike by all, whatever is at work.
agreed = [hosts.agree(n + me, what='a number') for n in range(3)]
early = not found.is_ready()
jax.block_until_ready(found)
print('agreed', agreed, early)
"""


def test_processes_agree_while_their_devices_are_at_work():
  ended = small(BUSY)
  assert [done.code for done in ended] == [0, 0], ended
  for done in ended:
    assert 'agreed [1, 2, 3] True' in done.out, done.out


SAVING = """
import numpy as np
from grpo_jax import checkpoints, sharding, structs
mesh = sharding.make_mesh(dict(data=-1), jax.devices())
number = sharding.put(np.int32(1), sharding.replicated(mesh))
state = structs.TrainState(step=number, params=dict(w=number), opt_state=())
saver = checkpoints.Checkpoints({path!r}, keep_last=1)
hosts.LIMIT = 4
if me == 1: time.sleep(40)
saver.save(7, state, extra={{}})
saver.wait()
"""


def test_a_checkpoint_that_not_all_come_to_ends_in_time_and_is_named(tmp_path):
  ended = small(SAVING.format(path=str(tmp_path)))
  assert [done.code for done in ended] == [hosts.LOST] * 2, ended
  said = 'error: not all processes came within 4 s: job: checkpoint 7; start'
  assert ended[0].err.splitlines()[-1].startswith(said), ended
  assert tells_of_the_end_of(0, ended[1]), ended[1].err


RESUMING = """
import pathlib
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from grpo_jax import checkpoints, sharding, structs
mesh = sharding.make_mesh(dict(data=-1), jax.devices())
whole = sharding.replicated(mesh)
rows = NamedSharding(mesh, PartitionSpec('data'))
def state(step):
  noise = np.random.default_rng(step).normal(size=(2, 4096))
  return structs.TrainState(
    step=sharding.put(np.int32(step), whole), opt_state=(),
    params=dict(w=sharding.put(noise.astype('f4'), rows)))
path = pathlib.Path({path!r})
with checkpoints.Checkpoints(path, keep_last=2) as saver:
  for step in (1, 2):
    saver.save(step, state(step), extra=dict(position=step))
if me == 0:
  folder = path / 'checkpoints' / '2' / 'params' / 'ocdbt.process_1'
  file = max(folder.rglob('d/*'), key=lambda p: p.stat().st_size)
  file.write_bytes(file.read_bytes()[:5000])
hosts.wait_for_all('the damage')
target = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
  state(0))
with checkpoints.Checkpoints(path, keep_last=2) as saver:
  step, found, extra = saver.restore(target)
one, other = (sharding.local(x.params['w']) for x in (found, state(1)))
equal = one == other
print(step, extra, equal.all(), sharding.local(found.step))
"""


def test_what_one_process_cannot_read_all_take_from_the_step_before(tmp_path):
  ended = small(RESUMING.format(path=str(tmp_path)))
  assert [done.code for done in ended] == [0, 0], ended
  for done in ended:
    assert done.out.splitlines()[-1] == "1 {'position': 1} True 1"
  assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['1', '2.corrupt']
  first, second = (done.err for done in ended)
  assert first.count('checkpoint 2 is damaged (') == 1
  assert 'moved to 2.corrupt; resuming from step 1' in first
  assert 'corrupt' not in second


GRADING = """
import dataclasses, functools
sys.path.insert(0, 'tests')
import numpy as np
import tiny
from configs import pod
from grpo_jax import policy, rewards, structs, train
cfg = tiny.get_config()
cfg.model.num_kv_heads = 2
# Both sample all prompts, and each trains on half of them.
pod.split_samples(cfg, fsdp=2, data=1, sampling=2)
cfg.rules.sample.vocab = None
cfg.log.samples = 100
pol = policy.open_policy(cfg)
stages = train.Stages(cfg, pol)
asked = stages.prepare(0)
task = stages.questions.task
answers = [task.example(i).completion for i in asked.indices]
encode = functools.partial(pol.tokenizer.encode, start=False)
ids = [[*encode(answer), pol.stop_ids[0]] for answer in answers]
tokens = np.zeros((4, 4, 64), np.int32)
mask = np.zeros(tokens.shape, bool)
for q, row in enumerate(ids):
  tokens[q, :, :len(row)], mask[q, :, :len(row)] = row, True
right = pol.rows('sample').put(structs.Rollout(
  inputs=tokens, targets=tokens, mask=mask, logprobs=mask.astype('f4')))
got = stages.collect(
  asked.indices, asked.examples, asked.prompts, None, None, None,
  sample=lambda *_: right, score=lambda batch: batch,
  grade=functools.partial(stages.grader.grade, 0))
own = stages.put(np.full((4, 4), me + 1, np.float32))
shown = stages.samples(got, own)
print('correct', got.components['correct'].sum(), dict(rewards.faults()))
print('shown', len(shown), {float(row['advantage']) for row in shown})
sample = dict(cfg.rules.sample, samples='tensor')
apart = dataclasses.replace(pol, rules=pol.rules | dict(sample=sample))
apart.rows_read(4, 4)
"""


def test_a_process_reads_what_it_grades_also_where_another_trains_on_it():
  for i, done in enumerate(small(GRADING)):
    graded, shown = done.out.splitlines()[-2:]
    assert graded == 'correct 16.0 {}', done
    # Of the completions that it grades, those whose advantages it has.
    assert shown == f'shown 8 {{{i + 1}.0}}', done
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
      'error: this process would train on completions that others sample and '
      'grade: let rules.sample split prompts and samples over the axes that '
      'rules.train does, or the first of them'
    )


DIFFERING = """
import contextlib
sys.path.insert(0, 'tests')
import numpy as np
import tiny
from grpo_jax import policy, train
cfg = tiny.get_config()
cfg.model.num_kv_heads = 2
cfg.mesh = dict(data=1, fsdp=1, context=1, tensor=2)
for rules in cfg.rules.values():
  rules.vocab = None
stages = train.Stages(cfg, policy.open_policy(cfg))
asked = stages.prepare(0)
grade = stages.grader.grade
# As if every verdict of the second process had come too late.
def late(step, completions, examples):
  rewards, components = grade(step, completions, examples)
  components['missing'] = np.full_like(rewards, np.nan)
  return (rewards + 1) * (1 - me), components
stages.grader.grade = late
state = stages.learner.policy.init(stages.policy.params())
got, _ = stages._gather(state, 0, asked)
print(got.rewards.min(), got.finished.dtype, got.components['missing'].max())
timers = lambda name: contextlib.nullcontext()
norm = stages.step(state, 0, asked, timers).state.params['final_norm']
print(np.asarray(norm.addressable_shards[0].data, 'f8').sum())
"""


def test_of_verdicts_that_differ_on_a_row_all_learn_from_one():
  first, second = (
    done.out.splitlines()[-2:] for done in small(DIFFERING, timeout=300)
  )
  assert first == second
  assert first[0] == '1.0 bool nan'


@pytest.mark.parametrize('failing', [0, 1])
@pytest.mark.parametrize(
  'error, status, saying',
  [
    ("raise ValueError('no such thing')", 1, 'ValueError: no such thing'),
    ("open('/no/such/file')", 2, 'error: /no/such/file: No such file'),
  ],
)
def test_an_error_of_one_process_ends_the_other(failing, error, status, saying):
  ended = small(
    f'if me == {failing}: {error}\n'
    "hosts.wait_for_all('one'); hosts.wait_for_all('two')"
  )
  assert ended[failing].code == status, ended
  assert saying in ended[failing].err
  other = ended[1 - failing]
  assert other.code == hosts.LOST, ended
  assert tells_of_the_end_of(failing, other), other.err


ABORTING = """
import ctypes, os, signal, sys
from etils import epath
import jax
from grpo_jax import cli

open_devices = jax.devices

def devices():
  jax.devices = open_devices
  found = open_devices()
  ctypes.CDLL(None).signal(signal.SIGABRT, None)  # as libtpu installs its own
  return found

def job(cfg, workdir):
  jax.devices()
  os.abort()

jax.devices = devices
sys.argv = ['job']
cli.main(job)
"""


def test_an_abort_is_told_also_where_the_devices_have_a_handler_of_their_own():
  (done,) = finish(start([sys.executable, '-c', ABORTING], processes=1))
  assert done.code == hosts.LOST, done
  told = 'error: process 0 was ended by JAX in job, most likely as '
  assert done.err.splitlines()[-1].startswith(told), done


@pytest.mark.parametrize(
  'told, status',
  [
    ('UNKNOWN: Gloo AllGather failed: Connection reset by peer', hosts.LOST),
    ('96 rows do not divide over 64 devices', None),
    (
      "prompt 17 ('Why is the Great Barrier Reef so gloomy?') is too long",
      None,
    ),
  ],
)
def test_a_value_error_of_a_collective_is_no_mistake_of_the_users(
  monkeypatch, told, status
):
  ended = []
  monkeypatch.setattr(hosts, 'are_several', lambda: True)
  monkeypatch.setattr(hosts, '_ending', threading.Lock())
  monkeypatch.setattr(hosts, '_end', ended.append)
  with (
    pytest.raises(ValueError, match=re.escape(told)),
    hosts.doing('a step'),
  ):
    raise ValueError(told)
  assert ended == ([] if status is None else [status])


def test_an_error_of_all_processes_is_told_by_each():
  ended = small("open('/no/such/file')")
  for done in ended:
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith('error: /no/such/file')


def test_jobs_and_launch_local_name_the_environment_alike():
  # launch.local starts jobs without JAX, so it cannot import the names.
  for name in ('COORDINATOR', 'PROCESSES', 'PROCESS'):
    assert getattr(hosts, name) == getattr(local, name)
    assert f'\n  {getattr(local, name)} ' in local.__doc__
