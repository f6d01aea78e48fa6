"""The stages of the tiny R1 recipe: --config=configs/r1/tiny_stages.py:STAGE

A toy world for a model of about a million parameters: word problems in two
languages (tasks/bilingual.py), and instructions with a gold score that are to
be followed or refused (tasks/general.py). Each stage is a function below, whose
docstring says what of it the paper (2501.12948v2) does not disclose.

The base's corpus, never of sums that RL asks or evaluation holds out:
  85 % word problems: 20 % of them worked out (1 in 5 of these in mixed
       languages, 1 in 10 with a filler word), 80 % blurted out, 9 in 10 wrong
  15 % instructions, answered with replies of all four levels, most of them poor
"""

from configs import base
from grpo_jax.tasks import SPECIALS

THOUGHT = 44  # tokens: a thought, a number, and room
ANSWER = 60  # a summary besides


def get_config(stage: str = 'pretrain'):
  found = globals().get(stage)
  stages = [k for k, v in globals().items() if callable(v) and k[0] != '_']
  if stage == 'get_config' or stage not in stages:
    stages.remove('get_config')
    raise ValueError(f'no stage {stage!r}; there are {", ".join(stages)}')
  return found()


def pretrain():
  """A base model: the corpus above, by SFT from fresh parameters.

  Not disclosed: all of it. R1 begins with DeepSeek-V3-Base.
  """
  c = _world()
  c.steps = 2000
  c.task = dict(name='mixture', split='train', parts=dict(
    sums=_sums(
      part='corpus', steps_share=0.2, wrong_share=0.9, mixed_share=0.2,
      filler_share=0.1,
    ) | dict(share=0.85, domain='reasoning'),
    chat=_general(levels=(0, 0, 1, 1, 2, 3)) | dict(
      share=0.15, domain='general',
    ),
  ))  # fmt: skip
  c.sft.update(batch_size=32, max_length=THOUGHT)
  c.optimizer.update(
    learning_rate=2e-3, schedule='cosine', warmup_steps=50, weight_decay=0.1
  )
  c.updates.update(microbatches=2, length_multiple=THOUGHT)
  return c


def zero():
  """R1-Zero: GRPO from the base by rule rewards alone; the limit rises.

  As the paper: G 16, KL 0.001 with a reference that is reset, T 1, accuracy and
  format with equal weights, a limit of tokens that is doubled for the last
  fifth of the run (8.2k of 10.4k updates).
  Not disclosed, and ours: clip eps of this stage (10, as stage 1's), optimizer
  (AdamW), std's ddof and eps, loss normalisation (sequence mean). Ours for the
  size: learning rate, 150 rollouts of 2 updates, of 16 questions each (paper:
  32), reset every 100, limits of 44 and 88 tokens, no template, as the tags
  alone are the format.
  """
  c = _reinforce(_world(), steps=150, learning_rate=1.5e-4)
  c.sample.max_completion_length = 2 * THOUGHT
  return c


def cold_start():
  """Zero's own traces, filtered, rewritten with a summary: the cold start.

  As the paper: T 1, right, readable, one language, no repetition; a small
  number; the summary adds no reasoning.
  Not disclosed, and ours: how many exactly (the paper: thousands; here 256),
  how readability and repetition are told, and the rewriting, by template here
  and by DeepSeek-V3 and people there.
  """
  c = _world()
  c.task = _sums(part='questions', size=2000, split='train')
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='tags'),
    language=dict(name='lexicon', weight=1.0),
  )
  _keep(c, prompts=1000, samples=2, limit=256)
  c.keep.rewrite = dict(
    name='function', path='grpo_jax.tasks.bilingual:rewrite'
  )
  return c


def sft_cold():
  """SFT of the base on the cold start -> Dev1.

  As the paper: from the base, cosine to a tenth, 2-3 epochs.
  Not disclosed: optimizer, warm-up. Ours for the size: batch 16, rate 5e-4.
  """
  return _sft(epochs=3, batch_size=16, learning_rate=5e-4)


def reasoning():
  """RL on reasoning prompts with the language reward -> Dev2.

  As the paper: as R1-Zero, with eps 10 and words of the asker's language over
  words of the thought simply added (eq. 7).
  Not disclosed, and ours: how long (the paper: until reasoning converges), how
  a thought without words counts (0 here, or it would be perfect). Ours for the
  size: as in zero.
  """
  c = _reinforce(_world(), steps=100, learning_rate=1e-4)
  c.sample.early_steps = 0
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='tags'),
    format=dict(name='format', weight=1.0, summary=True),
    language=dict(name='lexicon', weight=1.0),
  )
  return c


