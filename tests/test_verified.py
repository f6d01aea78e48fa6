"""Verified sets from end to end: generate --keep=verified, then sft on them."""

import collections
import json
import os
import re
import shutil
import signal
import subprocess
import time
import types

import judge_server
import numpy as np
import pytest
import tiny

from grpo_jax import pairs, questions, sft, tasks, tokenizer
from grpo_jax.rewards import Completion
from grpo_jax.runs import open_run
from grpo_jax.verified import progress, record_set, selection, sifting

# Blocks of 4 prompts, several files, a source beside the policy's.
CONFIG = """
from tests import tiny

def get_config():
  c = tiny.get_config()
  c.keep.update(
    prompts=40, samples=6, batch_prompts=4, shard_records=7, source='sums',
  )
  c.keep.mix = (dict(
    source='other', count=5,
    task=dict(name='arithmetic', split='test', size=50, min_ops=2, max_ops=2),
  ),)
  return c
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'kept.py'
  path.write_text(CONFIG)
  return path


def flags(config, out, *more):
  where = f'--workdir={tiny.run("sft")}', f'--out={out}'
  return (f'--config={config}', '--keep=verified', *where, *more)


def keep(config, out, *more):
  done = tiny.job('generate', *flags(config, out, *more))
  assert done.code == 0, done.err
  return done


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """A set that nothing interrupted; do not change it."""
  out = tmp_path_factory.mktemp('whole') / 'set'
  keep(config, out)
  return out


def records(folder):
  source = record_set.open_set(str(folder))
  rows = [source[i] for i in range(len(source))]
  return [
    {k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()}
    for row in rows
  ]


def card_of(folder):
  return json.loads((folder / 'card.json').read_text())


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != '.lock'}


def test_every_record_of_the_policy_is_right_and_there_once(whole):
  own = [r for r in records(whole) if r['source'] == 'sums']
  assert len(own) > 5
  for r in own:
    found = re.fullmatch(r'<answer>([0-9]+)</answer>', r['completion'])
    assert int(found[1]) == eval(r['prompt'][:-1]) == int(r['answer'])
    assert 0 < r['pass_rate'] <= 1 and r['reward'] >= 1.0
    # Three tokens, the tags are one each, and digits.
    assert r['tokens'] == 3 + len(found[1])
  assert len({(r['prompt'], r['completion']) for r in own}) == len(own)
  assert [r['index'] for r in own] == sorted(r['index'] for r in own)


def test_the_card_tells_what_the_records_are(whole):
  card, rows = card_of(whole), records(whole)
  by_source = collections.defaultdict(list)
  for r in rows:
    by_source[r['source']].append(r['tokens'])
  by_source['total'] = [r['tokens'] for r in rows]
  assert len(by_source['other']) == 5
  for source, tokens in by_source.items():
    assert card['sources'][source] == {
      'records': len(tokens), 'tokens': sum(tokens), 'min': min(tokens),
      'max': max(tokens), 'mean': pytest.approx(np.mean(tokens)),
    }  # fmt: skip
  assert card['prompts'] == 40 and card['samples'] == 240
  assert card['kept'] == len(by_source['sums'])
  assert sum(card['dropped'].values()) + card['kept'] == 240
  assert sum(card['pass_rates'].values()) == 40
  # 40 prompts with 6 samples each: right ones are kept or said twice.
  right = 240 - card['dropped']['wrong']
  assert right == card['kept'] + card['dropped']['duplicate'] > 0
  rates = {r['prompt']: r['pass_rate'] for r in rows if r['source'] == 'sums'}
  some = 40 - card['pass_rates']['0']
  # The tiny task asks some of its sums twice.
  assert len(rates) <= some
  readme = (whole / 'README.md').read_text()
  assert f'| wrong | {card["dropped"]["wrong"]} |' in readme
  assert str(tiny.run('sft')) in readme and '"prompts": 40' in readme


def test_the_folder_holds_several_files_and_no_progress(whole):
  names = {p.name for p in whole.iterdir()} - {'.lock'}
  total = card_of(whole)['sources']['total']['records']
  count = -(-total // 7)
  assert count > 1
  assert names == {
    'README.md', 'card.json', 'dataset_info.json', 'features.json',
    *(f'verified-train.array_record-{i:05d}-of-{count:05d}'
      for i in range(count)),
  }  # fmt: skip


def test_killed_and_started_again_it_leaves_the_same_files(
  config, whole, tmp_path
):
  out = tmp_path / 'set'
  process = tiny.start('generate', *flags(config, out))
  while process.poll() is None and not list(out.glob('progress/*.jsonl')):
    time.sleep(0.002)
  process.kill()
  assert tiny.finish(process).code == -signal.SIGKILL
  blocks = list(out.glob('progress/*.jsonl'))
  assert 0 < len(blocks) < 10 and not (out / 'card.json').exists()
  # What a kill may leave, and a block of which rows are missing.
  (out / 'progress' / 'x.jsonl.partial').write_text('{"index')
  end = 4 * len(blocks)
  name = f'{end:09d}-{end + 4:09d}-00000.jsonl'
  (out / 'progress' / name).write_text(blocks[0].read_text().split('\n')[0])
  with pytest.raises(ValueError, match='goes on with it'):
    record_set.open_set(str(out))
  # Other blocks, and no prompt is asked again.
  done = keep(config, out, '--config.keep.batch_prompts=6')
  assert f'{end}/40' in done.err
  assert contents(out) == contents(whole)


def test_sigterm_ends_it_between_blocks(config, tmp_path):
  # Sent by the first right completion. One at a time: a second signal would
  # end the process at once.
  one = ('--config.keep.batch_prompts=1', '--config.keep.samples=1')
  stop = "--config.keep.rewrite={'name': 'function', 'path': 'tests.tiny:stop'}"
  done = tiny.job('generate', *flags(config, tmp_path / 'set', *one, stop))
  assert done.code == 128 + signal.SIGTERM
  found = re.search(
    r'stopped after (\d+) of 40 prompts; the same command goes on', done.err
  )
  blocks = list(tmp_path.glob('set/progress/*.jsonl'))
  assert len(blocks) == int(found[1]) < 40


def test_damaged_rows_are_named_with_the_remedy(tmp_path):
  done = progress.Progress(tmp_path, {'seed': 0})
  done.write(0, 1, [{'index': 0}], 0)
  (path,) = tmp_path.glob('0*.jsonl')
  path.write_text('{"index": \n')
  again = progress.Progress(tmp_path, {'seed': 0})
  with pytest.raises(ValueError, match=f'{path} is damaged .*; remove it'):
    list(again.rows(1))
  (tmp_path / 'settings.json').write_text('{')
  with pytest.raises(ValueError, match='settings.json is damaged'):
    progress.Progress(tmp_path, {'seed': 0})


def test_two_processes_leave_the_files_of_one(config, whole, tmp_path):
  out = tmp_path / 'set'
  job = ['-m', 'grpo_jax.generate', *flags(config, out)]
  cache = f'--compilation_cache={tmp_path}/programs'
  done = subprocess.run(
    [*(tiny.sys.executable, '-m', 'launch.local', '--processes=2'),
     *('--devices=1', '--', tiny.sys.executable, *job, cache)],
    cwd=tiny.REPO, env=os.environ, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert contents(out) == contents(whole)


def test_a_limit_stops_the_sampling_and_keeps_the_first(
  config, whole, tmp_path
):
  keep(
    config, tmp_path / 'set', '--config.keep.limit=3', '--config.keep.mix=()'
  )
  card, rows = card_of(tmp_path / 'set'), records(tmp_path / 'set')
  assert rows == records(whole)[:3]
  assert card['prompts'] == rows[-1]['index'] + 1 < 40
  assert card['samples'] == 6 * card['prompts']
  assert sum(card['dropped'].values()) + card['kept'] == card['samples']


def test_another_mix_or_more_prompts_ask_no_prompt_again(
  config, whole, tmp_path
):
  out, few = tmp_path / 'set', '--config.keep.prompts=8'
  mix = (
    "--config.keep.mix=({'source': 'few', 'count': 30, 'task': {'name': "
    "'arithmetic', 'split': 'test', 'size': 30, 'min_ops': 1, 'max_ops': 1}},)"
  )
  done = tiny.job('generate', *flags(config, out, few, mix))
  assert done.code == 2
  assert 'are not in the set yet and 30 are asked' in done.err.splitlines()[-1]
  done = keep(config, out, '--config.keep.prompts=12')
  assert '8/12' in done.err
  kept = [r for r in records(whole) if r['index'] < 12 or r['source'] != 'sums']
  assert str(records(out)) == str(kept)  # NaN is not NaN


def test_a_finished_set_is_left_alone_and_another_refused(
  config, whole, tmp_path
):
  out = shutil.copytree(whole, tmp_path / 'set')
  (out / 'progress').mkdir()  # as a kill after the card leaves it
  done = keep(config, out)
  assert 'records in' in done.out and 'already' in done.out
  assert contents(out) == contents(whole)
  done = tiny.job('generate', *flags(config, out, '--config.seed=5'))
  assert done.code == 2
  assert 'seed=0 there and seed=5 here' in done.err.splitlines()[-1]


@pytest.mark.parametrize(
  'more, saying',
  [
    (["--config.keep.filters=({'name': 'fit'},)"], "filters has no 'fit'"),
    (['--config.keep.right=exact'], "keep.right='exact' is not one of"),
    (["--config.keep.mix=({'source': 'x'},)"], 'each is dict(source=...'),
    (['--config.keep.samples=0'], 'keep.samples=0 must be at least 1'),
    (["--config.keep.rewrite={'name': 'function', 'path': 'json'}"],
     "must be 'module:function'"),
    (['--prompt=1+1='], 'and neither --prompt nor --chat'),
    (['--chat'], 'and neither --prompt nor --chat'),
    (['--keep=best'], "--keep='best' is not one of"),
  ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(
  config, tmp_path, more, saying
):
  done = tiny.job('generate', *flags(config, tmp_path / 'set', *more))
  assert done.code == 2 and len(done.err.splitlines()) == 1
  assert saying in done.err
  assert not (tmp_path / 'set').exists()


def test_nothing_kept_is_an_error_with_the_counts(config, tmp_path):
  least = "--config.keep.filters=({'name': 'thought_words', 'least': 1},)"
  done = tiny.job('generate', *flags(config, tmp_path / 'set', least))
  assert done.code == 2
  told = done.err.splitlines()[-1]
  assert 'none of 240 completions was kept' in told
  assert "'thought_words': " in told and "'wrong': " in told


def verdict(completion, example):
  """A judge of one's own: no verdict on questions."""
  return None if '?' in completion else completion.endswith(example.answer)


