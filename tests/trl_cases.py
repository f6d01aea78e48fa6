"""What is compared with TRL: its settings beside ours.

`tests/reference/make_trl_reference.py` runs TRL's trainers on these cases and
stores what they give; `trl_ours.py` says what this library gives;
`test_trl_reference.py` compares it with what is stored, `parity/test_trl.py`
with the TRL of today.
"""

import dataclasses
import pathlib

import numpy as np
from trl_inputs import NAN, plain

REFERENCE = pathlib.Path(__file__).parent / 'reference' / 'trl.npz'
# The configured length limit, which no completion reaches.
LIMIT = 8
EPS = dict(eps_low=0.2, eps_high=0.28)


@dataclasses.dataclass(frozen=True)
class Case:
  """One algorithm: arguments of TRL's config, and ours as in a config of ours.

  Attributes:
    trl: arguments of GRPOConfig, RLOOConfig or GMPOConfig; `sampler=True`
      stands for a vLLM sampler, which need not be installed.
    trainer: 'grpo', 'rloo' or 'gmpo'.
    loss, weights, advantages, kl, importance: functions of ours by name.
    kl_coef, entropy_coef, off_policy_limit: as in `objectives.policy`.
    entropy_share: as in `credit.assign`.
    reward_kl: factor of the KL that is subtracted from the reward.
    reward_weights: of the components of the reward.
    microbatches: the update is split into so many parts on both sides.
    windows: TRL's optimizer updates per generation.
    on_policy: the old logprobs are those of the policy itself.
  """

  trl: dict
  trainer: str = 'grpo'
  loss: dict = dataclasses.field(default_factory=lambda: dict(name='clip'))
  weights: dict = dataclasses.field(
    default_factory=lambda: dict(name='token_mean')
  )
  advantages: dict = dataclasses.field(
    default_factory=lambda: dict(name='group')
  )
  kl: dict = dataclasses.field(default_factory=lambda: dict(name='k3'))
  importance: dict = dataclasses.field(
    default_factory=lambda: dict(name='none')
  )
  kl_coef: float = 0.0
  entropy_coef: float = 0.0
  off_policy_limit: float = float('inf')
  entropy_share: float = 1.0
  reward_kl: float = 0.0
  reward_weights: tuple = (1.0, 0.5)
  microbatches: int = 1
  windows: int = 1
  on_policy: bool = False


def _named(name, **settings):
  return dict(name=name, **settings)


CLIP = dict(epsilon=0.2, epsilon_high=0.28)
SEQUENCE = dict(importance_sampling_level='sequence')
WEIGHTS = {
  'grpo': _named('sequence_mean'),
  'bnpo': _named('token_mean'),
  'dapo': _named('token_mean'),
  'dr_grpo': _named('constant', length=LIMIT),
  'luspo': _named('sequence_sum'),
  'cispo': _named('token_mean'),
  'sapo': _named('sequence_mean'),
  'vespo': _named('token_mean'),
}
LOSSES = {
  **dict.fromkeys(
    ('grpo', 'bnpo', 'dapo', 'dr_grpo', 'luspo'), _named('clip', **EPS)
  ),
  # TRL's epsilon_high is the bound of the weight itself; ours is 1 + eps_high.
  'cispo': _named('cispo', eps_high=0.28),
  'sapo': _named('sapo'),
  'vespo': _named('vespo'),
}
GSPO = _named('gspo', eps_low=0.1, eps_high=0.12)


def _loss(kind, trl=(), **changes):
  bounds = CLIP | (dict(epsilon_high=1.28) if kind == 'cispo' else {})
  ours = dict(loss=LOSSES[kind], weights=WEIGHTS[kind]) | changes
  return Case(trl=dict(loss_type=kind) | bounds | dict(trl), **ours)


def _gspo(kind, trl=(), **ours):
  bounds = SEQUENCE | dict(epsilon=0.1, epsilon_high=0.12)
  return _loss(kind, bounds | dict(trl), loss=GSPO | ours)


def _gmpo(trl=(), **changes):
  # Bounds of log ratios, so small that they hold some of them.
  return Case(
    trainer='gmpo',
    trl=CLIP | dict(trl),
    loss=_named('gmpo', **EPS),
    weights=WEIGHTS['grpo'],
    **changes,
  )


def _sampler(mode, fn, low=None, high=3.0, kind='dapo', trl=(), **settings):
  """A sampler that is not the trainer, TRL's mode beside our function."""
  return _loss(
    kind,
    dict(
      sampler=True,
      vllm_importance_sampling_mode=mode,
      vllm_importance_sampling_clip_min=low,
      vllm_importance_sampling_clip_max=high,
      **dict(trl),
    ),
    importance=_named(
      fn,
      low=0.0 if low is None else low,
      high=float('inf') if high is None else high,
      **settings,
    ),
  )


