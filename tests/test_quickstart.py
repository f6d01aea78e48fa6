"""The quickstart's four stages, with a few steps of its own configs."""

import contextlib
import io
import json
import shutil

from absl import flags
from absl.testing import flagsaver
import pytest

from configs import quickstart as rl_config
from configs import quickstart_base as base_config
from grpo_jax import evaluate, quickstart, runs

STAGES = {'base': 'base', 'trained': 'grpo'}  # name in the summary -> folder


@pytest.fixture(scope='module', autouse=True)
def shortened():
  """The real configs, cut to seconds."""
  make_base, make_rl = base_config.get_config, rl_config.get_config

  def cut(c):
    c.steps = 2
    c.model.update(num_layers=1, embed_dim=32, mlp_dim=32)
    # Over the eight devices of the tests.
    c.sft.batch_size = c.prompts_per_step = 8
    c.updates.microbatches = 1
    c.group_size = 2
    c.eval.update(prompts=3, batch_prompts=3)
    return c

  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['test'])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(base_config, 'get_config', lambda: cut(make_base()))
    patch.setattr(rl_config, 'get_config', lambda: cut(make_rl()))
    yield


@pytest.fixture(scope='module')
def finished(shortened, tmp_path_factory):
  """The workdir of a quickstart, and what it printed."""
  workdir = tmp_path_factory.mktemp('quickstart')
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    quickstart.run(None, workdir)
  return workdir, printed.getvalue()


@pytest.fixture
def workdir(finished, tmp_path):
  """A copy of that workdir."""
  return shutil.copytree(finished[0], tmp_path / 'copy')


def read(path):
  return json.loads(path.read_text())


def test_quickstart_leaves_a_summary_and_two_runs(finished):
  workdir, printed = finished
  summary = read(workdir / 'summary.json')
  assert (summary['seed'], summary['reward']) == (0, 'rule')
  for name, folder in STAGES.items():
    result = read(workdir / folder / 'quickstart_eval.json')
    assert set(summary[name]) == {'pass@1', 'pass@64', 'cons@16', 'mean_length'}
    assert all(summary[name][k] == result[k] for k in summary[name])
  assert 'Two answers, trained' in printed and 'tensorboard' in printed
  assert runs.open_run(workdir / 'grpo').steps == [2]


def evaluations(monkeypatch, **measures):
  """The policies that are evaluated from now on, each with these measures."""
  seen = []

  def run(self, params, *, progress):
    seen.append(self.cfg.init_from)
    return dict.fromkeys(quickstart.MEASURES, 0.0) | measures | {'examples': []}

  monkeypatch.setattr(evaluate.Evaluation, 'run', run)
  return seen


def test_quickstart_again_trains_and_evaluates_nothing(workdir, monkeypatch):
  evaluated = evaluations(monkeypatch)
  files = [workdir / f / 'metrics.jsonl' for f in STAGES.values()]
  files.append(workdir / 'summary.json')
  before = [path.read_text() for path in files]
  quickstart.run(None, workdir)
  assert [path.read_text() for path in files] == before
  assert evaluated == []


def test_the_evaluations_of_the_user_are_not_the_quickstarts(
  workdir, monkeypatch
):
  evaluations(monkeypatch)
  before = read(workdir / 'summary.json')
  for folder in STAGES.values():
    (workdir / folder / 'eval.json').write_text('{"pass@1": 0.5}')
  quickstart.run(None, workdir)
  assert read(workdir / 'summary.json') == before
  for folder in STAGES.values():
    assert runs.open_run(workdir / folder).eval == {'pass@1': 0.5}


@pytest.mark.parametrize('folder', STAGES.values())
@pytest.mark.parametrize('field', ['step', 'eval'])
def test_another_step_or_other_settings_are_evaluated_anew(
  workdir, monkeypatch, folder, field
):
  path = workdir / folder / 'quickstart_eval.json'
  kept = read(path)
  if field == 'step':
    kept['settings']['step'] = 1
  else:
    kept['settings']['eval']['samples'] = 4
  path.write_text(json.dumps(kept))
  evaluated = evaluations(monkeypatch, mean_length=123.0)
  quickstart.run(None, workdir)
  assert evaluated == [str(workdir / folder)]
  summary = read(workdir / 'summary.json')
  assert [f for n, f in STAGES.items() if summary[n]['mean_length'] == 123] == [
    folder
  ]


@pytest.mark.parametrize(
  'asked, folder, saying',
  [
    (dict(seed=1), 'base', 'seed=0 there and seed=1 here; use another'),
    (
      dict(reward='random'),
      'grpo',
      r'rewards.correct.extract=tags there and no rewards\.\S* here.* more;',
    ),
  ],
)
def test_the_workdir_of_another_experiment_is_refused(
  workdir, asked, folder, saying
):
  before = read(workdir / 'summary.json')
  with (
    flagsaver.flagsaver(**asked),
    pytest.raises(
      ValueError,
      match=f'^{workdir}/{folder} was begun with other values: {saying}',
    ),
  ):
    quickstart.run(None, workdir)
  assert read(workdir / 'summary.json') == before
