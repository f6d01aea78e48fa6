"""A Hugging Face folder from a run: `python -m grpo_jax.export --workdir=RUN
--out=FOLDER`. Also from a .gguf file or another folder, with --init_from."""

import pathlib

from absl import flags
import jax.numpy as jnp

from grpo_jax import cli, hosts, policy
from grpo_jax.models import hf

_out = flags.DEFINE_string('out', None, 'Folder to create.')
_dtype = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of the weights written.'
)


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Writes the folder; all of it or nothing."""
  out = cli.folder('out', _out.value)
  if not out:
    raise ValueError('--out=FOLDER is needed: where to write the model')
  cfg = cli.from_workdir(cfg, workdir)
  pol = policy.open_policy(cfg)
  hf.save(
    out,
    pol.params(),
    pol.model,
    files=pol.files,
    dtype=jnp.dtype(_dtype.value),
  )
  if hosts.is_first():
    print(f'written to {out}')


if __name__ == '__main__':
  cli.main(run)