def test_a_judge_decides_in_place_of_the_reward():
  cfg = tiny.get_config()
  cfg.keep.judge = dict(name='function', path='test_verified:verdict')
  cfg.keep.rewrite = dict(name='function', path='test_verified:shout')
  example = tasks.Example('Who?', 'Ada')
  ask = types.SimpleNamespace(
    task=tasks.Task(1, lambda i: example, lambda answer, example: False),
    tokenizer=tokenizer.char(alphabet='AdaBob?!. '),
  )
  texts = ['Ada', 'Bob', 'Ada?', 'Bob. Ada']
  sifter = sifting.Sifter(cfg, ask)

  def rows(texts):
    told = [Completion(t, tokens=3, finished=True) for t in texts]
    return sifter.rows([7], [told], [example])

  [row] = rows(texts)
  assert (row['index'], row['judged'], row['right']) == (7, 3, 2)
  assert row['dropped'] == {'wrong': 1, 'unjudged': 1, 'rewrite': 1}
  [kept] = row['kept']
  assert kept['completion'] == '!Ada' and kept['tokens'] == 5
  # Nothing is asked about an empty answer; no verdict ends nothing here.
  [row] = rows(['?', '', 'Bob?'])
  assert row['dropped'] == {'unjudged': 2, 'wrong': 1}
  assert sifter.asked == {'prompts': 2, 'answers': 6, 'verdicts': 3}


