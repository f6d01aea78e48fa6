"""A job on a pod of Cloud TPU VMs, from a laptop, in one command.

  python -m launch.tpu_pod COMMAND --name=POD --project=PROJECT --zone=ZONE

  create  asks for the pod (--accelerator_type, --spot, --slices)
  setup   waits for it, ships the code, installs it on all workers
  run     both, then starts the job on all workers: run ... -- python -m JOB ...
  status  of the pod, and of the job on each worker
  logs    follows the log of worker 0, or --worker=all; --out=DIR saves them all
  stop    SIGTERM to the job, which saves and leaves; waits for it
  delete  the pod and its disks; what is on the bucket stays

What follows -- is the job's own. Where it names gs://BUCKET/PATH, the bucket is
mounted on all workers and the job is given /gcs/BUCKET/PATH; all else reaches
it as it is. The job goes on when this command ends. `run --watch` stays: when
the pod is preempted it makes it again and runs the same command, which resumes
from its workdir on the bucket. launch/README.md goes through it step by step.
--dry_run prints the commands, as of a pod that is not there yet, and runs none.
"""

import pathlib
import sys
import time

if not __package__:
  # As `python launch/tpu_pod.py`, where this folder is first on the path.
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from absl import flags  # noqa: E402

from launch import (  # noqa: E402
  bucket,
  names,
  queued,
  shell,
  ship,
  worker,
  xla_flags,
)

_GONE = -1  # of a machine that rebooted, there is no status
_SIGTERM, _SIGABRT = 128 + 15, 128 + 6  # the former made a job save
# Where nothing else is told, nobody failed by itself. JAX aborts too where
# another process is gone.
_INTERRUPTED = {_GONE, _SIGTERM, _SIGABRT, worker.LOST}
_STEADY = 1800.0  # seconds after which an attempt was no failure to start
_MISSED = 5  # polls in a row until machines that do not answer are gone

# Of its own: the job's flags and those of other launchers stay out of it.
FLAGS = flags.FlagValues()
_OURS = dict(flag_values=FLAGS)
flags.DEFINE_string('name', '', 'Of the pod.', **_OURS)
flags.DEFINE_string('project', '', 'Google Cloud project ID.', **_OURS)
flags.DEFINE_string('zone', '', 'Such as us-east5-a.', **_OURS)
flags.DEFINE_string('accelerator_type', '', 'Such as v5p-128.', **_OURS)
flags.DEFINE_string(
  'runtime_version', '', "Image of the machines. Default: the type's.", **_OURS
)
flags.DEFINE_integer('slices', 1, 'Slices, joined over the network.', **_OURS)
flags.DEFINE_bool('spot', False, 'Cheaper, and may be preempted.', **_OURS)
flags.DEFINE_multi_string(
  'create_option',
  [],
  'One more option of `gcloud compute tpus queued-resources create`, as in '
  '--create_option=--service-account=NAME; repeat for others.',
  **_OURS,
)
flags.DEFINE_bool('iap', False, 'ssh for pods without external IPs.', **_OURS)
flags.DEFINE_string('extras', 'tpu', 'Of setup.py, with commas.', **_OURS)
flags.DEFINE_bool(
  'watch', False, 'run: stay, and start again after preemptions.', **_OURS
)
flags.DEFINE_bool(
  'delete_after', False, 'run --watch: delete the pod of a job done.', **_OURS
)
flags.DEFINE_integer('retries', 20, 'Starts after the first.', **_OURS)
flags.DEFINE_float('retry_seconds', 30, 'First wait; then doubled.', **_OURS)
flags.DEFINE_float('poll_seconds', 30, 'Between two looks.', **_OURS)
flags.DEFINE_float('wait_hours', 24, 'For the pod to be there.', **_OURS)
flags.DEFINE_float(
  'stop_minutes', 60, 'For the job to end its step and save.', **_OURS
)
flags.DEFINE_string('worker', '0', 'logs: a number or all.', **_OURS)
flags.DEFINE_integer('lines', 100, 'logs: lines of the past.', **_OURS)
flags.DEFINE_string('out', '', 'logs, run --watch: folder to save.', **_OURS)
flags.DEFINE_bool('dry_run', False, 'Print the commands only.', **_OURS)


def create(sh, pod, job):
  """Asks for the pod."""
  queued.create(sh, pod)
  sh.say(f'{pod.name} is in the queue; `status` tells when it is ACTIVE')


