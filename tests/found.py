"""Every loss, KL estimator, weighting and so on of the library, as found in it.

What must hold for all of them is thereby tested for a new one on the day that
it is written, without a list to add it to.
"""

import functools
import inspect

from hypothesis import Phase, settings

from grpo_jax import advantages, importance, losses, training

# The same examples in every run. Explaining a failure takes minutes here.
some = settings(
  derandomize=True,
  deadline=None,
  max_examples=12,
  phases=set(Phase) - {Phase.explain},
)
# Of arguments without a default.
REQUIRED = dict(length=7)
# Other settings that take other branches.
VARIANTS = {
  'group': [dict(std=x) for x in ('batch', 'raw', 'none')] + [dict(ddof=0)],
  'clip': [dict(dual_clip=1.5)],
  'gspo': [dict(eps_low=0.2, eps_high=0.28), dict(dual_clip=1.02)],
  'cispo': [dict(eps_low=0.2, eps_high=0.28)],
  'truncated': [dict(level=x) for x in ('sequence', 'geometric')],
  'rejected': [dict(level=x) for x in ('sequence', 'geometric')],
}


def functions(module, takes: tuple[str, ...]) -> dict:
  """'name' or 'name(setting=value)' -> function, by positional arguments."""
  found = {}
  for name, function in vars(module).items():
    if name.startswith('_') or not inspect.isfunction(function):
      continue
    parameters = inspect.signature(function).parameters.values()
    if takes != tuple(
      p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
    ):
      continue
    needed = {
      p.name: REQUIRED[p.name]
      for p in parameters
      if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    for variant in [{}, *VARIANTS.get(name, [])]:
      words = ', '.join(f'{k}={v}' for k, v in variant.items())
      label = f'{name}({words})' if words else name
      found[label] = functools.partial(function, **needed, **variant)
  return found


LOSSES = functions(losses, training.LOSS)
KLS = functions(losses, training.KL)
WEIGHTINGS = functions(losses, ('mask',))
ADVANTAGES = functions(advantages, ('rewards',))
IMPORTANCE = functions(importance, ('log_ratio', 'mask'))


def with_eps_0(function: functools.partial) -> functools.partial:
  """The same, with nothing added to its denominator, if it has one."""
  if 'eps' not in inspect.signature(function).parameters:
    return function
  return functools.partial(function, eps=0.0)
