"""Buckets as folders of the workers, with the stand-ins of `clouds`."""

import shlex
import subprocess

from clouds import HOSTILE, JOB, NEW, pod, until, WHERE
import pytest

from launch import bucket, gke, names


@pytest.mark.parametrize(
  'given, got, buckets',
  [
    (['--workdir=gs://abc/r/1'], ['--workdir=/gcs/abc/r/1'], ['abc']),
    (['-workdir=gs://abc/'], ['-workdir=/gcs/abc/'], ['abc']),
    (['--workdir', 'gs://abc'], ['--workdir', '/gcs/abc'], ['abc']),
    (
      ['--workdir=gs://abc/r', '--init_from=gs://d_e.f/models/Qwen 7B'],
      ['--workdir=/gcs/abc/r', '--init_from=/gcs/d_e.f/models/Qwen 7B'],
      ['abc', 'd_e.f'],
    ),
    (['--config.x=gs://abc/a=b,c'], ['--config.x=/gcs/abc/a=b,c'], ['abc']),
    (
      ["--config.task={'name': 'jsonl', 'path': 'gs://abc/a.jsonl', 'n': 1}"],
      ["--config.task={'name': 'jsonl', 'path': '/gcs/abc/a.jsonl', 'n': 1}"],
      ['abc'],
    ),
    (['gs://abc/x', 'gs://abc/y'], ['/gcs/abc/x', '/gcs/abc/y'], ['abc']),
    # A shell's words in a path are a path's.
    (['--x=gs://abc/$(id);`id`&'], ['--x=/gcs/abc/$(id);`id`&'], ['abc']),
  ],
)
def test_what_a_job_has_on_buckets_becomes_folders(given, got, buckets):
  job = bucket.for_workers(given)
  assert list(job.argv) == got
  assert list(job.buckets) == buckets


def test_compiled_programs_are_kept_where_all_workers_read_them():
  job = bucket.for_workers([*JOB, '--compilation_cache=gs://programs/cache'])
  assert job.argv[-1] == '--compilation_cache=/gcs/programs/cache'
  assert job.buckets == job.written == ('my-bucket', 'programs')


def test_other_words_reach_the_job_as_they_were():
  words = [*HOSTILE, 'python', '-m', '--prompt=what is gs://?', '--a=/gcs/abc',
           'x gs://abc/y', '--', '--workdir=runs/r', 's3://abc/x']  # fmt: skip
  job = bucket.for_workers(words)
  assert list(job.argv) == words
  assert job.buckets == job.written == ()


@pytest.mark.parametrize(
  'name', ['abc', '0ab', 'a-b_c', 'my.bucket.com', 'a' * 63]
)
def test_names_that_buckets_have_are_accepted(name):
  assert bucket.for_workers([f'--x=gs://{name}/r']).buckets == (name,)


# https://cloud.google.com/storage/docs/buckets#naming
@pytest.mark.parametrize(
  'name',
  [
    'goog1', 'my-google', 'g00gle-b', 'Abc', 'ab', 'a' * 64, '10.0.0.1',
    '-ab', 'ab-', f'{"a" * 64}.b', '$(id)', 'a;id', 'a b c', 'abc\n', 'äbc',
    '', '..', '`id`',
  ],
)  # fmt: skip
def test_a_bucket_that_cannot_exist_is_refused(cloud, capsys, name):
  for job in (['x', '--workdir', f'gs://{name}/r'], ['x', f'--y=gs://{name}']):
    assert pod('run', *NEW, job=job) == 2
    said = capsys.readouterr().err
    assert said.startswith(('error: --workdir', 'error: --y'))
    assert '3 to 63' in said and said.count('\n') == 1
  assert gke.main(['gke', 'attach', *CLUSTER, f'--bucket={name}']) == 2
  assert cloud.calls() == []


