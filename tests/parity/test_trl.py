"""Live comparison with TRL's trainers: losses, gradients, advantages.

Run by `make parity`. The cases are those of `trl_cases.py`, where it is also
said how each setting of TRL reads here.
"""

import importlib.util
import inspect
import re

import numpy as np
import pytest
import trl_cases as cases
import trl_inputs
import trl_ours

pytest.importorskip('torch')
trl = pytest.importorskip('trl')

pytestmark = pytest.mark.parity

# See test_trl_reference.py.
TOLERANCE = 1e-6


@pytest.fixture(scope='module')
def maker():
  path = cases.REFERENCE.with_name('make_trl_reference.py')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_stored_numbers_are_what_trl_gives_today(maker):
  today = maker.everything()
  with np.load(cases.REFERENCE) as stored:
    assert stored.keys() == today.keys()
    for name, value in today.items():
      # The same program; a torch for another CPU may add in another order.
      scale = max(1.0, np.nanmax(np.abs(value)))
      np.testing.assert_allclose(
        stored[name], value, atol=TOLERANCE * scale, rtol=0, err_msg=name
      )


@pytest.fixture(scope='module')
def drawn():
  """Other inputs than the stored ones, and what this library gives for them."""
  inputs = [trl_inputs.draw(seed) for seed in (1, 2)]
  return [(x, trl_ours.run_all(cases.EQUAL, x)) for x in inputs]


@pytest.mark.parametrize('name', cases.EQUAL)
def test_loss_and_gradients_are_those_of_trl(name, maker, drawn):
  case = cases.EQUAL[name]
  for inputs, ours in drawn:
    trl = maker.run(case, inputs)
    trl_ours.assert_equal(case, ours[name], trl, inputs, TOLERANCE)


def named(source, attribute):
  """The strings that TRL's source compares `self.attribute` with."""
  tests = re.findall(rf'self\.{attribute} (?:==|in) (\[.*?\]|".*?")', source)
  return set(re.findall(r'"(\w+)"', ''.join(tests)))


def used(setting):
  return {
    case.trl[setting] for case in cases.EQUAL.values() if setting in case.trl
  }


def test_every_mode_of_trl_is_compared():
  loss = inspect.getsource(trl.GRPOTrainer._compute_loss)
  assert named(loss, 'loss_type') == used('loss_type')
  assert named(loss, 'importance_sampling_level') == {
    'token', *used('importance_sampling_level')
  }  # fmt: skip
  rest = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
  setting = 'vllm_importance_sampling_mode'
  assert named(rest, setting) == used(setting)
  # Most cases are scaled by group, TRL's default.
  assert named(rest, 'scale_rewards') == {'group', *used('scale_rewards')}