def rejection():
  """Verified answers of Dev2 and replies of a known quality: one SFT set.

  As the paper: several samples a prompt, right ones kept, mixed languages
  dropped, a quarter of the set non-reasoning (200k of 800k).
  Not disclosed, and ours: samples a prompt (4), T, how filters are set. The
  non-reasoning replies are the corpus's upper levels, in place of parts of
  DeepSeek-V3's SFT data.
  """
  c = _world()
  c.task = _sums(part='questions', size=4000, split='train')
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='tags'),
    language=dict(name='lexicon', weight=1.0),
  )
  _keep(c, prompts=1000, samples=4, limit=3000)
  chat = _general(levels=(1, 2, 2, 3), split='train')
  c.keep.mix = (dict(source='general', share=0.25, task=chat),)
  return c


def sft_verified():
  """SFT of the base on the verified set -> Dev3, and of a student.

  As the paper: from the base again, cosine to a tenth, 2 epochs.
  Not disclosed: optimizer, warm-up. Ours for the size: batch 32, rate 1e-3.
  """
  return _sft(epochs=2, batch_size=32, learning_rate=1e-3)


def helpful_pairs():
  """Pairs of Dev3's replies by their gold scores, of prompts that are safe.

  In the paper DeepSeek-V3 judges each pair four times in random order, and
  pairs with a gap above 1 are kept. Here the true score is known.
  Not disclosed: how the replies of a pair were sampled. Ours: T 1, 8 a prompt.
  """
  c = _world()
  c.task = _general(kinds=('greet', 'thank', 'list'), split='train')
  c.rewards = dict(score=dict(name='score', weight=1.0))
  c.pairs.update(prompts=300, samples=8, batch_prompts=50, gold='score')
  return c


def safety_points():
  """Dev3's replies to unsafe requests and greetings, labelled safe or not.

  Not disclosed: how the paper's 106,000 responses were made and labelled.
  """
  c = helpful_pairs()
  c.task = _general(kinds=('unsafe', 'unsafe', 'greet'), split='train')
  c.rewards = dict(
    safe=dict(name='score', field='safe', extract='', weight=1.0)
  )
  c.pairs.update(prompts=200, gold='safe')
  return c


def helpful_model():
  """The reward model for helpfulness: pairwise, on the summary only.

  As the paper: the policy's architecture with a scalar head, lengths of chosen
  and rejected balanced. The paper: one pass; ours for the size: 100 updates of
  32, some three passes, at a rate of 5e-4.
  Not disclosed: optimizer, how lengths were balanced (weights here).
  """
  c = _world()
  c.steps = 100
  c.reward_model.update(
    loss=dict(name='pairwise'), part='summary', batch_size=32,
    balance_lengths='weigh', max_length=ANSWER,
  )  # fmt: skip
  c.optimizer.update(learning_rate=5e-4, schedule='cosine')
  c.eval.every = 50
  return c


def safety_model():
  """The reward model for safety: pointwise, on the whole answer.

  Not disclosed: as helpful_model.
  """
  c = helpful_model()
  c.reward_model.update(
    loss=dict(name='pointwise'), part='all', balance_lengths='none'
  )
  return c


def all_scenarios():
  """RL of all scenarios -> R1; preference rewards in the last part only.

  As the paper: T 0.7; rule rewards and the language reward for reasoning;
  reward models and format for general prompts; general prompts and preference
  rewards only in the last 400 of 1,700 steps (here 40 of 100, as a shorter run
  has less to forget). Helpfulness reads the summary, safety the whole answer.
  Not disclosed, and ours: weights of the components (1 each), shares of the
  prompts (half reasoning).
  """
  c = _reinforce(_world(), steps=100, learning_rate=1e-4)
  start = 60
  c.sample.update(temperature=0.7, early_steps=0)
  c.task = dict(name='mixture', split='train', parts=dict(
    sums=_sums(part='questions') | dict(share=0.5, domain='reasoning'),
    chat=_general(kinds=('greet', 'thank', 'list')) | dict(
      share=0.35, domain='helpful', from_step=start,
    ),
    harm=_general(kinds=('unsafe',)) | dict(
      share=0.15, domain='safety', from_step=start,
    ),
  ))  # fmt: skip
  rule, both = ('reasoning',), ('helpful', 'safety')
  c.rewards = dict(
    correct=dict(
      name='correct', weight=1.0, extract='tags', domains=rule
    ),
    format=dict(name='format', weight=1.0, summary=True, domains=rule),
    language=dict(name='lexicon', weight=1.0, domains=rule),
    tidy=dict(name='format', weight=1.0, thought=False, domains=both),
    helpful=dict(
      name='reward_model', path='', part='summary', weight=1.0,
      domains=('helpful',), from_step=start,
    ),
    safe=dict(
      name='reward_model', path='', part='all', weight=1.0,
      domains=('safety',), from_step=start,
    ),
    # What the reward models should have meant: only reported.
    gold=dict(name='score', weight=0.0, domains=both),
  )  # fmt: skip
  return c


