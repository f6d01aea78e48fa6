"""Launchers of pods, with recording stand-ins for gcloud, xpk and kubectl."""

from importlib import metadata
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tarfile

from clouds import HOSTILE, JOB, ME, NEW, pod, PYTHON, ROOT, until, WHERE
import pytest

from grpo_jax import hosts
from launch import (
  bucket,
  gke,
  names,
  queued,
  shell,
  ship,
  tpu_pod,
  worker,
  xla_flags,
)


def gcloud(verb, *words):
  return [
    'gcloud', 'compute', 'tpus', 'queued-resources', verb, *words,
    '--project=my-project', '--zone=us-east5-a', '--quiet',
  ]  # fmt: skip


def test_one_command_creates_the_pod_waits_ships_installs_and_starts(cloud):
  cloud.states('NONE', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
  assert pod('run', *NEW, '--spot', job=JOB) == 0
  describe = [*gcloud('describe', 'r1'), '--format=json']
  archive = next((cloud.folder / 'home/.cache/grpo_jax/code').glob('*.tar.gz'))
  on_all = ['--node=all', '--worker=all']
  environment = xla_flags.environment('v5p-128')
  start = worker.start(cloud.job(), environment=environment)
  assert cloud.calls() == [
    describe,
    [
      *gcloud('create', 'r1'), '--node-id=r1', '--accelerator-type=v5p-128',
      '--runtime-version=v2-alpha-tpuv5', '--spot',
    ],
    describe,
    describe,
    describe,
    [*gcloud('scp', str(archive), f'r1:{archive.name}'), *on_all],
    [
      *gcloud('ssh', 'r1'), *on_all,
      f'--command={worker.install(archive.name, extras="tpu")}',
    ],
    [
      *gcloud('ssh', 'r1'), *on_all,
      f'--command={bucket.mount(bucket.for_workers(JOB))}',
    ],
    [*gcloud('ssh', 'r1'), *on_all, f'--command={start}'],
  ]  # fmt: skip


def test_several_slices_are_nodes_of_one_request(cloud):
  assert pod('create', '--accelerator_type=v6e-256', '--slices=4') == 0
  assert cloud.calls()[0][-4:] == [
    '--node-count=4', '--node-prefix=r1', '--accelerator-type=v6e-256',
    '--runtime-version=v2-alpha-tpuv6e',
  ]  # fmt: skip


@pytest.mark.parametrize(
  'arguments, states, reports',
  [
    (['create', *NEW, '--create_option=--network=n 1'], [], []),
    (['setup', *NEW, '--iap', '--extras=tpu,sandbox'], ['NONE', 'ACTIVE'], []),
    (['run', *NEW, '--slices=2'], ['NONE', 'ACTIVE'], []),
    (['run', *NEW, '--watch'], ['NONE'] + 3 * ['ACTIVE'], ['exit 0']),
    (['status'], ['ACTIVE'], ['running -']),
    (['logs', '--worker=all', '--lines=7'], [], ['running -']),
    (['logs', '--out=logs'], [], []),
    (['stop'], [], ['stopped 143']),
    (['delete'], [], []),
  ],
)
def test_a_dry_run_prints_what_a_real_run_runs(
  cloud, capsys, arguments, states, reports
):
  job = [*JOB, 'a b', "'q'", '$(id)', 'x\ny'] if arguments[0] == 'run' else ()
  assert pod(*arguments, '--dry_run', job=job) == 0
  assert cloud.calls() == []
  printed = capsys.readouterr().out
  assert len(printed.splitlines()) == printed.count('\n')
  # The lines as a shell reads them, with the same stand-ins.
  subprocess.run(['bash', '-ec', printed], check=True, capture_output=True)
  dry = cloud.calls()
  (cloud.folder / 'calls').unlink()
  cloud.states(*states)
  cloud.reports(*reports)
  assert pod(*arguments, job=job) == 0
  assert cloud.calls() == dry != []


@pytest.mark.parametrize('flag', ['name', 'project', 'zone'])
@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_name_is_refused_before_any_command(
  cloud, capsys, flag, name
):
  assert pod('create', *NEW, f'--{flag}={name}') == 2
  said = capsys.readouterr().err
  assert said.startswith(f'error: --{flag}') and said.count('\n') == 1
  assert cloud.calls() == []


@pytest.mark.parametrize(
  'command, argument',
  [
    *(('create', f'--accelerator_type={name}') for name in HOSTILE),
    ('create', '--accelerator_type=tpu7x-128'),
    ('create', '--accelerator_type=v9z-8'),
    ('create', '--runtime_version=a;b'),
    ('create', '--create_option=network'),
    ('create', '--create_option=--network=a\nb'),
    ('create', '--slices=0'),
    ('setup', '--extras=tpu];id'),
    ('logs', '--worker=0;id'),
    ('logs', '--worker=1\n'),
    ('launch', '--spot'),
    ('status', '--zoone=a'),
  ],
)
def test_other_wrong_values_are_one_line_too(cloud, capsys, command, argument):
  assert pod(command, *NEW, argument) == 2
  assert capsys.readouterr().err.count('\n') == 1
  assert cloud.calls() == []


@pytest.mark.parametrize('flag', ['cluster', 'workload', 'project', 'zone'])
@pytest.mark.parametrize('name', HOSTILE)
def test_gke_refuses_hostile_names_too(cloud, capsys, flag, name):
  argv = ['gke', 'delete', '--cluster=c', '--workload=w', *WHERE]
  assert gke.main([*argv, f'--{flag}={name}']) == 2
  assert capsys.readouterr().err.startswith(f'error: --{flag}')
  assert cloud.calls() == []


def test_names_that_google_gives_are_accepted():
  for kind, several in {
    'pod': ['a', 'r1-zero-7b'],
    'project': ['my-project-123', 'example.com:my-project'],
    'zone': ['us-central2-b', 'europe-west4-a', 'us-south1-ai1b'],
    'accelerator_type': ['v4-8', 'v5litepod-256', 'v6e-4x4', 'tpu7x-4x4x8'],
    'bucket': ['abc', 'my_bucket-1.example.com'],
    'image': ['python:3.12', 'us-docker.pkg.dev/p/r/grpo:V1@sha256:0a'],
  }.items():
    for name in several:
      assert names.checked(kind, name) == name


def test_quoted_words_come_back_from_bash_as_they_were():
  words = [*HOSTILE, *'\t\r\x7f\\!{}#~*?[]<>&|%', "$'\\x41'", '日本', '\udc80']
  for quote in (shell.quote, shell.quote_strictly):
    quoted = ' '.join(quote(word) for word in words)
    assert quoted.isprintable()
    done = subprocess.run(
      ['bash', '-c', f"printf '%s\\0' {quoted}"], capture_output=True
    )
    back = done.stdout.split(b'\0')[:-1]
    assert back == [os.fsencode(word) for word in words]


def test_a_job_runs_on_a_worker_with_its_arguments_as_they_were(cloud):
  at = cloud.has_worker()
  cloud.states('ACTIVE')
  hostile = [f'--config.x={word}' for word in HOSTILE]
  assert pod('run', job=[*JOB, '--', *hostile]) == 0
  until((at / 'exit').exists)
  argv, flags, cwd = json.loads((cloud.folder / 'job').read_text())
  assert argv == [*cloud.job()[1:], '--', *hostile]
  assert flags == xla_flags.environment()['LIBTPU_INIT_ARGS']
  assert cwd == str(at / 'code')
  assert (at / 'code/grpo_jax/train.py').exists()
  assert not (cloud.folder / 'x').exists()
  assert (at / 'exit').read_text() == '0\n'
  log = (at / 'log').read_text()
  assert 'grpo_jax.train' in log and 'trained' in log and 'exit 0' in log


# A Python of its version, which makes environments with a Python in them.
SHIM = """#!/bin/sh
echo "$(basename $0) $*" >>{folder}/made
case "$*" in
  -c*) test -e {folder}/new/$(basename $0);;
  *venv*) mkdir -p venv/bin; cp $0 venv/bin/python;;
esac
"""


@pytest.mark.parametrize(
  'new, made',
  [
    (
      ['python3.12', 'python3'],
      ['python3.12 -m venv venv', 'python -m pip install --quiet -e .[tpu]'],
    ),
    (
      [],
      [
        'python3 -m pip install --quiet --user uv',
        'python3 -m uv venv --quiet --seed --python 3.12 venv',
        'python -m pip install --quiet -e .[tpu]',
      ],
    ),
  ],
)
def test_a_worker_with_an_old_python_gets_a_new_one(cloud, new, made):
  (cloud.folder / 'worker').mkdir()
  (cloud.folder / 'new').mkdir()
  for name in ('python3.13', 'python3.12', 'python3.11', 'python3'):
    cloud.script(cloud.folder / 'bin' / name, SHIM)
  for name in new:
    (cloud.folder / 'new' / name).touch()
  for _ in range(2):
    cloud.states('ACTIVE')
    assert pod('setup') == 0
  calls = (cloud.folder / 'made').read_text().splitlines()
  looks = (' -c ', ' --version')
  calls = [c for c in calls if not any(look in c for look in looks)]
  assert calls == [*made, made[-1]]


def test_an_environment_that_was_cut_short_is_made_again(cloud):
  at = cloud.has_worker()
  cloud.script(at / 'venv/bin/python', '#!/bin/sh\nexit 1\n')
  (cloud.folder / 'new').mkdir()
  (cloud.folder / 'new' / 'python3.13').touch()
  cloud.script(cloud.folder / 'bin' / 'python3.13', SHIM)
  cloud.states('ACTIVE')
  assert pod('setup') == 0
  made = cloud.noted('made')
  assert 'python3.13 -m venv venv' in made
  assert made[-1] == 'python -m pip install --quiet -e .[tpu]'


def test_a_job_starts_once_where_gcloud_runs_all_of_it_twice(cloud):
  at = cloud.has_worker()
  for name in ('twice', 'long'):
    (cloud.folder / name).touch()
  cloud.states('ACTIVE', 'ACTIVE')
  assert pod('run', job=JOB) == 0
  until((cloud.folder / 'job').exists)
  assert cloud.noted('pips') == 2 * ['begin', 'end']
  assert pod('run', job=[*JOB, '--x']) == 1
  assert pod('stop', '--poll_seconds=0.02') == 0
  assert cloud.noted('terms') == ['SIGTERM']
  assert (cloud.folder / 'saved').exists()
  assert (at / 'exit').read_text() == '143\n'
  assert cloud.noted('jobs') == ['started']


def test_an_installation_waits_for_one_that_lost_its_connection(cloud):
  cloud.has_worker()
  for name in ('twice', 'cut'):
    (cloud.folder / name).touch()
  cloud.states('ACTIVE')
  assert pod('setup') == 0
  assert cloud.noted('pips') == 2 * ['begin', 'end']


def test_a_worker_that_reports_twice_is_one(cloud):
  cloud.states('NONE', *4 * ['ACTIVE'])
  lines = [f'worker w-{i} running - abc0\n' for i in (0, 1, 1)]
  cloud.answers('echo "worker', ''.join(lines))
  cloud.reports('exit 0, exit 0')
  assert pod('run', '--watch', '--retries=0', *NEW, job=JOB) == 0


def test_stop_lets_the_job_save_and_a_running_one_is_not_replaced(cloud, capfd):
  at = cloud.has_worker()
  (cloud.folder / 'long').touch()
  cloud.states('ACTIVE', 'ACTIVE', 'ACTIVE', 'ACTIVE')
  assert pod('run', job=JOB) == 0
  until((cloud.folder / 'job').exists)
  assert pod('status') == 0
  assert ': running\n' in capfd.readouterr().out
  # The same job is left alone, another one refused.
  assert pod('run', job=JOB) == 0
  assert 'already' in capfd.readouterr().err
  assert pod('run', job=[*JOB, '--x']) == 1
  assert 'error: a job runs on this pod already' in capfd.readouterr().err
  assert pod('stop', '--poll_seconds=0.02') == 0
  assert (cloud.folder / 'saved').exists()
  assert 'stopped 143' in capfd.readouterr().err
  assert (at / 'exit').read_text() == '143\n'


def test_the_end_of_a_job_is_known_when_the_machine_shuts_down(cloud):
  at = cloud.has_worker()
  (cloud.folder / 'long').touch()
  cloud.states('ACTIVE')
  assert pod('run', job=JOB) == 0
  until((cloud.folder / 'job').exists)
  job = int((at / 'pid').read_text())
  keeper = int(pathlib.Path(f'/proc/{job}/stat').read_text().split()[3])
  for process in (keeper, job):
    os.kill(process, signal.SIGTERM)
  until((at / 'exit').exists)
  assert (at / 'exit').read_text() == '143\n'
  assert (cloud.folder / 'saved').exists()


def test_stop_says_where_a_job_does_not_leave(cloud, capsys):
  cloud.reports('running -, stopped 143')
  assert pod('stop', '--stop_minutes=-1') == 1
  assert 'still runs on 1 of 2 workers' in capsys.readouterr().err


FAILURES = [
  (
    'You do not currently have an active account selected.',
    'gcloud auth login',
  ),
  (
    'PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before',
    'gcloud services enable tpu.googleapis.com compute.googleapis.com '
    '--project=my-project',
  ),
  (
    "RESOURCE_EXHAUSTED: Quota limit 'TPUV5' has been exceeded. Limit: 0",
    'quotas?project=my-project',
  ),
  (
    '"message": "There is no more capacity in the zone \\"us-east5-a\\""',
    'us-east5-a has none free now: try another --zone',
  ),
  ('PERMISSION_DENIED: Permission tpu.nodes.create', 'TPU Admin'),
  ('ALREADY_EXISTS: Resource already exists', '`delete` removes it'),
  ('something new', 'create r1 ended with 1: something new'),
]


@pytest.mark.parametrize('said, remedy', FAILURES)
def test_a_failure_of_gcloud_is_one_line_with_a_remedy(
  cloud, capsys, said, remedy
):
  cloud.answers('create', err=f'{said}\n', code=1)
  assert pod('create', *NEW) == 1
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith('error: ') and remedy in last
  assert said in last


def test_without_gcloud_it_says_where_to_get_it(cloud, capsys, monkeypatch):
  monkeypatch.setenv('PATH', str(cloud.folder))
  assert pod('create', *NEW) == 1
  assert 'gcloud is not installed or not on PATH' in capsys.readouterr().err
  argv = ['gke', 'status', '--cluster=c', '--workload=w', *WHERE]
  assert gke.main(argv) == 1
  assert 'pip install xpk' in capsys.readouterr().err


def test_a_request_that_failed_gives_googles_reason(cloud, capsys):
  cloud.states('NONE')
  error = {'error': {'code': 8, 'message': 'no more\ncapacity'}}
  failed = {'state': {'state': 'FAILED', 'failedData': error}}
  cloud.answers('describe', json.dumps(failed))
  assert pod('run', *NEW, job=JOB) == 1
  said = capsys.readouterr().err
  assert 'error: r1 is FAILED (no more capacity): try another --zone' in said


def test_waiting_ends_and_says_that_the_request_stays(cloud, capsys):
  cloud.states('PROVISIONING', 'PROVISIONING')
  assert pod('setup', '--wait_hours=-1', *NEW) == 1
  assert 'PROVISIONING after' in capsys.readouterr().err


def test_a_lost_connection_is_tried_again_within_bounds(cloud):
  for _ in range(2):
    cloud.answers('describe', err='Network is unreachable', code=1)
  cloud.states('SUSPENDED')
  assert pod('status', '--retries=2') == 0
  assert cloud.verbs() == 3 * ['describe']
  for _ in range(3):
    cloud.answers('describe', err='Network is unreachable', code=1)
  assert pod('status', '--retries=2') == 1
  assert cloud.verbs() == 6 * ['describe']


LAUNCH = ['scp', 'install', 'mount', 'start']
LOOK = ['describe', 'report']


def test_watching_makes_a_preempted_pod_again_and_runs_the_same_command(
  cloud, capsys
):
  cloud.states('NONE', 'ACTIVE', 'ACTIVE', 'SUSPENDING')
  cloud.reports('running -, running -', 'exit 0, exit 0')
  cloud.states('SUSPENDING', 'SUSPENDED', 'WAITING_FOR_RESOURCES', 'ACTIVE')
  cloud.states('ACTIVE', 'ACTIVE')
  cloud.answers('awk', 't1v-w-0\tone\nt1v-w-1\ttwo\n../x\tno\nt1v-w-0\tthree\n')
  assert pod('run', '--watch', '--delete_after', *NEW, job=JOB) == 0
  assert cloud.verbs() == [
    'describe', 'create', 'describe', *LAUNCH, *LOOK,
    'describe',  # SUSPENDING
    'describe', 'describe', 'delete', 'create', 'describe', 'describe', *LAUNCH,
    *LOOK, 'describe', 'log', 'delete',
  ]  # fmt: skip
  first, second = [c for c in cloud.calls() if 'setsid' in c[-1]]
  assert first == second
  first, second = [c for c in cloud.calls() if c[4] == 'create']
  assert first == second
  # One worker at a time: their lines must not mix.
  assert '--batch-size=1' in cloud.calls()[-2]
  logs = cloud.folder / 'runs/pods/r1'
  assert sorted(path.name for path in logs.iterdir()) == [
    't1v-w-0.log', 't1v-w-1.log',
  ]  # fmt: skip
  assert (logs / 't1v-w-0.log').read_text() == 'one\nthree\n'


@pytest.mark.parametrize(
  'report',
  [
    'exit 143, exit 143', 'exit 1, lost -', 'exit 75, exit 75',
    'exit 134, exit 75', 'exit 134, exit 134', 'exit 0, exit 75',
  ],
)  # fmt: skip
def test_a_job_interrupted_on_a_pod_that_stays_is_started_there(cloud, report):
  cloud.states(*7 * ['ACTIVE'])
  cloud.reports('none -, none -', report, 'exit 143, none -', 'exit 0, exit 0')
  assert pod('run', '--watch', job=JOB) == 0
  again = ['describe', 'report', *LAUNCH, *LOOK, 'describe']
  assert cloud.verbs() == [*again, *again, 'log']


def test_machines_that_are_gone_under_an_active_request_are_made_again(cloud):
  cloud.states(*3 * ['ACTIVE'])
  cloud.reports('none -')
  gone = 'TPU is in state "PREEMPTED" and is in an unusable terminal state'
  cloud.answers('echo "worker', err=gone, code=1)
  cloud.states('NONE', *2 * ['ACTIVE'])
  cloud.reports('exit 0')
  cloud.states('ACTIVE')
  assert pod('run', '--watch', *NEW, job=JOB) == 0
  assert cloud.verbs()[8:13] == [
    'describe', 'delete', 'describe', 'create', 'describe',
  ]  # fmt: skip


def test_workers_that_do_not_answer_for_long_are_made_again(cloud, capsys):
  misses = tpu_pod._MISSED
  cloud.states('NONE', *(misses + 2) * ['ACTIVE'])
  cloud.reports('running -, running -', *misses * ['exit 0'])
  assert pod('run', '--watch', '--retries=0', *NEW, job=JOB) == 1
  assert 'retries: 1 of 2 workers of r1 answer' in capsys.readouterr().err


LOST = 'ssh: connect to host 1.2.3.4 port 22: Connection timed out'


def test_where_no_worker_answers_this_machine_the_pod_is_left_alone(
  cloud, capsys
):
  misses = tpu_pod._MISSED
  cloud.states('NONE', *(misses + 3) * ['ACTIVE'])
  cloud.reports('running -, running -')
  for _ in range(misses + 1):
    cloud.answers('echo "worker', err=LOST, code=1)
  assert pod('run', '--watch', '--retries=1', *NEW, job=JOB) == 1
  assert cloud.verbs().count('create') == 1
  assert 'delete' not in cloud.verbs()
  told = 'error: gave up after 1 retries: the workers do not answer over ssh'
  assert told in capsys.readouterr().err


def test_those_that_answer_count_where_gcloud_fails_over_another(cloud, capsys):
  misses = tpu_pod._MISSED
  cloud.states('NONE', *(misses + 2) * ['ACTIVE'])
  cloud.reports('running -, running -')
  one = 'worker t1v-w-0 running - abc0\n'
  for _ in range(misses):
    cloud.answers('echo "worker', out=one, err=LOST, code=1)
  assert pod('run', '--watch', '--retries=0', *NEW, job=JOB) == 1
  assert 'retries: 1 of 2 workers of r1 answer' in capsys.readouterr().err


def test_retries_begin_anew_once_a_job_has_run_for_long(cloud, monkeypatch):
  monkeypatch.setattr(tpu_pod, '_STEADY', 0.0)
  for _ in range(3):
    cloud.states('ACTIVE', 'ACTIVE', 'ACTIVE')
    cloud.reports('none -', 'exit 143')
  cloud.states('ACTIVE', 'ACTIVE', 'ACTIVE')
  cloud.reports('none -', 'exit 0')
  assert pod('run', '--watch', '--retries=1', job=JOB) == 0
  assert cloud.verbs().count('start') == 4


def test_watching_gives_up_after_its_retries(cloud, capsys):
  for _ in range(3):
    cloud.states('NONE')
    cloud.answers('create', err='There is no more capacity in the zone', code=1)
  assert pod('run', '--watch', '--retries=2', *NEW, job=JOB) == 1
  assert cloud.verbs() == 3 * ['describe', 'create']
  assert 'error: gave up after 2 retries: us-east5-a' in capsys.readouterr().err


def test_waits_double_up_to_a_bound():
  waits = [shell.waiting(attempt, seconds=30) for attempt in range(7)]
  assert waits == [30, 60, 120, 240, 480, 900, 900]


@pytest.mark.parametrize(
  'report, told',
  [
    ('exit 1, exit 134', '1 on t1v-w-0 and 1 other workers'),
    ('exit 75, exit 2', '2 on t1v-w-1 and 1 other workers'),
    ('exit 134, exit 75, exit 137', '137 on t1v-w-2 and 2 other workers'),
  ],
)
def test_a_job_that_fails_by_itself_is_not_started_again(
  cloud, capsys, report, told
):
  cloud.states('NONE', 'ACTIVE', 'ACTIVE', 'ACTIVE')
  cloud.reports(report)
  assert pod('run', '--watch', *NEW, job=JOB) == 1
  assert f'the job ended with {told}: see' in capsys.readouterr().err
  assert cloud.verbs()[-1] == 'log'


def test_a_job_that_failed_is_not_started_again_as_its_logs_are_not_got(
  cloud, capsys
):
  cloud.states('NONE', 'ACTIVE', 'ACTIVE', 'ACTIVE')
  cloud.reports('exit 1, exit 75')
  cloud.answers('awk', err=LOST, code=255)
  cloud.answers('awk', err=LOST, code=255)
  assert pod('run', '--watch', *NEW, job=JOB) == 1
  err = capsys.readouterr().err
  assert 'the logs are not saved' in err
  assert 'the job ended with 1 on t1v-w-0 and 1 other workers' in err
  assert cloud.verbs().count('start') == 1


def test_a_pod_whose_deletion_fails_is_deleted_on_the_next_try(cloud):
  cloud.states(*3 * ['ACTIVE'])
  cloud.reports('none -')
  gone = 'TPU is in state "PREEMPTED" and is in an unusable terminal state'
  cloud.answers('echo "worker', err=gone, code=1)
  cloud.answers('delete', err='Network is unreachable', code=1)
  cloud.states('ACTIVE', 'NONE', *2 * ['ACTIVE'])
  cloud.reports('exit 0')
  cloud.states('ACTIVE')
  assert pod('run', '--watch', *NEW, job=JOB) == 0
  assert cloud.verbs()[8:14] == [
    'describe', 'delete', 'describe', 'delete', 'describe', 'create',
  ]  # fmt: skip


def test_a_pod_that_was_just_made_is_not_deleted_where_google_is_silent(cloud):
  cloud.states(*3 * ['ACTIVE'])
  cloud.reports('none -')
  gone = 'TPU is in state "PREEMPTED" and is in an unusable terminal state'
  cloud.answers('echo "worker', err=gone, code=1)
  cloud.states('NONE')
  # Asked about the new one.
  for _ in range(4):
    cloud.answers('describe', err='Network is unreachable', code=1)
  cloud.states('PROVISIONING', *3 * ['ACTIVE'])
  cloud.reports('none -', 'exit 0')
  cloud.states('ACTIVE')
  assert pod('run', '--watch', '--retries=3', *NEW, job=JOB) == 0
  assert cloud.verbs().count('delete') == cloud.verbs().count('create') == 1


def test_launchers_and_jobs_mean_the_same_status():
  # The launchers need no JAX, so they cannot import it.
  assert worker.LOST == hosts.LOST


@pytest.mark.parametrize(
  'states, reports, said',
  [
    (3 * ['ACTIVE'], ['stopped 143'], 'was stopped'),
    (['ACTIVE', 'NONE'], [], 'was deleted'),
  ],
)
def test_what_the_user_ended_is_not_started_again(
  cloud, capsys, states, reports, said
):
  cloud.states('NONE', *states)
  cloud.reports(*reports)
  assert pod('run', '--watch', *NEW, job=JOB) == 1
  assert said in capsys.readouterr().err
  assert 'delete' not in cloud.verbs()


def test_ctrl_c_ends_watching_only_and_says_so(cloud, capsys, monkeypatch):
  def interrupt(sh, seconds):
    raise KeyboardInterrupt

  monkeypatch.setattr(shell.Shell, 'sleep', interrupt)
  cloud.states('NONE', 'ACTIVE')
  assert pod('run', '--watch', *NEW, job=JOB) == 130
  assert 'stopped watching; what runs on r1 goes on' in capsys.readouterr().err
  assert cloud.verbs() == ['describe', 'create', 'describe', *LAUNCH]


# gcloud's ssh has a batch of 64 at most and waits for its end.
@pytest.mark.parametrize(
  'workers, slices, parts',
  [
    (2, 1, [('all', 'all')]),
    (64, 2, [('all', 'all')]),
    (128, 1, [('0', '0-63'), ('0', '64-127')]),
    (129, 1, [('0', '0-63'), ('0', '64-127'), ('0', '128')]),
    (80, 2, [('0', '0-39'), ('1', '0-39')]),
  ],
)
def test_all_logs_are_followed_at_once(cloud, workers, slices, parts):
  cloud.reports(', '.join(workers * ['running -']))
  cloud.answers('describe', json.dumps({'tpu': {'nodeSpec': slices * [{}]}}))
  assert pod('logs', '--worker=all') == 0
  script = f'--command={worker.follow(lines=100, named=True)}'
  calls = [call for call in cloud.calls() if call[-1] == script]
  assert sorted(calls) == sorted(
    [
      *gcloud('ssh', 'r1'), f'--node={node}', f'--worker={part}',
      '--batch-size=64', script,
    ]
    for node, part in parts
  )  # fmt: skip


def test_logs_are_followed_where_a_worker_does_not_answer(cloud, capsys):
  cloud.answers('echo "worker', err='exited with return code [255].', code=1)
  assert pod('logs', '--worker=all') == 0
  assert 'do not answer over ssh' in capsys.readouterr().err
  assert cloud.calls()[-1][-4:-1] == [
    '--node=all', '--worker=all', '--batch-size=64',
  ]  # fmt: skip


def test_commands_that_run_together_do_and_tell_the_first_error(tmp_path):
  def until_there(name, other):
    return (
      f'touch {name}; for i in $(seq 500); do test -e {other} && exit {name}; '
      'sleep 0.02; done; exit 9'
    )

  commands = [
    ['bash', '-c', f'cd {tmp_path}; {until_there(*names)}']
    for names in ((3, 4), (4, 3))
  ]
  with pytest.raises(shell.Failed, match='ended with [34]'):
    shell.Shell().run_together(commands)


def test_the_code_is_what_git_tracks_as_it_is_on_disk(
  tmp_path, monkeypatch, capsys
):
  def git(*arguments):
    subprocess.run(['git', *arguments], check=True, cwd=root)

  root = tmp_path / 'repo'
  root.mkdir()
  for name in ('kept', 'changed', 'gone', '.gitignore'):
    (root / name).write_text('runs\n')
  git('init', '--quiet')
  git('add', '.')
  git(*ME, 'commit', '-qm', 'one')
  (root / 'changed').write_text('new')
  (root / 'gone').unlink()
  (root / 'added').touch()
  git('add', 'added')
  (root / 'unknown').touch()
  (root / 'runs').mkdir()
  (root / 'runs' / 'big').touch()
  monkeypatch.setattr(ship, 'ROOT', root)
  monkeypatch.setenv('HOME', str(tmp_path))
  path = ship.archive(shell.Shell())
  with tarfile.open(path) as tar:
    assert set(tar.getnames()) == {'kept', 'changed', '.gitignore', 'added'}
    assert tar.extractfile('changed').read() == b'new'
  assert 'not shipped, as git does not know them: unknown;' in (
    capsys.readouterr().err
  )
  assert ship.archive(shell.Shell()) == path
  (root / 'changed').write_text('newer')
  assert ship.archive(shell.Shell()) != path


GKE = ['--cluster=c1', '--workload=w1', *WHERE]


def test_gke_submits_by_xpk_what_its_dry_run_prints(cloud, capsys):
  argv = ['gke', 'create', *GKE, '--tpu_type=v5p-128', '--slices=2']
  job = ['--', *JOB, *HOSTILE]
  assert gke.main([*argv, '--dry_run', *job]) == 0
  assert cloud.calls() == []
  printed = capsys.readouterr().out
  subprocess.run(['bash', '-ec', printed], check=True)
  assert gke.main([*argv, *job]) == 0
  dry, real = cloud.calls()
  assert dry == real
  code = next((cloud.folder / 'home/.cache/grpo_jax/code').glob('code-*[!r]'))
  assert (code / 'grpo_jax').exists() and not (code / '.git').exists()
  assert real[:-1] == [
    'xpk', 'workload', 'create', '--cluster=c1', *WHERE, '--workload=w1',
    '--tpu-type=v5p-128', '--num-slices=2', '--base-docker-image=python:3.12',
    f'--script-dir={code}', f'--storage={bucket.storage("my-bucket")}',
    '--priority=medium', '--max-restarts=20', '--restart-on-exit-codes=75',
    '--termination-grace-period-seconds=3600',
  ]  # fmt: skip


def test_a_gke_job_gets_its_arguments_and_sigterm_from_the_shell_of_xpk(cloud):
  cloud.script(cloud.folder / 'bin' / 'python', PYTHON)
  (cloud.folder / 'long').touch()
  hostile = [*HOSTILE, '$(HOSTNAME)', '{x}', '%s']
  argv = ['gke', 'create', *GKE, '--tpu_type=v5p-8', '--image=a/b:1']
  assert gke.main([*argv, '--', *JOB, *hostile]) == 0
  command = cloud.calls()[0][-1].removeprefix('--command=')
  assert '\n' not in command and '$(' not in command and '{' not in command
  # As in xpk/core/docker_container.py.
  container = (
    '_sigterm() (kill -SIGTERM $! 2>/dev/null;); trap _sigterm SIGTERM; '
    f'({command}) & PID=$!; while kill -0 $PID 2>/dev/null; do sleep 0.02; '
    'done; wait $PID; EXIT_CODE=$?; exit $EXIT_CODE'
  )
  with subprocess.Popen(['bash', '-c', container]) as process:
    until((cloud.folder / 'job').exists)
    process.terminate()
    assert process.wait(10) == 143
  assert (cloud.folder / 'saved').exists()
  argv = json.loads((cloud.folder / 'job').read_text())[0]
  assert argv == cloud.job()[1:] + hostile


def test_gke_shows_and_deletes_one_workload(cloud):
  assert gke.main(['gke', 'status', *GKE]) == 0
  assert gke.main(['gke', 'logs', *GKE]) == 0
  assert gke.main(['gke', 'logs', *GKE, '--worker=all']) == 0
  assert gke.main(['gke', 'delete', *GKE]) == 0
  status, credentials, logs, _, all_logs, delete = cloud.calls()
  xpk = ['--cluster=c1', *WHERE]
  assert status == ['xpk', 'workload', 'list', *xpk, '--filter-by-job=w1']
  assert delete == [
    'xpk',
    'workload',
    'delete',
    *xpk,
    '--workload=w1',
    '--force',
  ]
  assert '--location=us-east5' in credentials
  name = '--selector=jobset.sigs.k8s.io/jobset-name=w1'
  assert logs[2] == (
    f'{name},jobset.sigs.k8s.io/job-index=0,'
    'batch.kubernetes.io/job-completion-index=0'
  )
  assert all_logs[2] == name


# As xpk prints them; the filter is a pattern, so other names come too.
LISTED = """[XPK] Starting xpk
Jobset Name   Created Time        Priority  Status    Status Message
w1-b          2026-1-1T1:00:00Z   medium    Finished  JobSet failed
w1            2026-1-1T1:00:00Z   medium    {}
"""


@pytest.mark.parametrize(
  'row, verbs',
  [
    ('Admitted  Admitted by ClusterQueue cluster-queue', ['list']),
    ('Finished  JobSet finished successfully', ['list']),
    ('Finished  JobSet failed', ['list', 'delete', 'create']),
    (None, ['list', 'create']),
  ],
)
def test_gke_does_not_submit_what_is_there_unless_it_failed(cloud, row, verbs):
  listed = LISTED.format(row) if row else LISTED.replace('\nw1 ', '\nw2 ')
  cloud.answers('workload list', out=listed)
  argv = ['gke', 'create', *GKE, '--tpu_type=v5p-8', '--unless_there']
  assert gke.main([*argv, '--', *JOB]) == 0
  assert [call[2] for call in cloud.calls()] == verbs


def test_gke_restarts_no_job_whose_workdir_is_lost_with_its_machine(
  cloud, capsys
):
  argv = ['gke', 'create', *GKE, '--tpu_type=v5p-8']
  job = ['--', *JOB[:-1], '--workdir=runs/r1']
  assert gke.main([*argv, *job]) == 2
  told = 'error: --max_restarts=20 (0 for none) needs a job with --workdir=gs'
  assert capsys.readouterr().err.startswith(told)
  assert cloud.calls() == []
  assert gke.main([*argv, '--max_restarts=0', *job]) == 0


@pytest.mark.parametrize('module', ['tpu_pod', 'gke'])
def test_both_ways_to_start_work_and_need_no_jax(tmp_path, module):
  code = f'import launch.{module}, sys; assert "jax" not in sys.modules'
  for arguments, cwd in (
    (['-m', f'launch.{module}', '--help'], ROOT),
    ([str(ROOT / 'launch' / f'{module}.py'), '--help'], tmp_path),
    (['-c', code], ROOT),
  ):
    done = subprocess.run(
      [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ('--help' in arguments) == ('--project' in done.stdout)


def test_a_state_that_is_not_there_is_an_error(cloud, capsys):
  cloud.answers('describe', '[]')
  assert pod('status') == 1
  assert 'describes r1 without a state' in capsys.readouterr().err


def test_the_flags_of_the_compiler_are_one_variable():
  ((name, value),) = xla_flags.environment().items()
  assert name == 'LIBTPU_INIT_ARGS'
  assert shlex.split(value) == [
    f'--{flag}={to}' for flag, to in xla_flags.TPU_FLAGS.items()
  ]


@pytest.mark.parametrize(
  'accelerator, kib',
  [('v5p-128', 50_000), ('v5litepod-16', 50_000), ('v6e-4x4', 98_304),
   ('v4-8', 0), ('tpu7x-4x4x8', 0), ('', 0)],
)  # fmt: skip
def test_a_chip_has_its_own_share_of_memory_for_a_fusion(accelerator, kib):
  (value,) = xla_flags.environment(accelerator).values()
  found = re.findall(r'xla_tpu_scoped_vmem_limit_kib=(\d+)', value)
  assert found == ([str(kib)] if kib else [])


def test_workers_get_the_jax_and_libtpu_that_were_checked():
  text = (ROOT / 'setup.py').read_text()
  pins = dict(re.findall(r"'(jax\[tpu\]|libtpu)==([\d.]+)'", text))
  assert f'libtpu {pins["libtpu"]},' in xla_flags.__doc__
  # These tests' own, and of the libtpu that it asks for.
  assert pins['jax[tpu]'] == metadata.version('jax')
  (asked,) = (r for r in metadata.requires('jax') if r.startswith('libtpu=='))
  series = re.match(r'libtpu==([\d.]+)\.\*;', asked)[1]
  assert pins['libtpu'].startswith(f'{series}.')


def test_every_slice_type_of_cloud_tpu_has_an_image():
  for kind, image in queued._RUNTIMES.items():
    made = queued.Pod('a', 'my-project', 'us-east5-a', f'{kind}-8')
    assert made.runtime == image
