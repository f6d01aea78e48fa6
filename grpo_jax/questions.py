"""A task as a run sees it: examples of a step and texts of prompts."""

from collections.abc import Collection, Mapping
import dataclasses
import functools
import math

from absl import logging
import numpy as np

from grpo_jax import config, hosts, layout, prompts, tasks
from grpo_jax.structs import Batch, Prompts
from grpo_jax.tasks import Example, shares, Task
from grpo_jax.tokenizer import Tokenizer

# Rows whose prompts are tried before the first step: seconds, at 0.2 ms each. A
# file of millions would hold up every start; there `encode` names the prompt.
_MOST_TRIED = 20_000


@dataclasses.dataclass(frozen=True)
class Questions:
  """Examples and how their prompts are written.

  Attributes:
    task: the examples.
    tokenizer: of the policy.
    prompt: keyword arguments of `prompts.render`.
    seed: of the order of examples.
    max_length: of a prompt, in tokens.
    multiple: of the trunk's width.
  """

  task: Task
  tokenizer: Tokenizer
  prompt: Mapping
  seed: int
  max_length: int
  multiple: int

  def indices(
    self,
    step: int,
    count: int,
    *,
    without: Collection[int] = (),
    rounds: int = 1,
  ) -> np.ndarray:
    """The examples of a step, a function of (seed, step, without).

    Args:
      step: from 0, or a draw's number where a step has several.
      count: how many.
      without: examples not to be asked; others, drawn anew, take their place.
        At least `count` must be left. Not of a mixture.
      rounds: draws a step.
    """
    draw = functools.partial(
      self.task.batch, count, seed=self.seed, rounds=rounds
    )
    if not without:
      return draw(step=step)
    # One list for all draws of the step, so that none asks what another does.
    first = step - step % rounds
    kept, asked = [], set(without)
    for s in range(first, first + rounds):
      # Where an epoch ends, one may come twice.
      new = [i for i in dict.fromkeys(draw(step=s).tolist()) if i not in asked]
      kept.append(new)
      asked.update(new)
    others = np.setdiff1d(np.arange(len(self.task)), [*asked])
    tasks.random(self.seed, first).shuffle(others)
    own = kept[step - first]
    begin = sum(count - len(one) for one in kept[: step - first])
    rest = [*others[begin:], *others[:begin]]
    # Where too few are left for the step, those of its other draws.
    rest += sorted(asked - set(without) - set(own))
    return np.array([*own, *rest[: count - len(own)]])

  def read(self, indices: np.ndarray, here: np.ndarray) -> list[Example | None]:
    """Those examples that are `here`, None for others."""
    return [
      self.task.example(i) if wanted else None
      for i, wanted in zip(indices, here, strict=True)
    ]

  def text(self, prompt: str) -> str:
    """What the policy continues."""
    return prompts.render(prompt, tokenizer=self.tokenizer, **self.prompt)

  def opening(self, prompt: str) -> str:
    """What the text of a prompt has of the completion already."""
    return prompts.opening(self.text(prompt))

  def learned(self, example: Example) -> str:
    """The completion to learn, without what its prompt has of it.

    Raises:
      ValueError: the task gives none.
    """
    completion = completion_of(example, self.task)
    return prompts.after_opening(self.opening(example.prompt), completion)

  def encode(self, examples: list[Example | None]) -> Prompts:
    """Trunks of these examples, as numpy arrays.

    Of several processes each knows its own examples only, the others are None,
    so all make the widest trunk.

    Raises:
      ValueError: a prompt too long, or with a character that has no token;
        names it.
    """
    ids = [
      self.ids(e, max_length=self.max_length) if e is not None else []
      for e in examples
    ]
    return layout.prompts(
      ids,
      multiple=self.multiple,
      longest=self.max_length if hosts.are_several() else 0,
    )

  def with_completions(
    self,
    examples: list[Example | None],
    *,
    everything: bool,
    max_length: int,
    multiple: int,
  ) -> Batch:
    """A Batch [Q 1 C] of the examples' completions, each with its EOS.

    Args:
      examples: Q of them; None for what other processes read, as in `encode`.
        Where the prompt opens the thought, the completion may begin with the
        tag too: it is learned once.
      everything: prompts are part of the completions, as in pretraining, which
        cuts what is too long.
      max_length: of a completion, in tokens; longer ones are cut.
      multiple: of the branches' width.

    Raises:
      ValueError: an example without a completion, or as `encode`.
    """
    longest = math.inf if everything else self.max_length
    prompt_ids, completion_ids = [], []
    for example in examples:
      if example is None:
        prompt_ids.append([])
        completion_ids.append([[]])
        continue
      answer = self.learned(example)
      prompt = self.ids(example, max_length=longest)
      completion = self.tokenizer.encode(answer, start=False)
      completion.append(self.tokenizer.eos_ids[0])
      if everything:
        prompt, completion = layout.whole_text(prompt + completion)
      prompt_ids.append(prompt)
      completion_ids.append([completion])
    several = hosts.are_several()
    return layout.branches(
      layout.prompts(
        prompt_ids,
        multiple=self.multiple,
        # Pretraining has prompts of one token.
        longest=self.max_length if several and not everything else 0,
      ),
      completion_ids,
      max_length=max_length,
      multiple=multiple,
      longest=max_length if several else 0,
    )

  def try_rows(self, count: int, *, max_length: float):
    """Encodes the first prompts of a file, so that no run dies on one later.

    Args:
      count: of prompts. Generated tasks and more than 20 000 are not tried.
      max_length: longest prompt allowed, in tokens.

    Raises:
      ValueError: as `encode`, and names the file.
    """
    if not self.task.source or count > _MOST_TRIED:
      return
    for i in range(count):
      try:
        name, example = f'prompt {i}', self.task.example(i)
        self.ids(example, max_length=max_length, name=name)
      except ValueError as error:
        raise ValueError(f'{self.task.source}: {error}') from None

  def try_completions(self, *, everything: bool = False) -> list[int]:
    """Tokens of the first texts to learn, so that no run dies on one later.

    Args:
      everything: as in `with_completions`.

    Raises:
      ValueError: one is missing, or as `encode`.
    """
    lengths = []
    for task in self.task.kinds:
      own = dataclasses.replace(self, task=task)
      for i in range(min(len(task), _MOST_TRIED if task.source else 1000)):
        example = task.example(i)
        ids = self.tokenizer.encode(own.learned(example), start=False)
        lengths.append(len(ids) + 1)
        if everything:
          # The first token is learned by none.
          lengths[-1] += len(self.ids(example, max_length=math.inf)) - 1
    return lengths

  def ids(
    self, example: Example, *, max_length: float, name: str = 'a prompt'
  ) -> list[int]:
    """Tokens of what the policy continues.

    Args:
      example: with the prompt.
      name: of it in errors, before its text.
      max_length: longest allowed, in tokens.

    Raises:
      ValueError: as `encode`.
    """
    # The example's own text: what `text` puts before it is always the same.
    where = f'{name} ({example.prompt[:60]!r})'
    content = self.text(example.prompt)
    try:
      ids = self.tokenizer.encode(content)
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from None
    if not ids:
      raise ValueError(f'{where} has no tokens; drop it')
    if len(ids) > max_length:
      raise ValueError(
        f'{where} has {len(ids)} tokens, over the limit of {max_length}; '
        'raise sample.max_prompt_length or drop the prompt'
      )
    return ids


