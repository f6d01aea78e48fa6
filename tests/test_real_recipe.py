"""The R1 recipe at real size: its data and rewards, its students, its slices.

Data of a row or two stand in for the files that it names.
"""

import json
import math
import pathlib
import runpy

import jax
from jax.sharding import AbstractMesh
import pytest
import tiny

from configs import distill
from grpo_jax import (
  config,
  grader,
  questions,
  rewards,
  sharding,
  tasks,
  validation,
  validation_rl,
)
from grpo_jax.models import families, transformer
from grpo_jax.models import params as params_lib
from grpo_jax.rewards import rules, sandbox_modes
from grpo_jax.tasks import shares
from grpo_jax.verified import sifting
from launch import chips, recipes

STAGES = tiny.REPO / 'configs' / 'r1' / 'real_stages.py'
GET = runpy.run_path(str(STAGES))['get_config']

CHOICE = dict(prompt='Which?', answer='B', options=['a', 'b', 'c', 'd'])
MATH = dict(prompt='Half?', answer=r'\frac12')
# One row of each file.
ROWS = dict(
  math=MATH,
  test=MATH,
  code=dict(prompt='Echo.', inputs=['a\n'], outputs=['a']),
  bugs=dict(
    prompt='Repair it.',
    test='def check(f):\n  assert f(1) == 2',
    entry_point='f',
  ),
  stem=CHOICE,
  logic=CHOICE,
  open=dict(prompt='Why?', answer='because'),
  helpful=dict(prompt='Greet.'),
  safety=dict(prompt='Harm.'),
)
# What is right in each domain.
RIGHT = dict(
  math=r'\boxed{1/2}',
  stem=r'\boxed{B}',
  logic=r'\boxed{b}',
  code='```\nprint(input())\n```',
  bugs='```\ndef f(x):\n  return x + 1\n```',
)
# Table 4: thousands of prompts.
TABLE = dict(math=26, code=17, bugs=8, stem=22, logic=15, helpful=66, safety=12)


@pytest.fixture
def data(tmp_path, monkeypatch):
  """A folder with the recipe's files, to work in."""
  folder = tmp_path / 'data' / 'r1'
  folder.mkdir(parents=True)
  for name, row in ROWS.items():
    line = json.dumps(row | dict(language='en'))
    (folder / f'{name}.jsonl').write_text(line)
  monkeypatch.chdir(tmp_path)
  return folder


def task_of(cfg):
  return config.pick(tasks, cfg.task.to_dict())()


def by_part(task):
  """Part name -> its one example."""
  return {part.name: part.task.example(0) for part in task.parts}


def need_what_grades():
  pytest.importorskip('math_verify')
  pytest.importorskip('py3langid')
  try:
    sandbox_modes.active()
  except ValueError as error:
    pytest.skip(str(error))


PARTS = dict(
  zero={'math', 'code', 'bugs', 'stem'},
  reasoning={'math', 'code', 'bugs', 'stem', 'logic'},
  rejection={'math', 'code', 'bugs', 'stem', 'logic', 'open'},
  all_scenarios={'math', 'code', 'bugs', 'stem', 'logic', 'helpful', 'safety'},
)


@pytest.mark.parametrize('stage', PARTS)
def test_prompts_are_of_the_papers_domains_by_its_shares(data, stage):
  task = task_of(GET(stage))
  found = {part.name: part.share for part in task.parts}
  assert found.keys() == PARTS[stage]
  found.pop('open', None)  # the paper does not tell how many
  assert found == {name: TABLE[name] for name in found}
  assert all(e.data['language'] == 'en' for e in by_part(task).values())


