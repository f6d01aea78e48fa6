"""Checks of a config before any device work, and functions named by configs."""

from collections.abc import Callable, Mapping
import difflib
import functools
import inspect
import operator
from types import ModuleType


def pick(
  module: ModuleType,
  spec: Mapping,
  *,
  takes: tuple[str, ...] | set[tuple[str, ...]] = (),
  **given,
) -> Callable:
  """The function `spec['name']` of `module`, with the rest of `spec` bound.

  Args:
    module: where to look, among its public functions.
    spec: as in dict(name='clip', eps_high=0.28).
    takes: names of the positional parameters, or a set of such that will all
      do; tells a loss from a KL estimator in the same module.
    **given: bound too; not settable from the config.

  Raises:
    ValueError: no such function, or an argument it does not take; lists the
      valid ones.
  """
  spec = dict(spec)
  where = module.__name__.removeprefix('grpo_jax.')
  if 'name' not in spec:
    raise ValueError(f'{spec} has no name; it selects a function of {where}')
  name = spec.pop('name')
  names = [
    k
    for k, v in vars(module).items()
    if inspect.isfunction(v)
    and not k.startswith('_')
    and _positional(v) in (takes if isinstance(takes, set) else {takes})
    and given.keys() <= inspect.signature(v).parameters.keys()
  ]
  if name not in names:
    raise ValueError(
      f'{where} has no {name!r}{_close(name, names)}; there are: '
      f'{", ".join(sorted(names))}'
    )
  function = getattr(module, name)
  parameters = inspect.signature(function).parameters.values()
  valid = [
    p.name
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and p.name not in given
  ]
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
  for key in spec:
    if key not in valid and not open_ended:
      raise ValueError(
        f'{where}.{name} takes no {key!r}{_close(key, valid)}; it takes: '
        f'{", ".join(valid) if valid else "nothing"}'
      )
  missing = [
    p.name
    for p in parameters
    if p.kind is p.KEYWORD_ONLY
    and p.default is p.empty
    and p.name not in spec
    and p.name not in given
  ]
  if missing:
    raise ValueError(f'{where}.{name} needs {", ".join(missing)}')
  return functools.partial(function, **spec, **given)


def _positional(function: Callable) -> tuple[str, ...]:
  parameters = inspect.signature(function).parameters.values()
  return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def _close(word: str, words: list[str]) -> str:
  matches = difflib.get_close_matches(word, words, n=1)
  return f' (did you mean {matches[0]!r}?)' if matches else ''


def critic_wanted(cfg) -> bool:
  """Whether the advantages need a value model: then it is PPO."""
  return cfg.algorithm.advantages.get('name') == 'gae'


def validate(cfg, *, ways: tuple[int, int]) -> None:
  """Checks what can be known from numbers alone.

  Args:
    cfg: the whole config of a training run.
    ways: devices that prompts, and samples of each, are split over.

  Raises:
    ValueError: with the numbers and the remedy.
  """
  positive(
    cfg,
    'steps',
    'prompts_per_step',
    'group_size',
    'sample.max_prompt_length',
    'sample.max_completion_length',
    'sample.chunk',
    'sample.trunk_multiple',
    'updates.epochs',
    'updates.minibatches',
    'updates.microbatches',
    'updates.group_microbatches',
    'updates.logits_chunk',
    'updates.length_multiple',
    'updates.max_nonfinite',
    'checkpoint.every',
    'log.samples_every',
  )
  if cfg.sample.temperature <= 0:
    raise ValueError(
      f'sample.temperature={cfg.sample.temperature} must be above 0 in '
      'training: greedy samples of a group are all equal'
    )
  _validate_algorithm(cfg)
  _validate_filters(cfg)
  if critic_wanted(cfg):
    _validate_critic(cfg, ways[0])
  divides(
    cfg.prompts_per_step,
    {
      'updates.minibatches': cfg.updates.minibatches,
      'updates.microbatches': cfg.updates.microbatches,
      'devices': ways[0],
    },
    field='prompts_per_step',
  )
  parts = {
    'updates.group_microbatches': cfg.updates.group_microbatches,
    'devices': ways[1],
  }
  divides(cfg.group_size, parts, field='group_size')
  if cfg.algorithm.teacher_traces:
    # The sampler makes one less.
    divides(cfg.group_size - 1, {'devices': ways[1]}, field='group_size - 1')


