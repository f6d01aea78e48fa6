"""A recipe as a user runs it: real jobs, each from what the ones before left.

Of the tiny R1 recipe's smoke stages those of one RL run on reward models, with
a model of one layer, and the textbook from Dev1.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tiny

from grpo_jax import recipe, runs
from grpo_jax.verified import record_set

STAGES = (
  'base', 'zero', 'cold', 'dev1', 'textbook', 'dev3', 'pairs', 'points',
  'helpful', 'safety', 'r1', 'r1_eval', 'r1_wins',
)  # fmt: skip
RECIPE = f"""
import dataclasses
import runpy

TINY = runpy.run_path('configs/r1/tiny.py')
MODEL = dict(
  num_layers=1, embed_dim=32, num_heads=2, num_kv_heads=1, head_dim=16,
  mlp_dim=32,
)
CHANGES = {{f'model.{{k}}': v for k, v in MODEL.items()}}
TABLE = {{'R1': 'r1'}}


def get_stages():
  named = {{stage.name: stage for stage in TINY['get_stages']('smoke')}}
  return [changed(named[name]) for name in {STAGES}]


def changed(stage):
  given = stage.overrides | CHANGES
  if given.get('init_from') == '{{dev2}}':
    given['init_from'] = '{{dev1}}'
  cache = dict(compilation_cache=CACHE)
  return dataclasses.replace(
    stage, overrides=given, flags=stage.flags | cache
  )
"""


@pytest.fixture(scope='module')
def argv(tmp_path_factory):
  """Flags of a recipe that has been run to its end."""
  folder = tmp_path_factory.mktemp('recipe')
  cache = os.environ['JAX_COMPILATION_CACHE_DIR']
  file = folder / 'small.py'
  file.write_text(f'CACHE = {cache!r}\n{RECIPE}')
  argv = [f'--config={file}', f'--workdir={folder / "runs"}']
  done = subprocess.run(
    [sys.executable, '-m', 'grpo_jax.recipe', *argv, '--parallel=2'],
    cwd=tiny.REPO,
    env=tiny.environment(),
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert done.returncode == 0, done.stderr
  assert f'{len(STAGES)} stages are finished in' in done.stdout
  return argv


@pytest.fixture
def folder(argv):
  return pathlib.Path(argv[1].partition('=')[2])


def read(path):
  return json.loads(path.read_text())


def test_every_stage_leaves_what_the_next_is_made_from(folder):
  for name in ('base', 'zero', 'dev1', 'dev3', 'helpful', 'safety', 'r1'):
    run = runs.open_run(folder / name)
    assert run.steps[-1] == run.config.steps, name
    assert run.config.model.embed_dim == 32
  card = read(folder / 'cold' / 'set' / record_set.CARD)
  assert card['kept'] > 0
  assert card['made_by']['init_from'] == str(folder / 'zero')
  # What dev1 has learned from is that set.
  assert runs.open_run(folder / 'dev1').config.task.path == (
    str(folder / 'cold' / 'set')
  )
  for name, kind in (('helpful', 'pairwise'), ('safety', 'pointwise')):
    said = read(folder / name / 'reward_model.json')
    assert said['loss']['name'] == kind
    assert said['rows']['train'] > 0 and said['rows']['held_out'] > 0


def test_reward_models_judge_from_their_step_on(folder):
  curves = runs.open_run(folder / 'r1').metrics
  at = dict(zip(curves['step'].tolist(), curves['reward/helpful'], strict=True))
  assert at[1] != at[1]  # NaN: SMOKE_R1 begins at step 1, the second rollout
  assert at[2] == at[2]


def test_the_table_is_of_what_was_found_and_no_stage_runs_again(
  argv, folder, monkeypatch, capsys
):
  monkeypatch.chdir(tiny.REPO)
  before = {n: (folder / n / 'stage.json').read_bytes() for n in STAGES}
  assert recipe.main(argv) == 0
  table = capsys.readouterr().out
  assert before == {n: (folder / n / 'stage.json').read_bytes() for n in STAGES}
  found = read(folder / 'r1' / 'eval.json')
  won = read(folder / 'r1' / 'win_rate.json')
  assert re.search(r'^ +R1$', table, re.MULTILINE)
  share = f'{100 * found["pass@1"]:.1f}%'
  assert re.search(rf'^pass@1 +{share}', table, re.MULTILINE)
  assert re.search(rf'^win rate +{won["win_rate"]:.1f}%', table, re.MULTILINE)
