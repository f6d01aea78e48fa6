"""A run opened from its workdir, by hand and by the notebook."""

import json
import math
import pathlib

from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import nbformat
import numpy as np
import pytest
import tiny

from configs import base
from grpo_jax import cli, run_config
from grpo_jax.checkpoints import Checkpoints
from grpo_jax.metrics import Writer
from grpo_jax.runs import open_run
from grpo_jax.structs import TrainState

REPO = pathlib.Path(__file__).parents[1]
NOTEBOOK = REPO / 'notebooks' / 'inspect_checkpoint.ipynb'


def sample(advantage):
  return {
    'prompt': '2+3=',
    'completion': f'five{advantage}',
    'answer': '5',
    'reward': 1.0,
    'rewards': {'exact': 1.0},
    'advantage': advantage,
    'length': 5,
    'finished': advantage > 0,
  }


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """What a run leaves, with numbers that are easy to recognise."""
  path = tmp_path_factory.mktemp('runs') / 'a'
  with Writer(path, tensorboard=False) as writer:
    for step in (1, 2, 3):
      writer.write(step, {'reward/mean': step / 4, 'length/mean': 10.0 * step})
      writer.samples(step, [sample(0.5), sample(-1.5)])
    writer.write(2, {'eval/pass@1': 0.75})
    writer.write(4, {'reward/mean': math.nan, 'kl': math.inf})
  config = {'seed': 7, 'algorithm': {'kl_coef': 0.04}, 'eval': {'ks': [1, 16]}}
  (path / 'config.json').write_text(json.dumps(config))
  with Checkpoints(path, keep_last=3) as saver:
    for step in (2, 4):
      # Norms: embed 2 at step 2 and 4 at step 4, layer i of q (i + 1) / 10.
      params = {
        'embed': jnp.full((4, 4), step / 4, jnp.float32),
        'layers': {'q': jnp.array([[0.1, 0.0], [0.0, 0.2]], jnp.float32)},
      }
      state = TrainState(step=jnp.int32(step), params=params, opt_state=())
      saver.save(step, state, extra={})
  return path


def test_curves_have_a_value_a_step_and_nan_where_missing(workdir):
  metrics = open_run(workdir).metrics
  assert metrics['step'].tolist() == [1, 2, 3, 4]
  assert metrics['step'].dtype == np.int64
  np.testing.assert_array_equal(
    metrics['reward/mean'], [0.25, 0.5, 0.75, np.nan]
  )
  # Written apart from the others of step 2.
  np.testing.assert_array_equal(
    metrics['eval/pass@1'], [np.nan, 0.75, np.nan, np.nan]
  )
  assert metrics['kl'][3] == np.inf
  assert set(metrics) == {
    'step', 'reward/mean', 'length/mean', 'eval/pass@1', 'kl',
  }  # fmt: skip


def test_config_samples_and_evaluation_are_read(workdir):
  run = open_run(str(workdir))
  assert run.config.algorithm.kl_coef == 0.04
  assert run.config.eval.ks == (1, 16)
  assert len(run.samples()) == 6
  assert run.samples(2) == [
    {'step': 2, **sample(0.5)}, {'step': 2, **sample(-1.5)},
  ]  # fmt: skip
  assert run.samples(9) == []
  assert run.eval is None


def saved(folder, config):
  """The config of a run that was saved as this JSON."""
  (folder / 'config.json').write_text(json.dumps(config))
  return open_run(folder).config


def test_a_config_is_read_as_it_was_saved(tmp_path):
  config = tiny.get_config()
  config.prompt.shots = (('1+1=', '2'), ('1+2=', '3'))
  # The tuples are tuples again.
  found = saved(tmp_path, config.to_dict())
  assert found.to_dict() == config.to_dict()
  assert found.is_locked and found.eval.is_locked


def test_fields_that_came_later_have_their_defaults(tmp_path):
  config = base.get_config().to_dict()
  del config['generate'], config['eval']['min_p']
  config['eval']['top_p'] = 0.5
  found = saved(tmp_path, config)
  assert found.generate.samples == 1
  assert found.eval.min_p == 0.0 and found.eval.top_p == 0.5


def test_a_field_that_came_later_is_no_changed_value(tmp_path):
  config = base.get_config()
  old = config.to_dict()
  del old['eval']['min_p']
  (tmp_path / 'config.json').write_text(json.dumps(old))
  assert cli.changed_fields(config, tmp_path) == []
  config.eval.update(min_p=0.1, ks=(1, 2))
  assert cli.changed_fields(config, tmp_path) == ['eval.ks', 'eval.min_p']


def test_fields_that_are_gone_are_kept(tmp_path):
  found = saved(tmp_path, {'eval': {'beams': [2, 3]}, 'ancient': {'x': 1}})
  assert found.eval.beams == (2, 3) and found.ancient.x == 1


@pytest.mark.parametrize(
  'field',
  [
    'task', 'rewards', 'eval.task', 'algorithm.advantages', 'algorithm.loss',
    'algorithm.weights', 'algorithm.kl',
  ],
)  # fmt: skip
def test_a_function_keeps_its_own_arguments_only(tmp_path, field):
  spec = {'name': 'other', 'argument': 1}
  if field == 'rewards':
    spec = {'mine': spec}
  config = spec
  for name in reversed(field.split('.')):
    config = {name: config}
  found = saved(tmp_path, config)
  for name in field.split('.'):
    found = found[name]
  assert found.to_dict() == spec


