"""Finding (c): a small cold start helps language more than arithmetic.

Claim, ours: R1 has a cold start for readability and steadiness (2501.12948v2,
2.3, B.3.2) and gives no ablation; its table shows instruction following up and
AIME down (77.9 -> 59.0) right after it.

  python -m grpo_jax.recipe --config=configs/findings/c_cold_start.py \\
    --workdir=runs/c --parallel=2

Tasks: `sums` (the quickstart's strings) and `words` (tasks/bilingual.py: the
same kind of sums told in two languages, with a thought and a summary in the
asker's). For each, RL from its base makes a Zero, whose verified traces, on
words in one language and with a summary, are the cold start: SFT of the base on
n of them for three epochs, then the same RL, 120 rollouts of 16 x 16. Arms:
n = 0, 8, 32, 128, 512 of both tasks, 3 seeds (`c_cold_start.py:1`: one).
Measures: reach@0.5 and reach@0.8, the first rollout at which the mean reward
for right answers over five is that high; pass@1 at the end; first:, the mean
of the first five rollouts, which shows a dip, and last:, of the last tenth,
also of the share of a thought's words that are of the asker's language.

Holds if reach@0.8 of n = 0 over that of n = 128 is larger on words than on
sums with intervals apart. A drop right after the cold start on sums is expected
and to be reported.
"""

from configs import quickstart, quickstart_base
from configs.findings import seeds
from grpo_jax.tasks.bilingual import ALPHABET

HERE = 'configs/findings/c_cold_start.py'
TASKS = ('sums', 'words')
COUNTS = (0, 8, 32, 128, 512)
MEASURES = (
  'reach@0.5', 'reach@0.8', 'first:reward/correct', 'pass@1', 'gibberish',
  'first:reward/language', 'last:reward/language', 'last:length/mean',
)  # fmt: skip
COMPARED = {
  f'{task}_{n}': f'{task}_0' if n else '' for task in TASKS for n in COUNTS
}
RATIOS = tuple(
  (reach, f'{task}_0', f'{task}_128')
  for reach in ('reach@0.5', 'reach@0.8')
  for task in TASKS
)
_TAGS = ('<think>', '</think>', '<answer>', '</answer>')


def get_config(stage: str = 'sums_rl'):
  task, _, what = stage.partition('_')
  whats = ('base', 'rl', 'keep', 'sft')
  if task not in TASKS or what not in whats:
    raise ValueError(f'{stage!r} is not {TASKS} with _ and {whats}')
  c = quickstart_base.get_config() if what == 'base' else _reinforced()
  if task == 'words':
    _in_words(c, base=what == 'base')
    if what == 'rl':
      # Of a rollout's answers the longest has five times the mean's length.
      c.updates.length_buckets = 4
  if what == 'keep':
    c.keep.update(
      prompts=2000, samples=4, batch_prompts=50, per_prompt=1,
      filters=(dict(name='finished'), dict(name='well_formed')),
    )  # fmt: skip
    if task == 'words':
      c.keep.rewrite = dict(
        name='function', path='grpo_jax.tasks.bilingual:rewrite'
      )
      # Right, and all of the thought in the asker's language.
      c.rewards.language.weight, c.rewards.format.weight = 1.0, 0.0
      c.keep.min_reward = 2.0
  if what == 'sft':
    c.task = dict(name='verified', path='', split='train')
    c.sft.update(batch_size=8, epochs=3, max_length=60)
    c.updates.microbatches = 1
    c.optimizer.update(learning_rate=5e-4, schedule='cosine')
  return c


def get_stages(argument: str = '3'):
  return seeds.stages(
    argument, lambda seed: (s for task in TASKS for s in _of_task(task, seed))
  )


def get_arms(argument: str = '3'):
  """Arm -> its runs, one a seed; the first is what others are compared to."""
  return {
    f'{task}_{n}': [f'{task}_{n}_{seed}' for seed in seeds.of(argument)]
    for task in TASKS
    for n in COUNTS
  }


def _of_task(task, seed):
  def stage(name, what, *job, **more):
    return seeds.stage(HERE, seed, name, f'{task}_{what}', *job, **more)

  base = f'{task}_base'
  yield stage(base, 'base', 'sft')
  for n in COUNTS:
    arm, init = f'{task}_{n}', base
    if n:
      kept, init = f'{task}_kept{n}', f'{task}_cold{n}'
      where = f'{{{kept}_{seed}}}/set'
      yield stage(
        kept, 'keep', 'generate', init=f'{task}_0',
        overrides={'keep.limit': n},
        flags={'keep': 'verified', 'out': where},
      )  # fmt: skip
      yield stage(init, 'sft', 'sft', init=base, overrides={'task.path': where})
    yield stage(arm, 'rl', init=init)
    where = f'{{{arm}_{seed}}}'
    yield stage(f'{arm}_eval', 'rl', 'evaluate', workdir=where)


def _reinforced():
  c = quickstart.get_config()
  c.steps, c.prompts_per_step, c.updates.microbatches = 120, 16, 8
  c.optimizer.schedule = 'constant'
  # The KL is to each arm's own first policy, and would hold one without a cold
  # start to a base that has not the habit.
  c.algorithm.kl_coef = 0.05
  c.eval.update(samples=16, ks=(1, 16))
  return c


def _in_words(c, *, base):
  c.tokenizer = dict(alphabet=ALPHABET, specials=_TAGS)
  c.task = dict(
    name='bilingual', split='train', size=1_000_000, seed=0,
    part='corpus' if base else 'questions', steps_share=0.15, wrong_share=0.9,
    mixed_share=0.2, filler_share=0.1,
  )  # fmt: skip
  c.eval.task = dict(split='test', part='', size=1000)
  c.sample.update(max_prompt_length=40, max_completion_length=60, chunk=60)
  c.sft.max_length = 60
  if not base:
    c.rewards = dict(
      correct=dict(name='correct', weight=1.0, extract='tags'),
      format=dict(name='format', weight=0.1, summary=True),
      # Only reported: how much of a thought is in the asker's language.
      language=dict(name='lexicon', weight=0.0),
    )
