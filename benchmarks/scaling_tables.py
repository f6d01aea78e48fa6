"""Tables of `benchmarks.scaling`, for people."""

import math

from benchmarks import scaling_host


def host(found: dict) -> None:
  """What was measured, and what was made of it."""
  print('host work of one process, CPU ms a step')
  parts = list(found['fit'])
  head = f'{"":10s}{"Q":>6s}{"G":>4s}{"C":>7s}{"H":>6s}'
  print(head + ''.join(f'{part:>10s}' for part in parts) + f'{"rows/s":>10s}')
  for kind in ('measured', 'extrapolated', 'checked'):
    for row in found[kind]:
      print(
        f'{kind[:8]:10s}{row["prompts"]:6d}{row["group"]:4d}'
        f'{row["completion"]:7d}{row["hosts"]:6d}'
        + ''.join(f'{1e3 * row["seconds"][part]:10.2f}' for part in parts)
        + f'{_here(row) / sum(row["seconds"].values()):10.0f}'
      )
  print('\ngrows with, ns each')
  print(f'{"":10s}' + ''.join(f'{t:>13s}' for t in scaling_host.TERMS))
  for part, terms in found['fit'].items():
    print(f'{part:10s}' + ''.join(f'{1e9 * v:13.1f}' for v in terms.values()))
  for devices, seconds in found['index'].items():
    print(
      f'blocks of a mesh of {devices} devices: {1e3 * seconds:.2f} ms, once'
    )
  if found['math_verify']:
    each = found['math_verify']
    print(f'Math-Verify: {1e3 * each:.2f} ms a completion, wall, 2 processes;')
    waits = {row['hosts']: _here(row) * each for row in found['extrapolated']}
    told = ', '.join(f'{h} hosts {_short(s)} s' for h, s in waits.items())
    print(f'  a step with 2 on each of {told}')


def chips(rows: list[dict], *, chip: str) -> None:
  """Seconds and bytes of each model, length and number of hosts."""
  _table(
    f'programs by arithmetic, seconds a step, {chip}',
    rows,
    dict(
      waves='waves', sampling='sampling_s', tail='tail_s',
      reference='reference_s', update='update_s', ICI='ici_s', DCN='dcn_s',
      publish='publish_s', host='host_s', step='step_s', save='checkpoint_s',
    ),
    unit=1,
  )  # fmt: skip
  _table(
    'GB: on a chip; received by a chip in a step; by a host; of all',
    rows,
    dict(
      state='state_bytes', weights='weights_bytes', caches='cache_bytes',
      gathered='gathered_bytes', summed='summed_bytes',
      publish='publish_bytes', DCN='dcn_bytes_a_host', save='checkpoint_bytes',
    ),
    unit=1e9,
  )  # fmt: skip


def _table(title, rows, columns, *, unit):
  print(f'\n{title}')
  head = f'{"model":12s}{"C":>6s}{"hosts":>6s}{"chips":>6s}{"parts":>7s}'
  print(head + ''.join(f'{name:>10s}' for name in columns) + '  bottleneck')
  for row in rows:
    print(
      f'{row["model"]:12s}{row["longest"]:6d}{row["hosts"]:6d}'
      f'{row["chips"]:6d}{row["microbatches"]:7d}'
      + ''.join(f'{_short(row[key] / unit):>10s}' for key in columns.values())
      + f'  {row["bottleneck"]}'
    )


def _here(row):
  return -(-row['prompts'] * row['group'] // row['hosts'])


def _short(value):
  return f'{value:.0f}' if 100 <= value < math.inf else f'{value:.3g}'
