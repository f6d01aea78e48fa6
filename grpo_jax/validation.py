"""Checks of a job's config before any device work: numbers and the remedy.

Those of reinforcement learning are in `validation_rl`.
"""

from collections.abc import Mapping

from grpo_jax import layout, seating
from grpo_jax.config import divides, one_of, positive
from grpo_jax.models import decode_kernel
from grpo_jax.preferences import BALANCES
from grpo_jax.rewards import text

# Tasks of a file, whose splits are all of it unless they are given a share.
_OF_FILES = ('jsonl', 'verified')
# Verifiers that need an answer to compare with.
_BY_ANSWER = ('number', 'exact', 'math', 'option')


def shared_questions(cfg, trained: Mapping | None = None) -> list[str]:
  """Sentences for the log, of files that training and evaluation both ask.

  Args:
    cfg: with the task that evaluation asks.
    trained: the task that is learned; cfg's if None.
  """
  own = cfg.task.to_dict()
  trained = _whole_files(own if trained is None else trained)
  asked = _whole_files(own | cfg.eval.task.to_dict(), evaluated=True)
  return [
    f'evaluation asks all of {path}, and what is trained on it has seen that: '
    'test_share=0 keeps none of it apart'
    for path in sorted(trained & asked)
  ]


def _whole_files(task, *, evaluated=False):
  """Paths of a task and its parts of which no share is kept apart.

  Of a mixture, evaluation asks the parts that have answers.
  """
  if task['name'] == 'mixture':
    parts = [
      part
      for part in task.get('parts', {}).values()
      if not evaluated
      or part['name'] != 'jsonl'
      or part.get('answer_field')
      or part.get('verifier', 'exact') not in _BY_ANSWER
    ]
    return set().union(*map(_whole_files, parts))
  whole = task['name'] in _OF_FILES and not task.get('test_share', 0.0)
  return {task.get('path')} if whole else set()


def of_caches(cfg, *limits: int) -> None:
  """Checks seats, and the caches of completions of up to so many tokens.

  Raises:
    ValueError: fewer seats than none, or `sample.decoding=kernel` could not
      read a cache once completions are that long.
  """
  s = cfg.sample
  if s.seats < 0:
    raise ValueError(
      f'sample.seats={s.seats} must be at least 0 (0 decodes all branches '
      'together)'
    )
  if s.decoding == 'kernel':
    capacities = seating.capacities if s.seats else layout.capacities
    for limit in limits:
      for slots in capacities(limit, s.chunk):
        decode_kernel.block_size(slots)


def of_answers(cfg, section: str) -> None:
  """Checks the sampling numbers of `cfg.sample` and `cfg[section]`.

  Args:
    cfg: the whole config.
    section: 'eval', 'generate', 'win_rate', 'keep' or 'pairs'.

  Raises:
    ValueError: with the numbers and the remedy.
  """
  s = cfg[section]
  positive(
    cfg,
    f'{section}.prompts',
    *([f'{section}.samples'] if 'samples' in s else []),
    f'{section}.batch_prompts',
    'sample.max_prompt_length',
    'sample.max_completion_length',
    'sample.chunk',
    'sample.trunk_multiple',
  )
  of_caches(cfg, cfg.sample.max_completion_length)
  for field, valid, span in (
    ('temperature', s.temperature >= 0, 'at least 0 (0 is greedy)'),
    ('top_k', s.top_k >= 0, 'at least 0 (0 keeps all)'),
    ('top_p', 0 < s.top_p <= 1, 'in (0, 1]'),
    ('min_p', 0 <= s.min_p < 1, 'in [0, 1)'),
  ):
    if not valid:
      raise ValueError(f'{section}.{field}={s[field]} must be {span}')


def of_keep(cfg) -> None:
  """Checks what a verified set is asked to be.

  Raises:
    ValueError: with the numbers and the remedy.
  """
  k = cfg.keep
  of_answers(cfg, 'keep')
  positive(cfg, 'keep.near_size', 'keep.shard_records')
  for field in ('per_prompt', 'limit'):
    if k[field] < 0:
      raise ValueError(f'keep.{field}={k[field]} must not be negative')
  if not k.near_duplicates > 0:
    raise ValueError(
      f'keep.near_duplicates={k.near_duplicates} must be above 0; above 1 '
      'drops equal completions only'
    )
  names = [k.source if k.source else cfg.task.name]
  for spec in k.mix:
    valid = {'source', 'task', 'count', 'share'}
    if not {'source', 'task'} <= spec.keys() <= valid or len(spec) > 3:
      raise ValueError(
        f'keep.mix has {dict(spec)}; each is dict(source=..., task=dict(...)), '
        'with count= or share= or neither'
      )
    if spec.get('count', 1) < 1 or not 0 < spec.get('share', 0.5) < 1:
      raise ValueError(
        f'keep.mix: count and share of {spec["source"]} must be above 0, share '
        'below 1'
      )
    names.append(spec['source'])
  if len({*names, 'total'}) != len(names) + 1:
    raise ValueError(
      f'keep.mix: sources {names} must have names of their own, none of them '
      "'total'"
    )
  if not sum(spec.get('share', 0.0) for spec in k.mix) < 1:
    raise ValueError('keep.mix: the shares leave nothing for the policy')


