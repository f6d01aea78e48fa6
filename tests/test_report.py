"""The report: what it reads, warns of and shows, in a browser too."""

import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.request

import browser
import numpy as np
import pytest
import tiny

from configs import base
from grpo_jax import (
  report,
  report_curves,
  report_data,
  report_tables,
  report_texts,
  report_warnings,
)
from grpo_jax.metrics import Writer

EVIL = '</script><script>window.hacked=1</script><img src=x onerror=hacked=1>'


def write_run(path, measured, *, seed=0, samples=(), **changed):
  """A run by hand: `measured` is a dict a step, from step 1 on."""
  cfg = base.get_config()
  cfg.seed, cfg.steps = seed, max(len(measured), 1)
  cfg.update(changed)
  with Writer(path, tensorboard=False) as writer:
    (path / 'config.json').write_text(json.dumps(cfg.to_dict()))
    for step, values in enumerate(measured, 1):
      writer.write(step, values)
    for step, rows in samples:
      writer.samples(step, rows)
  return path


def sample(completion, **changed):
  row = {
    'prompt': '2+3=',
    'completion': completion,
    'answer': '5',
    'reward': 0.0,
    'rewards': {'correct': 0.0},
    'advantage': -1.0,
    'length': 10,
    'finished': True,
    'given': False,
  }
  return row | changed


def read(*workdirs, group_over=('seed',), **kwargs):
  workdirs = [str(workdir) for workdir in workdirs]
  return report_data.read(workdirs, group_over=group_over, **kwargs)


def chart(data, metric):
  charts = [c for s in data['sections'] for c in s['charts']]
  return next((c for c in charts if c['metric'] == metric), None)


def embedded(html):
  """The data as a browser reads it."""
  begin = html.index(b'type="application/json">') + 24
  return json.loads(html[begin : html.index(b'</script>', begin)])


# Curves.


def test_the_line_of_seeds_is_their_mean_and_the_band_their_extremes():
  steps, mean, low, high = report_curves.join(
    [
      (np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])),
      # Behind the other, and not finite at step 1.
      (np.array([1, 2]), np.array([math.inf, 6.0])),
    ]
  )
  assert steps.tolist() == [1, 2, 3]
  assert mean.tolist() == [1.0, 4.0, 3.0]
  assert low.tolist() == [1.0, 2.0, 3.0]
  assert high.tolist() == [1.0, 6.0, 3.0]


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_every_spike():
  values = np.sin(np.arange(50_000) / 500)
  values[12_345], values[40_001] = 9.0, -9.0
  index = report_curves.thin(values, values, 1000)
  assert 900 < index.size <= 1000
  assert (np.diff(index) > 0).all()
  assert {0, 12_345, 40_001, 49_999} <= set(index.tolist())
  # No stretch is left out.
  assert np.diff(index).max() < 300


def test_a_short_curve_is_kept_whole():
  values = np.arange(1000.0)
  assert report_curves.thin(values, values, 1000).tolist() == [*range(1000)]


# Groups.


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
  for seed, reward in ((1, 0.2), (2, 0.4)):
    write_run(
      tmp_path / f'lr=1,seed={seed}', [{'reward/mean': reward}] * 3, seed=seed
    )
  write_run(tmp_path / 'lr=2,seed=1', [{'reward/mean': 0.9}] * 3, steps=7)
  data = read(tmp_path)
  assert [(g['name'], len(g['runs'])) for g in data['groups']] == [
    ('lr=1', 2), ('lr=2,seed=1', 1),
  ]  # fmt: skip
  first, second = chart(data, 'reward/mean')['curves']
  assert first['y'] == pytest.approx([0.3] * 3)
  assert (first['low'], first['high']) == ([0.2] * 3, [0.4] * 3)
  assert second['y'] == [0.9] * 3 and 'low' not in second


def test_groups_of_several_folders_have_names_that_tell_them_apart(tmp_path):
  runs = []
  for folder, arm, limit in (
    ('b', 'search_base', 3), ('b', 'lookup_base', 4),
    ('c', 'base', 5), ('d', 'base', 5), ('d', '5', 6), ('e', '6', 6),
  ):  # fmt: skip
    for seed in (0, 1):
      name = arm if arm.isdigit() else f'{arm}_{seed}'
      path = tmp_path / folder / name
      if not path.exists():
        runs.append(
          write_run(path, [{'reward/mean': 0.1}], seed=seed, steps=limit)
        )
  names = [g['name'] for g in read(*runs)['groups']]
  assert names == ['b/search_base', 'b/lookup_base', 'base', 'd + e']


def test_other_fields_may_be_seeds_too_when_named(tmp_path):
  for seed in (1, 2):
    write_run(
      tmp_path / f'{seed}', [{'loss': 1.0 * seed}], seed=seed,
      init_from=f'base_{seed}',
    )  # fmt: skip
  assert len(read(tmp_path)['groups']) == 2
  assert len(read(tmp_path, group_over=('seed', 'init_from'))['groups']) == 1