def setup(sh, pod, job):
  """Makes the pod ready for a job."""
  _ensure(sh, pod)
  _install(sh, pod)


def run(sh, pod, job):
  """Starts the job, and stays with it if asked to."""
  job = bucket.for_workers(job, restarts='--watch' if FLAGS.watch else '')
  if not FLAGS.watch:
    _launch(sh, pod, job, is_new=_ensure(sh, pod))
    sh.say(f'the job runs on {pod.name}; `logs` follows it, `stop` ends it')
    return
  try:
    _watch(sh, pod, job)
  except KeyboardInterrupt:
    sh.say(
      f'stopped watching; what runs on {pod.name} goes on. The same command '
      'watches it again; `stop` ends the job, `delete` the pod'
    )
    raise


def status(sh, pod, job):
  """Prints the state of the pod and of the job on each worker."""
  now = queued.state(sh, pod, dry=queued.ACTIVE)
  if not sh.dry_run:
    print(f'{pod.name}: {now}')
  if now.name == queued.ACTIVE:
    reports = _reports(sh, pod)
    for one in [] if sh.dry_run else reports:
      code = '' if one.code < 0 else f' {one.code}'
      print(f'{one.host}: {one.state}{code}')


def logs(sh, pod, job):
  """Follows a log until Ctrl-C, or saves all."""
  if FLAGS.out:
    _save(sh, pod)
    return
  which = names.checked('worker', FLAGS.worker)
  script = worker.follow(lines=FLAGS.lines, named=which == 'all')
  if which != 'all':
    queued.ssh(sh, pod, script, node='0', worker=which)
    return
  try:
    workers = len(_reports(sh, pod))
  except shell.Failed as error:
    if error.kind != 'network':
      raise
    sh.say(f'{error}; following those that gcloud reaches, 64 at most')
    workers = 0
  queued.ssh_at_once(sh, pod, script, workers=workers)


def stop(sh, pod, job):
  """Makes the job save and leave."""
  queued.ssh(sh, pod, worker.terminate())
  deadline = time.monotonic() + FLAGS.stop_minutes * 60
  while True:
    reports = _reports(sh, pod)
    running = [one.host for one in reports if one.state == 'running']
    if not running:
      break
    if time.monotonic() > deadline:
      raise shell.Failed(
        f'the job still runs on {len(running)} of {len(reports)} workers '
        f'{FLAGS.stop_minutes:g} minutes after SIGTERM ('
        f'{", ".join(running[:3])}): look at `logs --worker=all`; `delete` '
        'ends the machines, unsaved steps are lost'
      )
    sh.sleep(FLAGS.poll_seconds)
  ended = {f'{one.state} {one.code}' for one in reports}
  sh.say(f'no job runs on {pod.name} ({", ".join(sorted(ended))})')


def delete(sh, pod, job):
  """Deletes the pod."""
  queued.delete(sh, pod)


COMMANDS = {
  f.__name__: f for f in (create, setup, run, status, logs, stop, delete)
}


def main(argv: list[str]) -> int:
  """Runs one command; returns its exit status."""
  return shell.main(argv, run=_run, usage=f'{__doc__}{FLAGS.get_help()}')


def _run(argv):
  command, job = shell.parse(FLAGS, argv, commands=COMMANDS, with_job='run')
  pod = queued.Pod(
    name=FLAGS.name,
    project=FLAGS.project,
    zone=FLAGS.zone,
    accelerator_type=FLAGS.accelerator_type,
    runtime_version=FLAGS.runtime_version,
    slices=FLAGS.slices,
    spot=FLAGS.spot,
    options=tuple(FLAGS.create_option),
    iap=FLAGS.iap,
    retries=FLAGS.retries,
    retry_seconds=FLAGS.retry_seconds,
  )
  names.checked('extras', FLAGS.extras)
  sh = shell.Shell(FLAGS.dry_run, dict(project=pod.project, zone=pod.zone))
  command(sh, pod, job)


def _ensure(sh, pod):
  return queued.ensure(
    sh,
    pod,
    poll_seconds=FLAGS.poll_seconds,
    wait_seconds=FLAGS.wait_hours * 3600,
  )


def _install(sh, pod):
  path = ship.archive(sh)
  queued.copy(sh, pod, path)
  queued.ssh(sh, pod, worker.install(path.name, extras=FLAGS.extras))


