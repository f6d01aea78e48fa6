"""Live comparison with the package alpaca_eval: win rates, prompt, parser.

Run by `make parity`. What the package downloads (df_gamed.csv) is stood in for
by `alpaca_cases.py`, where it is said how.
"""

import importlib.util
import json
import math
import pathlib

import alpaca_cases as cases
import numpy as np
import pytest

from grpo_jax.alpaca import contests, endpoint, judge_prompt

alpaca_eval = pytest.importorskip('alpaca_eval')

pytestmark = pytest.mark.parity

# Percentage points. The package's solver stops at a tolerance of 1e-4, up to
# 0.025 points before its own limit, to which ours runs.
PACKAGE, CONVERGED = 0.05, 1e-4


@pytest.fixture(scope='module')
def maker():
  path = cases.REFERENCE.with_name('make_alpaca_eval_reference.py')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_stored_numbers_are_what_the_package_gives_today(maker):
  stored = json.loads(cases.REFERENCE.read_text())
  for name, kinds in maker.everything({'converged': 1e-9}).items():
    for kind, controls in kinds.items():
      for control, today in controls.items():
        cases.assert_equal(
          stored[name][kind][control]['converged'],
          today['converged'],
          points=CONVERGED,
        )


@pytest.mark.parametrize('kind', cases.KINDS)
def test_win_rates_are_those_of_the_package(kind, maker, tmp_path):
  # Other lengths than the stored ones.
  lengths = [(a + 7 * i, b + 1) for i, (a, b) in enumerate(
    cases.synthetic_lengths()
  )]  # fmt: skip
  preferences = cases.preferences(lengths, kind)
  theirs = maker.of_all_controls(preferences, lengths, maker.TOLERANCES)
  for control, package in theirs.items():
    found = cases.ours(preferences, lengths, control, tmp_path)
    cases.assert_equal(found, package['package'], points=PACKAGE)
    cases.assert_equal(found, package['converged'], points=CONVERGED)
    coef = list(found['weights'].values())
    np.testing.assert_allclose(coef, package['converged']['coef'], atol=1e-5)


def test_the_package_reads_annotations_and_says_the_same(tmp_path, monkeypatch):
  from alpaca_eval.metrics import glm_winrate
  import pandas as pd

  lengths = cases.synthetic_lengths()
  rows = [
    {'instruction': f'{i}', 'output': 'x' * model, 'generator': 'mine'}
    for i, (_, model) in enumerate(lengths)
  ]
  contest = contests.Contest(rows, ['y' * ref for ref, _ in lengths], 'base')
  preferences = cases.preferences(lengths, 'binary')
  found, annotations = contests.compare(
    rows, contest, lambda pairs: preferences, difficulties=None,
    annotator='synthetic',
  )  # fmt: skip
  path = tmp_path / 'annotations.json'
  path.write_text(json.dumps(annotations))
  gamed = tmp_path / 'df_gamed.csv'
  cases.write_gamed(gamed, len(lengths))
  monkeypatch.setattr(glm_winrate, 'hf_hub_download', lambda **_: str(gamed))
  theirs = glm_winrate.get_length_controlled_winrate(
    pd.read_json(path),
    glm_name='length_controlled_minimal',
    save_weights_dir=None,
  )
  cases.assert_equal(found, theirs, points=PACKAGE)


def test_the_judge_is_asked_what_the_package_asks():
  from alpaca_eval import utils

  folder = pathlib.Path(alpaca_eval.__file__).parent / 'evaluators_configs'
  template = (
    folder / 'alpaca_eval_clf_gpt4_turbo' / 'alpaca_eval_clf.txt'
  ).read_text()
  parts = {'instruction': 'Say hi.', 'output_1': 'Hi!', 'output_2': 'No {x}.'}
  filled = template
  for name, value in parts.items():
    filled = filled.replace('{' + name + '}', value)
  # The package's order of keys within a message is another.
  assert utils.prompt_to_chatml(filled) == judge_prompt.messages(
    *parts.values()
  )


@pytest.mark.parametrize(
  'top', [{'m': -0.1, 'M': -3.0}, {'m': -0.5, 'The': -1.0}, {'M': -2.0}, {}]
)
def test_logprobs_become_the_preference_of_the_package(top):
  from alpaca_eval.completion_parsers import logprob_parser

  choice = {
    'logprobs': {
      'content': [
        {'top_logprobs': [{'token': t, 'logprob': p} for t, p in top.items()]}
      ]
    }
  }
  [preference] = logprob_parser(
    choice, numerator_token='m', denominator_tokens=['m', 'M'],
    is_binarize=False,
  )  # fmt: skip
  answer = endpoint.read_answer({'choices': [choice]})
  if math.isnan(preference):
    assert answer['first'] is None
  else:
    # The package counts from 1, the first is better, to 2.
    assert answer['first'] == pytest.approx(2 - preference)
