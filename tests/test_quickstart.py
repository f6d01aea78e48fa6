"""The quickstart's four stages, with a few steps of its own configs."""

import json

from absl import flags
import pytest

from configs import quickstart as rl_config
from configs import quickstart_base as base_config
from grpo_jax import quickstart, runs


@pytest.fixture
def shortened(monkeypatch):
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

  monkeypatch.setattr(base_config, 'get_config', lambda: cut(make_base()))
  monkeypatch.setattr(rl_config, 'get_config', lambda: cut(make_rl()))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['test'])


def test_quickstart_leaves_a_summary_and_two_runs(shortened, tmp_path, capsys):
  quickstart.run(None, tmp_path)
  printed = capsys.readouterr().out
  summary = json.loads((tmp_path / 'summary.json').read_text())
  for name, folder in (('base', 'base'), ('trained', 'grpo')):
    evaluated = runs.open_run(tmp_path / folder).eval
    assert set(summary[name]) == {'pass@1', 'pass@64', 'cons@16', 'mean_length'}
    assert all(summary[name][k] == evaluated[k] for k in summary[name])
  assert 'Two answers, trained' in printed and 'tensorboard' in printed
  assert runs.open_run(tmp_path / 'grpo').steps == [2]


def test_quickstart_again_trains_nothing(shortened, tmp_path):
  quickstart.run(None, tmp_path)
  files = [tmp_path / f / 'metrics.jsonl' for f in ('base', 'grpo')]
  before = [path.read_text() for path in files]
  quickstart.run(None, tmp_path)
  assert [path.read_text() for path in files] == before