def test_fields_of_a_run_can_be_overridden(workdir, monkeypatch):
  file = f'{run_config.__file__}:{workdir}'
  argv = ['', f'--config={file}', '--config.eval.ks=(1,4)', '--config.steps=9']
  # config_flags looks there for the fields that are overridden.
  monkeypatch.setattr('sys.argv', argv)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', None, flag_values=values)
  values(argv)
  found = values.config
  assert (found.eval.ks, found.steps, found.seed) == ((1, 4), 9, 7)


def test_the_evaluation_appears_when_it_is_written(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  run = open_run(tmp_path)
  (tmp_path / 'eval.json').write_text('{"pass@1": 0.5}')
  assert run.eval == {'pass@1': 0.5}
  (tmp_path / 'eval.json').write_text('{"pass@1"')
  with pytest.raises(ValueError, match='eval.json is damaged'):
    assert run.eval


def test_parameters_are_numpy_of_the_newest_step_or_the_one_asked(workdir):
  run = open_run(workdir)
  assert run.steps == [2, 4]
  newest, older = run.params(), run.params(2)
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(newest))
  assert (newest['embed'] == 1.0).all() and (older['embed'] == 0.5).all()
  with pytest.raises(FileNotFoundError, match='step 3; there are: 2, 4'):
    run.params(3)


def test_a_run_under_way_can_be_opened(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  run = open_run(tmp_path)
  assert run.steps == []
  with pytest.raises(FileNotFoundError, match='no checkpoint; there are: none'):
    run.params()
  with pytest.raises(FileNotFoundError, match='metrics.jsonl does not exist'):
    assert run.metrics
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "a": 2.0}\n{"step": 2')
  assert run.metrics['a'].tolist() == [2.0]
  # Looking at a run leaves nothing in it.
  names = sorted(p.name for p in tmp_path.iterdir())
  assert names == ['config.json', 'metrics.jsonl']


def test_folders_that_are_no_runs_are_told_apart(workdir, tmp_path):
  with pytest.raises(FileNotFoundError, match='absent: no such folder'):
    open_run(tmp_path / 'absent')
  with pytest.raises(FileNotFoundError, match='has no config.json$'):
    open_run(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"did you mean one of \['a'\]"):
    open_run(workdir.parent)


def test_tokenizer_and_model_come_from_the_model_folder(tmp_path):
  from grpo_jax import tokenizer
  from grpo_jax.models import transformer

  (tmp_path / 'config.json').write_text('{}')
  run = open_run(tmp_path)
  with pytest.raises(FileNotFoundError, match='model'):
    run.tokenizer()
  with pytest.raises(FileNotFoundError, match='model'):
    run.model_config()
  tokenizer.char(alphabet='0123456789+=').save(tmp_path / 'model')
  sizes = {
    'model_type': 'llama',
    'vocab_size': 14,
    'num_hidden_layers': 2,
    'hidden_size': 16,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'intermediate_size': 32,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10000.0,
    'tie_word_embeddings': True,
  }
  (tmp_path / 'model' / 'config.json').write_text(json.dumps(sizes))
  ids = run.tokenizer().encode('2+3=')
  assert run.tokenizer().decode(ids) == '2+3='
  assert run.model_config() == transformer.Config(
    vocab_size=14,
    num_layers=2,
    embed_dim=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=32,
  )


@pytest.mark.parametrize('plots', [True, False])
def test_the_notebook_runs_and_shows_the_run(
  workdir, tmp_path, monkeypatch, plots
):
  nbclient = pytest.importorskip('nbclient')
  monkeypatch.setenv('GRPO_JAX_WORKDIR', str(workdir))
  path = [str(REPO)]
  if plots:
    pytest.importorskip('matplotlib')
  else:  # A module that cannot be imported, found first.
    (tmp_path / 'matplotlib.py').write_text('raise ImportError')
    path.insert(0, str(tmp_path))
  monkeypatch.setenv('PYTHONPATH', ':'.join(path))
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=120, resources={'metadata': {'path': str(tmp_path)}}
  )
  client.execute()

  def output(cell):
    return ''.join(
      o.get('text', '') or ''.join(o.get('data', {}).get('text/plain', ''))
      for o in cell.outputs
    )

  opened, curves, samples, norms, moved = (
    output(c) for c in notebook.cells if c.cell_type == 'code'
  )
  assert 'checkpoints at steps [2, 4]' in opened and 'kl_coef: 0.04' in opened
  if plots:
    assert '<Figure' in curves
  else:
    assert '3\t0.750\t30.000' in curves
  assert samples.index('advantage +0.50') < samples.index('advantage -1.50')
  assert 'five-1.5' in samples and 'cut off' in samples
  rows = {line.split()[0]: line.split() for line in norms.splitlines()}
  assert rows['embed'][-1] == '4.0000'
  assert rows['layers/q'][-2:] == ['0.1000', '0.2000']
  rows = {line.split()[0]: line.split() for line in moved.splitlines()}
  assert rows['embed'][1:] == ['moved', '2.0000', 'relative', '1.0000']
  assert rows['layers/q'][1:] == ['moved', '0.0000', 'relative', '0.0000']


def test_the_notebook_is_kept_without_outputs():
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  code = [c for c in notebook.cells if c.cell_type == 'code']
  assert code
  assert all(not c.outputs and c.execution_count is None for c in code)
