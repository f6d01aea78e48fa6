"""Speed benchmarks: workloads, limits by hand, a tiny run, tables from JSON."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import speed, speed_limits, speed_ours, speed_tables, workloads
from benchmarks.peers import peer
from benchmarks.workloads import Goal, Workload, WORKLOADS
from grpo_jax.models.architecture import Config

SIZE = Config(
  vocab_size=64,
  num_layers=1,
  embed_dim=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=16,
  mlp_dim=32,
)
TINY = Workload(
  'tiny test',
  'test',
  prompts=8,
  group_size=2,
  prompt=8,
  completion=8,
  mean=3,
  goals=(Goal('prompt', '', 1.25),),
)


@pytest.fixture
def sizes(monkeypatch):
  monkeypatch.setitem(workloads.MODELS, 'test', SIZE)


def test_workloads_have_the_parameters_that_limits_are_known_for():
  # By hand, but for norms. Keys and values have half of the heads.
  layer = 256 * (256 + 128 + 128 + 256) + 3 * 256 * 1024
  products = 4 * layer + 512 * 256
  flops = speed_limits.sampling_flops(WORKLOADS['W1'], 1)
  assert flops == pytest.approx(2 * products, rel=1e-3)


@pytest.mark.parametrize(
  ('name', 'tokens', 'sampling', 'update'),
  [
    # On a machine of 185 GFLOP/s.
    ('W1', 8 * 16 * 64, 22_800, 1.5),
    ('W2', 2 * 16 * 64, 690, 12.7),
    ('W3g64', 2 * 64 * 32, 22_800, 0.8),
  ],
)
def test_limits_are_those_of_a_known_machine(name, tokens, sampling, update):
  workload = WORKLOADS[name]
  assert workloads.lengths(workload).sum() == tokens
  flops = speed_limits.flops(workload, tokens)
  assert 185e9 * tokens / flops['rollout'] == pytest.approx(sampling, rel=0.01)
  assert flops['update'] / 185e9 == pytest.approx(update, rel=0.04)
  assert flops['step'] == flops['rollout'] + flops['update']


def test_peaks_are_of_products_that_were_computed():
  x, w = np.ones((4, 8), np.float32), np.full((8, 16), 2, np.float32)
  weights = [w, w + 1]
  for product in (speed_limits._whole, speed_limits._split):
    np.testing.assert_array_equal(product(x, weights, 3)(), x @ weights[1])


def test_skewed_lengths_have_their_mean_and_one_reaches_the_limit():
  lengths = workloads.lengths(WORKLOADS['W4'])
  assert lengths.shape == (16, 16)
  assert lengths.max() == 512
  assert lengths.min() >= 1
  assert lengths.mean() == pytest.approx(128, rel=0.05)
  # Log-normal: most are shorter than the mean.
  assert np.median(lengths) < 0.8 * lengths.mean()


def test_prompts_are_the_same_every_time_and_have_no_special_tokens():
  for workload in WORKLOADS.values():
    ids = workloads.prompt_ids(workload)
    assert ids.shape == (workload.prompts, workload.prompt)
    assert ids.min() >= 32
    assert ids.max() < workload.size.vocab_size
    np.testing.assert_array_equal(ids, workloads.prompt_ids(workload))


def test_w3_is_three_group_sizes():
  assert [w.group_size for w in workloads.named('W3')] == [4, 16, 64]
  with pytest.raises(ValueError, match='no workload'):
    workloads.named('W9')


def test_a_workload_survives_json():
  for workload in WORKLOADS.values():
    fields = json.loads(json.dumps(dataclasses.asdict(workload)))
    assert workloads.from_dict(fields) == workload


def test_a_misspelt_field_is_refused():
  with pytest.raises(ValueError, match='no field updates.remats'):
    workloads.config(TINY, '', fields={'updates.remats': 'none'})


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  """Fields of the config -> the workload's programs."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(workloads.MODELS, 'test', SIZE)
    under = tmp_path_factory.mktemp('models')
    folder, weights = workloads.folder_of('test', under)
    assert weights == 'random'
    assert workloads.folder_of('test', under) == (folder, weights)

    def open_with(**fields):
      fields |= {'cpu_devices': 8}
      cfg = workloads.config(TINY, folder, fields=fields)
      return speed_ours.Ours(TINY, cfg)

    yield open_with


@pytest.fixture(scope='module')
def ours(opened):
  return opened(**{'sample.chunk': 8})