@pytest.mark.parametrize('path', ['../x', 'a/../b', './a', 'a//b', 'a\nb'])
def test_a_path_that_leaves_its_bucket_is_refused(path):
  with pytest.raises(ValueError, match="--workdir='gs://abc/.*' is not valid"):
    bucket.for_workers([f'--workdir=gs://abc/{path}'])


def test_a_watched_job_needs_its_workdir_on_a_bucket(cloud, capsys):
  for job in (
    ['x', '--workdir=runs/r'],
    ['x'],
    ['x', '--init_from=gs://my-bucket/m', '--workdir=/gs://my-bucket'],
  ):
    assert pod('run', '--watch', *NEW, job=job) == 2
    assert '--workdir=gs://BUCKET' in capsys.readouterr().err
  assert cloud.calls() == []


def test_a_job_starts_once_its_buckets_are_mounted(cloud):
  cloud.states('ACTIVE')
  assert pod('run', job=JOB) == 0
  assert cloud.verbs() == [
    'describe', 'report', 'scp', 'install', 'mount', 'start',
  ]  # fmt: skip
  mount = cloud.calls()[-2]
  assert mount[-3:-1] == ['--node=all', '--worker=all']
  assert 'my-bucket/r1' in cloud.calls()[-1][-1]
  assert 'gs://' not in cloud.calls()[-1][-1]


def test_a_job_without_buckets_mounts_nothing(cloud):
  cloud.states('ACTIVE')
  assert pod('run', job=['python', '--workdir=runs/r']) == 0
  assert 'mount' not in cloud.verbs()


def run(cloud, *job):
  cloud.states('ACTIVE')
  return pod('run', job=['python', '-m', 'grpo_jax.train', *job])


def test_a_bucket_is_mounted_once_with_the_options_that_hosts_need(cloud):
  at = cloud.has_worker()
  for _ in range(2):
    assert run(cloud, '--workdir=gs://my-bucket/r1') == 0
    until((at / 'exit').exists)
  assert cloud.noted('mounts') == [
    '--implicit-dirs --metadata-cache-ttl-secs=0 '
    '--metadata-cache-negative-ttl-secs=0 --kernel-list-cache-ttl-secs=0 '
    f'--rename-dir-limit=1000000 my-bucket {bucket.ROOT}/my-bucket'
  ]
  # Nothing is left of the trial write, and nothing was installed.
  folder = cloud.folder / 'the gcs' / 'my-bucket'
  assert [p.name for p in folder.iterdir()] == ['.mounted']
  assert not any('apt-get' in line for line in cloud.noted('sudo'))


STAT = """#!/bin/sh
test -e {folder}/dead || exit 0
echo "stat: cannot statx '$1': Transport endpoint is not connected" >&2
exit 1
"""


def test_a_mount_that_has_died_is_made_again(cloud):
  cloud.has_worker()
  folder = cloud.folder / 'the gcs' / 'my-bucket'
  cloud.script(cloud.folder / 'bin' / 'stat', STAT)
  script = bucket.mount(bucket.for_workers(JOB))
  for times in (1, 2):
    subprocess.run(['bash', '-c', script], check=True)
    assert len(cloud.noted('mounts')) == times
    umounts = cloud.noted('sudo').count(f'umount --lazy {folder}')
    assert umounts == times - 1
    (folder / '.mounted').unlink()
    (cloud.folder / 'dead').touch()


@pytest.mark.parametrize('version', [None, '2.11.1'])
def test_gcsfuse_is_installed_where_it_is_missing_or_old(cloud, version):
  cloud.has_worker()
  if version is None:
    (cloud.folder / 'bin' / 'gcsfuse').unlink()
  else:
    (cloud.folder / 'version').write_text(version)
  assert run(cloud, '--workdir=gs://my-bucket/r1') == 0
  asked = [line.split()[0] for line in cloud.noted('sudo')]
  assert asked[:4] == [
    'curl', 'tee', 'apt-get', 'DEBIAN_FRONTEND=noninteractive',
  ]  # fmt: skip
  assert len(cloud.noted('mounts')) == 1