def test_a_judge_is_refused_once_it_was_asked_enough_in_vain():
  refuse = sifting.refuse_silence
  for asked in ((0, 0, 0), (4, 31, 0), (3, 300, 0), (9, 300, 1)):
    refuse(
      dict(zip(('prompts', 'answers', 'verdicts'), asked, strict=True)),
      whole=False,
    )
  refuse(dict(prompts=0, answers=0, verdicts=0), whole=True)
  with pytest.raises(ValueError, match='no verdict on any of 32 answers'):
    refuse(dict(prompts=4, answers=32, verdicts=0), whole=False)
  with pytest.raises(ValueError, match='no verdict on any of 2 answers'):
    refuse(dict(prompts=1, answers=2, verdicts=0), whole=True)


def test_a_set_goes_on_with_a_judge_that_moved_and_has_no_verdicts(
  config, tmp_path
):
  few = ('--config.keep.batch_prompts=1', '--config.keep.samples=8')
  too_many = (
    "--config.keep.mix=({'source': 'few', 'count': 30, 'task': {'name': "
    "'arithmetic', 'split': 'test', 'size': 30, 'min_ops': 1, 'max_ops': 1}},)"
  )

  def asked(server, prompts, *more, out='set'):
    judge = (
      f"--config.keep.judge={{'name': 'endpoint', 'url': {server.url!r}, "
      "'model': 'm', 'key_from': '', 'first_wait': 0.0}"
    )
    count = f'--config.keep.prompts={prompts}'
    return flags(config, tmp_path / out, *few, judge, count, *more)

  with judge_server.running() as first, judge_server.running() as other:
    said = {'choices': [{'message': {'content': '{"verdict": "correct"}'}}]}
    first.reply = lambda body: (200, {}, said)
    other.reply = lambda body: judge_server.filtered()
    # Two blocks, then the mix fails.
    done = tiny.job('generate', *asked(first, 2, too_many))
    assert 'and 30 are asked' in done.err, done.err
    done = tiny.job('generate', *asked(other, 8))
    assert done.code == 0, done.err
    assert '2/8' in done.err and 'content filter' in done.err
    card = card_of(tmp_path / 'set')
    assert card['dropped']['unjudged'] == len(other.asked) > 32
    assert {r['index'] for r in records(tmp_path / 'set')
            if r['source'] == 'sums'} <= {0, 1}  # fmt: skip
    # What is whole does not mind where the judge is.
    done = tiny.job('generate', *asked(first, 8))
    assert done.code == 0 and 'already' in done.out, done.err
    # One that never had a verdict ends the set, with its reason.
    done = tiny.job('generate', *asked(other, 8, out='new'))
  assert done.code == 2
  assert re.search(
    'no verdict on any of .* refused: 400 .*: content filter',
    done.err.splitlines()[-1],
  )