@pytest.mark.parametrize('stage', ['zero', 'reasoning', 'rejection'])
def test_each_domain_is_graded_in_its_own_way(data, stage):
  need_what_grades()
  cfg = GET(stage)
  task = task_of(cfg)
  grader.check(cfg, task)
  functions = grader.reward_functions(cfg, task)
  examples = by_part(task)
  names = [name for name in examples if name != 'open']
  rows = [
    [RIGHT[name], RIGHT['math' if name != 'math' else 'stem']] for name in names
  ]
  graded = rewards.grade(
    rows,
    [examples[name] for name in names],
    {'correct': functions['correct']},
    patience=60,
  )['correct']
  assert graded.tolist() == [[1.0, 0.0]] * len(names)
  if 'open' in examples:
    assert functions['correct']('because', examples['open']) is None


def test_evaluation_grades_as_training_does(data):
  need_what_grades()
  cfg = GET('evaluation')
  task = config.pick(tasks, cfg.task.to_dict() | cfg.eval.task.to_dict())()
  assert rules.extractors_of(cfg.rewards) == {'': 'boxed'}
  assert task.verify('0.5', task.example(0))  # the reference is \frac12
  train, test = GET('zero').task.parts.math.to_dict(), cfg.task.to_dict()
  assert {k: test[k] for k in ('name', 'verifier', 'data_fields')} == {
    k: train[k] for k in ('name', 'verifier', 'data_fields')
  }
  # Of programs it is the last fence, for those who evaluate on a mixture.
  zero = rules.extractors_of(GET('zero').rewards)
  assert zero == {'': 'boxed', 'code': 'program'}


def test_thoughts_are_in_the_language_of_their_question_everywhere(data):
  need_what_grades()
  for stage in ('reasoning', 'all_scenarios'):
    cfg = GET(stage)
    assert cfg.rewards.language.to_dict() == dict(
      name='language', weight=1.0, target='prompt'
    )
    task = task_of(cfg)
    grader.check(cfg, task)
    reward = grader.reward_functions(cfg, task)['language']
    thought = 'we add both of the numbers and divide all of them by three'
    for example in by_part(task).values():
      assert reward(f'<think>{thought}</think>', example) == 1.0


def test_the_general_prompts_and_their_models_begin_together(data):
  cfg = GET('all_scenarios')
  task = task_of(cfg)
  start = cfg.steps - 25
  for part in task.parts:
    general = part.domain in ('helpful', 'safety')
    assert part.from_step == (start if general else 0)
    assert shares.has_answers(part.task) is not general
    if general:
      reward = cfg.rewards[part.domain]
      assert (reward.domains, reward.from_step) == ((part.domain,), start)
  assert shares.domains(shares.checkable(task)) == (
    'code', 'logic', 'math', 'stem',
  )  # fmt: skip


def test_a_model_judges_only_what_no_rule_can(data):
  need_what_grades()
  cfg = GET('rejection')
  validation.of_keep(cfg)
  task = task_of(cfg)
  ask = questions.questions_of(task, cfg, tokenizer=None)
  sifter = sifting.Sifter(cfg, ask)
  assert sifter.judged_domains == ('open',)
  asked = [n for n, e in by_part(task).items() if sifter.judges(e)]
  assert asked == ['open']


def test_traces_of_the_cold_start_are_of_every_domain(data):
  task = task_of(GET('cold_start'))
  first = shares.in_turn(task, 4)
  assert {task.example(i).domain for i in first} == {'math', 'code', 'stem'}


def test_the_reward_models_of_both_configs_are_the_same():
  found = runpy.run_path(str(STAGES.with_name('reward_model.py')))['get_config']
  for kind in ('helpful', 'safety'):
    real, alone = GET(f'{kind}_model'), found(kind)
    assert real.reward_model.path.startswith('data/r1/')
    alone.reward_model.path = real.reward_model.path
    assert real.reward_model == alone.reward_model
    assert real.steps == alone.steps
    for field in ('learning_rate', 'schedule'):
      assert real.optimizer[field] == alone.optimizer[field]
    assert real.checkpoint == alone.checkpoint
    ways = (real.mesh.data * real.mesh.fsdp, 1, 1)
    group = 2 if kind == 'helpful' else 1
    validation.of_reward_model(real, group=group, ways=ways)


# Students and slices