def _validate_algorithm(cfg) -> None:
  a = cfg.algorithm
  updates = cfg.updates.epochs * cfg.updates.minibatches
  one_of('algorithm.kl_in', a.kl_in, ('loss', 'reward'))
  one_of('algorithm.old_logprobs', a.old_logprobs, ('sampler', 'trainer'))
  one_of('algorithm.teacher_traces', a.teacher_traces, (0, 1))
  if a.kl_coef < 0:
    raise ValueError(f'algorithm.kl_coef={a.kl_coef} must not be negative')
  if a.kl_coef > 0 and a.kl_in == 'loss' and a.kl.get('name') == 'k1':
    raise ValueError(
      'algorithm.kl=k1 does nothing in the loss: its gradient is zero on '
      'average, as E[grad logprob] = 0; use k2, k3 or k3_ratio, or '
      'algorithm.kl_in=reward'
    )
  if a.kl_coef > 0 and a.kl_in == 'reward' and a.kl.get('name') == 'k3_ratio':
    raise ValueError(
      'algorithm.kl=k3_ratio has no use for its ratio in the reward, where it '
      'is 1; use k1, k2 or k3'
    )
  if not 0 < a.entropy_share <= 1:
    raise ValueError(
      f'algorithm.entropy_share={a.entropy_share} must be in (0, 1]'
    )
  if a.importance.get('name') != 'none' and a.old_logprobs == 'sampler':
    raise ValueError(
      f'algorithm.importance={a.importance.get("name")} weighs the trainer '
      "against the sampler; set algorithm.old_logprobs='trainer', as with "
      "'sampler' the ratio of the loss is to the sampler already"
    )
  if a.loss.get('name') == 'reinforce' and updates > 1:
    raise ValueError(
      f'algorithm.loss=reinforce has no ratio, and with {updates} updates a '
      'rollout the samples are not of the policy any more; use clip or cispo, '
      'or set updates.epochs and updates.minibatches to 1'
    )
  if a.reference_every < 0 or a.reference_every % updates:
    raise ValueError(
      f'algorithm.reference_every={a.reference_every} must be a multiple of '
      f'the {updates} updates of a rollout (updates.epochs x '
      'updates.minibatches), or 0'
    )
  if a.reference_every and not a.kl_coef:
    raise ValueError(
      f'algorithm.reference_every={a.reference_every} resets a reference that '
      'algorithm.kl_coef=0 does not keep'
    )
  least = 2 + a.teacher_traces
  alone = ('reinforce_pp', 'gae')
  if cfg.group_size <= a.teacher_traces:
    raise ValueError(
      f'group_size={cfg.group_size} leaves no sample beside '
      f'algorithm.teacher_traces={a.teacher_traces}; raise it'
    )
  if cfg.group_size < least and a.advantages.get('name') not in alone:
    raise ValueError(
      f'group_size={cfg.group_size} leaves nothing to compare a sample with; '
      f'raise it to {least} or more, or use algorithm.advantages='
      f'{" or ".join(alone)}'
    )


