"""Cost of a step as hosts, groups and lengths grow: host work and programs.

  python -m benchmarks.scaling --config=configs/quickstart.py \\
    --config.prompt.template=r1 --config.sample.max_prompt_length=512

The host's part is measured here, on completions that are made up: CPU seconds
of each part as one of H processes would have it, what it grows with (non-
negative least squares), and from that the seconds of `--step` at each of
`--to_hosts` hosts. The programs' part is arithmetic on published numbers of
the chip (`scaling_chips`); `--compiled` takes utilisations from the JSON of
`launch.compile_check` instead of assumed ones. Nothing here ran on a TPU.

Prints tables and, last, one line of JSON.
"""

import dataclasses
import json
import math
import pathlib
import tempfile

from absl import flags
import jax

from benchmarks import scaling_chips, scaling_host, scaling_tables
from benchmarks.scaling_chips import Rates, Slices, Work
from benchmarks.scaling_host import Size
from grpo_jax import cli, config
from grpo_jax import tokenizer as tokenizer_lib
from grpo_jax.models import families
from launch import chips
from launch import report as report_lib

_ints = flags.DEFINE_multi_integer
_prompts = _ints('prompts', [64, 256], 'Q, measured')
_groups = _ints('groups', [8, 16], 'G, measured')
_completions = _ints('completions', [512, 2048], 'C in tokens, measured')
_hosts = _ints('hosts', [1, 8, 64], 'H, measured')
_repeats = flags.DEFINE_integer('repeats', 5, 'of which the median counts')
_tokenizer = flags.DEFINE_string(
  'tokenizer', '', 'Hugging Face folder; default: a byte-level BPE made here'
)
_devices = flags.DEFINE_integer('devices', 512, 'largest mesh, for its indices')
_verified = flags.DEFINE_integer(
  'math_verify', 0, 'completions that Math-Verify judges, 2 processes; 0: none'
)
_step = flags.DEFINE_list('step', ['640', '16'], 'Q and G extrapolated to')
_to_hosts = _ints('to_hosts', [1, 16, 128, 1024, 2048], 'H extrapolated to')
_checked = flags.DEFINE_integer(
  'checked_hosts', 128, 'of --step, measured beside the fit; 0: none'
)
_lengths = _ints('lengths', [8192, 32768], 'longest completions, for the same')
_models = flags.DEFINE_list(
  'models', ['qwen2_5_7b', 'qwen2_5_32b'], 'names in models.families.SIZES'
)
_chip = flags.DEFINE_string('chip', 'v5p', 'a name in launch.chips')
_update = flags.DEFINE_float('update_share', 0.5, 'of the peak; assumed')
_decode = flags.DEFINE_float('decode_share', 1.0, 'of HBM bandwidth; assumed')
_dcn = flags.DEFINE_float(
  'dcn', 25e9, 'bytes/s a host; default: 50 Gbit/s a chip, as of TPU v5p'
)
_bucket = flags.DEFINE_float('bucket', 1e9, 'bytes/s a host writes; assumed')
_cache = flags.DEFINE_integer('cache_bytes', 2, 'of a number in caches')
_compiled = flags.DEFINE_multi_string(
  'compiled', [], 'file of JSON lines by launch.compile_check'
)

# Samples of a prompt are split this far, and prompts of a minibatch.
_MOST_SAMPLES, _MINIBATCH = 16, 64
_SLICE_HOSTS, _PROMPT = 256, 1024
_LARGE = 20e9  # parameters from which on a chip holds a quarter of the heads


def run(cfg, _) -> None:
  """Measures, computes, prints."""
  config.one_of('--chip', _chip.value, tuple(chips.CHIPS))
  for name in _models.value:
    config.one_of('--models', name, tuple(families.SIZES))
  jax.config.update('jax_num_cpu_devices', _devices.value)
  print(json.dumps(report(cfg)))


def report(cfg) -> dict:
  """All of it, tables printed on the way."""
  tokenizer = (
    tokenizer_lib.from_folder(_tokenizer.value)
    if _tokenizer.value
    else scaling_host.byte_pairs()
  )
  sizes = [
    Size(prompts=q, group=g, completion=c, hosts=h)
    for q in _prompts.value
    for g in _groups.value
    for c in _completions.value
    for h in _hosts.value
  ]
  seconds = [_measure(cfg, size, tokenizer) for size in sizes]
  fitted = scaling_host.fit(sizes, seconds)
  found = {
    'measured': [
      dataclasses.asdict(size) | {'seconds': each}
      for size, each in zip(sizes, seconds, strict=True)
    ],
    'fit': fitted,
    'checked': _check(cfg, tokenizer),
    'index': scaling_host.index_seconds((1024, 16, 8)),
    'math_verify': _judge(cfg),
    'extrapolated': [
      dataclasses.asdict(size) | {'seconds': scaling_host.predict(fitted, size)}
      for size in _asked_sizes()
    ],
  }
  scaling_tables.host(found)
  found['assumed'] = dataclasses.asdict(_rates({}))
  rows = _of_chips(fitted)
  scaling_tables.chips(rows, chip=_chip.value)
  found['chips'] = report_lib.with_nulls(rows)
  return found


