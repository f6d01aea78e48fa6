"""The scaling benchmark: its arithmetic by hand, its host part on a tiny grid.

And what it found: a host's work for rows that others have.
"""

import dataclasses
import json
import math
import types

from absl import flags
from absl.testing import flagsaver
import numpy as np
import pytest
import tiny

from benchmarks import scaling, scaling_chips, scaling_host
from benchmarks.scaling_chips import Rates, Slices, Work
from benchmarks.scaling_host import Held, Size
from grpo_jax import rollout
from grpo_jax.models import families
from grpo_jax.tasks import Example
from launch import chips

# A chip of round numbers.
CHIP = chips.Chip(
  name='round',
  flops=1e6,
  hbm=1e6,
  usable=1e6,
  hbm_bandwidth=1e3,
  ici_bandwidth=1e4,
  clock=1.0,
  devices=1,
  accelerator='',
)
ON = Slices(hosts=2, fsdp=2, data=2, tensor=2, slices=2)
WORK = Work(
  prompts=8, group=4, prompt=4, mean=8, longest=16, minibatches=2, chunk=16
)


def test_arithmetic_of_a_step_is_that_by_hand(model):
  got = scaling_chips.step(model, CHIP, ON, WORK, Rates(dcn=1e6, bucket=1e3))
  # 20x16 embedding, 2 layers of 3 16x16, 2 8x16, 3 32x16 and 2 16, a norm.
  # Norms are in no product.
  assert scaling_chips.counts(model) == (5008, 4928)
  # A token reads weights in halves, bf16 but for the embedding, which is the
  # head's too, and 256 bytes a position.
  assert got['weights_bytes'] == (2 * 4688 + 4 * 320) / 2 == 5328
  assert got['cache_bytes'] == 256 * 16
  prefill = 2 * 4928 * 8 * 4 / (0.5 * 8 * 1e6)
  read = (5328 + 4096) / 1e3
  assert got['sampling_s'] == pytest.approx(16 * read + prefill)
  assert got['tail_s'] == pytest.approx(8 * read)
  # 512 tokens and 32 of prompts, which have no logits; 6208 pairs, 128 FLOPs
  # a pair.
  products = 6 * (4928 * 512 + 4608 * 32)
  assert got['update_flops'] == products + 3 * 128 * 6208
  assert got['update_compute_s'] == pytest.approx(18_407_424 / 4e6)
  assert got['microbatches'] == 4
  # Half of half the model, in bf16 twice and in fp32, 2 updates of 4 parts, of
  # trunks and of branches.
  assert got['gathered_bytes'] == 2 * 8 * 1252 * (2 + 2 + 4)
  # 6 sums of 16 positions of 16 bf16 units a layer and row, over two: each
  # chip has 8 rows, and gets half of each sum twice.
  assert got['summed_bytes'] == 6 * 2 * 16 * 16 * 2 * 8
  assert got['ici_s'] == pytest.approx((160_256 + 49_152) / 1e4)
  assert got['update_s'] == got['ici_s'], 'it takes longer than FLOPs'
  # A quarter of the fp32 gradient a chip, four chips, to one other slice, in
  # each of 2 updates.
  assert got['dcn_bytes_a_host'] == 2 * 4 * 4 * 5008 / 4
  assert got['publish_s'] == pytest.approx(2664 / 1e4)
  assert got['checkpoint_s'] == pytest.approx(16 * 5008 / 1e3)


def test_decoding_that_computes_longer_than_it_reads_is_bound_by_it(model):
  fast = dataclasses.replace(CHIP, hbm_bandwidth=1e9)
  got = scaling_chips.step(model, fast, ON, WORK, Rates())
  prefill = 2 * 4928 * 8 * 4 / (0.5 * 8 * 1e6)
  token = (2 * 4928 + 128 * (4 + 16)) * 32 / 8 / 1e6
  assert got['sampling_s'] == pytest.approx(16 * token + prefill)


def test_caches_that_do_not_fit_are_sampled_in_waves(model):
  # State: 16 x 5008 bytes in quarters.
  kept = 5328 + 4 * 5008
  room = dataclasses.replace(CHIP, hbm=kept + 4096 / 2.5)
  got = scaling_chips.step(model, room, ON, WORK, Rates())
  assert got['waves'] == 3
  # Each reads the weights again.
  read = (3 * 5328 + 4096) / 1e3
  assert got['sampling_s'] == pytest.approx(16 * read, rel=0.01)
  none = dataclasses.replace(CHIP, hbm=kept)
  assert scaling_chips.step(model, none, ON, WORK, Rates())['waves'] == math.inf


def test_parameters_are_as_many_as_published():
  whole, products = scaling_chips.counts(families.SIZES['qwen2_5_7b'])
  assert whole == 7_615_616_512
  # An untied embedding, norms, and biases of queries, keys and values.
  norms, biases = 57 * 3584, 28 * (3584 + 2 * 512)
  assert whole - products == 152_064 * 3584 + norms + biases


def test_layouts_split_prompts_then_samples_then_slices():
  assert scaling.lay_out(128, tensor=4) == Slices(128, 64, 2, 4)
  assert scaling.lay_out(2048, tensor=4) == Slices(2048, 128, 16, 4, 8)
  with pytest.raises(ValueError, match='16 devices of the mesh on 8 chips'):
    Slices(hosts=2, fsdp=4, data=4, tensor=1)
  with pytest.raises(ValueError, match='4 prompts .* does not divide'):
    on = Slices(hosts=4, fsdp=8, data=1, tensor=2)
    scaling_chips.step(families.SIZES['qwen2_5_7b'], CHIP, on, WORK, Rates())