def test_the_table_of_runs_ranks_them_and_names_what_differs(tmp_path):
  for name, coef, right in (('a', 0.1, 0.25), ('b', 0.2, 0.75)):
    algorithm = base.get_config().algorithm.copy_and_resolve_references()
    algorithm.kl_coef = coef
    write_run(
      tmp_path / name, [{'eval/pass@1': right}], algorithm=algorithm.to_dict()
    )
  table = read(tmp_path)['tables']['runs']
  assert table['columns'][:4] == ['', 'run', 'eval/pass@1', 'kl_coef']
  assert [row[:4] for row in table['rows']] == [
    ['1', 'b', '0.75', '0.2'], ['2', 'a', '0.25', '0.1'],
  ]  # fmt: skip
  configs = read(tmp_path)['tables']['configs']
  assert configs == {
    'columns': ['field', 'a', 'b'],
    'rows': [['algorithm.kl_coef', '0.1', '0.2']],
  }


def test_runs_of_other_rewards_are_ranked_by_evaluations_alone(tmp_path):
  for name, reward in (('a', 3.0), ('b', 0.5)):
    rewards = dict(correct=dict(name='correct', weight=reward))
    write_run(tmp_path / name, [{'reward/mean': reward}], rewards=rewards)
  table = read(tmp_path)['tables']['runs']
  assert [row[:3] for row in table['rows']] == [
    ['', 'a', '3'],
    ['', 'b', '0.5'],
  ]
  for name, right in (('a', 0.25), ('b', 0.75)):
    found = json.dumps({'pass@1': right, 'problems': 9})
    (tmp_path / name / 'eval.json').write_text(found)
  write_run(tmp_path / 'c', [{'reward/mean': 9.0}])
  table = read(tmp_path)['tables']['runs']
  assert table['columns'][2] == 'eval/pass@1'
  assert [row[:3] for row in table['rows']] == [
    ['1', 'b', '0.75'], ['2', 'a', '0.25'], ['', 'c', '-'],
  ]  # fmt: skip


def test_an_evaluation_is_a_row_of_the_table_of_stages(tmp_path):
  run = write_run(tmp_path / 'r1', [{'loss': 1.0}])
  assert read(run)['tables']['stages'] is None
  found = {
    'pass@1': 0.5, 'pass@1_stderr': 0.02, 'cons@16': 0.75,
    'mean_length': 81.26, 'truncated': 0.125, 'problems': 200,
  }  # fmt: skip
  (run / 'eval.json').write_text(json.dumps(found))
  table = read(run)['tables']['stages']
  name = f'{tmp_path.name}/r1'
  assert dict(zip(table['columns'], table['rows'][0], strict=True)) == {
    '': name, 'pass@1': '50.0% ± 2.0', 'cons@16': '75.0%',
    'mean length': '81.3', 'truncated': '12.5%', 'problems': '200',
  }  # fmt: skip
  assert report_tables.stages([]) is None


def test_an_evaluation_of_a_model_that_is_no_run_is_a_row_too(tmp_path):
  run = write_run(tmp_path / 'zero', [{'loss': 1.0}])
  for name, right in (('zero', 0.75), ('base', 0.25)):
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / 'eval.json').write_text(json.dumps({'pass@1': right}))
  base = {'columns': ['', 'pass@1'], 'rows': [['base', '25.0%']]}
  both = base | {'rows': [['base', '25.0%'], ['zero', '75.0%']]}
  # Named, and in a recipe's folder.
  for workdirs in ([tmp_path / 'base', run], [tmp_path]):
    data = read(*workdirs)
    assert data['tables']['stages'] == both
    assert [group['name'] for group in data['groups']] == ['zero']
  # Alone, and by its win rate alone.
  (tmp_path / 'base/eval.json').rename(tmp_path / 'base/win_rate.json')
  (tmp_path / 'base/win_rate.json').write_text('{"win_rate": 62.5}')
  (table,) = read(tmp_path / 'base')['tables']['stages']['rows']
  assert table == [f'{tmp_path.name}/base', '62.5%']


def test_a_metric_that_never_moves_is_told_and_not_drawn(tmp_path):
  steps = [{'reward/mean': i / 5, 'ratio': 1.0} for i in range(5)]
  data = read(write_run(tmp_path / 'r', steps))
  assert chart(data, 'ratio') is None
  policy = next(s for s in data['sections'] if s['title'] == 'Policy')
  assert policy['constant'] == ['ratio: 1']


# Warnings.

FLAT = {
  'reward/mean': 0.5, 'reward/std': 0.4, 'reward/correct': 0.5,
  'entropy': 0.5, 'kl': 0.01, 'zero_variance_share': 0.1,
  'length/mean': 100.0, 'length/clipped_share': 0.0, 'clip_share': 0.01,
  'logprob_gap/mean': 1e-6, 'logprob_gap/max': 1e-4, 'nonfinite': 0.0,
}  # fmt: skip


