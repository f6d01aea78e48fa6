"""Prepares and reads a tensorflow-datasets builder without TensorFlow.

Prepared data is array_record files under `data_dir` (tfds' own default,
~/tensorflow_datasets). Data from a folder is prepared under a name that holds
a hash of the files, so that another folder never meets stale data.
"""

from collections.abc import Sequence
import hashlib
import pathlib

from absl import logging
import tensorflow_datasets as tfds

from grpo_jax.tasks.jsonl import read_rows


def read(
  builder_cls, *, split: str, files: Sequence[str], folder: str, data_dir: str
) -> list[dict[str, str]]:
  """All rows of a split, prepared first where they are not yet.

  Args:
    builder_cls: a GeneratorBasedBuilder with Text features.
    split: 'train' or 'test'.
    files: names of the original files.
    folder: where they are, or '' to download them.
    data_dir: where prepared data goes, or '' for tfds' default.

  Raises:
    FileNotFoundError: a file is missing from the folder.
    ValueError: the download failed, or a file is damaged.
  """
  where = data_dir if data_dir else None
  if folder:
    config = _folder_config(folder, files)
  else:
    config = 'download'
  builder = _builder(builder_cls, where, config, folder)
  try:
    builder.download_and_prepare()
  except (FileNotFoundError, ValueError):
    raise
  except Exception as error:
    # Another process may have been the first to finish the same work.
    if not builder.data_path.exists():
      raise ValueError(
        f'{builder.name}: cannot prepare the data under {builder.data_dir} '
        f'({_first_line(error)}); to do without a download, put '
        f'{", ".join(files)} into a folder and set folder='
      ) from None
    builder = _builder(builder_cls, where, config, folder)
  source = builder.as_data_source(split)
  return [
    {name: value.decode() for name, value in row.items()} for row in source
  ]


def original_rows(paths: Sequence, fields: Sequence[str]) -> list[dict]:
  """The rows of JSON lines files, all fields checked."""
  rows = []
  for path in paths:
    for number, row in read_rows(str(path)):
      missing = sorted(set(fields) - set(row))
      if missing:
        raise ValueError(
          f'{path}:{number}: no field {missing[0]!r}; the row has {sorted(row)}'
        )
      rows.append(row)
  return rows


def _builder(builder_cls, data_dir, config, folder):
  # tfds warns of every configuration that is not listed in the class.
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    return builder_cls(data_dir=data_dir, config=config, folder=folder)
  finally:
    logging.set_verbosity(verbosity)


def _folder_config(folder: str, files: Sequence[str]):
  content = hashlib.sha256()
  for name in files:
    path = pathlib.Path(folder).expanduser() / name
    if not path.is_file():
      raise FileNotFoundError(
        f'{path}: no such file; folder= must hold {", ".join(files)}'
      )
    content.update(path.read_bytes())
  return tfds.core.BuilderConfig(
    name=f'folder_{content.hexdigest()[:12]}', version='1.0.0'
  )


def _first_line(error: Exception) -> str:
  lines = str(error).splitlines()
  return f'{type(error).__name__}: {lines[0] if lines else ""}'[:200]
