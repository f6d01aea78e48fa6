"""A pod of Cloud TPU VMs: a queued resource, by the gcloud CLI.

A queued resource is a request that waits until there are machines for it. One
slice is one node of it; every node has workers (hosts), on which commands run
over ssh, all at once. A preempted one stays as SUSPENDED and has to be made
anew.
"""

import dataclasses
import json
import pathlib
import re
import time

from launch import names, shell

# https://cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
  'v6e': 'v2-alpha-tpuv6e',
  'v5p': 'v2-alpha-tpuv5',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v4': 'tpu-ubuntu2204-base',
  'v3': 'tpu-ubuntu2204-base',
  'v2': 'tpu-ubuntu2204-base',
}
ACTIVE, NONE = 'ACTIVE', 'NONE'
# States that end by themselves, and those that only a new request ends.
_PASSING = (
  'CREATING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING',
  'SUSPENDING', 'DELETING', 'STATE_UNSPECIFIED',
)  # fmt: skip
_DEAD = ('FAILED', 'SUSPENDED', 'PREEMPTED')
# Workers that gcloud's ssh serves at once, at most, whatever --batch-size says;
# it waits for these to end before the next.
_BATCH = 64
_HOST = re.compile(r'[A-Za-z0-9][\w.-]*', re.ASCII)


@dataclasses.dataclass(frozen=True)
class Pod:
  """Which pod; what follows `zone` is needed to create it."""

  name: str
  project: str
  zone: str
  accelerator_type: str = ''
  runtime_version: str = ''
  slices: int = 1
  spot: bool = False
  options: tuple[str, ...] = ()  # more of `queued-resources create`
  iap: bool = False  # ssh through Identity-Aware Proxy
  retries: int = 0  # of asking for the state, without a connection
  retry_seconds: float = 0.0  # first wait; then doubled

  def __post_init__(self):
    names.checked('pod', self.name, flag='name')
    names.checked('project', self.project)
    names.checked('zone', self.zone)
    for option in self.options:
      names.checked('option', option, flag='create_option')
    if self.accelerator_type:
      _ = self.runtime
    if self.slices < 1:
      raise ValueError(f'--slices={self.slices} is not positive')

  @property
  def runtime(self) -> str:
    """The image of the machines: the one for this type, if none was named."""
    kind = names.checked('accelerator_type', self.accelerator_type)
    kind = kind.partition('-')[0]
    if kind.startswith('tpu'):
      raise ValueError(
        f'{kind} is not offered as Cloud TPU VMs: use launch.gke, or a '
        f'--accelerator_type of {", ".join(_RUNTIMES)}'
      )
    if not self.runtime_version and kind not in _RUNTIMES:
      raise ValueError(
        f'no image is known for {kind}: name one by --runtime_version, from '
        'https://cloud.google.com/tpu/docs/runtimes'
      )
    version = self.runtime_version or _RUNTIMES[kind]
    return names.checked('runtime_version', version)


@dataclasses.dataclass(frozen=True)
class State:
  """Of a queued resource, with Google's reason for a failure."""

  name: str
  why: str = ''

  def __str__(self):
    return f'{self.name} ({self.why})' if self.why else self.name


def create(sh: shell.Shell, pod: Pod) -> None:
  """Asks for the pod; returns when the request is in the queue."""
  nodes = [f'--node-id={pod.name}']
  if pod.slices > 1:
    nodes = [f'--node-count={pod.slices}', f'--node-prefix={pod.name}']
  sh.run(
    [
      *_gcloud(pod, 'create', pod.name),
      *nodes,
      f'--accelerator-type={pod.accelerator_type}',
      f'--runtime-version={pod.runtime}',
      *(['--spot'] if pod.spot else []),
      *pod.options,
    ]
  )


def delete(sh: shell.Shell, pod: Pod) -> None:
  """Deletes the request and its machines, and waits until they are gone."""
  sh.run([*_gcloud(pod, 'delete', pod.name), '--force'])


def state(sh: shell.Shell, pod: Pod, *, dry: str) -> State:
  """How the request is now; `dry` in a dry run. NONE: there is no such one."""
  answer = json.dumps({'state': {'state': dry}})
  try:
    text = _describe(sh, pod, dry=answer)
  except shell.Failed as error:
    if error.kind != 'missing':
      raise
    return State(NONE)
  try:
    found = json.loads(text)['state']
    why = found.get('failedData', {}).get('error', {}).get('message', '')
    return State(found['state'], ' '.join(why.split()))
  except (ValueError, KeyError, AttributeError, TypeError):
    raise shell.Failed(
      f'gcloud describes {pod.name} without a state: {text.strip()[:80]!r}'
    ) from None


def ensure(
  sh: shell.Shell,
  pod: Pod,
  *,
  poll_seconds: float,
  wait_seconds: float,
) -> bool:
  """Returns when the pod is ACTIVE; whether it was created for this.

  A dead one is deleted first. Raises `shell.Failed` when the request failed, or
  waits for more than `wait_seconds`; it then stays in the queue.
  """
  last, deadline = '', time.monotonic() + wait_seconds
  created = False
  while True:
    now = state(sh, pod, dry=ACTIVE if created else NONE)
    if now.name == ACTIVE:
      return created
    if created and now.name in _DEAD:
      raise _dead(pod, now)
    if created and now.name == NONE:
      raise shell.Failed(f'{pod.name} was deleted while it was waited for')
    if now.name in (NONE, *_DEAD):
      if now.name != NONE:
        sh.say(f'{pod.name} is {now}: deleting it')
        delete(sh, pod)
      create(sh, pod)
      created = True
      continue
    if now.name not in _PASSING:
      raise shell.Failed(f'{pod.name} is {now}, which is no state known here')
    if now.name != last:
      sh.say(f'{pod.name} is {now}; waiting for it to be {ACTIVE}')
      last = now.name
    if time.monotonic() > deadline:
      raise shell.Failed(
        f'{pod.name} is {now} after {wait_seconds:g} s: the request stays in '
        'the queue; run this again to wait on, or `delete` it and try another '
        '--zone'
      )
    sh.sleep(poll_seconds)


