"""Makes alpaca_eval.json: the package's win rates of `alpaca_cases.py`.

Run from the root with `alpaca_eval` installed, as in the environment of
`make parity`: PYTHONPATH=. python tests/reference/make_alpaca_eval_reference.py
"""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import alpaca_cases as cases  # noqa: E402
from alpaca_eval.metrics import glm_winrate  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

DATA = pathlib.Path(__file__).parents[2] / '..' / 'shared' / 'data'


# Of scikit-learn's solver: what AlpacaEval runs with, and its limit.
TOLERANCES = {'package': 1e-4, 'converged': 1e-9}


def metrics(preferences, lengths, control, gamed, *, tolerance) -> dict:
  """What the package says, with its coefficients and folds.

  Args:
    preferences: [n] in [0, 1].
    lengths: [n] (reference, model).
    control: one of `cases.CONTROLS`.
    gamed: path of a df_gamed.csv, in place of the download.
    tolerance: of scikit-learn's solver.
  """
  fitted = {}
  fit = glm_winrate.fit_LogisticRegressionCV

  def keep(data, *args, **kwargs):
    fitted['model'] = fit(data, *args, **kwargs, tol=tolerance)
    fitted['rows'] = len(data)
    return fitted['model']

  frame = pd.DataFrame({
    'index': np.arange(len(lengths)),
    'preference': preferences + 1,
    'output_1': ['x' * reference for reference, _ in lengths],
    'output_2': ['x' * model for _, model in lengths],
    'generator_1': 'reference',
    'generator_2': 'model',
    'annotator': 'synthetic',
  })  # fmt: skip
  download = glm_winrate.hf_hub_download
  glm_winrate.hf_hub_download = lambda *args, **kwargs: str(gamed)
  glm_winrate.fit_LogisticRegressionCV = keep
  try:
    found = glm_winrate.get_length_controlled_winrate(
      frame,
      glm_name=control,
      save_weights_dir=None,
      is_warn_extreme_changes=False,
    )
  finally:
    glm_winrate.hf_hub_download = download
    glm_winrate.fit_LogisticRegressionCV = fit
  found = {k: float(v) for k, v in found.items()}
  found['coef'] = fitted['model'].coef_[0].tolist()
  found['inverse_penalty'] = float(np.ravel(fitted['model'].C_)[0])
  found['folds'] = _folds(fitted['rows'])
  return found


def _folds(rows):
  """Which fold GroupKFold holds each row out in, a digit a row."""
  groups = np.arange(rows).repeat(2)
  split = glm_winrate.GroupKFold(n_splits=5).split(groups, groups=groups)
  folds = np.zeros(rows, int)
  for fold, (_, held) in enumerate(split):
    folds[groups[held]] = fold
  return ''.join(map(str, folds))


def everything(tolerances=TOLERANCES) -> dict:
  """{data: {kind: {control: {tolerance: metrics}}}}; data that is there."""
  sets = {'synthetic': cases.synthetic_lengths()}
  if DATA.exists():
    sets['alpaca'] = cases.alpaca_lengths(DATA)
  found = {}
  for name, lengths in sets.items():
    found[name] = {
      kind: of_all_controls(
        cases.preferences(lengths, kind), lengths, tolerances
      )
      for kind in cases.KINDS
    }
  return found


def of_all_controls(preferences, lengths, tolerances) -> dict:
  """{control: {tolerance: metrics}}."""
  with tempfile.TemporaryDirectory() as folder:
    gamed = pathlib.Path(folder) / 'df_gamed.csv'
    cases.write_gamed(gamed, len(lengths))
    return {
      control: {
        name: metrics(preferences, lengths, control, gamed, tolerance=tolerance)
        for name, tolerance in tolerances.items()
      }
      for control in cases.CONTROLS
    }


if __name__ == '__main__':
  cases.REFERENCE.write_text(json.dumps(everything(), indent=1) + '\n')
