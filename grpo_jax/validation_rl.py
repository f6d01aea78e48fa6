"""Checks of a training config before device work: numbers and the remedy."""

from collections.abc import Mapping

from configs import base
from grpo_jax import offload, planner, validation
from grpo_jax.config import critic_wanted, divides, one_of, positive


def of_training(cfg, *, ways: Mapping[str, tuple[int, int, int]]) -> None:
  """Checks what can be known from numbers alone.

  Args:
    cfg: the whole config of a training run.
    ways: by rules, train and sample, the devices that prompts, samples of each
      and positions of each are split over.

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
  _early_limit(cfg)
  s = cfg.sample
  early = (s.early_completion_length,) if s.early_steps else ()
  validation.of_caches(cfg, *early, s.max_completion_length)
  _algorithm(cfg)
  _filters(cfg)
  _offload(cfg)
  _buckets(cfg)
  if critic_wanted(cfg):
    _critic(cfg, ways['train'][0])
  divides(
    cfg.prompts_per_step,
    {
      'updates.minibatches': cfg.updates.minibatches,
      'updates.microbatches': cfg.updates.microbatches,
      'devices': ways['train'][0],
    },
    field='prompts_per_step',
  )
  parts = {
    'updates.group_microbatches': cfg.updates.group_microbatches,
    'devices': ways['train'][1],
  }
  divides(cfg.group_size, parts, field='group_size')
  divides(
    cfg.updates.length_multiple,
    {'devices': ways['train'][2]},
    field='updates.length_multiple',
  )
  sampling = {'devices': ways['sample'][0]}
  divides(cfg.prompts_per_step, sampling, field='prompts_per_step')
  # The sampler makes one less for each given trace.
  given = cfg.algorithm.teacher_traces
  field = 'group_size' + (f' - {given}' if given else '')
  divides(cfg.group_size - given, {'devices': ways['sample'][1]}, field=field)


def hints(cfg) -> list[str]:
  """What is no mistake, and may surprise: sentences for the log."""
  a, found = cfg.algorithm, []
  by_ratio = a.loss.name in ('clip', 'gspo', 'gmpo', 'sapo')
  one_update = cfg.updates.epochs * cfg.updates.minibatches == 1
  if one_update and by_ratio and not critic_wanted(cfg):
    found.append(
      'one update a rollout: the ratio is 1 and policy_loss stays near 0, as '
      'advantages of a group sum to 0 (but for lengths); watch reward/mean and '
      'grad_norm'
    )
  by_length = a.weights.name not in ('sequence_mean', 'sequence_sum')
  if a.loss.name in ('gspo', 'gmpo') and by_length:
    found.append(
      f'algorithm.loss={a.loss.name} with algorithm.weights={a.weights.name}: '
      'every token has the ratio of its completion, so long completions weigh '
      'more; the paper has sequence_mean'
    )
  if cfg.eval.every:
    found += validation.shared_questions(cfg)
  return found + _idle_critic(cfg)


def _idle_critic(cfg):
  """What is set of the critic and has no part in this run."""
  c, usual = cfg.critic, base.get_config().critic
  if not critic_wanted(cfg):
    idle, why = tuple(c), 'only algorithm.advantages=gae has a critic'
  elif c.shared:
    idle, why = ('learning_rate',), "critic.shared learns at the policy's rate"
  else:
    idle, why = ('coef',), 'a critic of its own has its own optimizer'
  changed = [f'critic.{name}' for name in idle if c[name] != usual[name]]
  return [f'{", ".join(changed)}: no effect, as {why}'] if changed else []


def _early_limit(cfg) -> None:
  s = cfg.sample
  if s.early_steps < 0:
    raise ValueError(f'sample.early_steps={s.early_steps} must not be negative')
  low, high = min(s.chunk, s.max_completion_length), s.max_completion_length
  if s.early_steps and not low <= s.early_completion_length < high:
    raise ValueError(
      f'sample.early_completion_length={s.early_completion_length} must be at '
      f'least sample.chunk={s.chunk} and below sample.max_completion_length='
      f'{high}, or sample.early_steps={s.early_steps} be 0'
    )


def _algorithm(cfg) -> None:
  a = cfg.algorithm
  updates = cfg.updates.epochs * cfg.updates.minibatches
  one_of('algorithm.old_logprobs', a.old_logprobs, ('sampler', 'trainer'))
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
  _kl(a)
  _reference(a, updates)
  _group(cfg)


def _kl(a) -> None:
  one_of('algorithm.kl_in', a.kl_in, ('loss', 'reward'))
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


def _reference(a, updates) -> None:
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
  if a.reference_from and not a.kl_coef:
    raise ValueError(
      f'algorithm.reference_from={a.reference_from} has no part in the loss '
      'with algorithm.kl_coef=0; set kl_coef (1 distils)'
    )
  if a.reference_from and a.reference_every:
    raise ValueError(
      f'algorithm.reference_every={a.reference_every} would put the policy in '
      f'the place of algorithm.reference_from={a.reference_from}; set one of '
      'them'
    )


def _group(cfg) -> None:
  a = cfg.algorithm
  one_of('algorithm.teacher_traces', a.teacher_traces, (0, 1))
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


def _critic(cfg, row_ways) -> None:
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


def _filters(cfg) -> None:
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
  if f.drop_zero_variance and not any(
    r.get('weight', 1.0) for r in cfg.rewards.values()
  ):
    raise ValueError(
      'filters.drop_zero_variance leaves nothing to learn from: no reward has '
      'a weight, so those of a group are always equal; set it to False'
    )
  if f.rounds > 1 or f.retire_above < 1:
    one_of('filters.signal', f.signal, tuple(cfg.rewards))


def _buckets(cfg) -> None:
  count, multiple = cfg.updates.length_buckets, cfg.updates.length_multiple
  longest = cfg.sample.max_completion_length
  if not 0 <= count <= planner.MOST:
    raise ValueError(
      f'updates.length_buckets={count} must be in 0 .. {planner.MOST} (0 packs '
      'nothing)'
    )
  found = planner.widths(longest, count, multiple=multiple)
  if len(found) < count:
    raise ValueError(
      f'updates.length_buckets={count} widths below sample.'
      f'max_completion_length={longest} are not all different as multiples of '
      f'updates.length_multiple={multiple}: {", ".join(map(str, found))}; set '
      f'length_buckets to {len(found)} or length_multiple lower'
    )


def _offload(cfg) -> None:
  for name in cfg.updates.offload:
    one_of('updates.offload', name, tuple(offload.PARTS))
  if 'reference' in cfg.updates.offload and not cfg.algorithm.kl_coef:
    raise ValueError(
      'updates.offload names a reference that algorithm.kl_coef=0 does not keep'
    )
