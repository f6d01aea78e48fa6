"""Verified sets: `python -m grpo_jax.generate --keep=verified --out=FOLDER ...`

Rejection sampling, and the cold start's traces (R1, 2501.12948v2, B.3.2 and
B.3.3):

  1 completions = sample(prompts)       G of each, a block of prompts at a time
  2 right       = rewards or a judge    on the host, each process its own
  3 kept        = selection.sift        filters, duplicates, rewriting
    -> progress/, a file of each process for each block
  4 records     = selection.Chooser     the whole set: duplicates, limit, mix
    -> array_record files, tfds' metadata, the data card

The noise of prompt i depends on (seed, i) alone, and 4 on the rows of 3 in the
order of the prompts, so the set depends neither on the number of processes nor
on where it was interrupted. What the paper does not disclose (how many samples
a prompt, which of several right ones, every threshold) is a choice of ours.
"""

import pathlib
import shutil

import jax
import numpy as np
from tqdm import tqdm

from grpo_jax import (
  answers,
  begun,
  cli,
  files,
  hosts,
  metrics,
  policy,
  programs,
  questions,
  sharding,
  validation,
)
from grpo_jax.tasks import shares
from grpo_jax.verified import mixing, progress, record_set, selection, sifting

# Of the config, what the rows depend on.
_SETTINGS = (
  'seed', 'init_from', 'task', 'prompt', 'rewards', 'reward_gate', 'keep'
)  # fmt: skip
# Of `keep`, what they do not: stage 4 may be done again with others.
_OF_SET = ('prompts', 'limit', 'source', 'mix', 'shard_records')


def run(cfg, folder: pathlib.Path) -> None:
  """Writes the set, or goes on where `folder` stopped."""
  validation.of_keep(cfg)
  pol = policy.open_policy(cfg)
  ask = questions.questions(cfg, pol.tokenizer, evaluation=False)
  sifter = sifting.Sifter(cfg, ask)
  mixed = [mixing.Mixed(spec, cfg.seed) for spec in cfg.keep.mix]
  with cli.lock(folder, flag='out'):
    step, params = pol.checkpoint()
    settings = _settings(cfg, step)
    path, under_way = folder / record_set.CARD, folder / 'progress'
    whole = path.exists()
    if whole:
      # Cards of before have numbers that JSON does not know.
      there = cli.flat(metrics.jsonable(files.read_json(path)['settings']))
      here = cli.flat(metrics.jsonable(settings))
      begun.refuse_other(folder, there, here, free=begun.FREE, flag='out')
    else:
      done = progress.Progress(under_way, _of_rows(settings))
      _sample(cfg, pol, params, ask, sifter, done)
      _write(cfg, folder, done, mixed, sifter.count, settings)
    hosts.wait_for_all('the end')
    if hosts.is_first():
      # Also after a kill between the card and here.
      shutil.rmtree(under_way, ignore_errors=True)
      count = files.read_json(path)['sources']['total']['records']
      told = f'{count} records in {folder}{" already" if whole else ""}'
      print(f'{told}; see its {record_set.README}')


def _sample(cfg, pol, params, ask, sifter, done):
  """Stages 1 to 3, from where `done` ends."""
  k = cfg.keep
  order = shares.in_turn(ask.task, k.prompts)  # a limit may end it early
  total = len(order)
  chooser = selection.Chooser(source=_source(cfg), limit=k.limit)
  if k.limit:
    chooser.count(done.rows(total))
  if sifter.judge is not None:
    sifter.asked['verdicts'] += _any_verdict(ask.task, order, sifter, done)
  # A prompt's samples stay together: one process judges all of them.
  answerer = answers.of_section(
    pol.for_groups_of(1), ask, cfg, 'keep', count=total
  )
  rows, params = answerer.rows, programs.publish(pol)(params)
  whole = sharding.replicated(pol.mesh)
  key = programs.stream(cfg.seed, 'verified', 0, whole)
  silent = not hosts.is_first()
  bar = tqdm(total=total, initial=done.done, desc='prompts', disable=silent)
  with cli.shutdown_requested() as requested, bar:
    for start in range(done.done, total, answerer.batch):
      # All stop at the same block: rows of others are read after it is there.
      if hosts.agree(int(chooser.full), what='whether there are enough'):
        return
      end = min(start + answerer.batch, total)
      # The last block is filled up, so that it runs the same program.
      asked = [order[min(start + i, total - 1)] for i in range(answerer.batch)]
      examples = ask.read(asked, rows.here(answerer.batch))
      got = answerer.answer(params, examples, key, start)
      completions, _ = answerer.texts(got, examples)
      own = np.flatnonzero(rows.owned(answerer.batch)[: end - start])
      found = sifter.rows(
        own + start,
        [completions[q] for q in own],
        [examples[q] for q in own],
      )
      if sifter.judge is not None:
        counts = hosts.total(sifter.asked, what='counting verdicts')
        sifting.refuse_silence(counts, whole=end == total)
      done.write(start, end, found, jax.process_index())
      hosts.wait_for_all(f'prompts {start} to {end}')
      if k.limit:
        chooser.count(done.block(start, end))
      bar.update(end - start)
      if number := hosts.agree(requested(), what='whether to leave'):
        raise cli.Stopped(
          f'stopped after {end} of {total} prompts; the same command goes on '
          'from there',
          number,
        )


