"""Finding (b): thinking grows where it pays, and jumps when the cap is doubled.

Claim: R1-Zero's answers grow from hundreds to thousands of tokens as accuracy
rises, and both jump at step 8.2k, where the limit doubles (2501.12948v2, 2.3).

  python -m grpo_jax.recipe --config=configs/findings/b_length.py \\
    --workdir=runs/b --parallel=2

Two tasks of one form (tasks/attempts.py), each with a base of its own whose
thoughts stop after 1.5 tries on average: in `search` every try may find the
pair (1 - (1 - q)^n), in `lookup` tries are idle. The limit is 48 tokens for
half of the 200 rollouts of 16 x 16 and 96 after. Arms, 3 seeds
(`b_length.py:1`: one):
  search           constant normalisation, which no length favours
  lookup           the same where thinking does not pay
  search_by_mean   each answer's mean (1/|o|), R1's form, to show its bias
  search_no_cap    96 tokens from the start: what the doubling costs or gains
Measures: pass@1; mean length, before the change (at step 100) and at the end,
its rank correlation with a question's share of wrong answers, and of right and
of wrong answers apart; 'wait' per answer, per 1k tokens and as a share of
answers.

Holds if on search length is at least twice the base's with accuracy up, rises
again after the change, and is longer for questions of fewer right pairs; on
lookup length is flat or falls at 95 % right; wrong answers of search_by_mean
are longer than those of search. What answers with 'wait' gain over others to
the same question is in eval.json (reflective_gain), whatever it says.
"""

import functools

from configs import quickstart_base
from configs.findings import seeds
from grpo_jax.tasks.attempts import ALPHABET

HERE = 'configs/findings/b_length.py'
ARMS = {
  'search': 'search', 'lookup': 'lookup', 'search_by_mean': 'search',
  'search_no_cap': 'search',
}  # fmt: skip
MEASURES = (
  'pass@1', 'mean_length', 'at:length/mean:100', 'last:length/mean',
  'last:length/mean - at:length/mean:100', 'length_by_difficulty',
  'mean_length_right', 'mean_length_wrong', 'truncated', 'reflective_words',
  'reflective_per_1k', 'reflective_share',
)  # fmt: skip
COMPARED = {
  'lookup_base': '',
  'lookup': 'lookup_base',
  'search_by_mean': 'search',
  'search_no_cap': 'search',
}
RATIOS = (
  ('mean_length', 'search', 'search_base'),
  ('mean_length', 'lookup', 'lookup_base'),
)
LIMIT = 96  # tokens


def get_config(arm: str = 'search'):
  kind = arm.removesuffix('_base')
  c = quickstart_base.get_config()
  tags = ('<think>', '</think>', '<answer>', '</answer>')
  c.tokenizer = dict(alphabet=ALPHABET, specials=tags)
  c.task = dict(
    name='attempts', split='train', size=1_000_000,
    kind=ARMS.get(kind, kind), seed=0,
    # RL asks nothing that the base was shown.
    part='corpus' if arm.endswith('_base') else 'questions',
  )  # fmt: skip
  c.sample.update(
    max_prompt_length=16, max_completion_length=LIMIT, chunk=LIMIT // 2
  )
  if arm.endswith('_base'):
    c.sft.update(batch_size=32, max_length=LIMIT // 2)
    c.steps = 1500
    return c
  if arm not in ARMS:
    raise ValueError(f'no arm {arm!r}; there are {", ".join(ARMS)}')
  c.steps, c.prompts_per_step, c.group_size = 200, 16, 16
  if arm != 'search_no_cap':
    c.sample.update(early_steps=100, early_completion_length=LIMIT // 2)
  weights = dict(name='constant', length=LIMIT)
  if arm == 'search_by_mean':
    weights = dict(name='sequence_mean')
  c.algorithm.weights = weights
  c.algorithm.update(kl=dict(name='k2'), kl_coef=0.01)
  c.updates.update(microbatches=8, length_buckets=4)
  c.optimizer.update(learning_rate=2e-4, schedule='constant', weight_decay=0.0)
  c.checkpoint.update(every=100, keep_last=2, keep_best=0)
  c.eval.update(
    prompts=200, samples=16, batch_prompts=50, ks=(1, 16), votes=(16,)
  )
  return c


def get_stages(argument: str = '3'):
  return seeds.stages(argument, _of_seed)


def get_arms(argument: str = '3'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  arms = ('search_base', *ARMS, 'lookup_base')
  return {arm: [f'{arm}_{seed}' for seed in seeds.of(argument)] for arm in arms}


def _of_seed(seed):
  stage = functools.partial(seeds.stage, HERE, seed)
  for kind in ('search', 'lookup'):
    yield stage(f'{kind}_base', f'{kind}_base', 'sft')
  for arm, kind in ARMS.items():
    yield stage(arm, arm, init=f'{kind}_base')
  for arm in get_arms():
    where = f'{{{arm}_{seed}}}'
    yield stage(f'{arm}_eval', _judged(arm), 'evaluate', workdir=where)


def _judged(arm):
  """The config that evaluates an arm, a base too."""
  return arm.removesuffix('_base')