KL = dict(beta=0.3)
PLAIN_KL = KL | dict(use_bias_correction_kl=False)
MODES = {
  'token_truncate': ('truncated', 'token'),
  'token_mask': ('rejected', 'token'),
  'sequence_truncate': ('truncated', 'sequence'),
  'sequence_mask': ('rejected', 'sequence'),
}

EQUAL = {
  **{kind: _loss(kind) for kind in LOSSES},
  **{f'{kind}_on_policy': _loss(kind, on_policy=True) for kind in LOSSES},
  **{
    f'{kind}_kl': _loss(kind, PLAIN_KL, kl_coef=0.3) for kind in LOSSES
  },
  **{
    f'{kind}_kl_times_ratio': _loss(
      kind, KL, kl_coef=0.3, kl=_named('k3_ratio')
    )
    for kind in LOSSES
  },
  # bnpo is left out: its microbatches have denominators of their own.
  **{
    f'{kind}_accumulated': _loss(kind, microbatches=4)
    for kind in LOSSES
    if kind != 'bnpo'
  },
  'dapo_kl_accumulated': _loss(
    'dapo', KL, kl_coef=0.3, kl=_named('k3_ratio'), microbatches=2
  ),
  **{
    f'{kind}_sequence_ratio': _gspo(kind)
    for kind in ('grpo', 'bnpo', 'dapo', 'dr_grpo', 'luspo')
  },
  'two_sided_clip': _loss(
    'dapo', dict(delta=1.4), loss=_named('clip', dual_clip=1.4, **EPS)
  ),
  **{
    f'{kind}_sequence_ratio_two_sided_clip': _gspo(
      kind, dict(delta=1.2), dual_clip=1.2
    )
    for kind in ('grpo', 'dapo')
  },
  'gmpo': _gmpo(),
  'gmpo_on_policy': _gmpo(on_policy=True),
  'gmpo_kl': _gmpo(KL, kl_coef=0.3),
  'gmpo_accumulated': _gmpo(microbatches=4),
  'off_policy_mask': _loss(
    'grpo', dict(off_policy_mask_threshold=0.03), off_policy_limit=0.03
  ),
  # What is masked keeps its KL.
  'off_policy_mask_kl': _loss(
    'dapo',
    KL | dict(off_policy_mask_threshold=0.03),
    kl_coef=0.3,
    kl=_named('k3_ratio'),
    off_policy_limit=0.03,
  ),
  # Then the distance is to the sampler.
  'off_policy_mask_sampler': dataclasses.replace(
    _sampler(
      'token_truncate',
      'truncated',
      level='token',
      trl=dict(off_policy_mask_threshold=0.03),
    ),
    off_policy_limit=0.03,
  ),
  # A share of 1/k: TRL's quantile then keeps as many tokens as ours, of any
  # number of them.
  **{
    f'{kind}_top_entropy': _loss(
      kind, dict(top_entropy_quantile=0.2), entropy_share=0.2
    )
    for kind in ('grpo', 'dapo')
  },
  'top_entropy_kl': _loss(
    'dapo',
    KL | dict(top_entropy_quantile=0.5),
    kl_coef=0.3,
    kl=_named('k3_ratio'),
    entropy_share=0.5,
  ),
  'cispo_bound_of_5': _loss(
    'cispo', dict(epsilon_high=5.0), loss=_named('cispo', eps_high=4.0)
  ),
  'sapo_temperatures': _loss(
    'sapo',
    dict(sapo_temperature_pos=0.7, sapo_temperature_neg=2.0),
    loss=_named('sapo', tau_pos=0.7, tau_neg=2.0),
  ),
  'vespo_gates': _loss(
    'vespo',
    dict(
      vespo_k_pos=1.0,
      vespo_lambda_pos=1.5,
      vespo_k_neg=2.0,
      vespo_lambda_neg=0.5,
    ),
    loss=_named(
      'vespo', k_pos=1.0, lambda_pos=1.5, k_neg=2.0, lambda_neg=0.5
    ),
  ),
  'entropy_bonus': _loss('dapo', dict(entropy_coef=0.05), entropy_coef=0.05),
  **{
    mode: _sampler(mode, fn, level=level)
    for mode, (fn, level) in MODES.items()
  },
  **{
    f'{mode}_two_bounds': _sampler(mode, fn, 0.6, 1.5, level=level)
    for mode, (fn, level) in MODES.items()
  },
  'token_mask_lower_bound': _sampler(
    'token_mask', 'rejected', 0.6, None, level='token'
  ),
  'sampler_with_grpo_loss': _sampler(
    'token_truncate', 'truncated', kind='grpo', level='token'
  ),
  'rewards_not_scaled': _loss(
    'dr_grpo',
    dict(scale_rewards='none'),
    advantages=_named('group', std='none'),
  ),
  'rewards_scaled_by_batch': _loss(
    'dapo',
    dict(scale_rewards='batch'),
    advantages=_named('group', std='raw'),
  ),
  'rloo': Case(
    trainer='rloo',
    trl=dict(normalize_advantages=False, beta=0.0),
    loss=_named('reinforce'),
    weights=_named('sequence_sum'),
    advantages=_named('rloo'),
    on_policy=True,
  ),
  'rloo_kl_in_reward': Case(
    trainer='rloo',
    trl=dict(normalize_advantages=False, beta=0.3),
    loss=_named('reinforce'),
    weights=_named('sequence_sum'),
    advantages=_named('rloo'),
    reward_kl=0.3,
    on_policy=True,
  ),
}  # fmt: skip

