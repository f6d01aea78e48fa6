"""TensorBoard's files of a run: `metrics.Writer` keeps them beside its own."""

from collections.abc import Mapping
import math
import os


class EventFiles:
  """Scalars by step, in one file after the other: none can be appended to."""

  def __init__(self, folder: str | os.PathLike, resume_step: int | None):
    """Opens the first.

    Args:
      folder: of the files, created if need be.
      resume_step: TensorBoard forgets what older files say of later steps.
    """
    self._folder, self._count = str(folder), 0
    self._open(None if resume_step is None else resume_step + 1)

  def write(self, step: int, values: Mapping[str, float]):
    """Those that are finite: it cannot draw others."""
    for name, value in values.items():
      if math.isfinite(value):
        self._writer.add_scalar(name, value, step)

  def commit(self):
    """Ends a file, which is then complete, and opens the next."""
    self.close()
    self._open(None)

  def close(self):
    """Ends the last one."""
    self._writer.close()

  def _open(self, purge_step):
    # Here, so that runs without it do not need the package.
    from tensorboardX import SummaryWriter

    # It names them by the second: two within one would be the same file.
    self._count += 1
    self._writer = SummaryWriter(
      self._folder,
      purge_step=purge_step,
      flush_secs=30,
      filename_suffix=f'.{os.getpid()}.{self._count:05}',
    )
