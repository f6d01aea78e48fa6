"""A task as a run sees it: examples of a step, texts of prompts, rewards."""

from collections.abc import Callable, Mapping
import dataclasses

from grpo_jax import config, layout, prompts, rewards, tasks
from grpo_jax.structs import Prompts
from grpo_jax.tasks import Example, Task
from grpo_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Questions:
  """Examples and how their prompts are written.

  Attributes:
    task: the examples.
    tokenizer: of the policy.
    prompt: keyword arguments of `prompts.render`.
    seed: of the order of examples.
    max_length, multiple: of `layout.prompts`.
  """

  task: Task
  tokenizer: Tokenizer
  prompt: Mapping
  seed: int
  max_length: int
  multiple: int

  def of_step(self, step: int, count: int) -> list[Example]:
    """The examples of a step, a function of (seed, step)."""
    indices = tasks.batch_indices(
      len(self.task), count, seed=self.seed, step=step
    )
    return [self.task.example(i) for i in indices]

  def text(self, prompt: str) -> str:
    """What the policy continues."""
    return prompts.render(prompt, tokenizer=self.tokenizer, **self.prompt)

  def encode(self, examples: list[Example]) -> Prompts:
    """Trunks of these examples, as numpy arrays."""
    ids = [self.tokenizer.encode(self.text(e.prompt)) for e in examples]
    return layout.prompts(
      ids, max_length=self.max_length, multiple=self.multiple
    )


def questions(cfg, tokenizer: Tokenizer, *, evaluation: bool) -> Questions:
  """The training questions of a config, or those it evaluates on."""
  spec = cfg.task.to_dict()
  if evaluation:
    spec |= cfg.eval.task.to_dict()
  return questions_of(config.pick(tasks, spec)(), cfg, tokenizer)


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


def reward_functions(cfg, task: Task) -> dict[str, Callable]:
  """component name -> (completion, example) -> float."""
  specs = {k: v.to_dict() for k, v in cfg.rewards.items()}
  for spec in specs.values():
    spec.pop('weight', None)
  return {
    k: config.pick(rewards, spec, task=task)() for k, spec in specs.items()
  }


def reward_weights(cfg) -> dict[str, float]:
  """component name -> its weight in the reward."""
  missing = [k for k, v in cfg.rewards.items() if 'weight' not in v]
  if missing:
    raise ValueError(f'rewards.{missing[0]} has no weight (0 only reports it)')
  if cfg.reward_gate and cfg.reward_gate not in cfg.rewards:
    raise ValueError(
      f'reward_gate={cfg.reward_gate!r} is none of the rewards: '
      f'{", ".join(cfg.rewards)}'
    )
  return {k: float(v.weight) for k, v in cfg.rewards.items()}