def findings(steps=100, **changed):
  """Title -> text of what is found when these of FLAT change with t in 0..1.

  Names have _ for /; those of evaluations are besides.
  """
  t = np.linspace(0, 1, steps)
  curves = {'step': np.arange(1, steps + 1)}
  for name, value in FLAT.items():
    change = changed.get(name.replace('/', '_'), lambda t, v=value: v + 0 * t)
    curves[name] = np.asarray(change(t), np.float64)
  for name in changed.keys() - {x.replace('/', '_') for x in FLAT}:
    curves[name.replace('eval_', 'eval/')] = changed[name](t)
  rows = report_warnings.findings(curves, base.get_config())
  assert all(row['todo'] for row in rows)
  return {row['title']: row['text'] for row in rows if row['state'] == 'found'}


def test_a_sound_run_raises_no_warning():
  assert findings() == {}
  noise = np.random.default_rng(0).normal(0, 0.03, 100)
  learns = findings(
    reward_mean=lambda t: 0.2 + 0.6 * t + noise,
    reward_correct=lambda t: 0.2 + 0.6 * t + noise,
    length_mean=lambda t: 100 + 200 * t,
    entropy=lambda t: 0.5 - 0.3 * t,
    kl=lambda t: 0.05 * t,
  )
  assert learns == {}


@pytest.mark.parametrize(
  'title, numbers, changed',
  [
    ('Updates that are not finite', ['1 of 100', 'step 51'],
     dict(nonfinite=lambda t: np.arange(100) == 50)),
    ('No signal in the rewards', ['step 50', 'reward, 0:'],
     dict(reward_mean=lambda t: 0.5 * (np.arange(100) < 49),
          reward_std=lambda t: 0.4 * (np.arange(100) < 49),
          reward_correct=lambda t: 0.5 * (np.arange(100) < 49))),
    ('The reward fell from its best', ['0.5 around', '0.1 at the end'],
     dict(reward_mean=lambda t: np.where(t < 0.6, 0.5 * t / 0.6, 0.1)
          + 0.5 * ((t >= 0.5) & (t < 0.6)) * (1 - t / 0.6))),
    ('The reward rises, right answers do not', ['0.518 -> 0.882', '0.5'],
     dict(reward_mean=lambda t: 0.5 + 0.4 * t,
          reward_correct=lambda t: 0.5 - 0.2 * t)),
    ('Entropy collapsed', ['0.477 -> 0.0227', 'reward/correct is at 0.50'],
     dict(entropy=lambda t: 0.5 * (1 - t))),
    ('Entropy grows', ['0.591 -> 2.41'],
     dict(entropy=lambda t: 0.5 + 2 * t)),
    ('KL blows up', ['at most 5 (step 100)'],
     dict(kl=lambda t: 0.01 + 4.99 * (t > 0.9) * t)),
    ('Most groups teach nothing', ['91%', 'too hard'],
     dict(zero_variance_share=lambda t: 0.95 * t,
          reward_correct=lambda t: 0.1 + 0 * t)),
    ('Most groups teach nothing', ['91%', 'too easy'],
     dict(zero_variance_share=lambda t: 0.95 * t,
          reward_correct=lambda t: 0.9 + 0 * t)),
    ('Completions are cut at the limit', ['38%', 'limit of 64 tokens'],
     dict(length_clipped_share=lambda t: 0.4 * t)),
    ('Longer, and not better', ['864 at the end', 'weights: '],
     dict(length_mean=lambda t: 100 + 800 * t)),
    ('Sampler and trainer disagree', ['0.095', 'at most 0.0001'],
     dict(logprob_gap_mean=lambda t: 0.1 * t)),
    ('Much is clipped', ['38%'], dict(clip_share=lambda t: 0.4 * t)),
  ],
)  # fmt: skip
def test_trouble_is_found_and_told_with_its_numbers(title, numbers, changed):
  found = findings(**changed)
  assert title in found
  assert [n for n in numbers if n not in found[title]] == []


def lengths_of_evaluations(wrong, right):
  """Each every tenth step."""
  at = np.arange(9, 100, 10)
  curves = {}
  for name, values in (('wrong', wrong), ('right', right)):
    curve = np.full(100, np.nan)
    curve[at] = values
    curves[f'eval_mean_length_{name}'] = lambda t, c=curve: c
  return curves


def test_wrong_answers_that_grow_are_told_by_evaluations_that_have_both():
  title = 'Wrong answers grow longer than right ones'
  twice = np.array([20.0] * 10)
  right = twice.copy()
  right[0] = np.nan  # none was right
  wrong = 2 * twice
  wrong[0] = 10
  assert title not in findings(**lengths_of_evaluations(wrong, right))
  wrong[5:] = 80
  told = findings(**lengths_of_evaluations(wrong, right))[title]
  assert '2.0 times as long' in told and 'now 4.0 times' in told


@pytest.mark.parametrize(
  'steps, told',
  [
    # The last tenth is early, has both limits, has one.
    (200, '35% of completions end at the limit of 32 tokens, '
     'sample.early_completion_length (at first 50%)'),
    (190, '20% of completions end at the limit of 64 tokens, '
     'sample.max_completion_length (at first 50%, of 32 tokens)'),
    (0, '35% of completions end at the limit of 64 tokens, '
     'sample.max_completion_length (at first 50%)'),
  ],
)  # fmt: skip
def test_what_cuts_completions_is_the_limit_of_their_step(steps, told):
  cfg = base.get_config()
  cfg.sample.update(early_steps=steps, early_completion_length=32)
  step = np.arange(1, 201)
  share = np.where(step > 190, 0.2, 0.5)
  curves = {'step': step, 'reward/mean': share, 'length/clipped_share': share}
  rows = report_warnings.findings(curves, cfg)
  assert [r['text'] for r in rows if 'cut' in r['title']] == [told]