# Where the two differ, with numbers small enough for `test_trl_reference.py` to
# say by hand what each of them gives.
UNEQUAL = plain([[1, 0], [1, 0]], [[1, 3], [2, 6]])
NOT_SCALED = dict(scale_rewards='none')
CENTRED = _named('group', std='none')
TOO_LONG = plain([[1, 0], [1, 0]], [[1, 3], [2, 6]], truncated=[[0, 0], [0, 1]])


def _differs(kind, trl=(), **changes):
  changes = dict(advantages=CENTRED, reward_weights=(1.0, 0.0)) | changes
  return _loss(kind, NOT_SCALED | dict(trl), **changes)


DIFFERENT = {
  'two_updates_per_generation': (
    _differs('dapo', windows=2, on_policy=True), UNEQUAL,
  ),
  'bnpo_accumulated': (
    _differs('bnpo', microbatches=2, on_policy=True), UNEQUAL,
  ),
  **{
    f'{kind}_without_truncated': (
      _differs(kind, dict(mask_truncated_completions=True), on_policy=True),
      TOO_LONG,
    )
    for kind in ('grpo', 'dr_grpo', 'luspo', 'dapo')
  },
  'equal_rewards': (
    _differs('dapo', dict(scale_rewards='group'), on_policy=True,
      advantages=_named('group')),
    plain([[0.9] * 3], [[1] * 3]),
  ),
  'partly_missing_reward': (
    _differs('dapo', on_policy=True, reward_weights=(1.0, 0.5)),
    plain([[1, NAN, 0, 0]], [[1] * 4]) | {
      'rewards': np.array([[[1, NAN, 0, 0]], [[1] * 4]], np.float32)
    },
  ),
  'kl_of_a_sequence_ratio': (
    _differs('grpo', SEQUENCE | dict(beta=1.0), loss=GSPO, kl_coef=1.0,
      kl=_named('k3_ratio')),
    plain([[0, 0]], [[2, 2]], ratios=[[[2, 0.5], [1, 1]]],
      refs=[[[2, 4], [1, 1]]]),
  ),
  'entropy_of_grpo': (
    _differs('grpo', dict(entropy_coef=0.6), entropy_coef=0.6, on_policy=True),
    plain([[0, 0]], [[1, 3]]),
  ),
  'top_entropy_accumulated': (
    _differs('dapo', dict(top_entropy_quantile=0.5), entropy_share=0.5,
      microbatches=2, on_policy=True),
    plain([[1, 0], [1, 0]], [[1, 1], [1, 1]],
      entropy=[[[1], [2]], [[3], [4]]]),
  ),
  'top_entropy_between_ranks': (
    _differs('dapo', dict(top_entropy_quantile=0.7), entropy_share=0.7,
      on_policy=True),
    plain([[1, 0, 0]], [[1, 1, 1]], entropy=[[[3], [2], [1]]]),
  ),
  'delta_below_the_clip': (
    _differs('grpo', dict(delta=1.1),
      loss=_named('clip', dual_clip=1.1, **EPS)),
    plain([[1, 0]], [[1, 1]], ratios=[[[1], [2]]]),
  ),
  'cispo_at_its_default': (
    _differs('cispo', dict(epsilon_high=None), loss=_named('cispo'),
      on_policy=True),
    plain([[1, 0]], [[1, 1]]),
  ),
}  # fmt: skip
