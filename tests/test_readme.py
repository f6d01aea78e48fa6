"""README.md: its examples run, and what it names exists."""

import functools
import importlib.util
import operator
import pathlib
import re
import runpy
import sys

import pytest
import tiny

import configs
from configs import base
from grpo_jax import (
  batched_rewards,
  config,
  grader,
  rewards,
  tasks,
  validation_rl,
)
from launch import recipes, trials

TEXT = (tiny.REPO / 'README.md').read_text(encoding='utf-8')
FENCED = re.findall(r'^```(\w*)\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in FENCED if language == 'python']
CONFIGS = [code for code in PYTHON if 'def get_config' in code]
# What is shown as code: blocks, and spans of one line.
OUTSIDE = re.sub(r'^```.*?^```$', '', TEXT, flags=re.MULTILINE | re.DOTALL)
CODE = [code for _, code in FENCED] + re.findall(r'`([^`\n]+)`', OUTSIDE)
# '# configs/mine.py' opens a file of the user's.
FILES = {
  found.group(1): code
  for code in PYTHON
  if (found := re.match(r'# ([\w/]+\.py)\n', code))
}


def named(pattern):
  """What the pattern's group finds in code, each once, in order."""
  found = dict.fromkeys(x for code in CODE for x in re.findall(pattern, code))
  assert found
  return list(found)


@pytest.fixture
def user(tmp_path, monkeypatch):
  """A folder with the files that the README shows, to work in."""
  for path, code in FILES.items():
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(code)
  (rows,) = (code for language, code in FENCED if language == 'json')
  (tmp_path / 'questions.jsonl').write_text(rows)
  (tmp_path / 'chat.jsonl').write_text('{"prompt": "Hello."}\n')
  monkeypatch.chdir(tmp_path)
  folders = [*configs.__path__, str(tmp_path / 'configs')]
  monkeypatch.setattr(configs, '__path__', folders)
  yield tmp_path
  for path in FILES:
    name = path.removesuffix('.py').replace('/', '.')
    sys.modules.pop(name, None)
    vars(configs).pop(name.removeprefix('configs.'), None)


def run(code):
  """The names that a block defines."""
  found = {}
  exec(compile(code, 'README.md', 'exec'), found)
  return found


@pytest.mark.parametrize('code', CONFIGS)
def test_a_config_shown_is_one_that_trains(code, user):
  c = run(code)['get_config']()
  validation_rl.of_training(c, ways=tiny.ways())
  task = config.pick(tasks, c.task.to_dict())()
  assert len(task) and task.example(0).prompt
  rules = grader.reward_functions(c, task)
  on_device = [k for k, r in c.rewards.items() if k not in rules]
  assert all(c.rewards[k].name in batched_rewards.__all__ for k in on_device)
  assert list(grader.reward_weights(c)) == list(c.rewards)


def test_rewards_of_the_mixture_shown_are_of_their_domains(user):
  (code,) = (code for code in CONFIGS if "name='mixture'" in code)
  c = run(code)['get_config']()
  task = config.pick(tasks, c.task.to_dict())()
  found = {task.example(i).domain for i in range(len(task))}
  asked = {d for r in c.rewards.values() for d in r.domains}
  assert found == asked == {'reasoning', 'helpful'}
  assert c.rewards.helpful.from_step == c.task.parts.chat.from_step


def test_the_reward_shown_pays_for_the_answer(user):
  c = run(FILES['configs/mine.py'])['get_config']()
  task = config.pick(tasks, c.task.to_dict())()
  exact = grader.reward_functions(c, task)['exact']
  first = task.example(0)
  assert exact(f'so {first.answer}', first) == 1.0
  assert exact('no idea', first) == 0.0


def test_the_task_shown_is_made_by_the_spec_beside_it(user):
  (spec,) = map(eval, named(r"c\.task = (dict\(name='function'.*\))"))
  train, test = (
    config.pick(tasks, spec | dict(split=split))()
    for split in ('train', 'test')
  )
  assert len(train) == len(test) == spec['top']
  assert train.verify(' 6 ', train.example(3))
  assert not train.verify('7', train.example(3))
  asked = [{t.example(i).prompt for i in range(len(t))} for t in (train, test)]
  assert not asked[0] & asked[1]


def test_the_verifier_shown_judges_rows_of_a_file(user):
  (name,) = named(r"verifier='(\w[\w.]*:\w+)'")
  task = tasks.jsonl(
    path='questions.jsonl', prompt_field='question', answer_field='answer',
    verifier=name,
  )  # fmt: skip
  assert task.verify('7', task.example(0))
  assert not task.verify('8', task.example(0))


def test_the_sweep_and_the_recipe_shown_are_valid(tmp_path, monkeypatch):
  monkeypatch.chdir(tiny.REPO)
  (sweep,) = (code for code in PYTHON if 'def get_sweep' in code)
  (recipe,) = (code for code in PYTHON if 'def get_stages' in code)
  file = tmp_path / 'shown.py'
  file.write_text(sweep)
  assert len(trials.load(str(file), str(tmp_path / 'runs'))) == 2 * 2 * 3
  file.write_text(recipe)
  assert list(recipes.load(str(file), str(tmp_path / 'runs')).steps) == [
    'base', 'rl'
  ]  # fmt: skip


def test_every_python_block_is_python():
  for code in PYTHON:
    compile(code, 'README.md', 'exec')


def test_every_python_file_named_is_there():
  folders = ('benchmarks', 'configs', 'grpo_jax', 'launch', 'tests')
  there = [str(p) for f in folders for p in (tiny.REPO / f).rglob('*.py')]
  missing = [
    name
    for name in named(r'(?:[\w.]+/)*\w+\.py\b')
    if not name.rpartition('/')[2][:-3].isupper()  # FILE.py, NAME.py
    and name not in FILES
    and not any(path.endswith(f'/{name}') for path in there)
  ]
  assert missing == []


def test_every_argument_of_a_config_named_is_known(user):
  for path, argument in named(r'(configs/[\w/]+)\.py:(\w+)'):
    if argument.isupper():  # EXPERIMENT, SIZE
      continue
    file = tiny.REPO / f'{path}.py'
    runpy.run_path(str(file))['get_config'](argument)


def test_every_make_target_named_is_there():
  makefile = (tiny.REPO / 'Makefile').read_text()
  targets = re.findall(r'^(\w+):', makefile, re.MULTILINE)
  assert set(named(r'(?m)(?:^|`)make (\w+)')) <= set(targets)


def test_every_module_that_is_run_is_there():
  missing = [
    name
    for name in named(r'\bpython3? -m (\w+(?:\.\w+)*)')
    if not name.rpartition('.')[2].isupper()  # grpo_jax.JOB
    and importlib.util.find_spec(name) is None
  ]
  assert missing == []


def test_every_job_listed_is_there():
  table = TEXT.partition('| job |')[2].partition('\n\n')[0]
  jobs = re.findall(r'^\| `(\w+)', table, re.MULTILINE)
  assert jobs
  for job in jobs:
    assert importlib.util.find_spec(f'grpo_jax.{job}')


def test_every_field_overridden_is_in_the_base_config():
  fields = [f for f in named(r'--config\.([\w.]+)') if not f.isupper()]
  for field in fields:
    functools.reduce(operator.getitem, field.split('.'), base.get_config())


def test_every_reward_and_task_is_listed():
  table = TEXT.partition('| reward | pays for |')[2].partition('\n\n')[0]
  listed = re.findall(r'`(\w+)`(?=[^|]*\|[^|]*\|$)', table, re.MULTILINE)
  functions = {
    name
    for module in (rewards, batched_rewards)
    for name in module.__all__
    if getattr(module, name) not in (rewards.Completion, rewards.faults)
  }
  assert set(listed) == functions - {'combine', 'grade'}
  sentence = re.search(r'^Ready tasks: (.*?)\n\n', TEXT, re.DOTALL | re.M)
  told = re.findall(r'`(\w+)`', sentence.group(1))
  helpers = {'batch_indices', 'of_prompts', 'random', 'split_of'}
  made = {n for n in tasks.__all__ if n.islower()} - helpers
  assert set(told) == made


def test_links_and_headings_lead_somewhere():
  links = re.findall(r'\]\(([^)#:]+)\)', TEXT)
  assert links
  for link in links:
    assert (tiny.REPO / link).exists(), link
  quickstart = pathlib.Path(tiny.REPO, 'grpo_jax', 'quickstart.py').read_text()
  (heading,) = re.findall(r'README\.md, "([^"]+)"', quickstart)
  assert f'\n## {heading}\n' in TEXT