def test_the_first_steps_of_a_run_are_no_verdict():
  assert findings(19, entropy=lambda t: 0.5 * (1 - t)) == {}
  assert findings(20, entropy=lambda t: 0.5 * (1 - t)) != {}


def test_held_out_accuracy_that_falls_while_the_reward_rises_is_found():
  steps = np.arange(1, 101)
  evaluated = np.full((3, 100), np.nan)
  evaluated[0, 19::20] = [0.4, 0.6, 0.5, 0.4, 0.4]
  evaluated[1], evaluated[2] = 0.01, evaluated[0]
  curves = {
    'step': steps, 'reward/mean': steps / 100, 'reward/correct': steps / 100,
    'eval/pass@1': evaluated[0], 'eval/pass@1_stderr': evaluated[1],
  }  # fmt: skip
  rows = report_warnings.findings(curves, base.get_config())
  found = [row for row in rows if row['state'] == 'found']
  assert [row['title'] for row in found] == ['Held-out accuracy falls']
  assert '0.600 at step 40, 0.400 in the last two' in found[0]['text']


def test_fine_tuning_is_not_judged_as_reinforcement():
  curves = {'step': np.arange(100), 'entropy': np.linspace(2, 0, 100)}
  rows = report_warnings.findings(curves, base.get_config())
  assert {row['state'] for row in rows} == {'unknown'}


# Completions.


@pytest.mark.parametrize(
  'completion, thought, rest',
  [
    ('<think>a</think><answer>5</answer>', '<think>a</think>',
     '<answer>5</answer>'),
    ('a</think> 5', 'a</think>', ' 5'),
    ('so it is <answer>5</answer>', 'so it is ', '<answer>5</answer>'),
    ('<think>never done', '<think>never done', ''),
    ('5', '', '5'),
    ('', '', ''),
  ],
)  # fmt: skip
def test_the_thought_and_the_rest_are_all_of_the_text(
  completion, thought, rest
):
  assert report_texts.split(completion) == (thought, rest)


def test_reflective_words_are_counted_whole_and_in_the_thought():
  rows = [
    sample('<think>Wait, WAIT. errors But</think> check', step=3, length=50),
    sample('<think>fine</think>', step=3, length=50),
    sample('<think>wait</think>', step=3, given=True),
  ]
  steps, curves = report_texts.measures(rows)
  assert steps.tolist() == [3]
  assert curves['words/wait'] == [1.0] and curves['words/but'] == [0.5]
  assert curves['words/error'] == [0.0] and curves['words/check'] == [0.0]
  assert curves['reflective/each'] == [1.5]
  assert curves['reflective/per_1000'] == [30.0]
  # 22 of 43 characters and 4 of 19: 25.58 and 10.53 of 50 tokens.
  assert curves['thought/tokens'][0] == pytest.approx(18.05, abs=0.01)


TAGS = {'': 'tags'}


def test_an_answer_is_read_by_the_extractor_of_its_domain():
  rows = [
    sample('<answer>5</answer>', step=1),
    sample('def f(): return 5', step=2, domain='code'),
    sample('it is 5', step=3, domain='math'),
  ]
  extract = TAGS | {'code': 'program'}
  found = report_texts.browsable(rows, extract=extract, limit=10_000)
  # None: all of the text is the answer. '': there is none.
  assert [row['answer'] for row in found['rows']] == ['5', None, '']


def test_completions_that_are_too_many_are_thinned_by_whole_steps():
  rows = [sample('x' * 100, step=s) for s in range(1, 102) for _ in range(2)]
  found = report_texts.browsable(rows, extract=TAGS, limit=10_000)
  steps = sorted({row['step'] for row in found['rows']})
  assert len(found['rows']) == 2 * len(steps) == 2 * found['steps']
  assert found['logged'] == 101
  assert steps[0] == 1 and steps[-1] == 101
  assert 10 < len(steps) < 30
  # Evenly.
  assert np.ptp(np.diff(steps)) <= 1
  size = len(json.dumps(found['rows']))
  assert 7_000 < size < 11_000


@pytest.mark.parametrize(
  'limit, rows, begin',
  [
    # Five rows of 1.2 kB each: two of them, one, and a part of one.
    (7_000, 2, 'x' * 1000),
    (3_000, 1, 'x' * 1000),
    (2_000, 1, 'x' * 250 + '\n[... 501 characters ...]\n'),
  ],
)
def test_of_steps_that_do_not_fit_the_ends_are_kept_in_part(limit, rows, begin):
  steps = [[sample(f'{"x" * 1000}{i}', step=s) for i in range(5)]
           for s in (1, 2, 3)]  # fmt: skip
  found = report_texts.browsable(sum(steps, []), extract=TAGS, limit=limit)
  assert [row['step'] for row in found['rows']] == [1] * rows + [3] * rows
  assert found['rows'][0]['rest'].startswith(begin)
  assert (found['steps'], found['logged'], found['each']) == (2, 3, rows)
  assert len(json.dumps(found['rows'])) <= limit