def bury(sh: shell.Shell, pod: Pod) -> None:
  """Deletes a pod whose machines are gone, though it is still called ACTIVE.

  One that is called dead, or soon will be, is for `ensure`.
  """
  if state(sh, pod, dry=NONE).name == ACTIVE:
    sh.say(f'{pod.name} is {ACTIVE} without its machines: deleting it')
    delete(sh, pod)


def alive(sh: shell.Shell, pod: Pod) -> None:
  """Raises `shell.Failed` unless the pod is ACTIVE."""
  now = state(sh, pod, dry=ACTIVE)
  if now.name == NONE:
    raise shell.Failed(
      f'there is no pod {pod.name} in {pod.zone} of {pod.project}: it was '
      'deleted, or never created'
    )
  if now.name != ACTIVE:
    raise shell.Failed(f'{pod.name} is {now}, not {ACTIVE}', 'preempted')


def ssh(
  sh: shell.Shell,
  pod: Pod,
  script: str,
  *,
  node: str = 'all',
  worker: str = 'all',
  options: tuple[str, ...] = (),
  output=None,
) -> None:
  """Runs a script on the workers; its output goes to ours or to a file."""
  sh.run(_ssh(pod, script, node, worker, options), output=output)


def ssh_at_once(
  sh: shell.Shell, pod: Pod, script: str, *, workers: int
) -> None:
  """Runs a script that does not end on all of so many workers."""
  parts = [('all', 'all')]
  if workers > _BATCH:
    nodes = _nodes(sh, pod)
    parts = [
      (str(node), part)
      for node in range(nodes)
      for part in _ranges(-(-workers // nodes))
    ]
  options = (f'--batch-size={_BATCH}',)
  sh.run_together(
    [_ssh(pod, script, node, part, options) for node, part in parts]
  )


def ask(sh: shell.Shell, pod: Pod, script: str, *, dry: str) -> str:
  """What a script prints on all workers."""
  return sh.ask(_ssh(pod, script, 'all', 'all', ()), dry=dry)


def copy(sh: shell.Shell, pod: Pod, path: pathlib.Path) -> None:
  """Copies a file to the home folder of every worker."""
  sh.run(
    [
      *_gcloud(pod, 'scp', str(path), f'{pod.name}:{path.name}'),
      '--node=all',
      '--worker=all',
      *_tunnel(pod),
    ]
  )


def save_logs(
  sh: shell.Shell, pod: Pod, script: str, folder: pathlib.Path
) -> list[pathlib.Path]:
  """Writes HOST.log for every worker; the script prints host, tab, line."""
  # One worker after the other: at once, their lines would break each other.
  options = ('--batch-size=1',)
  if sh.dry_run:
    ssh(sh, pod, script, options=options)
    return []
  folder.mkdir(parents=True, exist_ok=True)
  together = folder / 'logs.partial'
  with together.open('w', encoding='utf-8') as file:
    ssh(sh, pod, script, options=options, output=file)
  files = {}
  try:
    with together.open(encoding='utf-8', errors='replace') as lines:
      for text in lines:
        host, tab, text = text.partition('\t')
        if not tab or not _HOST.fullmatch(host):
          continue
        if host not in files:
          files[host] = (folder / f'{host}.log').open('w', encoding='utf-8')
        files[host].write(text)
  finally:
    for file in files.values():
      file.close()
    together.unlink()
  return [folder / f'{host}.log' for host in sorted(files)]


def _describe(sh, pod, *, dry):
  return sh.ask(
    [*_gcloud(pod, 'describe', pod.name), '--format=json'],
    dry=dry,
    retries=pod.retries,
    retry_seconds=pod.retry_seconds,
  )


def _nodes(sh, pod):
  """Slices of the pod; those that --slices says where Google does not."""
  try:
    return len(json.loads(_describe(sh, pod, dry='{}'))['tpu']['nodeSpec'])
  except (ValueError, KeyError, TypeError):
    return pod.slices


def _ranges(workers):
  """Those of a node as gcloud reads them, no more than it serves at once."""
  for first in range(0, workers, _BATCH):
    last = min(first + _BATCH, workers) - 1
    # A range of one is an error to it.
    yield f'{first}-{last}' if first < last else f'{first}'


def _dead(pod, now):
  why = now.why.lower()
  if 'quota' in why:
    kind, remedy = 'quota', 'ask for more quota or take a smaller type'
  elif now.name == 'FAILED':
    kind, remedy = 'stockout', 'try another --zone or `run --watch`'
  else:
    kind, remedy = 'preempted', '`run --watch` creates it again'
  return shell.Failed(f'{pod.name} is {now}: {remedy}', kind)


def _gcloud(pod, verb, *words):
  return [
    'gcloud', 'compute', 'tpus', 'queued-resources', verb, *words,
    f'--project={pod.project}', f'--zone={pod.zone}', '--quiet',
  ]  # fmt: skip


def _ssh(pod, script, node, worker, options):
  return [
    *_gcloud(pod, 'ssh', pod.name),
    f'--node={node}',
    f'--worker={worker}',
    *_tunnel(pod),
    *options,
    f'--command={script}',
  ]


def _tunnel(pod):
  return ['--tunnel-through-iap'] if pod.iap else []
