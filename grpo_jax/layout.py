"""From token ids to trunk and branches.

The only place that knows about shifting by one: see the picture in
`structs.py`. Widths are rounded up to a multiple, so that a run compiles a
handful of shapes. Host side and numpy, but for `trim`, `concatenate` and
`append`, which change batches on the device.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax.structs import Batch, Prompts, Rollout


def prompts(
  prompt_ids: list[list[int]], *, multiple: int, longest: int = 0
) -> Prompts:
  """Left-pads prompts into trunks.

  Args:
    prompt_ids: Q tokenised prompts. [] for one that another process holds: its
      row is not read here.
    multiple: the trunk width P is a multiple of this.
    longest: tokens of a prompt that P fits even if all here are shorter.

  Returns:
    Prompts as numpy arrays.
  """
  longest = max(longest, *(len(ids) for ids in prompt_ids), 1)
  width = round_up(longest - 1, multiple)
  trunk = np.zeros((len(prompt_ids), width), np.int32)
  mask = np.zeros((len(prompt_ids), width), bool)
  last = np.zeros(len(prompt_ids), np.int32)
  for q, ids in enumerate(prompt_ids):
    if ids:
      start = width - (len(ids) - 1)
      trunk[q, start:] = ids[:-1]
      mask[q, start:] = True
      last[q] = ids[-1]
  return Prompts(trunk=trunk, trunk_mask=mask, last=last)


def branches(
  prompts: Prompts,
  completion_ids: list[list[list[int]]],
  *,
  max_length: int,
  multiple: int,
  longest: int = 0,
) -> Batch:
  """Batch of given completions (SFT, distillation): EOS is the caller's.

  Args:
    prompts: Q prompts.
    completion_ids: [Q][G] lists of tokens, cut at `max_length`.
    max_length: longest branch.
    multiple: the branch width C is a multiple of this.
    longest: a length that C fits even if all here are shorter.
  """
  group = len(completion_ids[0])
  longest = max(
    longest, *(len(ids) for row in completion_ids for ids in row), 0
  )
  width = round_up(min(longest, max_length), multiple)
  shape = (len(completion_ids), group, width)
  targets = np.zeros(shape, np.int32)
  mask = np.zeros(shape, bool)
  for q, row in enumerate(completion_ids):
    for g, ids in enumerate(row):
      ids = ids[:max_length]
      targets[q, g, : len(ids)] = ids
      mask[q, g, : len(ids)] = True
  first = np.broadcast_to(prompts.last[:, None, None], (*shape[:2], 1))
  return Batch(
    trunk=prompts.trunk,
    trunk_mask=prompts.trunk_mask,
    inputs=np.concatenate([first, targets[:, :, :-1]], -1),
    targets=targets,
    mask=mask,
  )


def responses(
  prompt_ids: Sequence[list[int]],
  response_ids: Sequence[Sequence[list[int] | None]],
  *,
  trunk_multiple: int,
  multiple: int,
  longest: tuple[int, int] = (0, 0),
  usual: tuple[int, int] = (0, 0),
) -> Batch:
  """A Batch [Q G C] whose mask is true where the score is read.

  The last token is an input, which takes one slot more than a branch to be
  learned has. Widths are `slots`'s: the texts of a run come in all lengths, and
  each width is a program.

  Args:
    prompt_ids: Q of them; [] where another process has the row.
    response_ids: [Q][G]; None where there is none: nothing of it is masked.
    trunk_multiple, multiple: of the widths P and C.
    longest: tokens of a prompt and of a response to fit at least.
    usual: tokens of a prompt and of a response that seldom have more.
  """
  tokens = [len(ids) for ids in prompt_ids]
  trunk = slots(max(longest[0], *tokens, 1) - 1, trunk_multiple, usual[0] - 1)
  trunks = prompts(prompt_ids, multiple=max(trunk, 1), longest=trunk + 1)
  rows = [[[] if x is None else [*x, 0] for x in row] for row in response_ids]
  most = max(longest[1] + 1, *(len(x) for row in rows for x in row))
  width = slots(most, multiple, usual[1] + 1)
  batch = branches(
    trunks, rows, max_length=width, multiple=width, longest=width
  )
  ends = batch.mask.sum(-1, keepdims=True) - 1
  return batch.replace(mask=np.arange(width) == ends)


def slots(tokens: int, multiple: int, usual: int = 0) -> int:
  """Slots for so many tokens, 0 for none.

  The smallest multiple times 2^k or 3 x 2^k that fits them; or just what fits
  `usual`, where that is less and enough: most programs of long completions are
  for those at their limit.
  """
  found = multiple if tokens else 0
  while found < tokens:
    found *= 2
  less = found // 4 * 3
  if found % (4 * multiple) == 0 and less >= tokens:
    found = less
  near = round_up(usual, multiple)
  return near if tokens <= near < found else found


def whole_text(ids: list[int]) -> tuple[list[int], list[int]]:
  """(prompt, completion) such that every token but the first is a target."""
  return ids[:1], ids[1:]


def trim(rollout: Rollout, *, longest: int, multiple: int) -> Rollout:
  """Cuts branches at the longest completion, rounded up."""
  width = min(round_up(longest, multiple), rollout.mask.shape[2])
  # An index in brackets would put its numbers on the device.
  cut = functools.partial(jax.lax.slice_in_dim, limit_index=width, axis=2)
  return jax.tree.map(lambda x: cut(x, 0), rollout)


def concatenate(batches: list[Batch]) -> Batch:
  """Batches one after another along Q, padded to common widths.

  Trunks are padded on the left and branches on the right, as everywhere.
  """
  trunk = max(batch.trunk.shape[1] for batch in batches)
  branch = max(batch.inputs.shape[2] for batch in batches)

  def widen(path, x):
    if path[0].name in ('trunk', 'trunk_mask'):
      return jnp.pad(x, ((0, 0), (trunk - x.shape[1], 0)))
    return _widen(x, branch) if x.ndim == 3 else x

  wide = [jax.tree_util.tree_map_with_path(widen, b) for b in batches]
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), *wide)


def append(batch: Batch, given: Batch) -> Batch:
  """The batch with given completions as further samples of each group.

  Args:
    batch: sampled, with old_logprobs.
    given: of the same prompts, from `branches`. Its old logprobs are left 0.
  """
  width = max(batch.inputs.shape[2], given.inputs.shape[2])

  def both(x, y):
    return jnp.concatenate([_widen(x, width), _widen(y, width)], 1)

  unknown = jnp.zeros(given.mask.shape, jnp.float32)
  flags = [jnp.zeros(batch.mask.shape[:2], bool), given.mask.any(2)]
  return batch.replace(
    inputs=both(batch.inputs, given.inputs),
    targets=both(batch.targets, given.targets),
    mask=both(batch.mask, given.mask),
    old_logprobs=both(batch.old_logprobs, unknown),
    teacher=jnp.concatenate(flags, 1),
  )


def _widen(x, width):
  return jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[2])))


def round_up(n: int, multiple: int) -> int:
  """Smallest multiple >= n."""
  return -(-n // multiple) * multiple


def capacities(max_length: int, chunk: int) -> list[int]:
  """Slots that a cache may have: chunk, 2 chunk, 4 chunk, ... `max_length`."""
  sizes = [min(chunk, max_length)]
  while sizes[-1] < max_length:
    sizes.append(min(2 * sizes[-1], max_length))
  return sizes
