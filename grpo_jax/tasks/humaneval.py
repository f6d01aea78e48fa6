"""HumanEval: functions from their signature and docstring, with hidden tests.

Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374
(MIT licence). 164 problems, made to evaluate: a policy that was trained on
some of them can be evaluated on the others only.
"""

import gzip
import json
import pathlib

import tensorflow_datasets as tfds

from grpo_jax.rewards import code_execution
from grpo_jax.tasks import common, prepared

_FILES = ('HumanEval.jsonl.gz', 'HumanEval.jsonl')
_FIELDS = ('task_id', 'prompt', 'entry_point', 'canonical_solution', 'test')


class HumanEvalBuilder(tfds.core.GeneratorBasedBuilder):
  """The original rows, downloaded."""

  name = 'grpo_humaneval'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='download', version='1.0.0')]
  SOURCE = (
    'https://raw.githubusercontent.com/openai/human-eval/master/data/'
    'HumanEval.jsonl.gz'
  )

  def __init__(self, *, folder: str = '', **kwargs):
    del folder  # local files are read as they are
    super().__init__(file_format='array_record', **kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='Programming problems with tests.',
      homepage='https://github.com/openai/human-eval',
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in _FIELDS}
      ),
    )

  def _split_generators(self, dl_manager):
    path = dl_manager.download(self.SOURCE)
    return {'test': self._generate_examples(path)}

  def _generate_examples(self, path):
    yield from enumerate(_read(pathlib.Path(path)))


def humaneval(
  *,
  split: str,
  folder: str = '',
  test_share: float = 0.2,
  data_dir: str = '',
  mode: str = 'auto',
) -> common.Task:
  """The problems, for the reward `code`.

  Args:
    split: 'train' or 'test'; the source has none, so it is made by hash of the
      function's name, which variants of a problem share.
    folder: of the original HumanEval.jsonl.gz or HumanEval.jsonl, or such a
      file; '' downloads it.
    test_share: share of the problems that are 'test'. 0: all 164 problems,
      whatever the split.
    data_dir: where downloaded data goes; '' is tfds' default.
    mode: of the sandbox in which `verify` runs programs.

  Raises:
    FileNotFoundError, ValueError: naming the file, the line and the remedy.
  """
  common.check_arguments('humaneval', split=split)
  if not 0.0 <= test_share < 1.0:
    raise ValueError(f'humaneval: test_share={test_share} must be in [0, 1)')
  if folder:
    rows = _read(_find(folder))
  else:
    rows = prepared.read(
      HumanEvalBuilder, split='test', files=_FILES[:1], folder='',
      data_dir=data_dir,
    )  # fmt: skip
  examples = [
    _example(row)
    for row in rows
    if not test_share
    or common.split_of(row['entry_point'], test_share=test_share) == split
  ]
  if not examples:
    raise ValueError(
      f'humaneval: test_share={test_share} leaves no {split} example among '
      f'{len(rows)} rows'
    )

  check = code_execution.verifier(mode)
  source = folder if folder else 'humaneval'
  return common.Task(len(examples), examples.__getitem__, check, source=source)


def _example(row: dict[str, str]) -> common.Example:
  program = row['prompt'] + row['canonical_solution']
  return common.Example(
    row['prompt'],
    '',
    f'<answer>\n```python\n{program.strip()}\n```\n</answer>',
    {
      'test': row['test'],
      'entry_point': row['entry_point'],
      'prefix': row['prompt'],
    },
  )


def _find(folder: str) -> pathlib.Path:
  found = pathlib.Path(folder).expanduser()
  if found.is_dir():
    for name in _FILES:
      if (found / name).is_file():
        return found / name
  elif found.is_file():
    return found
  raise FileNotFoundError(
    f'{folder}: no such file, or a folder without {" or ".join(_FILES)}'
  )


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  """The rows of a file of JSON lines, packed or not, all fields checked."""
  content = path.read_bytes()
  try:
    if content.startswith(b'\x1f\x8b'):
      content = gzip.decompress(content)
    lines = content.decode('utf-8-sig').split('\n')
  except (OSError, EOFError, ValueError) as error:
    raise ValueError(f'{path}: damaged ({error}); fetch it again') from None
  rows = []
  for number, line in enumerate(lines, start=1):
    if line.strip():
      rows.append(_row(line, f'{path}:{number}'))
  return rows


def _row(line: str, where: str) -> dict[str, str]:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: not JSON ({error})') from None
  for name in _FIELDS:
    if not isinstance(row, dict) or not isinstance(row.get(name), str):
      raise ValueError(f'{where}: no text in the field {name!r}')
  return {name: row[name] for name in _FIELDS}