def test_a_step_that_is_too_long_hides_none_of_the_others():
  rows = [sample('x' * n, step=s) for s, n in enumerate((9, 4000, 4000, 9))]
  found = report_texts.browsable(rows, extract=TAGS, limit=900)
  assert [row['step'] for row in found['rows']] == [0, 3]
  # Nor does a limit that nothing fits into.
  assert report_texts.browsable(rows, extract=TAGS, limit=9)['steps'] == 1
  assert report_texts.browsable([], extract=TAGS, limit=9)['rows'] == []


def test_a_long_completion_keeps_its_begin_and_its_end():
  text = '<think>begin' + 'x' * 50_000 + 'end</think>5'
  row = report_texts.browsable(
    [sample(text, step=1)], extract=TAGS, limit=10**6
  )['rows'][0]
  assert row['thought'].startswith('<think>begin')
  assert row['thought'].endswith('end</think>')
  assert '44023 characters' in row['thought']
  assert len(row['thought']) < 7_000


def test_a_missing_reward_has_no_number_on_the_page(tmp_path):
  missing = sample('5', reward=math.nan, rewards={'a': math.inf, 'b': 0.5})
  run = write_run(tmp_path / 'r', [{'loss': 1.0}], samples=[(1, [missing])])
  assert '"reward": "nan"' in (run / 'samples.jsonl').read_text()
  row = read(run)['completions'][0]['rows'][0]
  assert (row['reward'], row['parts']) == (None, {'a': None, 'b': 0.5})


# The file.


@pytest.fixture(scope='module')
def long_run(tmp_path_factory):
  """2,000 steps as a real one logs them, with long texts."""
  rng = np.random.default_rng(0)
  names = [
    *FLAT, 'reward/format', 'length/min', 'length/max', 'learning_rate',
    'grad_norm', 'loss', 'policy_loss', 'ratio', 'tokens', 'time/step',
    'time/rollout', 'time/update', 'time/prepare', 'tokens_per_s/step',
    'tokens_per_s/rollout', 'memory/host_peak_bytes',
  ]  # fmt: skip
  steps = [dict(zip(names, rng.random(len(names)), strict=True))
           for _ in range(2000)]  # fmt: skip
  thought = '<think>' + 'Wait, let me <check> that. ' * 150 + '</think>'
  samples = [
    (step, [sample(thought + str(i), length=900) for i in range(16)])
    for step in (1, *range(10, 2001, 10))
  ]
  path = tmp_path_factory.mktemp('long') / 'run'
  return write_run(path, steps, samples=samples)


def test_the_report_of_2000_steps_is_below_5_megabytes(long_run, tmp_path):
  out = tmp_path / 'report.html'
  assert report.main(['--workdir', str(long_run), '--out', str(out)]) == 0
  html = out.read_bytes()
  assert 1_000_000 < len(html) < 5_000_000
  data = embedded(html)
  assert len(chart(data, 'reward/mean')['curves'][0]['x']) == pytest.approx(
    1000, abs=50
  )
  assert {row['step'] for row in data['completions'][0]['rows']} > {1, 2000}
  assert os.listdir(tmp_path) == ['report.html']


def test_of_many_runs_the_report_has_completions_of_each(tmp_path):
  samples = [(1, [sample('<' * 9000, prompt='<' * 9000)] * 8)]
  for seed in range(40):
    write_run(tmp_path / f'{seed}', [{'loss': 1.0}], seed=seed, samples=samples)
  data = read(tmp_path)
  assert all(found['rows'] for found in data['completions'])
  assert 1_000_000 < len(report.page(data | {'made': ''})) < 2_500_000


def test_the_file_asks_for_nothing_from_a_network(long_run):
  html = report.page(read(long_run) | {'made': ''}).decode()
  page = html[: html.index('<script id="data"')]
  assert not re.search(r'(src|href)\s*=\s*["\'](?!data:|#)', page)
  assert "default-src 'none'" in page
  assert 'uPlot (v1.6.32)' in html
  licence = pathlib.Path(report.__file__).parent / 'report_page/uPlot.LICENSE'
  assert 'MIT License' in licence.read_text()


def test_text_of_a_model_cannot_end_the_element_it_is_in(tmp_path):
  evil = EVIL + '<!--\u2028\ud800$data'
  run = write_run(
    tmp_path / 'r', [{'loss': 1.0}], samples=[(1, [sample(evil)])]
  )
  html = report.page(read(run) | {'made': ''})
  assert EVIL.encode() not in html and b'<!--' not in html
  row = embedded(html)['completions'][0]['rows'][0]
  assert row['thought'] + row['rest'] == evil