def _any_verdict(task, order, sifter, done) -> bool:
  """Whether the judge had one before this process began.

  Of those that say right: it is not asked about answers that say nothing.
  """
  return any(
    row['right'] and sifter.judges(task.example(order[row['index']]))
    for row in done.rows(len(order))
  )


def _write(cfg, folder, done, mixed, count, settings):
  """Stage 4: the files of the set, its card last."""
  k = cfg.keep

  def records(chooser):
    for row in done.rows(k.prompts):
      yield from chooser.add(row)
    amounts = mixing.amounts(mixed, own=chooser.kept)
    for one, amount in zip(mixed, amounts, strict=True):
      yield from one.records(amount, chooser.seen, count)

  # Twice: file names tell how many there are.
  chooser = selection.Chooser(source=_source(cfg), limit=k.limit)
  lengths = record_set.Lengths()
  total = sum(1 for _ in lengths.watch(records(chooser)))
  if not chooser.kept:
    raise ValueError(
      f'none of {chooser.samples} completions was kept '
      f'({dict(chooser.dropped)}); change what keep asks for and name another '
      '--out, or sample a better policy'
    )
  if hosts.is_first():
    record_set.remove_shards(folder)
  hosts.wait_for_all('writing the records')
  again = selection.Chooser(source=_source(cfg), limit=k.limit)
  size = record_set.write(
    folder,
    records(again),
    total=total,
    per_shard=k.shard_records,
    process=jax.process_index(),
    processes=jax.process_count(),
  )
  size = hosts.total({'bytes': size}, what='writing the records')['bytes']
  if not hosts.is_first():
    return
  record_set.describe(folder, total=total, per_shard=k.shard_records, size=size)
  card = {
    'sources': lengths.table(),
    'prompts': chooser.prompts,
    'samples': chooser.samples,
    'kept': chooser.kept,
    'dropped': _dropped(cfg, chooser),
    'pass_rates': chooser.pass_rates,
    'made_by': {n: settings[n] for n in ('init_from', 'step', 'seed')},
    'settings': settings,
  }
  readme = record_set.readme(card)
  (folder / record_set.README).write_text(readme, encoding='utf-8')
  files.write_json(folder / record_set.CARD, metrics.jsonable(card))


def _settings(cfg, step) -> dict:
  """What the set depends on, but for the code."""
  given = cfg.to_dict()
  del given['keep']['batch_prompts']
  found = {name: given[name] for name in _SETTINGS}
  found['max_completion_length'] = cfg.sample.max_completion_length
  return files.plain(found | {'step': step})


def _of_rows(settings) -> dict:
  """Of the settings, by name, what the rows of progress depend on."""
  other = {f'keep.{name}' for name in _OF_SET}
  return {k: v for k, v in cli.flat(settings).items() if k not in other}


def _source(cfg) -> str:
  return cfg.keep.source if cfg.keep.source else cfg.task.name


def _dropped(cfg, chooser) -> dict[str, int]:
  """Every reason there could have been, in the order in which they apply."""
  first = selection.REASONS.index('min_reward') + 1
  before, after = selection.REASONS[:first], selection.REASONS[first:]
  names = (*before, *(f['name'] for f in cfg.keep.filters), *after)
  return {name: chooser.dropped[name] for name in names}
