"""What a run writes down and shows while it runs (host side, stage 9).

`Writer` keeps `metrics.jsonl`, `samples.jsonl` and TensorBoard's files in the
workdir; one process makes one. `Timers` and `memory` produce metrics,
`NonFinite` stops a run that has diverged, `Progress` is the bar.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
import contextlib
import json
import math
import os
import pathlib
import resource
import sys
import time
from typing import Any

import jax
from tqdm import tqdm

from grpo_jax import event_files

METRICS, SAMPLES, TENSORBOARD = 'metrics.jsonl', 'samples.jsonl', 'tensorboard'


class Writer:
  """Appends to a run's files; what it has returned from, a kill leaves."""

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    tensorboard: bool = True,
    resume_step: int | None = None,
  ):
    """Opens the files, mending what a killed process left.

    Args:
      workdir: the run's folder, created if need be.
      tensorboard: also write TensorBoard scalars.
      resume_step: the step that training continues from. Rows of later steps
        are dropped, as they will be written again. None keeps every row. A
        last line that was cut off is dropped either way.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._files = {}
    for name in (METRICS, SAMPLES):
      _mend(workdir / name, resume_step)
      self._files[name] = _open(workdir / name)
    self._tensorboard = None
    if tensorboard:
      folder = workdir / TENSORBOARD
      self._tensorboard = event_files.EventFiles(folder, resume_step)

  def write(self, step: int, values: Mapping[str, Any]):
    """One row of scalars; NaN and infinities are told by their names."""
    values = {k: float(v) for k, v in values.items()}
    self._append(METRICS, [{'step': int(step), **values}])
    if self._tensorboard is not None:
      self._tensorboard.write(int(step), values)

  def samples(self, step: int, rows: Iterable[Mapping[str, Any]]):
    """Sampled completions: prompt, completion, rewards, ... a row each."""
    self._append(SAMPLES, [{'step': int(step), **row} for row in rows])

  def commit(self):
    """Keeps what is written so far even if this machine is lost."""
    # A file on a mounted bucket is in the bucket once it is closed, not before.
    for name, file in self._files.items():
      file.close()
      self._files[name] = _open(file.name)
    if self._tensorboard is not None:
      self._tensorboard.commit()

  def close(self):
    """Flushes and closes."""
    for file in self._files.values():
      file.close()
    if self._tensorboard is not None:
      self._tensorboard.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _append(self, name, rows):
    lines = (
      json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + '\n'
      for row in rows
    )
    # A lone surrogate, as byte tokens may decode to, cannot be encoded; as
    # \udXXX it is JSON for the same string.
    data = ''.join(lines).encode('utf-8', 'backslashreplace')
    file = self._files[name]
    end = file.seek(0, os.SEEK_END)
    try:
      while data:
        data = data[file.write(data) :]
    except OSError as error:
      with contextlib.suppress(OSError):
        file.truncate(end)
      raise OSError(
        error.errno, f'cannot write {file.name}: {error.strerror}'
      ) from None


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Rows of a file by `Writer`, without a last line that is cut off.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a line within the file is not a JSON object.
  """
  return [row for _, row in _parse(pathlib.Path(path))]