def test_a_workdir_that_is_being_written_is_read_as_far_as_it_is(tmp_path):
  run = write_run(tmp_path / 'r', [{'loss': 1.0}, {'loss': 2.0}])
  with open(run / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 3, "lo')
  (run / 'samples.jsonl').unlink()
  assert chart(read(run), 'loss')['curves'][0]['x'] == [1, 2]


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda path: path / 'none', 'no such folder'),
    (lambda path: path, 'has no config.json'),
    (lambda path: write_run(path / 'r', []), 'no metrics yet'),
    (lambda path: 'gs://bucket/run', 'is an address'),
  ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, capsys, make, told):
  out = tmp_path / 'out.html'
  argv = ['--workdir', str(make(tmp_path)), '--out', str(out)]
  assert report.main(argv) == 2
  captured = capsys.readouterr()
  assert captured.err.count('\n') == 1 and told in captured.err
  assert not captured.out and not out.exists()


# Live.


@pytest.fixture
def live(tmp_path):
  """A served run of one step, and its server."""
  run = write_run(tmp_path / 'r', [{'reward/mean': 0.25}])
  process = subprocess.Popen(
    [
      sys.executable, '-m', 'grpo_jax.report', '--live', '--workdir', str(run),
      '--port', '0', '--refresh', '0.2',
    ],
    cwd=tiny.REPO,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip
  line = process.stdout.readline()
  assert line.startswith('http://localhost:'), process.communicate()
  try:
    yield run, process, line.split()[0]
  finally:
    process.kill()
    process.communicate()


def get(url):
  with urllib.request.urlopen(url, timeout=60) as answer:
    return answer.status, answer.read()


def append(run, step, **values):
  with Writer(run, tensorboard=False) as writer:
    writer.write(step, values)


def test_a_live_report_follows_the_run_and_ends_with_one_line(live):
  run, process, url = live
  data = embedded(get(url)[1])
  seen = f'{url}/data.json?seen={data["live"]["version"]}'
  assert data['groups'][0]['runs'][0]['step'] == 1
  assert get(seen) == (204, b'')
  append(run, 2, **{'reward/mean': 0.5})
  status, body = get(seen)
  assert status == 200
  assert json.loads(body)['groups'][0]['runs'][0]['step'] == 2
  # A win rate often comes last of all.
  seen = f'{url}/data.json?seen={json.loads(body)["live"]["version"]}'
  (run / 'win_rate.json').write_text('{"win_rate": 62.5}')
  status, body = get(seen)
  assert status == 200 and '62.5%' in body.decode()
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out.strip(), err) == (0, 'stopped', '')


def test_the_stages_of_a_recipe_stand_in_the_order_they_were_begun(tmp_path):
  for begun, name in enumerate(('zero', 'dev1', 'r1', 'base')):
    folder = write_run(tmp_path / name, [{'reward/mean': 0.25}])
    (folder / 'stage.json').write_text(json.dumps({'begun': begun}))
  found = report_data.find([str(tmp_path)])
  assert [path.name for path in found] == ['zero', 'dev1', 'r1', 'base']


def test_a_taken_port_is_told_in_one_line(live, capsys):
  run, _, url = live
  port = url.rpartition(':')[2]
  argv = ['--live', '--workdir', str(run), '--port', port]
  assert report.main(argv) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1
  assert f'port {port}' in err and 'another --port' in err


@pytest.mark.parametrize(
  'flags, told',
  [
    (['--live', '--port', '99999'], 'port 99999: choose a --port of 0 to'),
    (['--live', '--port', '-1'], 'port -1: choose a --port of 0 to 65535'),
    (['--live', '--refresh', 'nan'], 'refresh nan: choose a --refresh above'),
    (['--live', '--refresh', '0'], 'refresh 0: choose a --refresh above 0'),
    (['--group_over', 'seed,sede'], ', seed, '),
    (['--group_over', 'seed,sede'], "--group_over='sede' is not one of "),
    # A section holds fields and is none.
    (['--group_over', 'optimizer'], "'optimizer' is not one of "),
  ],
)  # fmt: skip
def test_flags_that_mean_nothing_are_refused_in_one_line(
  tmp_path, capsys, flags, told
):
  run = write_run(tmp_path / 'r', [{'loss': 1.0}])
  out = str(tmp_path / 'report.html')
  assert report.main(['--workdir', str(run), '--out', out, *flags]) == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and told in err


def test_a_live_report_waits_for_the_first_step(tmp_path):
  run = write_run(tmp_path / 'r', [])
  data = read(run, waiting=True)
  assert data['groups'] == [] and data['waiting'] == [f'{tmp_path.name}/r']
  assert report.page(data | {'made': ''})


def test_a_live_report_waits_for_a_recipe_that_has_just_begun(tmp_path):
  with pytest.raises(FileNotFoundError, match='is not the workdir of a run'):
    read(tmp_path)
  data = read(tmp_path, waiting=True)
  assert data['groups'] == [] and data['waiting'] == [str(tmp_path)]
  assert report.page(data | {'made': ''})
  # Its first stage compiles.
  write_run(tmp_path / 'base', [])
  (tmp_path / 'base' / 'metrics.jsonl').unlink()
  (tmp_path / 'base' / 'model').mkdir()
  data = read(tmp_path, waiting=True)
  assert data['waiting'] == [f'{tmp_path.name}/base']
  with pytest.raises(FileNotFoundError, match='no such folder|not the workdir'):
    read(tmp_path / 'other', waiting=True)