def lay_out(hosts: int, *, tensor: int) -> Slices:
  """Prompts over as many chips as a minibatch has, then samples, then more."""
  groups = hosts * scaling_chips.CHIPS_A_HOST // tensor
  data = min(max(groups // _MINIBATCH, 1), _MOST_SAMPLES)
  return Slices(
    hosts=hosts,
    fsdp=groups // data,
    data=data,
    tensor=tensor,
    slices=max(hosts // _SLICE_HOSTS, 1),
  )


def bottleneck(row: dict) -> str:
  """What the step waits for longest, and why that takes so long."""
  if math.isinf(row['waves']):
    return 'memory: state and weights do not fit'
  parts = {
    'sampling': row['sampling_s'],
    'update': row['update_s'],
    'reference': row['reference_s'],
    'host work': row['host_s'],
    'publish': row['publish_s'],
  }
  name = max(parts, key=parts.get)
  if name == 'sampling':
    of_caches = row['cache_s'] > row['sampling_s'] / 2
    return 'sampling: ' + ('reading caches' if of_caches else 'reading weights')
  if name == 'update':
    rates = {'FLOPs': 'update_compute_s', 'ICI': 'ici_s', 'DCN': 'dcn_s'}
    return 'update: ' + max(rates, key=lambda rate: row[rates[rate]])
  return name


def _measure(cfg, size, tokenizer):
  with tempfile.TemporaryDirectory() as folder:
    return scaling_host.measure(
      cfg,
      size,
      tokenizer=tokenizer,
      folder=pathlib.Path(folder),
      repeats=_repeats.value,
    )


def _check(cfg, tokenizer):
  """The shorter of the steps extrapolated to, as it is."""
  if not _checked.value:
    return []
  q, g = map(int, _step.value)
  size = Size(
    prompts=q,
    group=g,
    completion=min(_lengths.value),
    hosts=_checked.value,
  )
  return [
    dataclasses.asdict(size) | {'seconds': _measure(cfg, size, tokenizer)}
  ]


def _judge(cfg):
  if not _verified.value:
    return None
  return scaling_host.pool_seconds(
    cfg, _verified.value, workers=2, repeats=_repeats.value
  )


def _asked_sizes():
  q, g = map(int, _step.value)
  return [
    Size(prompts=q, group=g, completion=c, hosts=h)
    for c in _lengths.value
    for h in _to_hosts.value
  ]


def _of_chips(fitted):
  chip, rows = chips.CHIPS[_chip.value], []
  for name in _models.value:
    model, rates = families.SIZES[name], _rates(_utilisations(name))
    large = scaling_chips.counts(model)[0] > _LARGE
    for size in _asked_sizes():
      # Few rows a chip: a model in quarters reads its weights in a quarter.
      quarters = large or size.hosts >= 1024
      on = lay_out(size.hosts, tensor=4 if quarters else 1)
      work = Work(
        prompts=size.prompts,
        group=size.group,
        prompt=_PROMPT,
        mean=size.completion // 4,
        longest=size.completion,
        minibatches=size.prompts // max(_MINIBATCH, on.fsdp),
      )
      row = scaling_chips.step(model, chip, on, work, rates)
      row |= {'model': name, 'longest': size.completion, 'chips': on.chips}
      row |= dataclasses.asdict(on)
      row['host_s'] = sum(scaling_host.predict(fitted, size).values())
      row['step_s'] = row['publish_s'] + row['sampling_s'] + row['update_s']
      # Texts and grades are made while the reference scores.
      row['step_s'] += max(row['reference_s'], row['host_s'])
      row['bottleneck'] = bottleneck(row)
      rows.append(row)
  return rows


def _rates(more):
  return Rates(
    **dict(
      update=_update.value,
      decode=_decode.value,
      dcn=_dcn.value,
      bucket=_bucket.value,
      cache=_cache.value,
    )
    | more
  )


def _utilisations(model):
  """Of a model's configs, as compiled; a line without a config is of any."""
  found = {}
  for path in _compiled.value:
    for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines():
      if not line.startswith('{'):
        continue  # the table
      one = json.loads(line)
      # One that does not fit has no speed.
      if one['fits'] and one.get('config', model).startswith(model):
        found = {'update': one['update_utilisation']}
        if one['decode_bandwidth']:
          found['decode'] = one['decode_bandwidth']
  return found


if __name__ == '__main__':
  cli.main(run)
