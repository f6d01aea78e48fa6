"""The config file of a run: `--config=grpo_jax/run_config.py:WORKDIR`.

Commands on an existing run use it when no --config is given, so that single
fields can be overridden on the command line.
"""

from grpo_jax import runs


def get_config(workdir: str):
  """The run's config."""
  return runs.open_run(workdir).config
