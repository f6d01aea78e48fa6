"""A reward model: a scalar head on a policy's body, and texts to its scores.

The prompt is a trunk and each response a branch, as everywhere. The score is
the head's value of the token that ends the response: the branch's last input.
`critic` has the same head; its values are those before each token.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import (
  checkpoints,
  critic,
  files,
  hosts,
  layout,
  policy,
  preference_losses,
  programs,
  prompts,
  sharding,
  update,
)  # fmt: skip
from grpo_jax.models import params as params_lib
from grpo_jax.policy import Policy
from grpo_jax.rewards import text
from grpo_jax.rewards.fault_counts import record
from grpo_jax.structs import Array, Batch, PyTree
from grpo_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Reader:
  """How a reward model reads: text to tokens.

  Attributes:
    tokenizer: its own.
    prompt: keyword arguments of `prompts.render`.
    part: of a response: see `text.part_of`.
  """

  tokenizer: Tokenizer
  prompt: Mapping
  part: str

  def prompt_ids(self, prompt: str) -> list[int]:
    """ValueError for a character without a token."""
    return self.tokenizer.encode(self._text(prompt))

  def says_nothing(self, response: str) -> bool:
    """Whether its part is empty, as that of a thought that never closes."""
    return not text.part_of(response, self.part).strip()

  def opening(self, prompt: str) -> str:
    """What its own prompt has of the responses; see `prompts.opening`."""
    return prompts.opening(self._text(prompt))

  def response_ids(self, response: str, *, opening: str) -> list[int]:
    """With the EOS token that the score is read at."""
    said = text.part_of(response, self.part)
    said = prompts.after_opening(opening, said)
    return [
      *self.tokenizer.encode(said, start=False),
      self.tokenizer.eos_ids[0],
    ]

  def _text(self, prompt):
    return prompts.render(prompt, tokenizer=self.tokenizer, **self.prompt)


def program(
  pol: Policy, *, parts: tuple[int, int]
) -> Callable[[PyTree, Batch], Array]:
  """(params, batch) -> scores [Q G], NaN where nothing is masked.

  Args:
    pol: the body.
    parts: how many Q and G are split into, one at a time.
  """
  rows = pol.rows('train')
  of = critic.values_apart(pol, remat='none')

  def one(params, batch):
    found = preference_losses.at_last(batch, of(params, batch))
    return jnp.where(batch.mask.any(-1), found, jnp.nan)

  def fn(params, batch):
    batch = rows.constrain(batch)
    found = jax.lax.map(
      lambda part: one(params, part), update.split(batch, parts=parts)
    )
    return rows.constrain(update.unsplit(found, parts=parts))

  return jax.jit(fn)


class Scorer:
  """A trained reward model, to be called by all processes alike."""

  def __init__(
    self,
    pol: Policy,
    params: PyTree,
    reader: Reader,
    facts: Mapping,
    *,
    parts: tuple[int, int],
    multiples: tuple[int, int],
    usual: tuple[int, int] = (0, 0),
  ):
    """Compiles nothing yet.

    Args:
      pol: the body.
      params: on its mesh, by its training rules.
      reader: makes tokens.
      facts: what training left in `files.REWARD_MODEL`.
      parts: how many Q and G are split into, one at a time, if they divide.
      multiples: of P and C.
      usual: tokens of prompts and responses, see `layout.responses`.
    """
    self.policy, self.params, self.reader = pol, params, reader
    self.facts, self.parts = facts, parts
    self.multiples, self.usual = multiples, usual
    self._programs = {}  # by (Q, G)
    least = floor(facts)
    self._or_least = jax.jit(lambda found, no: jnp.where(no, least, found))

  def __call__(
    self,
    asked: Sequence[str | None],
    responses: Sequence[Sequence[str | None]],
  ) -> Array:
    """Scores [Q G], a device array.

    NaN where the response is None, or has a character that the reward model's
    tokenizer does not know; that is counted as a fault. The `floor` where there
    is nothing to read: a score read at the EOS token alone would be anything.

    Args:
      asked: Q prompts, None where another process has the row. Q must divide
        over the devices of the mesh that prompts are split over.
      responses: [Q][G], None for what other processes have.
    """
    rows = [
      [x if q is not None else None for x in row]
      for q, row in zip(asked, responses, strict=True)
    ]
    prompt_ids = [
      self._ids(self.reader.prompt_ids, q) if any(map(_there, row)) else None
      for q, row in zip(asked, rows, strict=True)
    ]
    response_ids = [
      [None] * len(row) if ids is None else self._responses(q, row)
      for q, ids, row in zip(asked, prompt_ids, rows, strict=True)
    ]
    prompt_ids = [p or [] for p in prompt_ids]
    longest = [
      hosts.agree(max((len(x) for x in ids if x), default=1), what='widths')
      for ids in (prompt_ids, [x for row in response_ids for x in row])
    ]
    batch = layout.responses(
      prompt_ids,
      response_ids,
      trunk_multiple=self.multiples[0],
      multiple=self.multiples[1],
      longest=tuple(longest),
      usual=self.usual,
    )
    fn, put = self._program(len(rows), len(rows[0]))
    empty = [
      [x is not None and self.reader.says_nothing(x) for x in r] for r in rows
    ]
    return self._or_least(fn(self.params, put(batch)), put(np.array(empty)))

  def many(
    self,
    asked: Sequence[str],
    responses: Sequence[Sequence[str]],
    *,
    batch: int = 64,
  ) -> np.ndarray:
    """Scores [N G] of any number of prompts, on every process."""
    ways = self.policy.for_groups_of(len(responses[0])).ways()['train'][0]
    size = layout.round_up(min(batch, len(asked)), ways)
    found = []
    for start in range(0, len(asked), size):
      part = [asked[start : start + size], responses[start : start + size]]
      # Filled up, so that all run the same program.
      filled = [[*x, *[x[-1]] * (size - len(x))] for x in part]
      got = hosts.everywhere(self(*filled), what='scores')
      found.append(got[: len(part[0])])
    return np.concatenate(found)

  def _responses(self, prompt, row):
    # Rendered once a prompt: a template takes its time.
    opening = self.reader.opening(prompt)
    encode = functools.partial(self.reader.response_ids, opening=opening)
    return [self._ids(encode, x) for x in row]

  def _ids(self, encode, content):
    if content is None:
      return None
    try:
      return encode(content)
    except ValueError as error:
      record('reward_model/not_encoded', str(error))
      return None

  def _program(self, *shape):
    if shape not in self._programs:
      pol = self.policy.for_groups_of(shape[1])
      # Of what a device has.
      of_each = zip(self.parts, shape, pol.ways()['train'], strict=False)
      parts = tuple(math.gcd(n, size // ways) for n, size, ways in of_each)
      self._programs[shape] = program(pol, parts=parts), pol.rows('train').put
    return self._programs[shape]


def floor(facts: Mapping) -> float:
  """The score of a response without anything to be read.

  Three standard deviations below the mean of held-out responses: no reason to
  leave a thought open, and not so far off that it alone moves a group.

  Args:
    facts: what training left in `files.REWARD_MODEL`.
  """
  held_out = facts['held_out']
  return held_out['score_mean'] - 3 * held_out['score_std']


def open_scorer(cfg, path: str, *, part: str = '') -> Scorer:
  """The reward model that `python -m grpo_jax.reward_model` left in `path`.

  Args:
    cfg: of the job that scores: its mesh, rules, dtype and microbatches.
    path: a finished run.
    part: of a response, in place of the part that it was trained on.

  Raises:
    ValueError: no reward model there.
  """
  file = pathlib.Path(path) / files.REWARD_MODEL
  if not file.is_file():
    raise ValueError(
      f'{str(path)!r} holds no trained reward model (no {file.name}); train '
      f'one with python -m grpo_jax.reward_model --workdir={path}'
    )
  facts = files.read_json(file)
  cfg = cfg.copy_and_resolve_references()
  cfg.init_from = str(path)
  pol = policy.open_policy(cfg)
  target = abstract(pol)
  _, params = checkpoints.restore_params(path, target, step=facts['step'])
  u = cfg.updates
  return Scorer(
    pol,
    _cast(params, pol.dtype, target),
    Reader(pol.tokenizer, facts['prompt'], part or facts['part']),
    facts,
    parts=(u.minibatches * u.microbatches, u.group_microbatches),
    multiples=(cfg.sample.trunk_multiple, u.length_multiple),
    usual=(cfg.sample.max_prompt_length, usual_response(cfg)),
  )


def usual_response(cfg) -> int:
  """Tokens of a completion at its limit, and EOS."""
  return cfg.sample.max_completion_length + 1


def abstract(pol: Policy) -> PyTree:
  """A reward model's parameters in fp32, by the training rules."""
  declared = critic.declare_apart(pol)
  where = sharding.param_shardings(declared, pol.mesh, pol.rules['train'])
  return sharding.placed(params_lib.abstract(declared), where)


def cast(params: PyTree, *, dtype) -> PyTree:
  """As a scorer holds them: the body has no gradient here."""
  return params | {'body': programs.frozen(params['body'], dtype)}


def _cast(params, dtype, target):
  places = jax.tree.map(lambda x: x.sharding, target)
  fn = functools.partial(cast, dtype=dtype)
  return jax.jit(fn, out_shardings=places)(params)


def _there(x):
  return x is not None
