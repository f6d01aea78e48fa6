"""Rewards to new parameters: the whole update against float64 numpy.

`numpy_model` has none of the library's code and none of its layout. Behaviour
and reference policies differ from the one trained, so that some tokens are
clipped and the KL is felt; two updates in a row, so that the second has
moments, bias corrections and other ratios.
"""

import dataclasses
import functools

from gradient_cases import (
  ADVANTAGE_EPS,
  Case,
  CASES,
  COMPLETIONS,
  draw,
  library_steps,
  PROMPTS,
  SETTINGS,
)
import numpy as np
import numpy_model
from numpy_model import Row
import pytest

from grpo_jax.structs import Batch


def completions(case, batch: Batch) -> list[list[list[int]]]:
  """Given, or what was sampled up to the first stop token."""
  if not case.stop_ids:
    return COMPLETIONS
  found = []
  for row in np.asarray(batch.targets).tolist():
    stops = [[i for i, x in enumerate(r) if x in case.stop_ids] for r in row]
    found.append([
      r[: s[0] + 1] if s else r for r, s in zip(row, stops, strict=True)
    ])  # fmt: skip
  return found


def numpy_rows(case, texts):
  _, behaviour, reference = draw(case)
  rows = []
  for prompt, group, rewards in zip(PROMPTS, texts, case.rewards, strict=True):
    values = numpy_model.advantages(rewards, eps=ADVANTAGE_EPS)
    for completion, advantage in zip(group, values, strict=True):
      row = Row(prompt, completion, advantage)
      row.old, row.ref = (
        numpy_model.score(case.model, flat, row, case.settings)[0]
        for flat in (behaviour, reference)
      )
      rows.append(row)
  return rows


@dataclasses.dataclass(frozen=True)
class Both:
  """Gradient, metrics and parameters of each update, two ways."""

  case: Case
  ours: list
  numpy: list
  rows: list[Row]
  ratios: list[np.ndarray]  # of all tokens, by update


@functools.cache
def both(name):
  case = CASES[name]
  ours, batch = library_steps(case)
  rows = numpy_rows(case, completions(case, batch))
  made, ratios = numpy_model.updates(
    case.model, draw(case)[0], rows, case.settings, count=2
  )
  return Both(case, ours, made, rows, ratios)


every_case = pytest.mark.parametrize('name', CASES)


@every_case
def test_the_case_has_clipped_tokens_kl_and_a_gradient_to_scale_down(name):
  run = both(name)
  for (_, metrics, _), ratio in zip(run.numpy, run.ratios, strict=True):
    assert 0.05 < metrics['clip_share'] < 0.5
    assert metrics['kl'] > 0.01
    assert metrics['grad_norm'] > run.case.settings.clip_norm
    # No token so near a bound that float32 may fall on its other side.
    low, high = 1 - SETTINGS.eps_low, 1 + SETTINGS.eps_high
    assert np.abs(ratio[:, None] - [low, high]).min() > 5e-4


def test_sampled_completions_end_by_each_stop_token_or_by_length():
  rows = both('qwen3').rows
  assert {row.completion[-1] for row in rows} > {0, 3}
  assert len({len(row.completion) for row in rows}) > 3


@every_case
def test_loss_and_metrics_are_those_of_whole_texts(name):
  run = both(name)
  for (_, got, _), (_, wanted, _) in zip(run.ours, run.numpy, strict=True):
    assert got.keys() - wanted.keys() == {'padding/update'}
    for key, value in wanted.items():
      # float32 logprobs are right to 1e-6; the second update's parameters too.
      assert got[key] == pytest.approx(value, rel=3e-5, abs=5e-6), key


@every_case
def test_every_entry_of_the_gradient_is_the_central_difference(name):
  run = both(name)
  # Two layers in float32, sums of some 50 tokens: up to 7e-6 seen. The second
  # update starts from parameters that differ by rounding: up to 2e-5.
  for ours, wanted, tolerance in zip(
    run.ours, run.numpy, (2e-5, 1e-4), strict=True
  ):
    ours = numpy_model.unflatten(run.case.model, ours[0])
    wanted = numpy_model.unflatten(run.case.model, wanted[0])
    for key, value in wanted.items():
      scale = np.abs(value).max()
      assert scale > 1e-3
      np.testing.assert_allclose(
        ours[key], value, rtol=0, atol=tolerance * scale, err_msg=key
      )


@every_case
def test_parameters_after_each_update_are_those_of_adamw(name):
  run = both(name)
  before = draw(run.case)[0]
  for (*_, ours), (*_, wanted) in zip(run.ours, run.numpy, strict=True):
    # Rounding of the parameters, 6e-8 of numbers up to 2, and of directions.
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-6)
    # A step of up to 1e-2.
    assert np.abs(wanted - before).max() > 5e-3
    before = wanted