def by_domain(**changed):
  """What is thought of answers in the domains rule and open."""
  cfg = tiny.get_config()
  cfg.rewards = dict(
    correct=dict(
      name='correct', weight=1.0, extract='lenient', domains=('rule',)
    ),
    length=dict(name='constant', weight=0.5, value=1.0),
  )
  judge = dict(name='function', path='test_verified:verdict')
  cfg.keep.judge = judge | dict(domains=('open',))
  for name, value in changed.items():
    cfg.keep[name] = value
  spec = dict(name='arithmetic', seed=0, size=4, share=1, min_ops=1, max_ops=1)
  task = tasks.mixture(parts=dict(rule=spec, open=spec))
  ask = types.SimpleNamespace(
    task=task, tokenizer=tokenizer.char(alphabet='0123456789?Ada!')
  )
  return sifting.Sifter(cfg, ask)


def test_a_set_is_not_kept_by_a_reward_model():
  cfg = tiny.get_config()
  cfg.rewards.helpful = dict(name='reward_model', path='there', weight=0.5)
  task = tasks.arithmetic(split='train', size=4, min_ops=1, max_ops=1)
  ask = types.SimpleNamespace(
    task=task, tokenizer=tokenizer.char(alphabet='0123456789')
  )
  with pytest.raises(ValueError, match='helpful is a reward model.*weight=0$'):
    sifting.Sifter(cfg, ask)
  cfg.rewards.helpful.weight = 0.0
  told = [[Completion('1', tokens=2, finished=True)]]
  [row] = sifting.Sifter(cfg, ask).rows([0], told, [task.example(0)])
  assert row['judged'] == 1
  cfg.reward_gate = 'helpful'
  with pytest.raises(ValueError, match="reward_gate='helpful' is a reward mod"):
    sifting.Sifter(cfg, ask)
  cfg.pairs.gold = 'helpful'
  with pytest.raises(ValueError, match="pairs.gold='helpful'"):
    pairs.check(cfg)


def test_a_judge_of_some_domains_leaves_the_others_to_the_reward():
  examples = [
    tasks.Example('1 +1=', '2', data={'mixture/part': 'rule'}, domain='rule'),
    tasks.Example('Who?', 'Ada', data={'mixture/part': 'open'}, domain='open'),
  ]
  texts = [['2', '3', 'Ada'], ['2', 'Ada', 'Ada?']]
  told = [
    [Completion(t, tokens=3, finished=True) for t in row] for row in texts
  ]
  first, second = by_domain().rows([0, 1], told, examples)
  assert (first['judged'], first['right']) == (3, 1)
  assert [row['completion'] for row in first['kept']] == ['2']
  assert (second['judged'], second['right']) == (2, 1)
  assert [row['completion'] for row in second['kept']] == ['Ada']
  # A component that judges other domains is no part of the sum.
  assert first['kept'][0]['reward'] == 1.5
  assert second['kept'][0]['reward'] == 0.5
  # Where the judge has nothing to say, its silence is no mistake.
  [alone] = by_domain().rows([0], told[:1], examples[:1])
  assert alone['kept'] == first['kept']


