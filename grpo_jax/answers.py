"""Answers of a policy to any number of questions, a batch at a time."""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from grpo_jax import (
  hosts,
  layout,
  programs,
  rewards,
  rollout,
  samplers,
  sharding,
)
from grpo_jax.policy import Policy
from grpo_jax.questions import Questions
from grpo_jax.structs import Array, PyTree, Rollout
from grpo_jax.tasks import Example


@dataclasses.dataclass(frozen=True)
class Answered:
  """A batch of questions and G answers to each."""

  examples: list[Example]
  completions: list[list[str]]
  finished: np.ndarray  # [q G] bool, stopped by itself
  lengths: np.ndarray  # [q G] tokens, EOS included
  logprobs: np.ndarray  # [q G] sum over tokens, of the sampled distribution


def of_section(
  policy: Policy,
  questions: Questions,
  cfg,
  section: str,
  *,
  count: int,
  samples: int | None = None,
) -> 'Answerer':
  """The answerer that `cfg[section]` describes.

  Args:
    policy, questions: as of `Answerer`.
    cfg: the whole config; lengths are those of `cfg.sample`.
    section: with batch_prompts, temperature, top_k, top_p and min_p.
    count: questions there are; a batch has no more.
    samples: answers a question; the section's if None.
  """
  s = cfg[section]
  return Answerer(
    policy,
    questions,
    samples=s.samples if samples is None else samples,
    batch_prompts=min(s.batch_prompts, count),
    max_completion_length=cfg.sample.max_completion_length,
    chunk=cfg.sample.chunk,
    seats=cfg.sample.seats,
    temperature=s.temperature,
    top_k=s.top_k,
    top_p=s.top_p,
    min_p=s.min_p,
  )


class Answerer:
  """A sampler of whole question sets."""

  def __init__(
    self,
    policy: Policy,
    questions: Questions,
    *,
    samples: int,
    batch_prompts: int,
    max_completion_length: int,
    chunk: int,
    seats: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
  ):
    """Compiles nothing yet.

    Args:
      policy: what answers.
      questions: how prompts are written.
      samples: answers a question (G).
      batch_prompts: questions sampled at a time, rounded up to the devices.
      max_completion_length, chunk, seats, temperature, top_k, top_p, min_p:
        see `samplers.sampler`.
    """
    self.policy, self.questions = policy, questions
    policy = policy.for_groups_of(samples)
    self.rows = policy.rows('sample')
    self.batch = layout.round_up(batch_prompts, self.rows.ways[0])
    self.sample = samplers.sampler(
      policy,
      group_size=samples,
      max_completion_length=max_completion_length,
      chunk=chunk,
      seats=seats,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
      min_p=min_p,
    )

  def answer(
    self,
    params: PyTree,
    examples: Sequence[Example | None],
    key: Array,
    first: int,
  ) -> Rollout:
    """Answers to one batch, on the device; None is what others read.

    Args:
      params: published.
      examples: a batch of them.
      key: of all of the questions; each has its noise of it by its number.
      first: number of the first.
    """
    prompts = self.rows.put(self.questions.encode(examples))
    return self.sample(params, prompts, key, first=first)

  def texts(
    self, answers: Rollout, examples: Sequence[Example | None]
  ) -> tuple[list[list[rewards.Completion]], np.ndarray]:
    """What was answered: see `rollout.read_texts`."""
    return rollout.read_texts(
      answers,
      examples,
      opening=self.questions.opening,
      decode=self.policy.decode,
      stop_ids=self.policy.stop_ids,
    )

  def run(
    self, params: PyTree, examples: Sequence[Example], *, seed: int
  ) -> Iterator[Answered]:
    """Answers in the order of the questions.

    The noise of question i depends on (seed, i) alone, so answers do not
    change with the batch size.
    """
    whole = sharding.replicated(self.policy.mesh)
    key = programs.stream(seed, 'answers', 0, whole)
    for start in range(0, len(examples), self.batch):
      part = list(examples[start : start + self.batch])
      # The last batch is filled up, so that it runs the same program.
      filled = part + [part[-1]] * (self.batch - len(part))
      got = self.answer(params, filled, key, start)
      # Every process gets all answers: there are few at a time.
      got = hosts.everywhere(got, what='answers')
      completions, finished = self.texts(got, filled)
      mask = got.mask
      logprobs = np.where(mask, got.logprobs, 0).sum(-1)
      n = len(part)
      yield Answered(
        examples=part,
        completions=completions[:n],
        finished=finished[:n],
        lengths=mask.sum(-1)[:n],
        logprobs=logprobs[:n],
      )
