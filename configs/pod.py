"""What the TPU slices of the real-size configs share: where things lie."""


def split_samples(
  c, *, fsdp: int, data: int, tensor: int = 1, sampling: int = 1
) -> None:
  """Prompts over `fsdp`, the samples of each over `data`, heads over `tensor`.

  An update of 32 groups, as R1's, then keeps more than 32 chips busy. A
  parameter is stored in fsdp x tensor parts.

  With `sampling`, so many chips share the sampler's weights and heads, as each
  of its tokens has to read all of them; in training they hold other prompts.
  """
  if tensor > 1 and sampling > 1:
    raise ValueError('heads are split over tensor already; set sampling to 1')
  c.mesh.update(data=data, fsdp=fsdp // sampling, tensor=tensor * sampling)
  for rules in (c.rules.train, c.rules.sample):
    rules.prompts = ('fsdp',)
    rules.samples = 'data'
  over = ('fsdp',) if sampling == 1 else ('fsdp', 'tensor')
  c.rules.train.update(prompts=over, embed=over)
  for axis in ('mlp', 'heads', 'kv_heads', 'vocab'):
    c.rules.train[axis] = 'tensor' if sampling == 1 else None


def grpo(c, *, model: str, size: str, topology: str) -> None:
  """A model's weights, `launch.size`, slice, and GSM8K's questions."""
  c.init_from = f'models/{model}'
  c.launch.update(topology=topology, size=size)
  c.task = dict(name='gsm8k', split='train', folder='', data_dir='')


def lengths(c, *, prompt: int, completion: int) -> None:
  """Limits in tokens, with widths that TPU kernels like, and those kernels."""
  c.sample.update(
    decoding='kernel',
    max_prompt_length=prompt + 1,  # its last token is not of the trunk
    max_completion_length=completion,
    trunk_multiple=128,
    # At once: the kernel reads no slot that is not filled.
    chunk=completion,
  )
  c.updates.update(length_multiple=512, remat='attention')


def split_positions(c, *, context: int) -> None:
  """Completions over `context` in training; prompts over it in sampling."""
  c.mesh.context = context
  c.rules.train.update(positions='context', embed=('fsdp', 'context'))
  c.rules.sample.prompts = (*c.rules.sample.prompts, 'context')
