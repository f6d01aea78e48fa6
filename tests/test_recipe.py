"""Recipes: stages in order, each once, of known inputs, and what is refused."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
import tiny

from configs import base
from configs.findings import e_distill
from grpo_jax import (
  cli,
  config,
  grader,
  recipe,
  tasks,
  validation,
  validation_rl,
)  # fmt: skip
from grpo_jax.verified import rewriting
from launch import recipes, runner
from launch.stages import Stage

HEAD = """
from launch.stages import Stage

def job(name, *, needs='', job='tests.standin', seed=0, wait=0, **more):
  overrides = {'steps': 4, 'seed': seed, 'optimizer.warmup_steps': wait}
  if needs:
    overrides['init_from'] = '{%s}' % needs
  return Stage(name, 'configs/base.py', job=job, overrides=overrides, **more)

"""
CHAIN = "[job('a'), job('b', needs='a'), job('c', needs='b')]"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(tiny.REPO)


@pytest.fixture
def write(tmp_path):
  """Writes a recipe of stand-in jobs; returns the flags that run it."""

  def write(stages, *, more='', argument=''):
    file = tmp_path / 'some.py'
    body = f'def get_stages(argument=""):\n  return {stages}\n'
    file.write_text(f'{HEAD}{more}\n\n{body}')
    named = f'{file}:{argument}' if argument else file
    return [f'--config={named}', f'--workdir={tmp_path / "runs"}']

  return write


@pytest.fixture
def begun(tmp_path):
  """Names of the stages that began, in order."""

  def begun():
    lines = (tmp_path / 'runs' / 'events').read_text().splitlines()
    rows = [line.split(maxsplit=2) for line in lines]
    return [name for _, name, what in rows if what.startswith('begin')]

  return begun


def marker(folder):
  return json.loads((folder / 'stage.json').read_text())


def test_stages_run_in_order_and_none_runs_again(
  write, begun, tmp_path, capsys
):
  argv = write(CHAIN)
  assert recipe.main(argv) == 0
  assert '3 stages are finished in ' in capsys.readouterr().out
  assert begun() == ['a', 'b', 'c']
  assert recipe.main(argv) == 0
  assert begun() == ['a', 'b', 'c']
  # Each knows which end of the one before it was made from.
  runs = tmp_path / 'runs'
  assert marker(runs / 'b')['needs'] == {'a': marker(runs / 'a')['finished']}


def test_an_input_is_the_folder_of_the_stage_it_names(write, tmp_path):
  config, workdir = (f.partition('=')[2] for f in write(CHAIN))
  command = recipes.load(config, workdir).steps['b'].command('python')
  assert command == [
    'python', '-m', 'tests.standin', '--config=configs/base.py',
    '--config.steps=4', '--config.seed=0', '--config.optimizer.warmup_steps=0',
    f'--config.init_from={tmp_path}/runs/a', f'--workdir={tmp_path}/runs/b',
  ]  # fmt: skip


def test_references_are_found_inside_of_values_and_not_in_templates():
  stage = Stage(
    'x', 'c.py',
    overrides={
      'rewards.helpful': dict(name='m', path='{rm}/x'),
      'task.parts': (dict(path='{set}'),),
      'prompt.template': 'Q: {prompt}',
    },
    flags={'out': '{zero}/out'},
    workdir='{home}',
    after=('last',),
  )  # fmt: skip
  assert stage.references() == ['rm', 'set', 'zero', 'home', 'last']


def test_a_failing_stage_is_named_with_its_log_and_stops_what_needs_it(
  write, begun, tmp_path, capsys
):
  argv = write(
    "[job('a'), job('b', needs='a', seed=13), job('c', needs='b'), job('d')]"
  )
  assert recipe.main(argv) == 1
  log = tmp_path / 'runs' / 'b' / 'log.txt'
  err = capsys.readouterr().err.splitlines()
  assert err[-2:] == [
    'not begun: c, which needs b',
    f'failed: b: exit status 2: error: 13 is unlucky ({log})',
  ]
  assert begun() == ['a', 'd']
  assert not (tmp_path / 'runs' / 'c').exists()


def test_a_killed_stage_goes_on_where_it_stopped(
  write, begun, tmp_path, capsys
):
  argv = write("[job('a'), job('b', needs='a', wait=20)]")
  rows = tmp_path / 'runs' / 'b' / 'metrics.jsonl'

  def send():
    while not rows.exists():
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=send, daemon=True).start()
  assert recipe.main(argv) == 128 + signal.SIGTERM
  assert '1 of 2 stages are finished; the same' in capsys.readouterr().err
  stopped = marker(tmp_path / 'runs' / 'b')
  assert stopped['finished'] == ''
  assert stopped['seconds'] > 0
  assert recipe.main(argv) == 0
  # Of both starts: four steps of 0.2 seconds at least.
  assert marker(tmp_path / 'runs' / 'b')['seconds'] > 0.8
  assert begun() == ['a', 'b', 'b']


def test_a_stage_begun_with_another_config_is_refused(write, tmp_path, capsys):
  assert recipe.main(write("[job('a', seed=1)]")) == 0
  assert recipe.main(write("[job('a', seed=2)]")) == 2
  told = (
    f'error: {tmp_path}/runs/a was begun with other values: seed=1 there and '
    'seed=2 here; use another --workdir or remove that folder\n'
  )
  assert capsys.readouterr().err.endswith(told)
  # Neither may it be another job, nor have other flags.
  assert recipe.main(write("[job('a', seed=1, flags={'x': 1})]")) == 2
  assert 'no flags.x there and flags.x=1 here' in capsys.readouterr().err


@pytest.mark.parametrize(
  'field, value',
  [
    ('checkpoint.every', 7),
    ('cpu_devices', 2),
    ('launch.topology', 'v5e-8'),
    ('launch.job', 'sft'),
    ('mesh.data', 2),
  ],
)
def test_where_a_stage_runs_and_what_is_kept_may_change(
  field, value, write, begun, tmp_path
):
  assert recipe.main(write("[job('a')]")) == 0
  path = tmp_path / 'runs' / 'a' / 'stage.json'
  saved = json.loads(path.read_text())
  *sections, name = field.split('.')
  section = saved['config'][sections[0]] if sections else saved['config']
  section[name] = value
  del saved['config']['filters']  # as of a version that did not know them
  path.write_text(json.dumps(saved))
  assert recipe.main(write("[job('a')]")) == 0
  assert begun() == ['a']


@pytest.mark.parametrize('field', ['steps', 'eval.samples', 'keep.samples'])
def test_what_a_stage_leaves_depends_on_may_not_change(
  field, write, tmp_path, capsys
):
  # Its job may be an evaluation, or a verified set.
  assert recipe.main(write("[job('a')]")) == 0
  path = tmp_path / 'runs' / 'a' / 'stage.json'
  saved = json.loads(path.read_text())
  *sections, name = field.split('.')
  section = saved['config'][sections[0]] if sections else saved['config']
  section[name] = 7
  path.write_text(json.dumps(saved))
  assert recipe.main(write("[job('a')]")) == 2
  assert f'{field}=7 there and {field}=' in capsys.readouterr().err


def test_a_run_of_another_config_that_no_recipe_began_is_refused(
  write, tmp_path, capsys
):
  folder = tmp_path / 'runs' / 'a'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text('{"seed": 3, "steps": 4}')
  assert recipe.main(write("[job('a', seed=1)]")) == 2
  assert f'{folder} was begun with other values: ' in capsys.readouterr().err


def test_a_stage_made_from_one_that_was_made_again_is_refused(
  write, tmp_path, capsys
):
  argv = write(CHAIN)
  assert recipe.main(argv) == 0
  folder = tmp_path / 'runs' / 'a'
  shutil.rmtree(folder)
  assert recipe.main([*argv, '--only=a']) == 0
  assert recipe.main(argv) == 2
  told = f'{tmp_path}/runs/b was made from {folder}, which has changed since'
  assert told in capsys.readouterr().err


def test_only_and_until_choose_stages(write, begun, capsys):
  argv = write(CHAIN)
  assert recipe.main([*argv, '--only=c']) == 2
  assert '--only=c needs b, not finished yet' in capsys.readouterr().err
  assert recipe.main([*argv, '--until=b']) == 0
  assert recipe.main([*argv, '--only=c']) == 0
  assert begun() == ['a', 'b', 'c']
  assert recipe.main([*argv, '--until=z']) == 2
  assert 'no such stage; there are a, b, c' in capsys.readouterr().err


def test_the_list_tells_states_commands_and_what_no_paper_says(
  write, tmp_path, capsys
):
  config = tmp_path / 'config.py'
  config.write_text(
    'from configs import base\n\ndef get_config(size=""):\n'
    '  return base.get_config()\n\ndef small():\n'
    '  """A stage.\n\n  Not disclosed, and ours: the\n  optimizer.\n  """\n'
  )
  argv = write(f"[job('a'), Stage('b', '{config}:small', after=('a',))]")
  assert recipe.main([*argv, '--until=a']) == 0
  capsys.readouterr()
  assert recipe.main([*argv, '--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split()[:2] == ['a', 'finished,']
  assert lines[2].split() == ['b', '-', 'a']
  assert lines[3].startswith('    python -m grpo_jax.train --config=')
  assert lines[4:] == ['    Not disclosed, and ours: the optimizer.']


def test_fine_tuning_by_epochs_may_be_started_by_hand(write, tmp_path, capsys):
  config = tmp_path / 'config.py'
  config.write_text(
    'from configs import base\n\ndef get_config():\n'
    '  c = base.get_config()\n  c.sft.epochs = 2\n  return c\n'
  )
  argv = write(f"[Stage('a', {str(config)!r}, job='sft')]")
  # As the job leaves its folder: it has counted the steps.
  c = base.get_config()
  c.sft.epochs, c.steps = 2, 7
  folder = tmp_path / 'runs' / 'a'
  folder.mkdir(parents=True)
  cli.save_config(c, folder)
  (folder / 'metrics.jsonl').write_text('{"step": 7, "loss": 0.5}\n')
  assert recipe.main([*argv, '--list']) == 0
  assert capsys.readouterr().out.split()[:4] == ['a', 'by', 'hand', '7/7']
  c.seed = 5
  cli.save_config(c, folder)
  assert recipe.main([*argv, '--list']) == 2
  assert 'seed=5 there and seed=0 here' in capsys.readouterr().err


@pytest.mark.parametrize(
  'stages, saying',
  [
    ("[job('b', needs='a')]", "stage b refers to 'a', which is no stage bef"),
    ("[job('a'), job('a')]", 'two stages are named a'),
    ("[job('a/b')]", "stage 'a/b': a name is"),
    ("[job('a', job='trian')]", "stage a: job='trian' is no module"),
    ("[Stage('a', 'no.py')]", 'stage a: config=no.py: no such file'),
    (
      "[Stage('a', 'configs/base.py', overrides={'sed': 1})]",
      "stage a: the config has no field 'sed'; did you mean seed?",
    ),
    ('[]', 'get_stages returns []'),
    ('nonsense', "NameError: name 'nonsense'"),
  ],
)
def test_a_mistake_in_the_file_is_told_in_one_line_before_anything_runs(
  stages, saying, write, tmp_path, capsys
):
  assert recipe.main(write(stages)) == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert err.count('\n') == 1
  assert saying in err
  assert not (tmp_path / 'runs').exists()


def test_what_does_not_depend_runs_at_the_same_time(write, tmp_path):
  argv = write("[job('a', wait=8), job('b', wait=8), job('c', needs='a')]")
  assert recipe.main([*argv, '--parallel=2']) == 0
  lines = (tmp_path / 'runs' / 'events').read_text().splitlines()
  order = [line.split(maxsplit=1)[1] for line in lines]
  assert {order[0], order[1]} == {'a begin 0', 'b begin 0'}
  assert order.index('c begin 0') > order.index('a end')


def test_the_table_shows_the_stages_it_names(write, monkeypatch, capsys):
  shown = []
  monkeypatch.setattr(recipe, '_table', lambda rows: shown.extend(rows) or 'T')
  argv = write(CHAIN, more="TABLE = {'Zero': 'b'}")
  assert recipe.main([*argv, '--until=a']) == 0
  assert shown == []
  assert recipe.main(argv) == 0
  [(title, workdir)] = shown
  assert (title, workdir.name) == ('Zero', 'b')
  assert capsys.readouterr().out.endswith('T\n')


def test_a_table_of_no_stage_is_refused(write, capsys):
  assert recipe.main(write(CHAIN, more="TABLE = {'Zero': 'z'}")) == 2
  assert "TABLE names 'z', which is no stage" in capsys.readouterr().err


def test_work_of_a_failed_need_is_never_started(tmp_path):
  # The runner alone: three in a row, the first fails.
  class Fails:
    needs = ()

    def __init__(self, name, needs=()):
      self.name, self.needs, self.folder = name, needs, tmp_path / name

    def command(self, python):
      return [python, '-c', 'raise SystemExit(3)']

    def begin(self):
      self.folder.mkdir()

    def missing(self, code):
      return f'exit status {code}' if code else ''

    def progress(self):
      return ''

  work = [Fails('a'), Fails('b', ('a',)), Fails('c', ('b',))]
  pool = runner.Runner(work, done=0, parallel=3, kind='stages')
  assert pool.run() == 1
  assert list(pool.failed) == ['a']
  assert not (tmp_path / 'b').exists()


RECIPES = [
  *(f'configs/r1/{name}.py' for name in ('tiny', 'real')),
  *(
    f'configs/findings/{path.name}:smoke'
    for path in sorted((tiny.REPO / 'configs' / 'findings').glob('*.py'))
    if path.name not in ('seeds.py', '__init__.py')
  ),
]


@pytest.mark.parametrize('config', RECIPES)
def test_a_recipe_that_comes_with_it_has_stages_that_can_run(config):
  found = recipes.load(config, 'runs')
  for step in found.steps.values():
    if step.stage.job == 'train':
      validation_rl.of_training(step.cfg, ways=tiny.ways())
    elif step.stage.job == 'sft':
      validation.of_sft(step.cfg, ways=(1, 1, 1))
  assert found.table or found.arms
  # Every model that is shown has been evaluated.
  judged = {s.stage.workdir for s in found.steps.values() if s.stage.workdir}
  for name in found.table.values():
    assert f'{{{name}}}' in judged, name


@pytest.mark.parametrize('config', RECIPES[:2])
def test_the_stages_of_r1_say_what_the_paper_does_not_disclose(config):
  found = recipes.load(config, 'runs')
  silent = [
    name
    for name, step in found.steps.items()
    if 'Not disclosed' not in recipes.notes(step.stage.config)
  ]
  assert silent == []


def test_the_real_recipe_has_the_papers_numbers():
  steps = recipes.load('configs/r1/real.py', 'runs').steps
  zero, r1 = steps['zero'].cfg, steps['r1'].cfg
  assert (zero.prompts_per_step, zero.group_size) == (512, 16)
  assert zero.updates.minibatches == 16
  assert zero.steps * zero.updates.minibatches == 10_400
  assert zero.algorithm.kl_coef == 0.001
  assert zero.algorithm.reference_every == 400
  # 8.2k of 10.4k updates, then twice as long.
  assert abs(zero.sample.early_steps * 16 - 8200) < 16
  assert zero.sample.max_completion_length == 32_768
  assert zero.sample.early_completion_length * 2 == 32_768
  # B.4.1 for this size, 3.2.1 for the others.
  rates = [steps[s].cfg.optimizer.learning_rate for s in ('zero', 'dev2', 'r1')]
  assert rates == [2e-6, 3e-6, 3e-6]
  assert r1.sample.temperature == 0.7
  assert r1.steps * 16 == pytest.approx(1700, abs=16)
  parts = r1.task.parts
  assert (r1.steps - parts.helpful.from_step) * 16 == 400
  assert steps['helpful'].cfg.optimizer.learning_rate == 6e-6
  sft = steps['dev3'].cfg
  assert (sft.sft.batch_size, sft.optimizer.learning_rate) == (128, 5e-5)


def test_the_tiny_recipe_has_what_its_docstring_takes_from_the_paper():
  steps = recipes.load('configs/r1/tiny.py', 'runs').steps
  zero, r1 = steps['zero'].cfg, steps['r1'].cfg
  assert zero.sample.max_completion_length == (
    2 * zero.sample.early_completion_length
  )
  assert zero.sample.early_steps / zero.steps == pytest.approx(8.2 / 10.4, 0.02)
  assert zero.prompts_per_step // zero.updates.minibatches == 16
  assert (zero.group_size, zero.algorithm.kl_coef) == (16, 0.001)
  assert (r1.sample.temperature, r1.algorithm.loss.eps_high) == (0.7, 10.0)


def test_curves_of_a_recipe_without_arms_are_refused_at_once(write, capfd):
  flags = write(CHAIN)
  assert recipe.main([*flags, '--curves=curves.csv']) == 2
  assert '--curves is for recipes of arms' in capfd.readouterr().err


def test_answers_without_their_working_are_right_as_a_student_learns_them():
  c = e_distill.get_config('keep_answers')
  task = config.pick(tasks, c.task.to_dict())()
  example = task.example(0)
  worked = f'<think>some</think><answer>{example.answer}</answer>'
  kept = config.pick(rewriting, c.keep.rewrite, task=task)()(worked, example)
  right = grader.reward_functions(c, task)['correct']
  assert kept != worked and right(kept, example) == 1.0
