"""A job on TPU slices of a GKE cluster, submitted by xpk.

  python -m launch.gke COMMAND --cluster=CLUSTER --workload=NAME
    --project=PROJECT --zone=ZONE

  attach  mounts a bucket in the cluster's jobs, once: attach --bucket=BUCKET
  create  submits the job: create ... --tpu_type=v5p-128 -- python -m JOB ...
  status  of the workload
  logs    follows worker 0 of slice 0, or --worker=all
  delete  the workload: SIGTERM to the job, which saves and leaves

By default xpk builds an image of the code that git tracks on --base_image and
each container installs it; with --image, that image runs, with grpo_jax in it.
Where the job names gs://BUCKET/PATH, its containers have the bucket at
/gcs/BUCKET, by GKE's CSI driver for Cloud Storage FUSE, and it is given
/gcs/BUCKET/PATH; `attach` the bucket before.

A job that SIGTERM made save ends with 143, one whose other processes are gone
with 75: xpk starts it again, up to --max_restarts times, and it resumes from
its workdir on the bucket.
"""

import pathlib
import sys

if not __package__:
  # As `python launch/gke.py`, where this folder is first on the path.
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from absl import flags  # noqa: E402

from launch import bucket, names, shell, ship, worker, xla_flags  # noqa: E402

# Of its own: the job's flags and those of other launchers stay out of it.
FLAGS = flags.FlagValues()
_OURS = dict(flag_values=FLAGS)
flags.DEFINE_string('cluster', '', 'GKE cluster, made by xpk.', **_OURS)
flags.DEFINE_string('workload', '', 'Name of the job on it.', **_OURS)
flags.DEFINE_string('project', '', 'Google Cloud project ID.', **_OURS)
flags.DEFINE_string('zone', '', 'Of its TPUs, such as us-east5-a.', **_OURS)
flags.DEFINE_string(
  'location', '', "Of the cluster. Default: the zone's region.", **_OURS
)
flags.DEFINE_string('bucket', '', 'attach: its name, no gs://.', **_OURS)
flags.DEFINE_string('tpu_type', '', 'Of a slice, such as v5p-128.', **_OURS)
flags.DEFINE_integer('slices', 1, 'Slices, joined over the network.', **_OURS)
flags.DEFINE_string(
  'base_image', 'python:3.12', 'Image the code is put on.', **_OURS
)
flags.DEFINE_string('image', '', 'Image with the code in it.', **_OURS)
flags.DEFINE_string('extras', 'tpu', 'Of setup.py, with commas.', **_OURS)
flags.DEFINE_integer('max_restarts', 20, 'After preemptions.', **_OURS)
flags.DEFINE_integer(
  'save_seconds',
  3600,
  'From SIGTERM to SIGKILL; a job saves once its step is done.',
  **_OURS,
)
flags.DEFINE_enum(
  'priority',
  'medium',
  ['very-low', 'low', 'medium', 'high', 'very-high'],
  'In the queue of the cluster.',
  **_OURS,
)
flags.DEFINE_bool(
  'unless_there',
  False,
  'create: not again where it waits, runs or has succeeded; where it failed, '
  'in its place.',
  **_OURS,
)
flags.DEFINE_string('worker', '0', 'logs: 0 or all.', **_OURS)
flags.DEFINE_bool('dry_run', False, 'Print the commands only.', **_OURS)


def attach(sh, job):
  """Lets the cluster's jobs mount a bucket."""
  names.checked('bucket', FLAGS.bucket)
  sh.run(
    [
      'xpk',
      'storage',
      'attach',
      bucket.storage(FLAGS.bucket),
      *_where(),
      '--type=gcsfuse',
      f'--bucket={FLAGS.bucket}',
      f'--mount-point={bucket.ROOT}/{FLAGS.bucket}',
      '--readonly=false',
      '--auto-mount=false',
      '--size=1',  # asked for and without meaning: buckets have no size
      f'--mount-options={bucket.driver_options()}',
    ]
  )
  sh.say(f'jobs on {FLAGS.cluster} may now name gs://{FLAGS.bucket}/...')


