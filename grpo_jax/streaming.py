"""An answer as it is decoded: tokens, text, and the thought in it dimmed.

Three generators, one after another. The programs and the noise are those of
`samplers.sampler`, run a few tokens at a time, so what is streamed is what
would have been sampled in one go.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from grpo_jax import layout
from grpo_jax.rewards import text
from grpo_jax.samplers import Sampler
from grpo_jax.structs import Array, Prompts, PyTree

DIM, PLAIN = '\x1b[2m', '\x1b[0m'
# What a decoder writes for bytes that are no character (yet).
_BROKEN = '\N{REPLACEMENT CHARACTER}'
# A model's text must not drive the terminal: control characters as pictures.
_PICTURES = {i: 0x2400 + i for i in range(32) if chr(i) not in '\n\t'}
_PICTURES |= {127: 0x2421} | dict.fromkeys(range(128, 160), ord(_BROKEN))


def tokens(
  sample: Sampler,
  params: PyTree,
  prompts: Prompts,
  key: Array,
  *,
  first: int,
  every: int,
) -> Iterator[list[int]]:
  """New tokens of the first prompt's first sample, the stop token included.

  Args:
    sample: of `samplers.sampler`.
    params, prompts, key, first: as that takes them.
    every: tokens decoded at a time.
  """
  run, put = sample.programs, sample.put
  trunk = run.prefill(params, prompts)
  state, keys = run.start(prompts, key, put(np.int32(first)))
  sent = 0
  # The same capacities as in one go: other shapes would sum in another order.
  for capacity in layout.capacities(sample.max_length, sample.chunk):
    if capacity > state.targets.shape[2]:
      state = run.grow(state, capacity)
    while sent < capacity:
      until = put(np.int32(min(sent + every, capacity)))
      state, _ = run.decode(params, trunk, state, keys, until)
      targets, lengths, done = jax.device_get(
        (state.targets, state.length, state.done)
      )
      yield targets[0, 0, sent : lengths[0, 0]].tolist()
      sent = int(lengths[0, 0])
      if done[0, 0]:
        return


def texts(
  pieces: Iterable[list[int]],
  *,
  decode: Callable[[list[int]], str],
  stop_ids: tuple[int, ...],
) -> Iterator[str]:
  """New text, of whole characters only; joined, it is the completion's.

  Args:
    pieces: of new tokens.
    decode: token ids -> text.
    stop_ids: ids that end a completion; they are no text.
  """
  ids, whole, shown = [], '', 0
  for piece in pieces:
    ids += [i for i in piece if i not in stop_ids]
    # All of them: a character may be split over tokens, and a decoder may treat
    # the first token otherwise.
    whole = decode(ids)
    complete = len(whole.rstrip(_BROKEN))
    if complete > shown:
      yield whole[shown:complete]
      shown = complete
  if whole[shown:]:
    yield whole[shown:]


def pictured(pieces: Iterable[str]) -> Iterator[str]:
  """For a terminal: control characters as pictures."""
  return (piece.translate(_PICTURES) for piece in pieces)


def dimmed(pieces: Iterable[str], *, thinking: bool) -> Iterator[str]:
  """For a terminal: <think>...</think> dimmed.

  Args:
    pieces: of new text; a tag may be cut between two.
    thinking: whether the prompt has opened the thought already.
  """
  waiting = ''
  if thinking:
    yield DIM
  for piece in pieces:
    waiting += piece
    while True:
      tag = text.END_THINK if thinking else text.THINK
      before, found, after = waiting.partition(tag)
      if not found:
        break
      yield before + (tag + PLAIN if thinking else DIM + tag)
      waiting, thinking = after, not thinking
    # What may yet become the tag waits.
    cut = next(
      n for n in range(len(tag) - 1, -1, -1) if waiting.endswith(tag[:n])
    )
    yield waiting[: len(waiting) - cut]
    waiting = waiting[len(waiting) - cut :]
  yield waiting + (PLAIN if thinking else '')
