"""A folder of records as tensorflow-datasets reads it, and its data card.

array_record files, written and read without TensorFlow, named as tfds names
them; `dataset_info.json` and `features.json` are its metadata. The card is
`card.json`, and `README.md` for people; it is written last, so a folder with a
card is whole.
"""

import collections
from collections.abc import Iterable
import json
import pathlib

from array_record.python import array_record_module
import numpy as np
import tensorflow_datasets as tfds

NAME, SPLIT = 'verified', 'train'
CARD, README = 'card.json', 'README.md'
_COLUMNS = ('records', 'tokens', 'mean', 'min', 'max')
FEATURES = tfds.features.FeaturesDict(
  {
    'prompt': tfds.features.Text(),
    'completion': tfds.features.Text(),
    'source': tfds.features.Text(),
    'answer': tfds.features.Text(),
    # Of the completion as it was sampled; NaN for what was not.
    'reward': tfds.features.Scalar(np.float32),
    # Share of the prompt's samples that were right; NaN for no samples.
    'pass_rate': tfds.features.Scalar(np.float32),
    'tokens': tfds.features.Scalar(np.int64),  # of the completion, with EOS
    'index': tfds.features.Scalar(np.int64),  # of the prompt, as asked
    'sample': tfds.features.Scalar(np.int64),
  }
)


def write(
  folder: pathlib.Path,
  records: Iterable[dict],
  *,
  total: int,
  per_shard: int,
  process: int,
  processes: int,
) -> int:
  """Writes this process's shards; the bytes of its records.

  Shard s holds records s per_shard .. (s + 1) per_shard - 1 and is written by
  process s mod processes: the files do not depend on how many there are.

  Args:
    folder: exists.
    records: all of them, the same in every process.
    total: how many they are.
    per_shard: records of a file.
    process, processes: this one, of so many.
  """
  serializer = tfds.core.example_serializer.ExampleSerializer(
    FEATURES.get_serialized_info()
  )
  shards = -(-total // per_shard)
  written, writer = 0, None
  for i, record in enumerate(records):
    shard, offset = divmod(i, per_shard)
    if shard % processes != process:
      continue
    if not offset:
      if writer is not None:
        writer.close()
      path = folder / shard_name(shard, shards)
      writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    encoded = serializer.get_tf_example(FEATURES.encode_example(record))
    # Or the order of fields would differ between processes.
    content = encoded.SerializeToString(deterministic=True)
    writer.write(content)
    written += len(content)
  if writer is not None:
    writer.close()
  return written


def remove_shards(folder: pathlib.Path) -> None:
  """Removes what was written of records before."""
  for path in folder.glob(f'{NAME}-{SPLIT}.*'):
    path.unlink()


def shard_name(shard: int, shards: int) -> str:
  """As tfds names its files."""
  return f'{NAME}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}'


def describe(
  folder: pathlib.Path, *, total: int, per_shard: int, size: int
) -> None:
  """Writes tfds' metadata, once all shards are there; `size` is their bytes."""
  template = tfds.core.ShardedFileTemplate(
    data_dir=folder,
    dataset_name=NAME,
    split=SPLIT,
    filetype_suffix='array_record',
  )
  lengths = [
    min(per_shard, total - start) for start in range(0, total, per_shard)
  ]
  info = tfds.core.SplitInfo(
    name=SPLIT,
    shard_lengths=lengths,
    num_bytes=size,
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=str(folder),
    features=FEATURES,
    split_infos=[info],
    filename_template=template,
    description='Completions that were verified; see README.md.',
    check_data=False,  # would need TensorFlow
  )


def open_set(path: str):
  """The records, by index, as tfds' data source.

  Raises:
    FileNotFoundError, ValueError: no such folder, or one that is not whole.
  """
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise FileNotFoundError(f'{path}: no such folder')
  if not (folder / CARD).is_file():
    raise ValueError(
      f'{path}: no {CARD}, so this is no finished verified set; the command '
      'that writes it (grpo_jax.generate --keep=verified), started again, goes '
      'on with it'
    )
  return tfds.builder_from_directory(str(folder)).as_data_source(SPLIT)


def text_of(row: dict, name: str) -> str:
  """A text of a row of the data source."""
  return row[name].decode()


class Lengths:
  """Records and their tokens, by source."""

  def __init__(self):
    self.by_source: dict[str, list[int]] = collections.defaultdict(list)

  def watch(self, records: Iterable[dict]) -> Iterable[dict]:
    """The same records, counted as they pass."""
    for record in records:
      self.by_source[record['source']].append(record['tokens'])
      yield record

  def table(self) -> dict[str, dict]:
    """source -> records and tokens; 'total' last."""
    rows = dict(self.by_source)
    rows['total'] = [n for tokens in self.by_source.values() for n in tokens]
    return {name: _row(tokens) for name, tokens in rows.items()}


def _row(tokens):
  return {
    'records': len(tokens),
    'tokens': int(np.sum(tokens)),
    'mean': float(np.mean(tokens)),
    'min': int(np.min(tokens)),
    'max': int(np.max(tokens)),
  }


def readme(card: dict) -> str:
  """The card for people, in Markdown."""
  made = card['made_by']
  step = '' if made['step'] is None else f', step {made["step"]}'
  lines = [
    '# A verified set',
    '',
    f'{card["sources"]["total"]["records"]} records. Sampled from '
    f'`{made["init_from"]}`{step}, seed {made["seed"]}: {card["samples"]} '
    f'completions to {card["prompts"]} prompts. Written by '
    '`python -m grpo_jax.generate --keep=verified`; read by '
    "`c.task = dict(name='verified', path=...)` or by "
    '`tensorflow_datasets.builder_from_directory`.',
    '',
    *_markdown(
      ('source', *_COLUMNS),
      [
        (name, *(round(row[k], 1) for k in _COLUMNS))
        for name, row in card['sources'].items()
      ],
    ),
    '',
    'Completions that were dropped, each under the first reason that applied; '
    f'{card["kept"]} were kept.',
    '',
    *_markdown(('reason', 'completions'), list(card['dropped'].items())),
    '',
    'Prompts by the share of their completions that was right:',
    '',
    *_markdown(('pass rate', 'prompts'), list(card['pass_rates'].items())),
    '',
    '```json',
    json.dumps(card['settings'], indent=2, ensure_ascii=False),
    '```',
  ]
  return '\n'.join(lines) + '\n'


def _markdown(head, rows):
  return [
    f'| {" | ".join(map(str, row))} |'
    for row in (head, ['---'] * len(head), *rows)
  ]