def test_completions_have_the_lengths_that_were_asked_for(ours):
  before = jax.device_get(ours.state.params)
  batch = ours.batch(ours.publish(ours.state.params))
  lengths = workloads.lengths(TINY)
  np.testing.assert_array_equal(batch.mask.sum(-1), lengths)
  ours.update(batch)
  assert int(ours.state.step) == 1
  moved = jax.tree.map(
    lambda x, y: np.abs(x - y).max(), before, jax.device_get(ours.state.params)
  )
  assert max(jax.tree.leaves(moved)) > 0


def test_every_part_of_a_step_is_measured(ours):
  steps = int(ours.state.step)
  found = speed_ours.measure(ours, parts=speed.PARTS, repeats=2)
  assert {k: len(v) for k, v in found['seconds'].items()} == dict.fromkeys(
    ('publish', 'rollout', 'prefill', 'alone', 'update', 'step'), 2
  )
  assert found['first'].keys() == found['seconds'].keys()
  # Three updates by themselves, three in steps.
  assert int(ours.state.step) == steps + 6
  # The longest of 16 completions fills its 8 slots, the others do not.
  tokens = workloads.lengths(TINY).sum()
  assert found['busy'] == tokens / (16 * 8)
  # Trunks of 7 tokens are padded to 16.
  useful = tokens + 8 * 7
  assert found['padding'] == pytest.approx(1 - useful / (16 * 8 + 8 * 16))


def test_seats_sample_what_a_static_batch_does(opened):
  ours = opened(**{'sample.chunk': 2, 'sample.seats': 8})
  published = ours.publish(ours.state.params)
  key = ours.key()
  seated = ours.sample(published, ours.prompts, key)
  static = ours.static(published, ours.prompts, key)
  np.testing.assert_array_equal(seated.mask, static.mask)
  np.testing.assert_array_equal(
    np.where(seated.mask, seated.targets, 0),
    np.where(static.mask, static.targets, 0),
  )


def test_the_first_run_of_a_part_does_not_count():
  clock, runs = peer.Clock(), []
  for wanted in range(1, 5):
    assert clock('part', lambda: runs.append(1) or len(runs)) == wanted
  assert len(clock.seconds['part']) == 3
  assert clock.first['part'] >= 0


def test_the_answer_of_a_process_has_its_memory(capsys):
  big = np.ones(30_000_000, np.int8)
  peer.answer({'seconds': {}}, versions={'a': '1'}, begin=0.0)
  found = json.loads(capsys.readouterr().out)
  assert found['peak_bytes'] > big.nbytes
  assert found['versions']['a'] == '1'


def found():
  """Of W2 and W4, round numbers: the limit is 1 s of sampling, 5 of update."""
  w2 = {
    'workload': dataclasses.asdict(WORKLOADS['W2']),
    'weights': 'random',
    'tokens': 2048,
    'devices': 1,
    'peaks': {'square': 185e9, 'rollout': 90e9, 'update': 150e9},
    'systems': {
      'ours': {
        'medians': {
          'publish': 0.25,
          'rollout': 2.0,
          'update': 10.0,
          'step': 12.5,
        },
        'peak_bytes': 4e9,
        'versions': {'jax': '0.12'},
      },
      'transformers': {'medians': {'rollout': 8.0}, 'peak_bytes': 2e9},
      'trl': {
        'medians': {'rollout': 16.0, 'update': 30.0, 'step': 46.0},
        'peak_bytes': 16e9,
        'versions': {'torch': '2.13'},
      },
      'tunix': {'error': 'no module named jax'},
    },
  }
  flops = {'rollout': 185e9, 'update': 5 * 185e9, 'step': 6 * 185e9}
  w2 |= speed._limits(flops, w2['peaks'], w2['systems'])
  w4 = w2 | {
    'workload': dataclasses.asdict(WORKLOADS['W4']),
    'systems': {'ours': w2['systems']['ours'] | {'busy': 0.25, 'padding': 0.7}},
  }
  machine = dict(cpu='a CPU', system='Linux', threads=2, commit='abc')
  return {
    'machine': machine,
    'date': '2026-01-02',
    'workloads': {'W2': w2, 'W4': w4},
  }


def test_ratios_are_of_the_best_peer_the_named_one_and_the_limit():
  one = found()['workloads']['W2']
  values = [
    speed_tables.measured(goal, one)
    for goal in (
      Goal('rollout', 'best', 2.5),  # transformers, 8 s
      Goal('rollout', 'trl', 2.5),
      Goal('update', 'best', 2.0),
      Goal('memory', 'trl', 0.5),
      Goal('update', 'limit', 0.55),
      Goal('step', 'tunix', 2.0),  # failed
      Goal('prompt', '', 1.25),  # not of this workload
      Goal('device', '', 0.98),
    )
  ]
  assert values == [4.0, 8.0, 3.0, 0.25, 0.5, None, None, 0.98]