def test_bottleneck_is_the_longest_part_and_why():
  row = dict.fromkeys(
    ('reference_s', 'host_s', 'publish_s', 'update_compute_s', 'dcn_s'), 1.0
  )
  row |= dict(waves=1, sampling_s=5.0, cache_s=2.0, update_s=3.0, ici_s=3.0)
  assert scaling.bottleneck(row) == 'sampling: reading weights'
  assert scaling.bottleneck(row | {'cache_s': 3.0}).endswith('reading caches')
  assert scaling.bottleneck(row | {'update_s': 6.0}) == 'update: ICI'
  assert scaling.bottleneck(row | {'host_s': 6.0}) == 'host work'
  assert scaling.bottleneck(row | {'waves': math.inf}).startswith('memory')


def test_fit_finds_what_made_the_seconds_and_predicts_others():
  sizes = [
    Size(prompts=q, group=4, completion=c, hosts=h)
    for q in (8, 32)
    for c in (64, 512)
    for h in (1, 4)
  ]

  def seconds(size):
    here = size.prompts * 4 / size.hosts
    return {
      'texts': 1e-3 + 3e-7 * here * size.completion,
      'read': 2e-5 * here + 1e-6 * size.prompts * 4,
    }

  fitted = scaling_host.fit(sizes, [seconds(size) for size in sizes])
  assert fitted['texts']['tokens here'] == pytest.approx(3e-7)
  assert fitted['read']['rows'] == pytest.approx(1e-6)
  far = Size(prompts=640, group=16, completion=8192, hosts=1024)
  got = scaling_host.predict(fitted, far)
  assert got['texts'] == pytest.approx(1e-3 + 3e-7 * 10 * 8192)


def test_report_is_json_with_every_part_of_every_size(monkeypatch):
  c = tiny.get_config()
  c.sample.max_prompt_length = 64
  asked = dict(
    prompts=[2, 4], groups=[2], completions=[32, 64], hosts=[1, 2], repeats=1,
    step=['4', '2'], to_hosts=[1], lengths=[64], models=['qwen2_5_0_5b'],
    checked_hosts=2,
  )  # fmt: skip
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(scaling, '_MINIBATCH', 4)
  with flagsaver.flagsaver(**asked):
    report = scaling.report(c)
  report = json.loads(json.dumps(report, allow_nan=False))
  assert len(report['measured']) == 8
  for row in report['measured'] + report['checked']:
    assert row['seconds'].keys() == report['fit'].keys()
    assert row['seconds']['texts'] > 0 and row['seconds']['grade'] > 0
  assert {int(n) for n in report['index']} == {8}
  (row,) = report['chips']
  assert row['step_s'] > row['sampling_s'] > 0
  assert row['bottleneck']


def test_utilisations_are_those_of_the_models_own_configs(tmp_path):
  lines = [
    {'config': 'qwen2_5_7b_r1_zero', 'update_utilisation': 0.4},
    {'config': 'qwen3_8b', 'update_utilisation': 0.3},
  ]
  # Without room there is no speed.
  lines.append({'config': 'qwen2_5_32b_r1_zero', 'fits': False})
  fitting = {'decode_bandwidth': 0.7, 'fits': True}
  file = tmp_path / 'compiled'
  file.write_text(
    'a table\n' + ''.join(json.dumps(fitting | x) + '\n' for x in lines)
  )
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(compiled=[str(file)]):
    assert scaling._utilisations('qwen2_5_7b') == dict(update=0.4, decode=0.7)
    assert scaling._utilisations('qwen2_5_32b') == {}


def test_texts_are_made_of_rows_here_alone():
  block = (slice(1, 2), slice(0, 2), slice(None))
  targets = np.array([[[5, 6, 2], [7, 8, 9]]])
  mask = np.ones(targets.shape, bool)
  held = types.SimpleNamespace(
    targets=Held((3, 4, 3), block, targets), mask=Held((3, 4, 3), block, mask)
  )
  decoded = []
  completions, finished = rollout.read_texts(
    held,
    [None, Example('1+1=', answer='2'), None],
    opening=lambda prompt: '',
    decode=lambda ids: decoded.append(ids) or str(ids),
    stop_ids=(2,),
  )
  assert decoded == [[5, 6], [7, 8, 9]]
  assert completions[0] == completions[2] == [None] * 4
  assert completions[1] == ['[5, 6]', '[7, 8, 9]', None, None]
  assert (completions[1][0].tokens, completions[1][0].finished) == (3, True)
  wanted = np.zeros((3, 4), bool)
  wanted[1, 0] = True
  np.testing.assert_array_equal(finished, wanted)


def test_no_more_samples_are_rendered_than_are_shown():
  numbers = np.arange(6.0).reshape(3, 2)
  collected = rollout.Collected(
    indices=np.arange(3),
    examples=[None, *(Example(f'{q}', answer='') for q in (1, 2))],
    batch=None,
    completions=[[None, None], [None, 'b'], ['c', 'd']],
    rewards=numbers,
    components={'coin': numbers},
    lengths=numbers,
    finished=numbers > 3,
    sampled=1,
  )
  rendered = []
  rows = rollout.samples(
    collected,
    -numbers,
    text=lambda prompt: rendered.append(prompt) or f'Q: {prompt}',
    most=2,
  )
  assert rendered == ['1', '2']
  assert [row['completion'] for row in rows] == ['b', 'c']
  assert rows[0]['prompt'] == 'Q: 1'
  assert (rows[0]['reward'], rows[0]['advantage']) == (3.0, -3.0)
  assert (rows[0]['given'], rows[1]['given']) == (True, False)