def places(cfg):
  """Of both rules, the shardings of the parameters; ValueError if none fit."""
  sizes = tuple(cfg.mesh[axis] for axis in sharding.AXES)
  mesh = AbstractMesh(sizes, sharding.AXES)
  declared = transformer.declare(families.SIZES[cfg.launch.size])
  return declared, {
    name: sharding.param_shardings(declared, mesh, cfg.rules[name])
    for name in ('train', 'sample')
  }


def chips_of(cfg):
  return math.prod(map(int, cfg.launch.topology.partition(':')[2].split('x')))


@pytest.mark.parametrize('size', distill.SIZES)
def test_a_student_is_evaluated_as_it_was_trained(size):
  stage = recipes.load('configs/r1/real.py', 'runs').steps[f'{size}_eval']
  assert stage.stage.config.endswith(f'real_stages.py:evaluation:{size}')
  assert stage.workdir == pathlib.Path('runs') / size
  cfg, trained, teacher = stage.cfg, distill.get_config(size), GET('evaluation')
  assert cfg.prompt == trained.prompt
  assert cfg.launch.topology == trained.launch.topology
  for field in ('max_prompt_length', 'max_completion_length'):
    assert cfg.sample[field] == trained.sample[field] == teacher.sample[field]
  # What is asked and how it is measured is the same for all models.
  assert cfg.task == teacher.task and cfg.rewards == teacher.rewards
  asked = teacher.eval.to_dict() | dict(batch_prompts=cfg.eval.batch_prompts)
  assert cfg.eval.to_dict() == asked
  validation.of_answers(cfg, 'eval')


@pytest.mark.parametrize('size', ['', *distill.SIZES])
def test_an_evaluation_fits_its_slice(size):
  cfg = GET(f'evaluation:{size}')
  used = math.prod(cfg.mesh[axis] for axis in sharding.AXES)
  assert used == chips_of(cfg)
  declared, found = places(cfg)
  mesh = AbstractMesh(
    tuple(cfg.mesh[axis] for axis in sharding.AXES), sharding.AXES
  )
  ways = sharding.Rows(mesh, cfg.rules.sample).ways
  assert cfg.eval.samples % ways[1] == 0
  prompts = -(-cfg.eval.batch_prompts // ways[0])
  branches = prompts * cfg.eval.samples // ways[1]
  model = families.SIZES[cfg.launch.size]
  width = 1 if cfg.sample.cache_dtype == 'int8' else 2
  length = cfg.sample.max_prompt_length + cfg.sample.max_completion_length
  heads = model.num_kv_heads // cfg.mesh.tensor
  cache = 2 * model.num_layers * heads * model.head_dim * length * width
  held = {}
  for name, size_of in (('train', 4), ('sample', 2)):
    held[name] = size_of * sum(
      math.prod(place.shard_shape(param.shape))
      for param, place in zip(
        jax.tree.leaves(declared, is_leaf=params_lib.is_param),
        jax.tree.leaves(found[name]),
        strict=True,
      )
    )
  memory = chips.CHIPS['v5p'].hbm
  # With room for what a program makes besides.
  assert sum(held.values()) + branches * cache < 0.7 * memory


def test_a_stage_that_has_no_students_says_so():
  with pytest.raises(ValueError, match='only evaluation has students'):
    GET('zero:qwen_7b')
  with pytest.raises(ValueError, match="no student 'qwen_3b'"):
    GET('evaluation:qwen_3b')


def test_slices_are_those_that_the_recipe_names():
  steps = recipes.load('configs/r1/real.py', 'runs').steps
  used = {}
  for name, step in steps.items():
    mesh = math.prod(step.cfg.mesh[axis] for axis in sharding.AXES)
    assert mesh == chips_of(step.cfg), name
    used.setdefault(mesh, []).append(name)
    if step.stage.job == 'train':
      validation_rl.of_training(step.cfg, ways=tiny.ways())
  students = {n for n in steps if n.split('_')[0] in ('qwen', 'llama')}
  assert set(used.pop(512)) == set(steps) - students
  assert (min(used), max(used)) == (16, 256)