def test_the_prompt_is_paid_once():
  one = found()['workloads']['W2']
  one['systems']['ours']['medians'] |= {'prefill': 0.5, 'alone': 1.5}
  assert speed_tables.measured(Goal('prompt', '', 1.25), one) == 1.0


def test_seats_are_compared_with_a_static_batch():
  one = found()['workloads']['W4']
  goal = Goal('static', '', 2.0)
  assert speed_tables.measured(goal, one) is None
  one['systems']['ours']['medians'] |= {'static': 5.0}
  assert speed_tables.measured(goal, one) == 2.5


def test_tables_show_times_goals_and_what_failed():
  page = speed_tables.page(found())
  lines = page.splitlines()
  assert (
    '| W2 | grpo_jax | 1,024 | 10 | 12.5 | 4 | 50 % (103 %) | 50 % (62 %) |'
    in lines
  )
  assert (
    '| W2 | transformers.generate | 256 |  |  | 2 | 12 % (26 %) |  |' in lines
  )
  assert '| W2 | limit at 185 GFLOP/s | 2,048 | 5 | 6 |  |  |  |' in lines
  assert '| W2 | sampling x the best peer | 4.00 | >= 2.50 | yes |' in lines
  assert '| W2 | update of the limit | 50 % | >= 55 % | no |' in lines
  assert '| W2 | peak memory x TRL | 0.25 | <= 0.50 | yes |' in lines
  assert '| W4 | padding in the update | 70 % | <= 15 % | no |' in lines
  assert '- W2, Tunix: no module named jax' in lines
  assert '- TRL: torch 2.13' in lines
  assert 'commit abc, a CPU, 2 CPUs' in page


def asked(tmp_path, **changed):
  given = dict(
    parts=speed.PARTS,
    against=(),
    peers=tmp_path / 'peers',
    workdir=tmp_path,
    repeats=(1, 1),
    threads=1,
    fields={},
  )
  return speed.Asked(**given | changed)


def test_systems_run_in_turn_and_a_peer_that_fails_stops_nothing(
  sizes, monkeypatch, tmp_path
):
  requests = []

  def answer(command, request, workload, name, asked):
    requests.append((name, request))
    if name == 'limits':
      return {'square': 1e9}
    if name == 'tunix':
      return {'error': 'out of memory'}
    return {'seconds': {'rollout': [3.0, 1.0, 2.0]}}

  monkeypatch.setattr(speed, '_answer', answer)
  monkeypatch.setattr(speed, '_python', lambda peer, asked: peer)
  one = speed.measure(
    TINY,
    asked(tmp_path, against=('transformers', 'tunix'), repeats=(5, 3)),
  )
  assert [name for name, _ in requests] == [
    'limits', 'ours', 'transformers', 'tunix'
  ]  # fmt: skip
  assert [r['repeats'] for _, r in requests[1:]] == [5, 3, 3]
  assert one['systems']['ours']['medians'] == {'rollout': 2.0}
  assert one['systems']['tunix'] == {'error': 'out of memory'}
  prompts, lengths = peer.arrays(requests[1][1])
  np.testing.assert_array_equal(prompts, workloads.prompt_ids(TINY))
  assert one['tokens'] == lengths.sum()


def test_a_process_that_fails_is_told_by_its_last_line(tmp_path):
  script = tmp_path / 'fails.py'
  script.write_text('raise SystemExit("no luck")')
  command = ['python3', str(script)]
  found = speed._answer(command, {}, TINY, 'trl', asked(tmp_path))
  assert found['error'].startswith('no luck (exit status 1')
  with pytest.raises(ValueError, match='no luck'):
    speed._answer(command, {}, TINY, 'ours', asked(tmp_path))


@pytest.mark.parametrize(
  ('flags', 'told'),
  [
    (['--workload=W9'], "no workload 'W9'"),
    (['--workload=W1', '--against=vllm'], 'there are transformers, trl, tunix'),
    (['--workload=W1', '--against=trl'], 'make peers'),
    (['--workload=W1', '--field=updates.remats=no'], 'no field updates.'),
  ],
)
def test_mistakes_on_the_command_line_are_one_line(
  flags, told, capsys, tmp_path
):
  flags += [f'--workdir={tmp_path}', f'--peers={tmp_path}/none']
  assert speed.run(flags, parts=('rollout',)) == 2
  err = capsys.readouterr().err
  assert told in err
  assert len(err.splitlines()) == 1
