"""What is done of a long job over prompts, kept block by block.

A block is a range of prompts; each process leaves a file of JSON lines for it,
a row for each prompt of its own, whole or not at all. Killed anywhere, the job
goes on after the last block of which all rows are there, also with another
number of processes or another size of block.
"""

from collections.abc import Iterator
import json
import pathlib
import re

from grpo_jax import begun, files, hosts

_SETTINGS = 'settings.json'
_NAME = re.compile(r'(\d+)-(\d+)-(\d+)\.jsonl')


class Progress:
  """The blocks of a folder, which all processes see."""

  def __init__(self, folder: pathlib.Path, settings: dict):
    """Opens the folder; what a kill left of a block is removed.

    Args:
      folder: created if need be.
      settings: what the rows depend on, by name.

    Raises:
      ValueError: it holds rows of other settings.
    """
    self.folder = folder
    if hosts.is_first():
      folder.mkdir(parents=True, exist_ok=True)
      path = folder / _SETTINGS
      settings = files.plain(settings)
      if path.exists():
        there = files.read_json(path)
        begun.refuse_other(folder, there, settings, free=begun.FREE, flag='out')
      else:
        files.write(path, json.dumps(settings))
      whole = {p for block in self._blocks() for p in block}
      for left in set(folder.iterdir()) - whole - {path}:
        left.unlink()
    hosts.wait_for_all('opening the progress')
    # All go on at the same prompt.
    self.done = -hosts.agree(-self._end(), what='what is done')

  def write(self, start: int, end: int, rows: list[dict], process: int) -> None:
    """Leaves this process's rows of the prompts start .. end-1."""
    name = f'{start:09d}-{end:09d}-{process:05d}.jsonl'
    files.write(self.folder / name, ''.join(map(files.as_line, rows)))

  def rows(self, most: int) -> Iterator[dict]:
    """The rows of the first prompts, in order."""
    for block in self._blocks():
      for row in _in_order(block):
        if row['index'] >= most:
          return
        yield row

  def block(self, start: int, end: int) -> list[dict]:
    """The rows of one block that is whole."""
    return _in_order(self.folder.glob(f'{start:09d}-{end:09d}-*.jsonl'))

  def _blocks(self):
    """Files of each block that is whole, one block following on another."""
    blocks = {}
    for path in sorted(self.folder.glob('*.jsonl')):
      if _NAME.fullmatch(path.name):
        blocks.setdefault(_numbers(path)[:2], []).append(path)
    found, at = [], 0
    for (start, end), paths in sorted(blocks.items()):
      count = sum(path.read_bytes().count(b'\n') for path in paths)
      if start != at or count != end - start:
        break
      found.append(paths)
      at = end
    return found

  def _end(self):
    blocks = self._blocks()
    return _numbers(blocks[-1][0])[1] if blocks else 0


def _numbers(path):
  return tuple(int(n) for n in _NAME.fullmatch(path.name).groups())


def _in_order(paths):
  rows = [row for path in paths for row in _read(path)]
  return sorted(rows, key=lambda row: row['index'])


def _read(path):
  try:
    # Lines end at \n alone: JSON strings may hold other line separators.
    lines = path.read_text('utf-8').split('\n')
    return [json.loads(line) for line in lines if line]
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({error}); remove it: its prompts, and those after, '
      'are asked again'
    ) from None
