"""GSM8K: grade school word problems with worked solutions.

Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168
(MIT licence). 7473 train and 1319 test problems.
"""

import pathlib
import re

import tensorflow_datasets as tfds

from grpo_jax.rewards import text
from grpo_jax.tasks import common, prepared

_FILES = ('train.jsonl', 'test.jsonl')
_CALCULATOR = re.compile(r'<<[^<>]*>>')


class Gsm8kBuilder(tfds.core.GeneratorBasedBuilder):
  """Questions, final answers and rationales."""

  name = 'grpo_gsm8k'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='download', version='1.0.0')]
  SOURCE = (
    'https://raw.githubusercontent.com/openai/grade-school-math/master/'
    'grade_school_math/data/'
  )

  def __init__(self, *, folder: str = '', **kwargs):
    self._folder = folder
    super().__init__(file_format='array_record', **kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='Grade school word problems with worked solutions.',
      homepage='https://github.com/openai/grade-school-math',
      features=tfds.features.FeaturesDict(
        {
          'question': tfds.features.Text(),
          'answer': tfds.features.Text(),
          'rationale': tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    if self._folder:
      folder = pathlib.Path(self._folder).expanduser()
      paths = {name: folder / name for name in _FILES}
    else:
      paths = dl_manager.download({n: self.SOURCE + n for n in _FILES})
    return {
      pathlib.Path(name).stem: self._generate_examples(path)
      for name, path in paths.items()
    }

  def _generate_examples(self, path):
    rows = prepared.original_rows([path], ('question', 'answer'))
    for i, row in enumerate(rows):
      rationale, mark, answer = row['answer'].rpartition('####')
      answer = answer.replace(',', '').strip()
      if not mark or text.parse_number(answer) is None:
        raise ValueError(f'{path}: row {i + 1} ends in no "#### number"')
      yield (
        i,
        {
          'question': row['question'].strip(),
          'answer': answer,
          'rationale': _CALCULATOR.sub('', rationale).strip(),
        },
      )


def gsm8k(*, split: str, folder: str = '', data_dir: str = '') -> common.Task:
  """The problems of the original split.

  Args:
    split: 'train' or 'test'.
    folder: of the original train.jsonl and test.jsonl; '' downloads them.
    data_dir: where prepared data goes; '' is tfds' default.
  """
  common.check_arguments('gsm8k', split=split)
  rows = prepared.read(
    Gsm8kBuilder, split=split, files=_FILES, folder=folder, data_dir=data_dir
  )

  def make(i):
    row = rows[i]
    completion = (
      f'<think>\n{row["rationale"]}\n</think>\n<answer>{row["answer"]}</answer>'
    )
    return common.Example(row['question'], row['answer'], completion)

  source = folder if folder else 'gsm8k'
  return common.Task(len(rows), make, common.same_number, source=source)