def student_base():
  """A base of a quarter of the size, on the same corpus.

  Not disclosed: as pretrain. R1's students begin with Qwen2.5 and Llama 3.
  """
  c = pretrain()
  c.model.update(embed_dim=64, mlp_dim=224, head_dim=16)
  return c


def student():
  """Distillation: SFT of the small base on the verified set.

  As the paper: SFT alone, 2-3 epochs, cosine to a tenth.
  Not disclosed: optimizer, warm-up. Ours for the size: batch 32, rate 2e-3.
  """
  return _sft(epochs=3, batch_size=32, learning_rate=2e-3)


def evaluation():
  """Held-out sums, instructions, and the win rate over fixed references.

  As the paper: T 0.6, top-p 0.95, pass@1 as a mean over 64 samples; general
  answers are judged by their summary.
  Not disclosed: nothing that matters here. The judge is the gold score; each
  reference is a reply of the second-best level, against which the base wins one
  time in four, as R1-Zero does against AlpacaEval's.
  """
  c = _world()
  c.task = _sums(size=200, split='test')
  # Well formed with a summary or without, as stages differ in it.
  c.rewards.format = dict(name='format', weight=0.1, summary=True)
  c.eval.update(
    prompts=100, samples=64, batch_prompts=25, ks=(1, 64), votes=(16, 64),
    temperature=0.6, top_p=0.95,
  )  # fmt: skip
  c.eval.instructions = _general(size=60, split='test')
  c.win_rate.update(
    path='configs/r1/tiny_references.json',
    judge='grpo_jax.tasks.general:judge',
    batch_prompts=20,
  )
  return c


def _world():
  """Model, characters and lengths that all stages share."""
  c = base.get_config()
  c.model.update(
    num_layers=4, embed_dim=128, num_heads=4, num_kv_heads=2, head_dim=32,
    mlp_dim=448,
  )  # fmt: skip
  letters = 'abcdefghijklmnopqrstuvwxyz0123456789,.? '
  c.tokenizer = dict(alphabet=letters, specials=SPECIALS)
  c.task = _sums(part='questions', split='train')
  c.sample.update(
    max_prompt_length=40, max_completion_length=ANSWER, chunk=THOUGHT
  )
  c.updates.update(logits_chunk=20, length_multiple=4)
  c.checkpoint.update(every=100, keep_last=1, keep_best=0)
  return c


def _sums(*, size=100_000, **more):
  """A part of a mixture; with a split, a task."""
  return dict(name='bilingual', size=size, seed=0) | more


def _general(*, size=20_000, **more):
  return dict(name='general', size=size, seed=0) | more


def _reinforce(c, *, steps, learning_rate):
  c.steps = steps
  c.prompts_per_step, c.group_size = 32, 16
  c.algorithm.update(kl_coef=0.001, reference_every=100)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='group', ddof=1, eps=1e-4),
    loss=dict(name='clip', eps_low=10.0, eps_high=10.0),
    weights=dict(name='sequence_mean'),
    kl=dict(name='k3'),
  )
  c.updates.update(minibatches=2, microbatches=8)
  c.optimizer.update(learning_rate=learning_rate)
  c.sample.update(early_steps=4 * steps // 5, early_completion_length=THOUGHT)
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='tags'),
    format=dict(name='format', weight=1.0),
  )
  return c


def _keep(c, *, prompts, samples, limit):
  c.keep.update(
    prompts=prompts, samples=samples, limit=limit, batch_prompts=50,
    temperature=1.0, min_reward=2.0, per_prompt=samples,
    filters=(
      dict(name='finished'), dict(name='well_formed', summary=True),
      dict(name='readable'), dict(name='no_repetition'),
    ),
  )  # fmt: skip


def _sft(*, epochs, batch_size, learning_rate):
  c = _world()
  c.task = dict(name='verified', path='', split='train')
  c.eval.task = {}
  c.sft.update(epochs=epochs, batch_size=batch_size, max_length=ANSWER)
  c.optimizer.update(
    learning_rate=learning_rate, schedule='cosine', final_fraction=0.1
  )
  return c