def fails(cloud, capsys, *job):
  """The one line that tells why a job was not started."""
  assert run(cloud, *job) == 1
  assert 'start' not in cloud.verbs()
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith('error: ')
  return last


def test_without_a_package_it_says_what_apt_says(cloud, capsys):
  cloud.has_worker()
  (cloud.folder / 'bin' / 'gcsfuse').unlink()
  (cloud.folder / 'gcsfuse').unlink()
  said = fails(cloud, capsys, '--workdir=gs://my-bucket/r1')
  assert 'cannot install gcsfuse: E: no package' in said


def test_a_bucket_that_cannot_be_mounted_is_told_in_one_line(cloud, capsys):
  cloud.has_worker()
  (cloud.folder / 'refuses').touch()
  said = fails(cloud, capsys, '--workdir=gs://my-bucket/r1')
  assert 'cannot mount gs://my-bucket: Error: bucket "b" not found' in said


def test_a_bucket_that_may_not_be_written_is_told_before_the_job(cloud, capsys):
  cloud.has_worker()
  cp = '#!/bin/sh\necho "cp: Permission denied" >&2\nexit 1\n'
  cloud.script(cloud.folder / 'bin' / 'cp', cp)
  said = fails(cloud, capsys, '--workdir=gs://my-bucket/r1')
  assert 'may not write to gs://my-bucket' in said
  assert 'Storage Object Admin' in said and 'cp: Permission denied' in said


def test_a_bucket_that_is_only_read_needs_no_permission_to_write(cloud):
  cloud.has_worker()
  cloud.script(cloud.folder / 'bin' / 'cp', '#!/bin/sh\nexit 1\n')
  assert run(cloud, '--init_from=gs://my-models/Qwen', '--workdir=r') == 0
  assert cloud.noted('mounts')[0].endswith('my-models')


CLUSTER = ['--cluster=c1', *WHERE]


def test_a_bucket_is_attached_to_a_cluster_once(cloud, capsys):
  argv = ['gke', 'attach', *CLUSTER, '--bucket=my_bucket.b']
  assert gke.main([*argv, '--dry_run']) == 0
  printed = shlex.split(capsys.readouterr().out)
  assert gke.main(argv) == 0
  (call,) = cloud.calls()
  assert call == printed
  assert call[:4] == ['xpk', 'storage', 'attach', bucket.storage('my_bucket.b')]
  assert call[4:] == [
    *CLUSTER, '--type=gcsfuse', '--bucket=my_bucket.b',
    f'--mount-point={bucket.ROOT}/my_bucket.b', '--readonly=false',
    '--auto-mount=false', '--size=1',
    '--mount-options=implicit-dirs,metadata-cache:ttl-secs:0,'
    'metadata-cache:negative-ttl-secs:0,'
    'file-system:kernel-list-cache-ttl-secs:0,'
    'file-system:rename-dir-limit:1000000',
  ]  # fmt: skip


def test_a_workload_has_the_storages_of_all_its_buckets(cloud):
  argv = ['gke', 'create', *CLUSTER, '--workload=w1', '--tpu_type=v5p-8']
  job = [*JOB, '--init_from=gs://my-models/Qwen']
  assert gke.main([*argv, '--image=a/b:1', '--', *job]) == 0
  (call,) = cloud.calls()
  assert [a for a in call if a.startswith('--storage')] == [
    f'--storage={bucket.storage(name)}' for name in ('my-bucket', 'my-models')
  ]
  assert 'gs://' not in call[-1] and 'my-models/Qwen' in call[-1]


def test_storages_have_names_that_kubernetes_takes_and_keeps_apart():
  buckets = ['abc', '0b_c', 'a.b.c', 'a-b-c', 'a' * 63, f'{"a" * 62}b']
  found = [bucket.storage(name) for name in buckets]
  for name in found:
    assert names.checked('workload', name) == name
  assert len(set(found)) == len(buckets)