def _launch(sh, pod, job, *, is_new):
  """Starts the job, unless this very command runs there already."""
  if not is_new:
    running = {r.job for r in _reports(sh, pod) if r.state == 'running'}
    if running == {worker.identity(job.argv)}:
      sh.say(f'this job runs on {pod.name} already')
      return
  _install(sh, pod)
  if job.buckets:
    queued.ssh(sh, pod, bucket.mount(job))
  environment = xla_flags.environment(pod.accelerator_type)
  start = worker.start(job.argv, environment=environment)
  queued.ssh(sh, pod, start)


def _watch(sh, pod, job):
  """Starts the job and stays until it ends, over preemptions."""
  anew, attempt = False, 0
  while True:
    begun = time.monotonic()
    try:
      if anew:
        queued.bury(sh, pod)
        anew = False
      is_new = _ensure(sh, pod)
      _launch(sh, pod, job, is_new=is_new)
      sh.say(f'watching {pod.name}; Ctrl-C stops watching, not the job')
      _until_end(sh, pod)
      return
    except shell.Failed as error:
      if not error.passing:
        raise
      if time.monotonic() - begun > _STEADY:
        attempt = 0
      if attempt == FLAGS.retries:
        raise shell.Failed(
          f'gave up after {FLAGS.retries} retries: {error}'
        ) from None
      wait = shell.waiting(attempt, seconds=FLAGS.retry_seconds)
      sh.say(f'{error}; starting again in {wait:g} s')
      sh.sleep(wait)
      attempt += 1
      # Burying it may fail too, and is tried until done.
      anew = anew or error.kind == 'preempted'


def _until_end(sh, pod):
  """Returns when the job is done; `shell.Failed` for every other end."""
  expected = missed = 0
  while True:
    sh.sleep(FLAGS.poll_seconds)
    queued.alive(sh, pod)
    try:
      reports = _reports(sh, pod)
    except shell.Failed as error:
      if error.kind != 'network':
        raise
      # gcloud fails as a whole where one of many does not answer.
      reports = worker.parse(error.printed)
    expected = max(expected, len(reports), 1)
    missed = missed + 1 if len(reports) < expected else 0
    if missed == _MISSED:
      # Where none does, it is as well this machine's own way to them.
      raise shell.Failed(
        f'{len(reports)} of {expected} workers of {pod.name} answer, and '
        f'Google calls it {queued.ACTIVE}',
        'preempted' if reports else 'network',
      )
    if not missed and not any(one.state == 'running' for one in reports):
      _judge(sh, pod, reports)
      return


def _judge(sh, pod, reports):
  """What it means that the job runs nowhere any more."""
  # A preemption ends the job before the pod says so.
  queued.alive(sh, pod)
  if any(one.state == 'stopped' for one in reports):
    raise shell.Failed(f'the job on {pod.name} was stopped by `stop`')
  codes = {one.code for one in reports if one.code}
  # Maintenance reboots machines and leaves the pod; whatever the others end
  # with is of that.
  if codes & {_GONE, _SIGTERM} or codes and codes <= _INTERRUPTED:
    told = ', '.join(
      'lost' if c == _GONE else f'exit {c}' for c in sorted(codes)
    )
    raise shell.Failed(
      f'the job on {pod.name} was interrupted ({told})', 'interrupted'
    )
  try:
    saved = _save(sh, pod)
  except shell.Failed as error:
    # The job has ended all the same, and is not to be started again.
    sh.say(f'{error}; the logs are not saved')
    saved = ''
  failed = [one for one in reports if one.code]
  if failed:
    # The others ended because of it.
    failed.sort(key=lambda one: one.code in _INTERRUPTED)
    raise shell.Failed(
      f'the job ended with {failed[0].code} on {failed[0].host} and '
      f'{len(failed) - 1} other workers: see {saved or "`logs`"}'
    )
  if FLAGS.delete_after and saved:
    queued.delete(sh, pod)
  else:
    sh.say(f'the job is done; {pod.name} still costs: `delete` it')


def _reports(sh, pod):
  """How the job is on every worker that answers."""
  dry = 'worker dry-run exit 0 -'
  return worker.parse(queued.ask(sh, pod, worker.report(), dry=dry))


def _save(sh, pod):
  """Saves all logs to --out, or to runs/pods/NAME; the folder."""
  folder = pathlib.Path(FLAGS.out or f'runs/pods/{pod.name}')
  paths = queued.save_logs(sh, pod, worker.whole_log(), folder)
  if paths:
    sh.say(f'{len(paths)} logs are in {folder}')
  return folder


if __name__ == '__main__':
  sys.exit(main(sys.argv))
