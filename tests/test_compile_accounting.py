"""What is read off compiled programs, against arithmetic by hand."""

import math
import types

import jax
import jax.numpy as jnp
import pytest
import tiny

from grpo_jax.models import causal, families, transformer
from grpo_jax.models import params as params_lib
from grpo_jax.structs import Prompts
from launch import (
  chips,
  estimate,
  flops,
  hlo,
  sampling_programs,
  step_programs,
)
from launch import report as report_lib
from launch.program import Program

# A loop of 5 turns in a loop of 3, a fusion with cycles, a kernel, and one
# collective of each kind that occurs. Cycles inside of a fusion do not count
# again.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %inner = f32[8]{0} add(%p, %p), backend_config={"window_config":{"estimated_cycles":"7777"}}
}

%inner_cond (t: (s32[], f32[8])) -> pred[] {
  %t = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%inner_body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"100"}}
  %gathered = bf16[4,8]{1,0:T(8,128)(2,1)} all-gather(%y), dimensions={0}
  ROOT %out = (s32[], f32[8]{0}) tuple(%t, %y)
}

%outer_cond (t: (s32[], f32[8], s32[])) -> pred[] {
  %t = (s32[], f32[8]{0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %bound = s32[] get-tuple-element(%t), index=2
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%outer_body (t: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
  %t = (s32[], f32[8]{0}, s32[]) parameter(0)
  %start = (s32[], f32[8]{0}) tuple(%t, %t)
  %loop = (s32[], f32[8]{0}) while(%start), condition=%inner_cond, body=%inner_body
  %sum = f32[16]{0} all-reduce(%loop), to_apply=%fused
  ROOT %out = (s32[], f32[8]{0}, s32[]) tuple(%t, %loop, %t)
}

ENTRY %main (a: f32[8], q: bf16[2,4,128,64], k: bf16[2,2,256,64]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %q = bf16[2,4,128,64]{3,2,1,0} parameter(1)
  %k = bf16[2,2,256,64]{3,2,1,0} parameter(2)
  %zero = s32[] constant(0)
  %three = s32[] constant(3)
  %splash_mha_fwd.1 = bf16[2,4,128,64]{3,2,1,0} custom-call(%zero, %q, %k, %k), custom_call_target="tpu_custom_call"
  %splash_mha_dkv.1 = bf16[2,2,256,64]{3,2,1,0} custom-call(%q, %k, %k), custom_call_target="tpu_custom_call"
  %start = (s32[], f32[8]{0}, s32[]) tuple(%zero, %a, %three)
  %loop = (s32[], f32[8]{0}, s32[]) while(%start), condition=%outer_cond, body=%outer_body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_loops_multiply_what_their_bodies_do():
  found = hlo.account(PROGRAM, head_dim=64)
  assert found.cycles == 3 * 5 * 100
  # An all-reduce sends what is to be added, then the sum.
  assert found.collectives == {
    'all-gather': 3 * 5 * 4 * 8 * 2,
    'all-reduce': 3 * 2 * 16 * 4,
  }
  assert not found.data_loops


def test_a_collective_beside_other_work_is_counted_once_a_run():
  gather = 'all-gather(%p), channel_id={}, dimensions={{0}}'
  fusions = (('start', 3), ('beside', 3), ('done', 3), ('another', 4))
  computations = '\n'.join(
    f'%{name}_async (p: f32[8]) -> bf16[4,8] {{\n'
    '  %p = f32[8]{0} parameter(0)\n'
    f'  ROOT %g.{name} = bf16[4,8]{{1,0}} {gather.format(channel)}\n}}\n'
    for name, channel in fusions
  )
  calls = '\n'.join(
    f'  %{name} = bf16[4,8]{{1,0}} fusion(%x), calls=%{name}_async'
    for name, _ in fusions
  )
  # In the inner loop, which runs 3 x 5 times.
  text = PROGRAM.replace('%inner_body', f'{computations}\n%inner_body', 1)
  text = text.replace('  %gathered', f'{calls}\n  %gathered')
  found = hlo.account(text, head_dim=64)
  once = 4 * 8 * 2
  assert found.collectives['all-gather'] == 3 * 5 * (1 + 2) * once


def test_attention_kernels_count_the_pairs_that_their_mask_shows():
  # 128 queries see 256 keys but for half of the last 128; 2 rows, 4 heads.
  pairs = 2 * 4 * 128 * (256 - 64)
  found = hlo.account(PROGRAM, head_dim=64)
  assert found.kernel_flops == (2 + 4) * 2 * 64 * pairs


def test_a_loop_that_the_data_ends_is_told_by_the_trip():
  text = PROGRAM.replace(
    '%three = s32[] constant(3)', '%three = s32[] copy(%q)'
  )
  found = hlo.account(text, head_dim=64)
  [trip] = found.data_loops
  assert found.cycles == 0 and trip.cycles == 5 * 100
  assert trip.collectives == {
    'all-gather': 5 * 4 * 8 * 2, 'all-reduce': 2 * 16 * 4
  }  # fmt: skip
  assert not found.collectives and found.kernel_flops > 0
  whole = found.with_a_trip()
  assert whole.cycles == 500 and whole.collectives == trip.collectives
  assert whole.kernel_flops == found.kernel_flops


def test_flops_of_a_program_are_those_of_its_products_loops_and_all():
  weights = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
  x = jax.ShapeDtypeStruct((5, 8), jnp.float32)

  def loss(weights, x):
    body = jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None))
    return jax.lax.scan(body, x, weights)[0].sum()

  once = 3 * 2 * 5 * 8 * 8
  assert flops.count(loss, weights, x) == once
  # Computed again, and two products backward.
  assert flops.count(jax.jit(jax.grad(loss)), weights, x) == 4 * once


def test_flops_of_the_decoder_are_twice_its_parameters_a_token_and_attention():
  model = families.SIZES['smollm2_135m']
  params = params_lib.abstract(transformer.declare(model))
  rows, length = 3, 40
  prompts = Prompts(
    trunk=jax.ShapeDtypeStruct((rows, length), jnp.int32),
    trunk_mask=jax.ShapeDtypeStruct((rows, length), jnp.bool_),
    last=jax.ShapeDtypeStruct((rows,), jnp.int32),
  )

  def run(params, prompts):
    return transformer.prefill(
      model, params, prompts, dtype=jnp.float32, attend=causal.full
    )

  head = model.vocab_size * model.embed_dim
  body = flops.in_products(model) - head
  # All pairs: `full` masks what it has computed.
  pairs = rows * length * length
  scores = 4 * model.num_layers * model.num_heads * model.head_dim * pairs
  assert flops.count(run, params, prompts) == 2 * body * rows * length + scores


def test_parameters_in_products_are_all_but_norms_and_an_untied_embedding():
  for name in ('smollm2_135m', 'qwen3_8b'):
    model = families.SIZES[name]
    leaves, _ = jax.tree_util.tree_flatten_with_path(
      transformer.declare(model), is_leaf=params_lib.is_param
    )
    sizes = {params_lib.name(path): math.prod(x.shape) for path, x in leaves}
    products = sum(
      n
      for k, n in sizes.items()
      if not k.endswith(('norm', 'bias')) and k != 'embed'
    )
    products += sizes['embed'] if model.tied_head else 0
    assert flops.in_products(model) == products


def test_clocks_follow_from_peaks_and_are_those_that_are_known():
  known = {'v4': 1.05e9, 'v5e': 1.5e9, 'v5p': 1.75e9}
  for name, clock in known.items():
    assert chips.CHIPS[name].clock == pytest.approx(clock, rel=0.01)


def test_an_unknown_chip_is_refused_with_those_there_are():
  with pytest.raises(ValueError, match="no chip 'v9'; there are v4, v5e, v5p"):
    chips.of_topology('v9:2x2')


def report(**changes):
  program = report_lib.Compiled(
    name='update', times=1, arguments=0, temporaries=0, peak=10, compute=2.0,
    transfer=1.0, flops=0.0, collectives={}, data_loops=0, once=0.0,
    compile_seconds=0.0, caches=0, unread=0,
  )  # fmt: skip
  decode = report_lib.Compiled(
    name='decode a token', times=0, arguments=900, temporaries=0, peak=5,
    compute=1.0, transfer=0.0, flops=0.0, collectives={}, data_loops=1,
    once=0.1, compile_seconds=0.0, caches=400, unread=100,
  )  # fmt: skip
  chip = chips.Chip(
    name='c', flops=1e9, hbm=20.0, usable=20.0, hbm_bandwidth=1000.0,
    ici_bandwidth=1.0,
    clock=1.0, devices=1, accelerator='c',
  )  # fmt: skip
  model = types.SimpleNamespace(
    num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, embed_dim=8,
    mlp_dim=16, vocab_size=10,
  )  # fmt: skip
  numbers = dict(
    step_prompts=6, prompts=3, group=2, prompt=5, completion=8, chunk=4
  )
  made = dict(
    topology='c:1', mesh={'fsdp': 1}, numbers=numbers, model=model, chip=chip,
    devices=4, programs=(decode, program), lengths=(3, 6),
    decoding=[(0.5, 4), (1.0, 2)],
  )  # fmt: skip
  return report_lib.Report(**(made | changes))


def test_model_flops_are_six_a_parameter_and_token_and_attention_threefold():
  # Products: 2 layers x (8 x 4 x (4 + 2) + 3 x 8 x 16) + 10 x 8 = 1232.
  tokens = 3 * 2 * 8 + 3 * 5
  pairs = 3 * 2 * 8 * (5 + 4) + 3 * 5 * 5 / 2
  # Prompts have no logits.
  expected = 6 * (1232 * tokens - 10 * 8 * 3 * 5) + 3 * 4 * 2 * 2 * 4 * pairs
  assert report().model_flops == expected
  assert report().utilisation == pytest.approx(expected / (2.0 * 1e9 * 4))


def test_decoding_pays_for_the_capacity_it_has_reached():
  # Four tokens with half a cache, two with all of it, the rest of either run;
  # an update of 6/8.
  assert report().step_seconds == pytest.approx(
    4 * (1 - 0.5 * 0.5) + 2 * 1.0 + 2 * 0.1 + 2.0 * 6 / 8
  )
  assert report().bandwidth == pytest.approx(800 / 1000)


def test_what_does_not_fit_says_by_how_much_and_what_to_do():
  assert report().fits and 'fits' in report().table()
  small = chips.Chip(
    name='c', flops=1e9, hbm=9.0, usable=9.0, hbm_bandwidth=1000.0,
    ici_bandwidth=1.0,
    clock=1.0, devices=1, accelerator='c',
  )  # fmt: skip
  tight = report(chip=small)
  assert not tight.fits
  assert 'DOES NOT FIT' in tight.table() and 'remedies' in tight.table()


def test_what_the_compiler_finds_no_room_for_is_told_with_its_bytes():
  x = jax.device_put(jnp.zeros((4, 8)))
  program = Program('update', jnp.sin, (x,), 2, beside=100)
  found = estimate._too_large(
    program,
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (24.50G) exceeds available HBM (15.75G).',
    seconds=3.0,
  )
  assert found.peak == 4 * 8 * 4 + 24.5 * 2**30 + 100
  assert found.seconds == math.inf
  with pytest.raises(ValueError, match='update: INTERNAL: something else'):
    estimate._too_large(program, 'INTERNAL: something else', seconds=3.0)


GROWING = {'sample.chunk': 2}
SEATS = {'sample.seats': 4, 'sample.chunk': 1}
BUCKETS = {'updates.length_buckets': 2, 'updates.length_multiple': 2}


@pytest.mark.parametrize(
  'changes, last',
  [
    ({}, 'update'),
    ({'launch.job': 'sft'}, 'update'),
    ({}, 'critic update'),
    # Of the largest step, which has no buckets.
    (BUCKETS, 'update'),
    (BUCKETS, 'critic update'),
    ({'rewards.coin.name': 'reward_model'}, 'update'),
    (SEATS, 'update'),
    (GROWING, 'update'),
  ],
)
def test_every_program_of_a_job_can_be_lowered(changes, last):
  cfg = tiny.get_config()
  cfg.update_from_flattened_dict(changes)
  if last == 'critic update':
    cfg.algorithm.advantages = dict(name='gae')
    cfg.algorithm.kl_in = 'reward'
  pol = step_programs.open_policy(cfg, jax.devices()[:1])
  found = list(step_programs.of_config(cfg, pol, (1, 4)))
  assert found[-1].name == last
  scored = [program for program in found if program.name == 'reward model']
  assert len(scored) == ('rewards.coin.name' in changes)
  times = {program.name: program.times for program in found}
  if changes is SEATS:
    # Of completions of one token on average and four at most.
    assert times['move a layer'] and times['collect'] > 4
  # From 2 slots to 4 and to 8, of one layer.
  assert times.get('grow a layer') == (2 if changes is GROWING else None)
  for program in found:
    program.fn.lower(*program.args)
    flops.count(program.fn, *program.args)


def test_the_model_that_is_compiled_is_the_one_that_a_job_would_open(tmp_path):
  cfg = tiny.get_config()
  assert cfg.tokenizer.alphabet
  made = lambda: step_programs.open_policy(cfg, jax.devices()[:1]).model
  width = cfg.model.embed_dim
  # A run that is not there yet, of a base with these very fields.
  cfg.init_from = str(tmp_path / 'base')
  assert made().embed_dim == width
  cfg.launch.size = 'qwen2_5_1_5b'
  assert made().embed_dim == 1536
  cfg.init_from = str(tiny.run('sft'))
  assert made().embed_dim == width
  cfg.init_from = ''
  assert made().embed_dim == width
  # One at hand that no job could open is no other model.
  (tmp_path / 'config.json').write_text('{"model_type": "mistral"}')
  cfg.init_from = str(tmp_path)
  with pytest.raises(ValueError, match="model_type='mistral'"):
    made()


@pytest.mark.parametrize(
  'changes, longest, expected',
  [
    ({'chunk': 2}, 5, [(0.25, 2), (0.5, 2), (1.0, 1)]),
    ({'chunk': 8}, 5, [(1.0, 5)]),
    # Half of 1,024 filled slots on average, and half a block of 512.
    (
      {'chunk': 2048, 'max_completion_length': 2048, 'decoding': 'kernel'},
      1024,
      [(768 / 2048, 1024)],
    ),
  ],
)
def test_a_token_reads_its_capacity_or_what_is_filled(
  changes, longest, expected
):
  cfg = tiny.get_config()
  cfg.sample.update(changes)
  pol = step_programs.open_policy(cfg, jax.devices()[:1])
  assert sampling_programs.schedule(cfg, pol, (1, longest)) == expected


def test_seats_decode_as_long_as_their_plans_last():
  cfg = tiny.get_config()
  cfg.sample.update(seats=8, chunk=2)
  pol = step_programs.open_policy(cfg, jax.devices()[:1])
  found = sampling_programs.schedule(cfg, pol, (8, 8))
  # 16 completions, nearly all of 8 tokens, on 8 seats: twice 8 tokens.
  assert sum(tokens for _, tokens in found) == pytest.approx(16, abs=2)
  assert max(share for share, _ in found) == 1.0