class Timers:
  """Seconds by phase.

  `with timers('rollout'): ...` adds to a phase. JAX returns before the device
  is done: a phase is meant to end by reading a result. A phase inside another
  counts in both.
  """

  def __init__(self):
    self._seconds = defaultdict(float)

  @contextlib.contextmanager
  def __call__(self, phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[phase] += time.perf_counter() - start

  def flush(self) -> dict[str, float]:
    """{'time/<phase>': seconds} since the last flush."""
    seconds, self._seconds = self._seconds, defaultdict(float)
    return {f'time/{phase}': value for phase, value in seconds.items()}


class NonFinite:
  """Stops a run after `limit` updates in a row that were not finite."""

  def __init__(self, limit: int):
    if limit < 1:
      raise ValueError(f'limit={limit} of non-finite updates: must be >= 1')
    self._limit = limit
    self._in_a_row = 0

  def check(
    self,
    step: int,
    metrics: Mapping[str, Any],
    *,
    names: Iterable[str] = ('loss', 'grad_norm'),
  ) -> int:
    """Counts an update.

    Args:
      step: for the message.
      metrics: of the update; `nonfinite` > 0 counts too.
      names: which of them must be finite, where present.

    Returns:
      Updates in a row, up to this one, that were not finite.

    Raises:
      FloatingPointError: the limit is reached; names step and metrics.
    """
    bad = {k: float(metrics[k]) for k in names if k in metrics}
    bad = {k: v for k, v in bad.items() if not math.isfinite(v)}
    if float(metrics.get('nonfinite', 0.0)) > 0:
      bad.setdefault('nonfinite', float(metrics['nonfinite']))
    self._in_a_row = self._in_a_row + 1 if bad else 0
    if self._in_a_row >= self._limit:
      told = ', '.join(f'{k}={v}' for k, v in bad.items())
      raise FloatingPointError(
        f'step {step}: {told}, for {self._in_a_row} updates in a row; resume '
        'from an earlier checkpoint with a lower learning rate'
      )
    return self._in_a_row


class Progress:
  """A bar on a terminal; elsewhere a line every `every` seconds."""

  def __init__(
    self,
    total: int,
    *,
    start: int = 0,
    shown: Mapping[str, str],
    every: float = 30.0,
    stream=None,
  ):
    """Starts the clock.

    Args:
      total: the last step.
      start: steps done before, by an interrupted run.
      shown: metric by label, in order, e.g. {'reward': 'reward/mean'}.
      every: seconds between lines where `stream` is no terminal.
      stream: stderr when None.
    """
    self._stream = sys.stderr if stream is None else stream
    self._total, self._start, self._step = total, start, start
    self._shown, self._every = shown, every
    self._first = self._last = None  # (seconds, step) of an update
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm(
        total=total,
        initial=start,
        unit='step',
        dynamic_ncols=True,
        file=self._stream,
      )

  def update(self, step: int, metrics: Mapping[str, Any]):
    """Shows that `step` is done, with what is in `metrics` of `shown`."""
    values = '  '.join(
      f'{label} {_short(float(metrics[name]))}'
      for label, name in self._shown.items()
      if name in metrics
    )
    if self._bar is not None:
      self._bar.set_postfix_str(values, refresh=False)
      self._bar.update(step - self._step)
    self._step = step
    if self._bar is not None:
      return
    now = time.monotonic()
    if self._first is None:
      self._first = now, step
    due = self._last is None or now - self._last >= self._every
    if due or step >= self._total:
      self._last = now
      line = f'step {step}/{self._total}  {values}{self._left(now, step)}'
      print(line.rstrip(), file=self._stream, flush=True)

  def close(self):
    """Leaves the bar as it is."""
    if self._bar is not None:
      self._bar.close()

  def _left(self, now, step):
    # From the first update on: what came before is mostly compilation.
    since, first = self._first
    if step == first:
      return ''
    pace = (now - since) / (step - first)
    left = tqdm.format_interval(pace * max(self._total - step, 0))
    return f'  {pace:.2f} s/step, {left} left'


def memory() -> dict[str, float]:
  """Peak bytes of this process, and of its devices where they report it."""
  # Linux counts in KiB, macOS in bytes.
  unit = 1 if sys.platform == 'darwin' else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  found = {'memory/host_peak_bytes': float(peak)}
  stats = [d.memory_stats() for d in jax.local_devices()]
  for name, key in (
    ('memory/device_peak_bytes', 'peak_bytes_in_use'),
    ('memory/device_limit_bytes', 'bytes_limit'),
  ):
    values = [s[key] for s in stats if s is not None and key in s]
    if values:
      found[name] = float(max(values))
  return found


def _open(path):
  return open(path, 'ab', buffering=0)


def _parse(path) -> Iterator[tuple[bytes, dict]]:
  """Line and row; a last line without its end is left out."""
  with open(path, 'rb') as file:
    for number, line in enumerate(file, 1):
      if not line.endswith(b'\n'):
        return
      try:
        row = json.loads(line)
      except ValueError:
        row = None
      if not isinstance(row, dict) or 'step' not in row:
        raise ValueError(f'{path}:{number} is no row of a run; remove the line')
      yield line, row


def _mend(path, resume_step):
  """Drops later rows and a cut-off end: the file as before, or as after."""
  if not path.exists():
    return
  draft = path.with_name(path.name + '.tmp')
  with open(draft, 'wb') as file:
    for line, row in _parse(path):
      if resume_step is None or row['step'] <= resume_step:
        file.write(line)
    file.flush()
    os.fsync(file.fileno())
  os.replace(draft, path)


def jsonable(value: Any) -> Any:
  """What JSON holds: non-finite floats by name, arrays as lists."""
  if isinstance(value, Mapping):
    return {str(k): jsonable(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [jsonable(v) for v in value]
  if value is None or isinstance(value, (str, bool, int)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  return jsonable(value.tolist())


def _short(value):
  """Three or four digits: 0.531, 12.1, 4.2k."""
  if abs(value) >= 1e4:
    return f'{value / 1e3:.3g}k' if abs(value) < 1e6 else f'{value / 1e6:.3g}M'
  return f'{value:.3g}' if abs(value) < 1e3 else f'{value:.0f}'