def test_out_is_a_file_in_a_folder_that_may_be_new(tmp_path, capsys):
  run = write_run(tmp_path / 'r', [{'loss': 1.0}])
  out = tmp_path / 'new' / 'x.html'
  assert report.main(['--workdir', str(run), '--out', str(out)]) == 0
  assert out.exists()
  assert report.main(['--workdir', str(run), '--out', str(tmp_path)]) == 2
  assert f'--out {tmp_path} is a folder' in capsys.readouterr().err


# In a browser.


@pytest.fixture(scope='module')
def page():
  with browser.page() as found:
    yield found


@pytest.fixture(scope='module')
def html(tmp_path_factory):
  """A report of two groups, one of two seeds, with what a model may write."""
  path = tmp_path_factory.mktemp('shown')
  rewards = np.linspace(0, 1, 40)
  for name, seed, steps, power in (
    ('a,seed=1', 1, 50, 1), ('a,seed=2', 2, 50, 1.2), ('b', 1, 60, 3),
  ):  # fmt: skip
    write_run(
      path / name,
      [
        {'reward/mean': r**power, 'entropy': 1 - r, 'kl': 0.01 * r}
        for r in rewards
      ],
      seed=seed,
      steps=steps,
      samples=[
        (s, [
          sample(
            f'<think>wait {s}</think><answer>{EVIL}</answer>',
            prompt=EVIL, answer=EVIL, length=7, reward=-1.0,
          ),
          sample('five', length=30, reward=1.0, rewards={'correct': 1.0}),
          sample('five', length=30, reward=1.0, rewards={'correct': 1.0}),
        ])
        for s in (1, 20, 40)
      ],
    )  # fmt: skip
  out = path / 'report.html'
  assert report.main(['--workdir', str(path), '--out', str(out)]) == 0
  return out.as_uri()


def shown(page):
  return page.evaluate(
    '[...document.querySelectorAll(".sample")].map(x => x.innerText).join("|")'
  )


def ask(page, name, value):
  field = f'document.querySelector("#completions [name={name}]")'
  page.evaluate(
    f'{field}.value = {json.dumps(value)};'
    f'{field}.dispatchEvent(new Event("input"))'
  )
  return shown(page)


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [1280, 390])
def test_the_page_renders_at_every_width_without_an_error(
  page, html, width, dark
):
  page.errors.clear()
  page.requests.clear()
  page.open(html, width=width, mobile=width < 500, dark=dark)
  charts = page.evaluate('document.querySelectorAll("canvas").length')
  assert charts == page.evaluate('document.querySelectorAll(".chart").length')
  # Reward, entropy, KL, length of the thought, the ten words of each group.
  assert charts == 6
  # Nothing is wider than the screen.
  assert page.evaluate('document.documentElement.scrollWidth') <= width
  assert page.evaluate(
    '[...document.querySelectorAll("#legend button")].map(b => b.textContent)'
  ) == ['a (2 runs)', 'b']
  assert 'Entropy collapsed' in page.evaluate(
    'document.getElementById("warnings").innerText'
  )
  # The lines are drawn: the first chart has pixels of the first colour.
  colour = '[109, 179, 255]' if dark else '[11, 98, 184]'
  assert (
    page.evaluate(
      '(() => { const c = document.querySelector("canvas");'
      'const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;'
      'let n = 0; for (let i = 0; i < d.length; i += 4)'
      f'if ({colour}.every((v, k) => Math.abs(v - d[i + k]) < 20)) n++;'
      'return n; })()'
    )
    > 50
  )
  assert page.errors == []
  assert page.requests == [html]


def test_the_phases_of_a_step_fill_their_bar(page, tmp_path):
  times = {'time/step': 0.2, 'time/rollout': 0.05, 'time/update': 0.15}
  run = write_run(tmp_path / 'r', [{'loss': 1.0, **times}] * 3)
  out = tmp_path / 'report.html'
  assert report.main(['--workdir', str(run), '--out', str(out)]) == 0
  page.open(out.as_uri(), width=1280, mobile=False, dark=False)
  bar, *parts = page.evaluate(
    '[...document.querySelectorAll(".phase, .phase > div")]'
    '.map(x => x.getBoundingClientRect().width)'
  )
  assert sum(parts) == pytest.approx(bar, abs=1)
  # But for their padding.
  assert parts == pytest.approx([bar / 4, bar * 3 / 4], abs=6)


def test_script_in_a_completion_is_shown_and_not_run(page, html):
  page.errors.clear()
  page.open(html)
  # As completion, as the answer in it, and marked where it is searched for.
  assert f'answer {EVIL}' in shown(page)
  assert EVIL in ask(page, 'text', '<img')
  assert page.evaluate('document.querySelector("mark").textContent') == '<img'
  assert page.evaluate('typeof window.hacked') == 'undefined'
  assert page.evaluate('document.querySelectorAll("main img").length') == 0
  # Even if it did come to stand in the page, the policy would forbid it.
  page.evaluate(
    'document.body.append(Object.assign(document.createElement("script"),'
    '{textContent: "window.hacked = 1"}))'
  )
  assert page.evaluate('typeof window.hacked') == 'undefined'
  assert any('Content Security' in json.dumps(e) for e in page.errors)


