"""Who imports whom, read off the imports: nothing here runs a module."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'grpo_jax'

# A module imports from lower layers and from its own; those of layer 3 do not
# import each other. A name ending in '.*' is a folder.
LAYERS = {
  0: [
    'structs',
  ],
  1: [
    'hosts', 'sharding', 'models.params', 'layout', 'advantages', 'importance',
    'losses', 'credit', 'objectives', 'rewards.*', 'tokenizer', 'prompts',
    'chat_template',
    'optimizer', 'measures', 'offload', 'replicas', 'scaling_law',
    'checkpoint_items', 'errors', 'event_files', 'hooks', 'chat_client',
    'preference_losses', 'files', 'begun',
    'text_measures', 'accuracy', 'planner', 'slots', 'seating',
    'seating_replay',
    'verified.*', 'alpaca.*', 'drawing',
  ],
  2: [
    'models.*', 'logprobs', 'update', 'config', 'validation', 'validation_rl',
    'metrics', 'checkpoints', 'tasks.*', 'preferences', 'alpaca.contests',
    'verified.rewriting',
  ],
  3: [
    'sampling', 'rollout', 'runs', 'continuous', 'seats',
  ],
  4: [
    'policy', 'programs', 'trainer', 'training', 'critic', 'questions',
    'answers', 'loop', 'outcome', 'arguments', 'cli', 'train', 'sft',
    'generate',
    'evaluate', 'export', 'quickstart', 'run_config', 'report', 'report_charts',
    'report_curves', 'report_data', 'report_signs', 'report_tables',
    'report_texts', 'report_warnings', 'keep', 'verified.mixing', 'scorer',
    'batched_rewards', 'grader', 'reward_model', 'pairs', 'win_rate',
    'stage_table', 'recipe', 'points', 'arms', 'reference', 'chat', 'streaming',
    'bucketed', 'verified.sifting', 'samplers', 'shared_rows',
  ],
}  # fmt: skip

MAX_LINES = 330


def modules():
  """Module name, without the package's, -> path."""
  found = {}
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    if parts:
      found['.'.join(parts)] = path
  return found


MODULES = modules()


def layer(name):
  """The layer of a module: its own entry, or else its folder's."""
  for names in (name, f'{name.split(".")[0]}.*'):
    for number, entries in LAYERS.items():
      if names in entries:
        return number
  return None


def imports(name, source):
  """Modules of the package that this source imports, at any depth of code."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      full = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{name}: relative import'
      # `from package import module` or `from module import name`.
      full = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for one in full:
      if one.split('.')[0] == 'grpo_jax':
        parts = one.split('.')[1:]
        while parts and '.'.join(parts) not in MODULES:
          parts = parts[:-1]
        if parts:
          found.add('.'.join(parts))
  return found - {name}


def broken_rules(name, source):
  """What this module imports and may not."""
  mine = layer(name)
  return sorted(
    other
    for other in imports(name, source)
    if layer(other) > mine or (layer(other) == mine == 3)
  )


def text(name):
  return MODULES[name].read_text(encoding='utf-8')


def test_every_module_has_a_layer_and_every_entry_a_module():
  assert [m for m in MODULES if layer(m) is None] == []
  entries = [e for names in LAYERS.values() for e in names]
  assert len(entries) == len(set(entries))
  assert [e for e in entries if e.removesuffix('.*') not in MODULES] == []


@pytest.mark.parametrize('name', MODULES)
def test_a_module_imports_from_its_own_layer_and_below_only(name):
  assert broken_rules(name, text(name)) == []


@pytest.mark.parametrize(
  'name, source, broken',
  [
    ('losses', 'from grpo_jax.models import transformer', 'models.transformer'),
    ('losses', 'def f():\n  import grpo_jax.update', 'update'),
    ('models.llama', 'from grpo_jax import rollout', 'rollout'),
    ('rollout', 'from grpo_jax.sampling import sample', 'sampling'),
    ('sampling', 'from grpo_jax.train import run', 'train'),
    ('structs', 'from grpo_jax import layout, structs', 'layout'),
    # The declarations of parameters are below the models.
    ('sharding', 'from grpo_jax.models.params import name', None),
    ('train', 'from grpo_jax import loop, losses, rollout', None),
  ],
)
def test_the_reading_of_imports_finds_what_is_forbidden(name, source, broken):
  assert broken_rules(name, source) == ([broken] if broken else [])


def test_jit_is_in_layer_4_only():
  assert [
    name
    for name in MODULES
    if layer(name) < 4
    for node in ast.walk(ast.parse(text(name)))
    if isinstance(node, ast.Attribute) and node.attr in ('jit', 'pmap')
    or isinstance(node, ast.alias) and node.name in ('jit', 'pjit')
  ] == []  # fmt: skip


def test_configs_stop_at_layer_4():
  # These check one; they take it as an argument.
  assert [
    name
    for name in MODULES
    if layer(name) < 4 and name not in ('config', 'validation', 'validation_rl')
    for node in ast.walk(ast.parse(text(name)))
    if isinstance(node, ast.arg) and node.arg == 'cfg'
  ] == []


@pytest.mark.parametrize('banned', ['torch', 'tensorflow', 'transformers'])
def test_no_module_needs_another_framework(banned):
  assert [
    name
    for name in MODULES
    for node in ast.walk(ast.parse(text(name)))
    if isinstance(node, ast.Import)
    and banned in [a.name.split('.')[0] for a in node.names]
    or isinstance(node, ast.ImportFrom)
    and (node.module or '').split('.')[0] == banned
  ] == []


def test_no_name_shadows_a_standard_module():
  names = {part for name in MODULES for part in name.split('.')}
  assert names & sys.stdlib_module_names == set()


@pytest.mark.parametrize('name', MODULES)
def test_files_stay_short(name):
  assert len(text(name).splitlines()) <= MAX_LINES


@pytest.mark.parametrize('name', MODULES)
def test_a_file_opens_with_what_it_is(name):
  assert ast.get_docstring(ast.parse(text(name)))
