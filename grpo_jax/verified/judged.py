"""What is thought of completions: stages 2 and 3 of a verified set (`keep`)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from grpo_jax import config, questions, rewards
from grpo_jax.verified import filters, rewriting, selection, verify

_JUDGE = 'judge'
_THREADS = 16  # that wait for judges and rewriters


class Judged:
  """What is thought of completions: stages 2 and 3, for a block."""

  def __init__(self, cfg, ask: questions.Questions):
    """Picks every function that the config names.

    Raises:
      ValueError: unknown names or arguments.
    """
    k, task = cfg.keep, ask.task
    self.tokenizer = ask.tokenizer
    self.functions = questions.reward_functions(cfg, task)
    self.weights = questions.reward_weights(cfg)
    self.gate = cfg.reward_gate
    self.judge = config.pick(verify, k.judge)()
    self.right = _JUDGE if self.judge is not None else k.right
    if self.judge is not None:
      questions.need_answers(task)
    elif self.right:
      config.one_of('keep.right', self.right, tuple(self.functions))
    self.rules = selection.Rules(
      min_reward=k.min_reward,
      filters=[(f['name'], config.pick(filters, f)()) for f in k.filters],
      rewrite=config.pick(rewriting, k.rewrite, task=task)(),
      still_right=self._still_right,
      count=self.count,
      near_size=k.near_size,
      near=k.near_duplicates,
      per_prompt=k.per_prompt,
    )

  def count(self, text: str) -> int:
    """Tokens of a completion, EOS included."""
    return len(self.tokenizer.encode(text, start=False)) + 1

  def rows(self, indices, completions, examples) -> list[dict]:
    """Rows of progress.

    Args:
      indices: Q of prompts.
      completions: [Q][G].
      examples: Q.

    Raises:
      ValueError: the judge has no verdict on any of them.
    """
    if not examples:
      return []
    components = rewards.grade(completions, examples, self.functions)
    whole = rewards.combine(components, weights=self.weights, gate=self.gate)
    with ThreadPoolExecutor(_THREADS) as pool:
      if self.judge is not None:
        pairs = [
          (c, e)
          for row, e in zip(completions, examples, strict=True)
          for c in row
        ]
        told = list(pool.map(lambda pair: _number(self.judge(*pair)), pairs))
        if np.isnan(told).all():
          raise ValueError(
            f'keep.judge gave no verdict on any of {len(told)} answers; check '
            'its arguments and that it can be reached'
          )
        components[_JUDGE] = np.reshape(told, whole.shape)
      right = components.get(self.right, np.ones_like(whole))
      return list(
        pool.map(
          lambda *of: selection.sift(*of, self.rules),
          *(indices, examples, completions, whole, right),
        )
      )

  def _still_right(self, completion, example) -> bool:
    """Of a text that has been rewritten."""
    if not self.right:
      return True
    text = rewards.Completion(
      completion, tokens=self.count(completion), finished=True
    )
    if self.judge is not None:
      return self.judge(text, example) == 1.0
    return self.functions[self.right](text, example) == 1.0


def _number(verdict) -> float:
  return float('nan') if verdict is None else float(verdict)
