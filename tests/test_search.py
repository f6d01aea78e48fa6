"""Which layouts the search tries, in which order, and how it lists them."""

import types

import jax
import pytest

from configs import modern, qwen2_5_7b_r1_zero
from grpo_jax.models import families
from launch import estimate, flops, search
from launch.search import Layout

SLICE = 'v5e:2x4'


@pytest.fixture
def cfg(monkeypatch):
  """64 prompts x 16 over eight devices; a decoder of 9 heads, 3 of them kv."""
  monkeypatch.setattr(estimate, 'devices_of', lambda _: jax.devices()[:8])
  c = modern.get_config()
  c.launch.size = 'smollm2_135m'
  c.updates.minibatches = 1
  return c


def test_meshes_come_by_what_they_send_and_those_left_out_are_told(cfg):
  told = []
  found = list(search.candidates(cfg, SLICE, say=told.append))
  # Heads do not divide over 2, 4 or 8; samples lie with their prompts.
  assert found == [
    Layout(1, 8, 1), Layout(8, 1, 1), Layout(4, 2, 1), Layout(2, 4, 1),
  ]  # fmt: skip
  assert len(told) == 6 and all('does not divide' in line for line in told)


def test_a_state_that_fits_no_device_is_left_out(cfg):
  cfg.launch.size = 'qwen2_5_1_5b'
  told = []
  found = list(search.candidates(cfg, SLICE, say=told.append))
  # 1.5 G parameters and two moments in fp32 are 17 GiB, and a chip has 16.
  assert Layout(8, 1, 1) not in found and Layout(4, 2, 1) in found
  assert any('its state alone is' in line for line in told)


def test_traffic_is_that_by_hand(cfg):
  model = families.SIZES['smollm2_135m']
  weights = 30 * (576 * 64 * (18 + 6) + 3 * 576 * 1536) + 49152 * 576
  # Three gathers in bf16 and a sum in fp32, of which one eighth is here.
  assert search.traffic(cfg, model, Layout(1, 8, 1)) == pytest.approx(
    (3 * 2 + 4) * weights * 7 / 8
  )
  assert search.traffic(cfg, model, Layout(8, 1, 1)) == pytest.approx(
    2 * 4 * weights * 7 / 8
  )


def test_traffic_follows_what_the_rules_split():
  c = qwen2_5_7b_r1_zero.get_config()
  model = families.SIZES['qwen2_5_7b']
  # In training heads are whole and `tensor` holds weights and prompts as `fsdp`
  # does: how the two share the chips changes nothing.
  found = [search.traffic(c, model, Layout(4, *x)) for x in ((8, 2), (16, 1))]
  assert found[0] == found[1]
  more = search.traffic(c, model, Layout(64, 1, 1))
  assert more == pytest.approx(2 * 4 * flops.in_products(model) * 63 / 64)


def test_the_configs_own_mesh_is_tried_first(cfg):
  cfg.mesh.update(data=2, fsdp=-1)
  first, *rest = search.candidates(cfg, SLICE)
  assert first == Layout(2, 4, 1)
  assert rest == [Layout(8, 1, 1), Layout(4, 2, 1), Layout(1, 8, 1)]


def test_parts_double_prompts_first_and_stay_divisors(cfg):
  cfg.group_size = 12
  found = list(search.parts(cfg, Layout(1, 8, 1), SLICE))
  # 8 prompts a device, then 12 samples of which 4 is the last power of two.
  assert [(x.microbatches, x.group_microbatches) for x in found] == [
    (1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4),
  ]  # fmt: skip


def test_parts_of_fine_tuning_are_of_rows(cfg):
  """Its rows have one sample, however rules split samples."""
  cfg.launch.job, cfg.sft.batch_size = 'sft', 32
  cfg.rules.train.update(prompts=('fsdp',), samples='data')
  found = list(search.parts(cfg, Layout(2, 4, 1), SLICE))
  assert [x.microbatches for x in found] == [1, 2, 4]
  cfg.sft.batch_size = 60
  told = []
  assert list(search.candidates(cfg, SLICE, say=told.append)) == []
  assert any('sft.batch_size=60 does not divide' in line for line in told)


def test_the_fastest_that_fits_is_first_and_misfits_are_last(cfg, monkeypatch):
  asked = []

  def check(cfg, topology, *, lengths, say, until_misfit):
    mesh, parts = dict(cfg.mesh), cfg.updates.microbatches
    asked.append((mesh['data'], parts))
    # Four parts fit, but never with parameters whole on each device.
    fits = parts >= 4 and mesh['data'] < 8
    update = types.SimpleNamespace(seconds=1.0)
    return types.SimpleNamespace(
      mesh=mesh, fits=fits, peak=20 * 2**30, hbm=16 * 2**30,
      numbers={'microbatches': parts}, utilisation=0.5,
      step_seconds=float(mesh['data']), tokens_per_second=1.0,
      of=lambda name: update,
    )  # fmt: skip

  monkeypatch.setattr(estimate, 'check', check)
  found = search.search(
    cfg, SLICE, meshes=3, lengths=(0, 0), say=lambda _: None
  )
  assert [one.mesh['data'] for one in found] == [1, 4, 8]
  assert [one.fits for one in found] == [True, True, False]
  # Nothing is compiled after the fewest parts that fit.
  assert asked[-3:] == [(4, 1), (4, 2), (4, 4)]
  lines = search.table(found).splitlines()
  assert len(lines) == 4 and lines[3].endswith('does not fit in 16 GiB')