def warn_of_cuts(lengths: list[int], field: str, most: int) -> None:
  """Says how many texts are longer than what is learned of them."""
  cut = sum(length > most for length in lengths)
  if cut:
    logging.warning(
      '%d of the first %d texts are cut at %s=%d tokens and have no end; the '
      'longest has %d',
      *(cut, len(lengths), field, most, max(lengths)),
    )


def completion_of(example: Example, task: Task) -> str:
  """The completion to learn; ValueError where the task gives none."""
  if not example.completion:
    raise ValueError(
      f'{task.source or "the task"} gives no completion to learn for '
      f'{example.prompt[:60]!r}; name the field that holds it '
      '(task.completion_field), drop the row, or use another task'
    )
  return example.completion


def questions(cfg, tokenizer: Tokenizer, *, evaluation: bool) -> Questions:
  """The training questions of a config, or those it evaluates on.

  Raises:
    ValueError: the task cannot be made, or a row of its file not be asked.
  """
  spec = cfg.task.to_dict()
  if evaluation:
    spec |= cfg.eval.task.to_dict()
  found = questions_of(config.pick(tasks, spec)(), cfg, tokenizer)
  most, longest = math.inf, found.max_length
  if evaluation:
    most = cfg.eval.prompts
  elif cfg.sft.loss_on == 'everything':
    # Pretraining lays prompts out like completions: they are cut, not refused.
    longest = math.inf
  for task in found.task.kinds:
    own = dataclasses.replace(found, task=task)
    own.try_rows(min(most, len(task)), max_length=longest)
  return found


def questions_of(task: Task, cfg, tokenizer: Tokenizer) -> Questions:
  """Questions of a given task, written as the config says."""
  return Questions(
    task=task,
    tokenizer=tokenizer,
    prompt=cfg.prompt.to_dict(),
    seed=cfg.seed,
    max_length=cfg.sample.max_prompt_length,
    multiple=cfg.sample.trunk_multiple,
  )


def need_answers(task: Task) -> None:
  """ValueError for a task whose answers cannot be judged, as a file for SFT."""
  example = task.example(0)
  # What judging needs (a sandbox, a package) is missed here, not in every item.
  try:
    task.verify(example.answer, example)
  except (ImportError, OSError, ValueError):
    raise
  except Exception as error:
    raise ValueError(
      f'the verifier of {example.prompt[:60]!r}, given the reference answer '
      f'{example.answer[:60]!r}, raised {type(error).__name__}: {error}'
    ) from None
  if not shares.has_answers(task):
    within = (
      f' (of domain {example.domain!r}: give the reward the domains that have)'
      if example.domain
      else ''
    )
    raise ValueError(
      f'the task gives no answer to judge by for {example.prompt[:60]!r}'
      f'{within}; name the field that holds it (task.answer_field) or use '
      'another task'
    )