def _validate_critic(cfg, row_ways) -> None:
  c = cfg.critic
  positive(cfg, 'critic.epochs', 'critic.minibatches', 'critic.microbatches')
  if cfg.filters.drop_zero_variance or cfg.filters.rounds > 1:
    raise ValueError(
      'filters.drop_zero_variance and filters.rounds pick groups by their '
      'rewards: the critic would never see the prompts that are always right '
      'or always wrong; leave them at False and 1 with advantages=gae'
    )
  if c.shared and cfg.algorithm.weights.get('name') != 'token_mean':
    raise ValueError(
      'critic.shared=True sums the value loss with the weights of the policy '
      f'loss, and algorithm.weights={cfg.algorithm.weights.get("name")} would '
      'scale it by lengths; use token_mean, or a critic of its own'
    )
  for field in ('learning_rate', 'clip', 'coef'):
    if c[field] <= 0:
      raise ValueError(f'critic.{field}={c[field]} must be above 0')
  if not 0 <= c.warmup_steps < cfg.steps:
    raise ValueError(
      f'critic.warmup_steps={c.warmup_steps} must be below steps={cfg.steps} '
      'and not negative'
    )
  if c.shared and c.warmup_steps + (c.epochs - 1) + (c.minibatches - 1):
    raise ValueError(
      f'critic.shared=True learns with the policy: set critic.warmup_steps='
      f'{c.warmup_steps} to 0, critic.epochs={c.epochs} and '
      f'critic.minibatches={c.minibatches} to 1'
    )
  divides(
    cfg.prompts_per_step,
    {
      'critic.minibatches': c.minibatches,
      'critic.microbatches': c.microbatches,
      'devices': row_ways,
    },
    field='prompts_per_step',
  )


def _validate_filters(cfg) -> None:
  f = cfg.filters
  positive(cfg, 'filters.rounds')
  if not 0 < f.retire_above <= 1:
    raise ValueError(
      f'filters.retire_above={f.retire_above} must be in (0, 1] (1 retires '
      'none)'
    )
  if cfg.group_size < 2 and (f.rounds > 1 or f.drop_zero_variance):
    raise ValueError(
      'filters.rounds and filters.drop_zero_variance look for rewards that '
      f'differ within a group; group_size={cfg.group_size} has none'
    )
  if f.rounds > 1 or f.retire_above < 1:
    one_of('filters.signal', f.signal, tuple(cfg.rewards))


def validate_answers(cfg, section: str) -> None:
  """Checks the sampling numbers of `cfg.sample` and `cfg[section]`.

  Args:
    cfg: the whole config.
    section: 'eval' or 'generate'.

  Raises:
    ValueError: with the numbers and the remedy.
  """
  s = cfg[section]
  positive(
    cfg,
    f'{section}.prompts',
    f'{section}.samples',
    f'{section}.batch_prompts',
    'sample.max_prompt_length',
    'sample.max_completion_length',
    'sample.chunk',
    'sample.trunk_multiple',
  )
  for field, valid, span in (
    ('temperature', s.temperature >= 0, 'at least 0 (0 is greedy)'),
    ('top_k', s.top_k >= 0, 'at least 0 (0 keeps all)'),
    ('top_p', 0 < s.top_p <= 1, 'in (0, 1]'),
    ('min_p', 0 <= s.min_p < 1, 'in [0, 1)'),
  ):
    if not valid:
      raise ValueError(f'{section}.{field}={s[field]} must be {span}')


def one_of(field: str, value, choices: tuple) -> None:
  """Raises ValueError unless the value of a field is one of the choices."""
  if value not in choices:
    listing = ', '.join(map(str, choices))
    raise ValueError(f'{field}={value!r} is not one of {listing}')


def positive(cfg, *fields: str) -> None:
  """Raises ValueError unless each field ('section.name') is at least 1."""
  for field in fields:
    value = functools.reduce(operator.getitem, field.split('.'), cfg)
    if value < 1:
      raise ValueError(f'{field}={value} must be at least 1')


def divides(rows: int, parts: Mapping[str, int], *, field: str) -> None:
  """Raises ValueError unless `rows` splits evenly into the product of parts."""
  product = 1
  for count in parts.values():
    product *= count
  if rows % product:
    listing = ' x '.join(f'{n} {name}' for name, n in parts.items() if n > 1)
    raise ValueError(
      f'{field}={rows} does not divide over {listing}; set it to a multiple '
      f'of {product}'
    )
