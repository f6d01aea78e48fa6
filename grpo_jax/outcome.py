"""What a step of a job returns to its loop."""

from collections.abc import Callable
import dataclasses
from typing import Any

from grpo_jax.structs import TrainState
from grpo_jax.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a step did."""

  state: TrainState
  # Metrics of each optimizer update, on the device, by a prefix of their names:
  # '' for the policy's.
  updates: dict[str, list[dict]]
  tokens: int | None  # completion tokens of the step; None: of its updates
  values: dict[str, Any] = dataclasses.field(default_factory=dict)
  samples: list[dict] = dataclasses.field(default_factory=list)


def one_update(trainer: Trainer) -> Callable[..., Outcome]:
  """The step of a job that does nothing but one update.

  Its inputs are (batch, tokens); see `Outcome`.
  """

  def step(state, index, inputs, timers):
    del index
    batch, tokens = inputs
    rate = trainer.learning_rate(state.step)
    with timers('update'):
      state, update = trainer.update(state, batch)
    return Outcome(
      state=state,
      updates={'': [update]},
      tokens=tokens,
      values={'learning_rate': rate},
    )

  return step