def of_chat(cfg) -> None:
  """ValueError for numbers of `generate --chat` that make no sense."""
  of_answers(cfg, 'generate')
  fields = ('max_prompt_length', 'max_completion_length', 'every')
  positive(cfg, *(f'chat.{field}' for field in fields))


def of_sft(cfg, *, ways: tuple[int, int, int]) -> None:
  """ValueError for numbers that do not fit together."""
  if cfg.updates.offload:
    raise ValueError(
      f'updates.offload={tuple(cfg.updates.offload)} frees memory for '
      'sampling, which sft does not do'
    )
  if cfg.updates.length_buckets:
    raise ValueError(
      f'updates.length_buckets={cfg.updates.length_buckets} is of grpo_jax.'
      'train: it packs completions of one prompt, and sft has one each; set '
      'it to 0'
    )
  if cfg.updates.group_microbatches != 1:
    raise ValueError(
      f'updates.group_microbatches={cfg.updates.group_microbatches} is of '
      'grpo_jax.train: it splits groups, and sft has one completion a prompt; '
      'set it to 1'
    )
  one_of('sft.loss_on', cfg.sft.loss_on, ('completion', 'everything'))
  if cfg.sft.epochs < 0:
    raise ValueError(f'sft.epochs={cfg.sft.epochs} must not be negative')
  positive(
    cfg,
    'steps',
    'sft.batch_size',
    'sft.max_length',
    'sample.max_prompt_length',
    'sample.trunk_multiple',
    'updates.logits_chunk',
    'updates.length_multiple',
    'updates.microbatches',
    'updates.max_nonfinite',
    'checkpoint.every',
  )
  divides(
    cfg.sft.batch_size,
    {'updates.microbatches': cfg.updates.microbatches, 'devices': ways[0]},
    field='sft.batch_size',
  )
  divides(
    cfg.updates.length_multiple,
    {'devices': ways[2]},
    field='updates.length_multiple',
  )


def of_reward_model(cfg, *, group: int, ways: tuple[int, int, int]) -> None:
  """ValueError for numbers that do not fit together.

  Args:
    cfg: the whole config.
    group: responses that are scored together.
    ways: devices that rows, responses and positions are split over.
  """
  r = cfg.reward_model
  if not r.path:
    raise ValueError(
      'reward_model.path is empty; name a JSON lines file of '
      '{prompt, chosen, rejected} (loss pairwise) or '
      '{prompt, response, label} (pointwise)'
    )
  one_of('reward_model.part', r.part, tuple(text.PARTS))
  one_of('reward_model.balance_lengths', r.balance_lengths, BALANCES)
  if group == 1 and r.balance_lengths != 'none':
    raise ValueError(
      f'reward_model.balance_lengths={r.balance_lengths!r} is of pairs; with '
      'loss=pointwise leave it at none'
    )
  if group == 1 and r.min_margin:
    raise ValueError(
      f'reward_model.min_margin={r.min_margin} is of pairs; with '
      'loss=pointwise leave it at 0'
    )
  if cfg.updates.group_microbatches > 1 or cfg.updates.offload:
    raise ValueError(
      'updates.group_microbatches and updates.offload have no use in training '
      'a reward model, whose groups are pairs; leave them at 1 and ()'
    )
  positive(
    cfg,
    'steps',
    'reward_model.test_rows',
    'reward_model.batch_size',
    'reward_model.max_length',
    'sample.max_prompt_length',
    'sample.trunk_multiple',
    'updates.length_multiple',
    'updates.microbatches',
    'updates.max_nonfinite',
    'checkpoint.every',
  )
  parts = {'updates.microbatches': cfg.updates.microbatches}
  parts['devices'] = ways[0]
  divides(r.batch_size, parts, field='reward_model.batch_size')
  divides(
    cfg.updates.length_multiple,
    {'devices': ways[2]},
    field='updates.length_multiple',
  )