def test_the_filters_of_completions_work(page, html):
  page.open(html)
  everything = shown(page)
  assert all(f'wait {step}' in everything for step in (1, 20, 40))
  # Equal ones are one.
  assert everything.count('five') == 3 and everything.count('×2') == 3
  only = ask(page, 'step', '20')
  assert 'wait 20' in only and 'wait 1' not in only and 'wait 40' not in only
  ask(page, 'step', '')
  assert 'five' not in ask(page, 'high', '0')
  ask(page, 'high', '')
  long = ask(page, 'short', '8')
  assert 'five' in long and 'wait' not in long
  ask(page, 'short', '')
  found = ask(page, 'text', 'WAIT 4')
  assert 'wait 40' in found and found.count('wait') == 1
  assert page.evaluate('document.querySelector("mark").textContent') == 'wait 4'
  assert ask(page, 'text', 'nowhere') == ''
  ask(page, 'text', '')
  assert ask(page, 'order', 'best').startswith('×2')
  ask(page, 'order', 'step')
  page.evaluate('document.querySelector("[name=side]").click()')
  columns = page.evaluate(
    '[...document.querySelectorAll(".columns > div")].map(x => x.innerText)'
  )
  assert [re.match(r'step (\d+)', c)[1] for c in columns] == ['1', '20', '40']


def test_a_page_of_an_evaluation_alone_waits_for_no_step(page, tmp_path):
  (tmp_path / 'eval.json').write_text('{"pass@1": 0.5}')
  out = tmp_path / 'report.html'
  assert report.main(['--workdir', str(tmp_path), '--out', str(out)]) == 0
  page.errors.clear()
  page.open(out.as_uri())
  assert page.evaluate('document.querySelector("h1").textContent').endswith(
    tmp_path.name
  )
  text = page.evaluate('document.body.innerText')
  assert '50.0%' in text and 'Waiting' not in text
  assert page.errors == []


def test_a_missing_reward_is_shown_as_such_and_is_no_zero(page, tmp_path):
  samples = [
    sample('lost', reward=math.nan, rewards={'correct': math.nan}),
    sample('low', reward=-1.0),
    sample('high', reward=1.0),
  ]
  run = write_run(tmp_path / 'r', [{'loss': 1.0}], samples=[(1, samples)])
  out = tmp_path / 'report.html'
  assert report.main(['--workdir', str(run), '--out', str(out)]) == 0
  page.errors.clear()
  page.open(out.as_uri())
  assert page.errors == []
  assert 'Completions' in page.evaluate(
    'document.getElementById("contents").textContent'
  )
  assert 'reward –' in shown(page)
  assert 'lost' not in ask(page, 'low', '-2')
  ask(page, 'low', '')
  for order, first in (('best', 'high'), ('worst', 'low')):
    texts = re.findall('lost|low|high', ask(page, 'order', order))
    assert (texts[0], texts[-1]) == (first, 'lost')
  # Of any text that is no number, the text.
  assert page.evaluate('short("nan")') == 'nan'


def test_numbers_are_short_with_the_unit_of_what_is_left(page, html):
  page.open(html)
  numbers = '[999, 9994, 12345, 999400, 999600, 999.6e6, 1.5e12]'
  assert page.evaluate(f'{numbers}.map(short).join(" ")') == (
    '999 9994 12.3k 999k 1.00M 1.00G 1.50T'
  )


def test_the_run_whose_completions_are_shown_is_named(page, html):
  page.open(html)
  chosen = 'document.querySelector("#completions [name=run]")'
  assert page.evaluate(f'{chosen}.selectedIndex') == 0
  assert page.evaluate(f'{chosen}.value') == page.evaluate(
    'completions.runs[0].run'
  )


def test_a_group_can_be_hidden(page, html):
  page.open(html)
  both = page.evaluate('document.querySelector(".told").textContent')
  page.evaluate('document.querySelector("#legend button").click()')
  one = page.evaluate('document.querySelector(".told").textContent')
  assert 'a ' in both and one == 'lastb 1'
  # It stays hidden when another comes to stand before it.
  page.evaluate('data.groups.reverse(), renderLegend()')
  pressed = '[...document.querySelectorAll("#legend button")].map('
  pressed += 'b => b.ariaPressed).join(" ")'
  assert page.evaluate(pressed) == 'true false'
  page.evaluate('data.groups.reverse(), renderLegend()')
  page.evaluate('document.querySelector("#legend button").click()')
  assert page.evaluate('document.querySelector(".told").textContent') == both


def test_an_open_live_page_shows_new_steps_by_itself(page, live):
  run, process, url = live
  page.errors.clear()
  page.open(f'{url}/')
  subtitle = 'document.getElementById("subtitle").textContent'
  assert 'step 1 of' in page.evaluate(subtitle)
  append(run, 2, **{'reward/mean': 0.5})
  page.wait(f'{subtitle}.includes("step 2 of")')
  assert page.errors == []
  process.send_signal(signal.SIGINT)
  page.wait(f'{subtitle}.includes("the server has stopped")')