def create(sh, job):
  """Submits the job."""
  again = FLAGS.max_restarts
  restarts = f'--max_restarts={again} (0 for none)' if again else ''
  job = bucket.for_workers(job, restarts=restarts)
  names.checked('accelerator_type', FLAGS.tpu_type, flag='tpu_type')
  for flag in ('slices', 'save_seconds'):
    if FLAGS[flag].value < 1:
      raise ValueError(f'--{flag}={FLAGS[flag].value} is not positive')
  if FLAGS.max_restarts < 0:
    raise ValueError(f'--max_restarts={FLAGS.max_restarts} is negative')
  if FLAGS.unless_there and (listed := _listed(sh)):
    if 'failed' not in listed.lower():
      sh.say(f'not submitted again: {listed}')
      return
    delete(sh, job)
  command = _command(job.argv, install=not FLAGS.image)
  if FLAGS.image:
    names.checked('image', FLAGS.image)
    code = [f'--docker-image={FLAGS.image}']
  else:
    names.checked('image', FLAGS.base_image, flag='base_image')
    code = [
      f'--base-docker-image={FLAGS.base_image}',
      f'--script-dir={ship.folder(sh)}',
    ]
  sh.run(
    [
      *_xpk('create'),
      f'--workload={FLAGS.workload}',
      f'--tpu-type={FLAGS.tpu_type}',
      f'--num-slices={FLAGS.slices}',
      *code,
      *(f'--storage={bucket.storage(name)}' for name in job.buckets),
      f'--priority={FLAGS.priority}',
      f'--max-restarts={FLAGS.max_restarts}',
      # Besides 42 and 127 to 255; any other ends the workload for good.
      f'--restart-on-exit-codes={worker.LOST}',
      f'--termination-grace-period-seconds={FLAGS.save_seconds}',
      f'--command={command}',
    ]
  )
  sh.say(f'{FLAGS.workload} is submitted; `logs` follows it')


def status(sh, job):
  """Prints the workload's line of xpk's list."""
  sh.run([*_xpk('list'), f'--filter-by-job={FLAGS.workload}'])


def logs(sh, job):
  """Follows the log until Ctrl-C."""
  if FLAGS.worker not in ('0', 'all'):
    raise ValueError(f'--worker={FLAGS.worker!r} is neither 0 nor all')
  location = FLAGS.location or FLAGS.zone.rpartition('-')[0]
  names.checked('location', location)
  labels = {'jobset-name': FLAGS.workload}
  if FLAGS.worker == '0':
    labels |= {'job-index': '0'}
  selected = [f'jobset.sigs.k8s.io/{k}={v}' for k, v in labels.items()]
  if FLAGS.worker == '0':
    selected.append('batch.kubernetes.io/job-completion-index=0')
  sh.run(
    [
      'gcloud', 'container', 'clusters', 'get-credentials', FLAGS.cluster,
      f'--project={FLAGS.project}', f'--location={location}', '--quiet',
    ]
  )  # fmt: skip
  sh.run(
    [
      'kubectl', 'logs', f'--selector={",".join(selected)}', '--follow',
      '--tail=100', '--prefix', '--max-log-requests=1000',
    ]
  )  # fmt: skip


def delete(sh, job):
  """Deletes the workload."""
  sh.run([*_xpk('delete'), f'--workload={FLAGS.workload}', '--force'])


COMMANDS = {f.__name__: f for f in (attach, create, status, logs, delete)}


def main(argv: list[str]) -> int:
  """Runs one command; returns its exit status."""
  return shell.main(argv, run=_run, usage=f'{__doc__}{FLAGS.get_help()}')


def _run(argv):
  command, job = shell.parse(FLAGS, argv, commands=COMMANDS, with_job='create')
  # xpk deletes all workloads of a cluster when none is named.
  named = () if command is attach else ('workload',)
  for kind in ('cluster', *named, 'project', 'zone'):
    names.checked(kind, FLAGS[kind].value)
  names.checked('extras', FLAGS.extras)
  facts = dict(project=FLAGS.project, zone=FLAGS.zone)
  command(shell.Shell(FLAGS.dry_run, facts), job)


def _listed(sh):
  """The workload's line of xpk's list, '' where there is none."""
  # A pattern to xpk, so longer names are listed too.
  lines = sh.ask([*_xpk('list'), f'--filter-by-job={FLAGS.workload}'], dry='')
  rows = (text for text in lines.splitlines() if text.split())
  return next((x for x in rows if x.split()[0] == FLAGS.workload), '')


def _xpk(verb):
  return ['xpk', 'workload', verb, *_where()]


def _where():
  return [
    f'--cluster={FLAGS.cluster}', f'--project={FLAGS.project}',
    f'--zone={FLAGS.zone}',
  ]  # fmt: skip


def _command(job, *, install):
  """For the bash of a container. exec: SIGTERM must reach the job itself."""
  exports = ' '.join(
    f'{name}={shell.quote_strictly(value)}'
    for name, value in xla_flags.environment(FLAGS.tpu_type).items()
  )
  words = ' '.join(shell.quote_strictly(argument) for argument in job)
  steps = [f'export PYTHONUNBUFFERED=1 {exports}', f'exec {words}']
  if install:
    what = shell.quote_strictly(f'.[{FLAGS.extras}]')
    steps.insert(0, f'python -m pip install --quiet -e {what}')
  return ' && '.join(steps)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
