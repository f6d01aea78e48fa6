"""Sweeps: what is run, under which name, and what becomes of it."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tiny

from configs import base
from launch import (
  config_files,
  elsewhere,
  processes,
  runner,
  summary,
  sweep,
  sweeps,
  trials,
)  # fmt: skip
from launch.sweeps import chain, Choice, grid, zipped

EXAMPLES = sorted((tiny.REPO / 'configs' / 'sweeps').glob('[a-z]*.py'))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(tiny.REPO)


@pytest.fixture
def write(tmp_path):
  """Writes a sweep of stand-in jobs; returns the flags that run it."""

  def write(returned, *, fixed=None, head="JOB = 'tests.standin'"):
    file = tmp_path / 'some.py'
    fixed = {'steps': 4} if fixed is None else fixed
    file.write_text(
      'from launch.sweeps import chain, grid, zipped\n\n'
      f"CONFIG = 'configs/base.py'\nFIXED = {fixed}\n{head}\n\n\n"
      f'def get_sweep():\n  return {returned}\n'
    )
    return [f'--sweep={file}', f'--workdir={tmp_path / "runs"}']

  return write


@pytest.fixture
def events(tmp_path):
  """What stand-ins did: [(seconds, trial, what)]."""

  def events():
    lines = (tmp_path / 'runs' / 'events').read_text().splitlines()
    rows = [line.split(maxsplit=2) for line in lines]
    return [(float(t), name, what) for t, name, what in rows]

  return events


def fields(choices):
  return [choice.fields for choice in choices]


def test_a_grid_is_every_combination_with_the_last_field_changing_fastest():
  assert fields(grid({'a': [1, 2], 'b': ('xy', 'z')})) == [
    {'a': 1, 'b': 'xy'}, {'a': 1, 'b': 'z'},
    {'a': 2, 'b': 'xy'}, {'a': 2, 'b': 'z'},
  ]  # fmt: skip


def test_zipped_fields_go_together():
  assert fields(zipped({'a': [1, 2], 'b': (3, 4)}, {'c': range(2)})) == [
    {'a': 1, 'b': 3, 'c': 0},
    {'a': 2, 'b': 4, 'c': 1},
  ]


def test_zipped_refuses_lengths_that_differ():
  with pytest.raises(
    ValueError, match='as many values, but a has 2, b, c has 2, d has 3$'
  ):
    zipped({'a': [1, 2]}, zipped({'b': [1, 2], 'c': [1, 2]}), {'d': range(3)})
  with pytest.raises(ValueError, match='a has 2, size has 1$'):
    zipped({'a': [1, 2]}, names={'size': ['small']})


def test_grid_zipped_and_chain_compose():
  pairs = zipped({'a': [1, 2], 'b': [3, 4]})
  assert fields(chain(grid(pairs, {'c': [5, 6]}), {'a': [7]})) == [
    {'a': 1, 'b': 3, 'c': 5}, {'a': 1, 'b': 3, 'c': 6},
    {'a': 2, 'b': 4, 'c': 5}, {'a': 2, 'b': 4, 'c': 6},
    {'a': 7},
  ]  # fmt: skip
  inner = zipped(grid({'a': [1, 2], 'b': [3, 4]}), {'c': range(4)})
  assert [c['c'] for c in fields(inner)] == [0, 1, 2, 3]


def test_a_field_that_is_given_twice_is_refused():
  with pytest.raises(ValueError, match='grid: a is given twice'):
    grid({'a': [1]}, zipped({'a': [1], 'b': [2]}))


@pytest.mark.parametrize('value', ['xy', {'name': 'clip'}, 3, None, []])
def test_one_value_in_the_place_of_a_list_is_refused(value):
  with pytest.raises(ValueError, match='^a(: .* is one value| has no values)'):
    grid({'a': value})


def test_numbers_of_numpy_become_pythons():
  [choice] = grid({'a': np.linspace(0.5, 0.5, 1), 'b': np.arange(3, 4)})
  assert repr(choice.fields) == "{'a': 0.5, 'b': 3}"


@pytest.mark.parametrize(
  'told, name',
  [
    (
      {'seed': 0, 'optimizer.learning_rate': 1e-5},
      'learning_rate=1e-05,seed=0',
    ),
    ({'critic.learning_rate': 1e-5}, 'critic.learning_rate=1e-05'),
    ({'algorithm.loss.eps_high': 0.28}, 'loss.eps_high=0.28'),
    (
      {'algorithm.loss': {'name': 'clip', 'eps_high': 0.28}},
      'loss=clip+eps_high=0.28',
    ),
    ({'eval.ks': (1, 16)}, 'eval.ks=1+16'),
    ({'filters.drop_zero_variance': True}, 'drop_zero_variance=True'),
    ({}, 'default'),
  ],
)
def test_a_trial_is_named_by_what_changed(told, name):
  assert trials.name_of(Choice(told, told)) == name


@pytest.mark.parametrize(
  'value',
  ['../../etc', 'a/b', 'a b', '$(rm -r x)', 'ä', '', 'x' * 500, 'a,b=c'],
)
def test_a_name_is_one_safe_short_folder(value):
  name = trials.name_of(Choice({}, {'init_from': value}))
  assert re.fullmatch(r'init_from=[A-Za-z0-9_.+=-]+', name)
  assert len(name) <= trials.MAX_NAME
  # What was cut or replaced does not make two into one.
  assert name != trials.name_of(Choice({}, {'init_from': f'{value}/'}))


def test_a_name_does_not_depend_on_other_trials_or_the_order_of_fields():
  one = grid({'seed': [1], 'group_size': [8]})
  more = chain({'steps': [1]}, {'group_size': [4, 8], 'seed': range(9)})
  names = set(map(trials.name_of, more))
  assert {trials.name_of(c) for c in one} < names
  assert len(names) == len(more)


def test_names_of_any_two_fields_differ():
  names = list(config_files.names(base.get_config().to_dict()))
  assert len(names) > 100
  assert len({trials.short(name) for name in names}) == len(names)


@pytest.mark.parametrize(
  'field, value',
  [
    ('seed', 3),
    ('optimizer.learning_rate', 1e-5),
    ('algorithm.off_policy_limit', float('inf')),
    ('algorithm.loss', {'name': 'clip', 'dual_clip': float('inf')}),
    ('algorithm.loss', {'name': 'gspo'}),  # without arguments of the default
    ('eval.ks', (1,)),
    ('eval.ks', (1, 4, 8)),
    ('prompt.shots', ()),
    ('prompt.shots', (('2+2=', "it's 4"),)),
    ('init_from', ''),
    ('init_from', 'a folder/with "quotes"'),
    ('filters.mask_truncated', True),
  ],
)
def test_a_job_reads_the_value_that_the_sweep_gave(field, value):
  flag = f'--config.{field}={config_files.flag_text(value)}'
  cfg = config_files.parse(
    'file', ('--config=configs/base.py', flag), {field: value}
  )
  found = cfg.to_dict()
  for part in field.split('.'):
    found = found[part]
  assert found == value


@pytest.mark.parametrize(
  'name, there',
  [
    ('grpo_jax.train', True),
    ('tests.standin', True),
    ('json', True),
    ('nopkg', False),
    ('nopkg.mod', False),
    ('grpo_jax.nope', False),
    ('grpo_jax.train.nope', False),
    ('.train', False),
    ('a..b', False),
  ],
)
def test_a_module_is_there_or_not_and_no_name_is_an_error(name, there):
  assert config_files.is_module(name) is there


def test_a_package_that_needs_another_is_told_in_one_line(
  tmp_path, monkeypatch
):
  (tmp_path / 'needy').mkdir()
  (tmp_path / 'needy' / '__init__.py').write_text('import nopkg\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(ValueError, match="^x.py: .*: No module named 'nopkg'$"):
    config_files.call('x.py', config_files.is_module, 'needy.job')


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid(path):
  found = trials.load(str(path), 'runs')
  assert len(found) > 3
  assert all(trial.module == 'grpo_jax.train' for trial in found)


def test_an_example_names_its_losses():
  found = trials.load('configs/sweeps/clip.py', 'runs')
  assert len(found) == 10
  by_name = {trial.name: trial for trial in found}
  trial = by_name['loss=clip_higher,updates=16']
  assert trial.cfg.algorithm.loss.to_dict() == dict(
    name='clip', eps_low=0.2, eps_high=0.28
  )
  assert trial.cfg.updates.minibatches == 16
  assert trial.told == {'loss': 'clip_higher', 'updates': '16'}


@pytest.mark.parametrize(
  'returned, saying',
  [
    ("grid({'sed': [1]})", "no field 'sed'; did you mean seed?"),
    (
      "grid({'learning_rate': [1]})",
      "no field 'learning_rate'; did you mean critic.learning_rate or "
      'optimizer.learning_rate?',
    ),
    (
      "grid({'algorithm.loss.eps_hihg': [1]})",
      'did you mean algorithm.loss.eps_high?',
    ),
    ("grid({'seed': [0, 'a']})", '--config.seed=a: invalid literal'),
    ("grid({'algorithm.loss': ['clip']})", "parse 'clip' as a ConfigDict"),
    (
      "zipped({'seed': [1, 2], 'steps': [3]})",
      'some.py:9: zipped: all need as many values, but seed has 2, steps has 1',
    ),
    ("grid({'seed': [0, 1, 0]})", 'the same run is there twice: seed=0'),
    # One of them by a default.
    (
      "chain({'seed': [0]}, {'group_size': [16]})",
      'there twice: seed=0 and group_size=16',
    ),
    (
      "zipped({'seed': [0, 1]}, names={'size': ['a', 'a']})",
      'would be named size=a; tell them apart by zipped(..., names=...)',
    ),
    ("{'seed': 0}", 'get_sweep returns'),
    ('grid(3)', 'some.py:9: 3 is neither'),
    ('nonsense', "some.py:9: NameError: name 'nonsense'"),
    ('grid(', 'some.py:9: '),
  ],
)
def test_a_mistake_in_the_file_is_told_in_one_line_before_anything_runs(
  returned, saying, write, tmp_path, capsys
):
  assert sweep.main(write(returned)) == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert err.count('\n') == 1
  assert saying in err
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
  'head, saying',
  [
    ("JOB = 'trian'", "JOB='trian' is not one of train, sft"),
    ("JOB = 'nopkg.mod'", "JOB='nopkg.mod' is not one of train, sft"),
    ("JOB = 'json.decoder.x'", "JOB='json.decoder.x' is not one of train, sf"),
    ('JOB = 5', "JOB='5' is not one of train, sft"),
    ("CONFIG = 'nowhere.py'", 'CONFIG=nowhere.py: no such file'),
    ('CONFIG = None', 'has no CONFIG'),
    ("CONFIG = 'configs/r1.py:none'", "no experiment 'none'"),
    ("FIXED = {'sed': 1}", "no field 'sed'; did you mean seed?"),
  ],
)
def test_a_mistake_in_what_is_run_is_told(head, saying, write, capsys):
  assert sweep.main(write("grid({'seed': [0]})", head=head)) == 2
  assert saying in capsys.readouterr().err


def test_a_dry_run_prints_the_commands_and_does_nothing_else(
  write, tmp_path, capsys
):
  loss = {'name': 'clip', 'eps_high': 0.3}
  argv = write(f"grid({{'algorithm.loss': [{loss}], 'seed': [1]}})")
  assert sweep.main([*argv, '--dry_run']) == 0
  [line] = capsys.readouterr().out.splitlines()
  assert shlex.split(line) == [
    sys.executable, '-m', 'tests.standin', '--config=configs/base.py',
    '--config.steps=4', f'--config.algorithm.loss={loss}', '--config.seed=1',
    f'--workdir={tmp_path}/runs/loss=clip+eps_high=0.3,seed=1',
  ]  # fmt: skip
  assert not (tmp_path / 'runs').exists()


def test_as_many_run_at_a_time_as_asked_and_none_runs_again(
  write, events, capsys
):
  fixed = {'steps': 4, 'optimizer.warmup_steps': 10}
  argv = [*write("grid({'seed': range(4)})", fixed=fixed), '--parallel=2']
  assert sweep.main(argv) == 0
  assert '4 trials are finished' in capsys.readouterr().out
  ups = [what == 'end' for _, _, what in sorted(events())]
  at_once = np.cumsum(np.where(ups, -1, 1))
  assert at_once.max() == 2
  assert len(ups) == 8
  assert sweep.main(argv) == 0
  assert len(events()) == 8
  # Of trials that are added, only these.
  argv = [*write("grid({'seed': range(5)})", fixed=fixed), '--parallel=2']
  assert sweep.main(argv) == 0
  assert len(events()) == 10


def test_a_failing_trial_is_named_and_stops_no_other(
  write, events, tmp_path, capsys
):
  argv = write("grid({'seed': [13, 1]})")
  for _ in range(2):
    assert sweep.main(argv) == 1
    log = tmp_path / 'runs' / 'seed=13' / 'log.txt'
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == (
      f'failed: seed=13: exit status 2: error: 13 is unlucky ({log})'
    )
  assert 'a line' in log.read_text()
  assert [what for *_, what in events()] == ['begin 0', 'end']


def test_a_trial_that_ends_early_has_failed(write, tmp_path, capsys):
  argv = write("grid({'seed': [1]})")
  [trial] = trials.load(argv[0].partition('=')[2], f'{tmp_path}/runs')
  assert not trial.finished()
  (tmp_path / 'runs' / 'seed=1' / 'checkpoints' / '9').mkdir(parents=True)
  assert trial.finished()
  # The stand-in, which does not evaluate, has nothing to do.
  argv = write("grid({'seed': [1]})", fixed={'steps': 4, 'eval.every': 2})
  assert sweep.main(argv) == 1
  assert 'seed=1: ended at step 0 of 4: a line' in capsys.readouterr().err


def test_a_last_evaluation_that_is_missing_is_made_up_for(write, tmp_path):
  argv = write("grid({'seed': [1]})", fixed={'steps': 4, 'eval.every': 2})
  [trial] = trials.load(argv[0].partition('=')[2], f'{tmp_path}/runs')
  folder = tmp_path / 'runs' / 'seed=1'
  (folder / 'checkpoints' / '4').mkdir(parents=True)
  rows = folder / 'metrics.jsonl'
  rows.write_text('{"step": 2, "eval/pass@1": 0.5}\n{"step": 4, "loss": 1}\n')
  assert not trial.finished()
  # Of a reward model it is another measure.
  for measure in ('pass@1', 'accuracy'):
    rows.write_text(f'{{"step": 4, "eval/{measure}": 0.5}}\n')
    assert trial.finished()


@pytest.fixture
def signalled():
  """Sends this process signals, once all paths exist."""

  def signalled(paths, *, numbers):
    def send():
      while not all(path.exists() for path in paths):
        time.sleep(0.02)
      for number in numbers:
        os.kill(os.getpid(), number)
        # Of two at a time, Python may call the handler once.
        time.sleep(0.3)

    threading.Thread(target=send, daemon=True).start()

  return signalled


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_trials_save_and_the_same_command_goes_on(
  number, write, events, signalled, tmp_path, capsys
):
  fixed = {'steps': 30, 'optimizer.warmup_steps': 5}
  argv = [*write("grid({'seed': range(3)})", fixed=fixed), '--parallel=2']
  paths = [tmp_path / f'runs/seed={i}/metrics.jsonl' for i in range(2)]
  signalled(paths, numbers=[number])
  assert sweep.main(argv) == 128 + number
  err = capsys.readouterr().err
  assert f'{number.name}: waiting for 2 trials to save; again to' in err
  assert err.endswith(
    'stopped: 0 of 3 trials are finished; the same command goes on from there\n'
  )
  begun = {name: what for _, name, what in events()}
  assert sorted(begun) == ['seed=0', 'seed=1']
  assert all(what.startswith('stopped') for what in begun.values())
  assert sweep.main(argv) == 0
  expected = {n: w.replace('stopped', 'begin') for n, w in begun.items()}
  begun = {n: what for _, n, what in events() if what.startswith('begin')}
  assert begun == expected | {'seed=2': 'begin 0'}


def test_a_second_signal_kills(write, signalled, tmp_path, capsys):
  fixed = {'steps': 2, 'optimizer.warmup_steps': 6000}
  argv = write("grid({'seed': [1]})", fixed=fixed)
  path = tmp_path / 'runs/seed=1/metrics.jsonl'
  signalled([path], numbers=[signal.SIGTERM, signal.SIGTERM])
  assert sweep.main(argv) == 128 + signal.SIGTERM
  err = capsys.readouterr().err
  assert 'SIGTERM: killing what runs' in err
  assert 'failed' not in err


def test_an_error_of_the_sweeps_own_leaves_no_trial_running(
  write, monkeypatch, capsys
):
  begun, begin = [], runner.start

  def start(trial, cpus):
    if begun:
      raise OSError(28, 'No space left on device', 'log.txt')
    begun.append(begin(trial, cpus))
    return begun[0]

  monkeypatch.setattr(runner, 'start', start)
  fixed = {'steps': 2, 'optimizer.warmup_steps': 6000}
  argv = [*write("grid({'seed': [1, 2]})", fixed=fixed), '--parallel=2']
  assert sweep.main(argv) == 2
  assert capsys.readouterr().err == 'error: log.txt: No space left on device\n'
  assert begun[0].process.returncode is not None


@pytest.mark.skipif(
  not hasattr(os, 'sched_getaffinity'), reason='of Linux alone'
)
@pytest.mark.parametrize(
  ('cpus', 'parts', 'expected'),
  [
    ({4, 5, 6, 7, 9}, 2, [[4, 5], [6, 7, 9]]),
    ({0, 1}, 2, [[0], [1]]),
    ({0, 1}, 1, [[]]),  # all
    ({0, 1}, 3, [[], [], []]),
  ],
)
def test_processes_at_a_time_share_the_cpus(monkeypatch, cpus, parts, expected):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: cpus)
  assert processes.shares(parts) == expected


def test_each_trial_has_cpus_of_its_own(write, monkeypatch):
  taken, begin = [], runner.start

  def start(trial, cpus):
    running = begin(trial, cpus)
    taken.append(os.sched_getaffinity(running.process.pid))
    return running

  ours = sorted(os.sched_getaffinity(0))
  if len(ours) < 2:
    pytest.skip('one CPU')
  monkeypatch.setattr(runner, 'start', start)
  assert sweep.main([*write("grid({'seed': [1, 2]})"), '--parallel=2']) == 0
  assert taken[0].isdisjoint(taken[1])
  assert sorted(taken[0] | taken[1]) == ours


def test_it_runs_as_a_file_too(write):
  argv = write("grid({'seed': [1]})")
  command = [sys.executable, 'launch/sweep.py', *argv, '--dry_run']
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert '-m tests.standin --config' in done.stdout


def test_a_workdir_of_another_experiment_is_refused(write, tmp_path, capsys):
  argv = write("grid({'seed': [1]})")
  folder = tmp_path / 'runs' / 'seed=1'
  folder.mkdir(parents=True)
  # Checkpoints more often or a longer run teach the same; other sizes do not.
  saved = {'seed': 1, 'group_size': 8, 'checkpoint': {'every': 3}}
  (folder / 'config.json').write_text(json.dumps(saved))
  assert sweep.main(argv) == 2
  err = capsys.readouterr().err
  told = 'other values: group_size=8 there and group_size=16 here; use'
  assert f'{folder} was begun with {told}' in err
  saved['group_size'] = 16
  # Neither do other devices, nor what other jobs do with the run.
  saved |= {'cpu_devices': 2, 'mesh': {'data': 2}, 'chat': {'every': 9}}
  saved |= {'launch': {'topology': 'v5e-8', 'job': 'sft'}}
  saved |= {'win_rate': {'prompts': 3}, 'pairs': {'samples': 2}}
  (folder / 'config.json').write_text(json.dumps(saved))
  assert sweep.main(argv) == 0


def rows(folder, name, values, *, steps, checkpoint=None):
  """A run's metrics.jsonl with one metric."""
  folder.mkdir(parents=True)
  lines = [
    json.dumps({'step': s, name: v}) for s, v in zip(steps, values, strict=True)
  ]
  (folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
  if checkpoint:
    (folder / 'checkpoints' / str(checkpoint)).mkdir(parents=True)


def test_a_summary_ranks_final_metrics_and_tells_how_far_each_is(
  write, tmp_path, capsys
):
  runs = tmp_path / 'runs'
  argv = write(
    "grid({'optimizer.learning_rate': [1e-5, 3e-5, 1e-4]})", fixed={'steps': 20}
  )
  steps = range(1, 21)
  # The last two of 20 steps count: 0.3; of 10 steps the last: 0.5.
  values = [0.9] * 18 + [0.2, 0.4]
  rows(
    runs / 'learning_rate=1e-05',
    'reward/mean',
    values,
    steps=steps,
    checkpoint=20,
  )
  rows(
    runs / 'learning_rate=3e-05',
    'reward/mean',
    [0.0] * 9 + [0.5],
    steps=steps[:10],
  )
  assert sweep.main([*argv, '--summarise']) == 0
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert lines[1:5] == [
    ['reward/mean', 'learning_rate', 'step'],
    ['1', '0.5', '3e-05', '10/20'],
    ['2', '0.3', '1e-05', '20/20'],
    ['-', '0.0001', '0/20'],
  ]
  assert ' '.join(lines[0]) == (
    'reward/mean (mean of the last 10% of steps), highest first'
  )
  assert ' '.join(lines[5]).startswith('1 of 3 trials finished')
  with open(runs / 'summary.csv') as file:
    table = list(csv.DictReader(file))
  assert [row['config.learning_rate'] for row in table] == [
    '3e-05', '1e-05', '0.0001'
  ]  # fmt: skip
  assert [row['finished'] for row in table] == ['0', '1', '0']
  assert float(table[1]['reward/mean']) == pytest.approx(0.3)
  assert sweep.main([*argv, '--summarise', '--lowest']) == 0
  assert capsys.readouterr().out.splitlines()[2].split()[1] == '0.3'
  assert sweep.main([*argv, '--summarise', '--metric=reward/maen']) == 2
  err = capsys.readouterr().err
  assert 'reward/maen: no trial has it; there are: reward/mean' in err


def test_of_evaluations_the_last_counts_however_old():
  steps = np.arange(0, 101)
  values = np.full(101, np.nan)
  values[[0, 50]] = 0.1, 0.7
  assert summary.final_value('eval/pass@1', steps, values) == 0.7
  assert np.isnan(summary.final_value('reward/mean', steps, values))


def test_evaluations_come_before_rewards(write, tmp_path, capsys):
  argv = write("grid({'seed': [1, 2]})")
  rows(tmp_path / 'runs' / 'seed=1', 'reward/mean', [1.0], steps=[1])
  rows(tmp_path / 'runs' / 'seed=2', 'eval/pass@1', [0.5], steps=[0])
  assert sweep.main([*argv, '--summarise']) == 0
  out = capsys.readouterr().out.splitlines()
  assert out[0] == 'eval/pass@1 (last evaluation), highest first'
  assert out[2].split()[:4] == ['1', '0.5', '2', '0/4']


def test_on_a_pod_trials_run_one_after_the_other_by_its_tool(
  write, events, monkeypatch, capsys, tmp_path
):
  # The stand-in takes the flags after the -- from either side of it.
  monkeypatch.setitem(elsewhere.TOOLS, 'pod', ('tests.standin', 'run'))
  argv = [*write("grid({'seed': [1, 13, 2]})"), '--on=pod',
          "--launch_args=--name=v5p --zone='us east'"]  # fmt: skip
  assert sweep.main(argv) == 1
  out, err = capsys.readouterr()
  assert [shlex.split(line) for line in out.splitlines()][0] == [
    sys.executable, '-m', 'tests.standin', 'run', '--watch', '--name=v5p',
    '--zone=us east', '--', 'python', '-m', 'tests.standin',
    '--config=configs/base.py', '--config.steps=4', '--config.seed=1',
    f'--workdir={tmp_path}/runs/seed=1', '--distributed',
  ]  # fmt: skip
  assert err == 'failed: seed=13: exit status 2\n'
  assert [(n, w) for _, n, w in events()] == [
    ('seed=1', 'begin 0'), ('seed=1', 'end'),
    ('seed=2', 'begin 0'), ('seed=2', 'end'),
  ]  # fmt: skip


def test_on_gke_each_trial_is_a_workload_with_a_valid_name(write, capsys):
  argv = write("grid({'seed': [1, 2]})")
  argv = [argv[0], '--workdir=gs://bucket/My_Sweep/', '--on=gke', '--dry_run']
  assert sweep.main([*argv, '--launch_args=--cluster=c']) == 0
  lines = [shlex.split(x) for x in capsys.readouterr().out.splitlines()]
  for line, seed in zip(lines, (1, 2), strict=True):
    assert line[1:4] == ['-m', 'launch.gke', 'create']
    assert re.fullmatch('--workload=sweep-my-sweep-[0-9a-f]{8}', line[4])
    assert line[5:7] == ['--unless_there', '--cluster=c']
    assert line[7:10] == ['--', 'python', '-m']
    assert line[-3:] == [
      f'--workdir=gs://bucket/My_Sweep/seed={seed}', '--distributed',
      '--compilation_cache=gs://bucket/My_Sweep/compilation_cache',
    ]  # fmt: skip
  assert lines[0][4] != lines[1][4]
  assert sweep.main([*argv, '--launch_args=--workload=w']) == 2
  assert 'has a --workload' in capsys.readouterr().err


def test_the_examples_in_the_docstring_are_right():
  assert len(grid({'o': [1e-5, 3e-5], 'seed': range(3)})) == 6
  shapes = zipped({'p': [16, 32], 'g': [32, 16]}, names={'s': ['deep', 'wide']})
  names = [trials.name_of(c) for c in grid(shapes, {'seed': range(2)})]
  assert names[0] == 's=deep,seed=0'
  assert 'deep' in sweeps.__doc__