@pytest.mark.parametrize(
  'changed, told',
  [
    (dict(judge=dict(name='none')), "'open' are judged neither by keep.right="),
    (dict(judge=dict(name='none', domains=('open',))), 'and there is none'),
    (dict(judge=dict(name='function', path='test_verified:verdict',
                     domains=('open', 'shut'))), "domains names 'shut', and"),
    (dict(right='nothing'), 'keep.right'),
  ],
)  # fmt: skip
def test_answers_that_nobody_judges_are_a_mistake(changed, told):
  with pytest.raises(ValueError, match=told):
    by_domain(**changed)


def test_what_nobody_judges_has_no_pass_rate():
  cfg = tiny.get_config()
  cfg.keep.update(right='', filters=())
  made = tokenizer.char(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)
  ask = questions.questions(cfg, made, evaluation=False)
  example = ask.task.example(0)
  told = [Completion(t, tokens=3, finished=True) for t in ('1', '2')]
  [row] = sifting.Sifter(cfg, ask).rows([0], [told], [example])
  assert len(row['kept']) == 2 and (row['judged'], row['right']) == (0, 0)
  chooser = selection.Chooser(source='any')
  given = [*chooser.add(row)]
  assert all(np.isnan(record['pass_rate']) for record in given)
  assert chooser.pass_rates['unjudged'] == 1


def test_a_set_of_a_mixture_has_some_of_each_part(tmp_path):
  path = tmp_path / 'mixed.py'
  path.write_text(
    'from tests import tiny\n\n'
    'def get_config():\n'
    '  c = tiny.get_config()\n'
    '  spec = dict(\n'
    "    name='arithmetic', seed=0, size=40, min_ops=1, max_ops=1, share=1,\n"
    '  )\n'
    '  parts = dict(a=spec, b=spec | dict(max_number=3))\n'
    "  c.task = dict(name='mixture', split='train', parts=parts)\n"
    "  c.keep.update(prompts=40, samples=2, limit=4, right='',\n"
    '                batch_prompts=4, filters=())\n'
    '  return c\n'
  )
  keep(path, tmp_path / 'set')
  rows = records(tmp_path / 'set')
  # Four records of the first prompts asked: two of each part.
  assert [row['index'] for row in rows] == [0, 0, 1, 1]
  one, other = rows[0]['prompt'], rows[2]['prompt']
  spec = dict(split='train', seed=0, size=40, min_ops=1, max_ops=1)
  assert one == tasks.arithmetic(**spec).example(0).prompt
  wide = tasks.arithmetic(**spec, max_number=3).example(0).prompt
  assert other == wide


def shout(completion, example):
  """A rewriter of one's own, which spoils what is long."""
  return f'!{completion}' if len(completion) < 5 else f'{completion}!'


def test_fine_tuning_on_a_set_lowers_the_loss(whole, tmp_path):
  path = tmp_path / 'on_set.py'
  path.write_text(
    'from tests import tiny\n\n'
    'def get_config():\n'
    '  c = tiny.get_config()\n'
    f"  c.task = dict(name='verified', path={str(whole)!r}, split='train')\n"
    '  c.sft.epochs = 8\n'
    '  c.eval.every = 0\n'
    '  return c\n'
  )
  workdir = tmp_path / 'run'
  done = tiny.job('sft', f'--config={path}', f'--workdir={workdir}')
  assert done.code == 0, done.err
  run = open_run(workdir)
  total = card_of(whole)['sources']['total']['records']
  steps = -(-8 * total // 16)
  assert run.config.steps == steps == run.metrics['step'][-1]
  assert run.metrics['nll'][-1] < run.metrics['nll'][1] - 0.5


def test_epochs_are_updates_rounded_up():
  c = tiny.get_config()
  c.sft.update(batch_size=16, epochs=2)
  assert sft.with_steps(c, examples=100).steps == 13
  assert c.steps == 10  # its own is left alone
  c.sft.epochs = 0
  assert sft.with_steps(c, examples=100).steps == 10


def test_the_task_gives_records_of_a_split_and_of_sources(whole):
  rows = records(whole)
  task = tasks.verified(path=str(whole))
  assert len(task) == len(rows)
  for i, row in enumerate(rows):
    example = task.example(i)
    assert example.prompt == row['prompt']
    assert example.completion == row['completion']
    assert task.verify(row['answer'], example)
  other = tasks.verified(path=str(whole), sources=('other',))
  assert len(other) == 5
  parts = [
    tasks.verified(path=str(whole), split=s, test_share=0.3)
    for s in ('train', 'test')
  ]
  prompts = [{t.example(i).prompt for i in range(len(t))} for t in parts]
  assert not prompts[0] & prompts[1]
  assert sum(map(len, parts)) == len(rows)
  with pytest.raises(ValueError, match="no record of source 'chat'"):
    tasks.verified(path=str(whole), sources=('chat',))
