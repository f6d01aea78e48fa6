"""R1's distillation by size: the numbers of the paper's Table 6."""

import pathlib
import runpy

import pytest
import tiny

from grpo_jax import validation
from grpo_jax.models import families

FILE = pathlib.Path(tiny.REPO) / 'configs' / 'distill.py'
MODULE = runpy.run_path(str(FILE))

# Initial learning rate and base of each student (2501.12948v2, Table 6).
TABLE = {
  'qwen_1_5b': (1e-4, 'models/Qwen2.5-Math-1.5B'),
  'qwen_7b': (8e-5, 'models/Qwen2.5-Math-7B'),
  'qwen_14b': (7e-5, 'models/Qwen2.5-14B'),
  'qwen_32b': (6e-5, 'models/Qwen2.5-32B'),
  'llama_8b': (5e-5, 'models/Llama-3.1-8B'),
  'llama_70b': (2e-5, 'models/Llama-3.3-70B-Instruct'),
}


@pytest.mark.parametrize('size', TABLE)
def test_a_student_learns_as_the_paper_says(size):
  c = MODULE['get_config'](size)
  rate, base = TABLE[size]
  assert (c.optimizer.learning_rate, c.init_from) == (rate, base)
  assert (c.optimizer.schedule, c.optimizer.final_fraction) == ('cosine', 0.1)
  assert (c.sft.batch_size, c.sft.max_length, c.sft.epochs) == (64, 32_768, 2)
  assert c.launch.size in families.SIZES and c.launch.job == 'sft'
  # 64 rows over chips and microbatches, each row over `context`.
  ways = (c.mesh.fsdp, 1, c.mesh.context)
  validation.of_sft(c, ways=ways)
  x, y, z = map(int, c.launch.topology.partition(':')[2].split('x'))
  assert x * y * z == c.mesh.fsdp * c.mesh.context * c.mesh.tensor


def test_every_student_is_in_the_table_and_others_are_refused():
  assert MODULE['SIZES'].keys() == TABLE.keys()
  with pytest.raises(ValueError, match="no student 'qwen_3b'; there are: qwen"):
    MODULE['get_config']('qwen_3b')
