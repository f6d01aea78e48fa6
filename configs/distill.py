"""R1's distillation: SFT of smaller models on the verified set.

2501.12948v2, B.4.3 and Table 6: 2 to 3 epochs of the 800 thousand samples,
batch 64, 32,768 tokens, cosine to a tenth of a learning rate that depends on
the student. The set is what `python -m grpo_jax.generate --keep=verified` (or
anything else) has left in --config.task.path.

Not disclosed, and ours: two epochs (v1's count for its SFT), no warm-up, AdamW,
the prompt's form (the plain question: set c.prompt), no loss on prompts.

  --config=configs/distill.py:qwen_7b

The evaluation of a student, on its slice, with its prompts:
`configs/r1/real_stages.py:evaluation:qwen_7b`.

Slices are for one row of 32,768 tokens a chip, or a part of it. Of these
llama_8b's has been compiled for its slice; none has run on hardware.
"""

import dataclasses

from configs import base, pod


@dataclasses.dataclass(frozen=True)
class Student:
  """A row of Table 6, and a slice for it."""

  learning_rate: float
  model: str  # the base model's name
  size: str  # of models.families.SIZES
  topology: str
  fsdp: int
  context: int = 1
  tensor: int = 1  # chips that share its weights while it answers


SIZES = {
  'qwen_1_5b': Student(
    1e-4, 'Qwen2.5-Math-1.5B', 'qwen2_5_1_5b', 'v5p:2x2x4', fsdp=16
  ),
  'qwen_7b': Student(
    8e-5, 'Qwen2.5-Math-7B', 'qwen2_5_7b', 'v5p:2x4x4', fsdp=32
  ),
  'qwen_14b': Student(
    7e-5, 'Qwen2.5-14B', 'qwen2_5_14b', 'v5p:4x4x4', fsdp=64
  ),
  'qwen_32b': Student(
    6e-5, 'Qwen2.5-32B', 'qwen2_5_32b', 'v5p:4x4x8', fsdp=64, context=2,
    tensor=4,
  ),
  'llama_8b': Student(
    5e-5, 'Llama-3.1-8B', 'llama3_1_8b', 'v5p:2x4x4', fsdp=32
  ),
  'llama_70b': Student(
    2e-5, 'Llama-3.3-70B-Instruct', 'llama3_3_70b', 'v5p:4x8x8', fsdp=64,
    context=4, tensor=8,
  ),
}  # fmt: skip
BATCH, LENGTH = 64, 32_768
# Asked at a time in evaluation: 64 answers to each, as long as they may be, are
# below 35 GiB of keys and values a chip.
_ASKED = 4


def get_config(size: str = 'qwen_7b'):
  if size not in SIZES:
    raise ValueError(f'no student {size!r}; there are: {", ".join(SIZES)}')
  student = SIZES[size]
  c = base.get_config()
  c.init_from = f'models/{student.model}'
  c.launch.update(job='sft', topology=student.topology, size=student.size)
  c.task = dict(
    name='verified', path='data/verified', split='train', test_share=0.0,
    sources=(),
  )  # fmt: skip
  c.mesh.fsdp = student.fsdp
  pod.lengths(c, prompt=1024, completion=LENGTH)
  if student.context > 1:
    pod.split_positions(c, context=student.context)
  c.sft.update(batch_size=BATCH, epochs=2, max_length=LENGTH)
  c.updates.update(microbatches=BATCH // student.fsdp, logits_chunk=512)
  c.optimizer.update(
    learning_rate=student.learning_rate, schedule='cosine', final_fraction=0.1
  )
  return c


def answering(size: str):
  """The config of a student that answers: its prompts and lengths, its slice.

  In training a chip holds rows, and here some of the answers to each prompt;
  weights of one chip's size are on each, larger ones over `tensor` chips.
  """
  c = get_config(size)
  student = SIZES[size]
  chips = student.fsdp * student.context
  c.launch.job = 'evaluate'
  c.mesh.update(fsdp=chips // student.tensor, context=1, tensor=student.tensor)
  c.rules.sample.update(prompts=('data',), samples='fsdp')
  c.eval.batch_prompts = _ASKED
  return c
