"""The stages of the R1 recipe on Qwen2.5-32B: FILE:STAGE, a function each.

The paper's numbers (2501.12948v2), on a base whose R1-Zero the paper reports
too (B.4.1, F.1); slices are of TPU v5p. Data are files of yours, in the folder
`DATA`: rl.jsonl (prompt, answer), chat.jsonl and harm.jsonl (prompt), replies/
(a verified set of non-reasoning replies), pairs.jsonl and points.jsonl of the
reward models. Each docstring says what of its stage is not disclosed.

Compiled are sft_cold (configs/compiled/r1), whose programs sft_verified has
too, and `qwen2_5_32b_r1_zero`, whose programs zero and reasoning have; none has
run on hardware.
"""

from configs import qwen2_5_32b_r1_zero

DATA = 'data/r1'
# Those whose programs launch.compile_check --all compiles.
SIZES = ('zero', 'sft_cold', 'reasoning', 'sft_verified', 'all_scenarios')
LENGTH = 32_768  # tokens


def get_config(stage: str = 'zero'):
  known = (
    *SIZES, 'cold_start', 'rejection', 'helpful_model', 'safety_model',
    'evaluation',
  )  # fmt: skip
  if stage not in known:
    raise ValueError(f'no stage {stage!r}; there are {", ".join(known)}')
  return globals()[stage]()


def zero():
  """R1-Zero on the base model: lr 2e-6 (B.4.1), else as 2.1.

  512 questions x 16, in 16 updates of 32 questions; KL 0.001, reference reset
  every 400 updates; T 1; accuracy and format with equal weights; 10,400
  updates, the limit of tokens doubled after 8,200 of them. R1-Zero's limits are
  32,768 and 65,536; Qwen2.5-32B's is said to be 32,768, so here it begins at
  half of that.
  Not disclosed, and ours: clip eps of this stage (10), optimizer (AdamW),
  warm-up and schedule (none, constant), std's ddof and eps, what becomes of
  truncated answers (graded as they are), loss normalisation in code (sequence
  mean), the rising limit for this size.
  """
  c = qwen2_5_32b_r1_zero.get_config()
  c.steps = 650
  c.optimizer.learning_rate = 2e-6
  half = LENGTH // 2
  c.sample.update(early_steps=512, early_completion_length=half, chunk=half)
  c.task = _questions()
  c.rewards = dict(
    correct=dict(name='math_verify', weight=1.0, extract='boxed'),
    format=dict(name='format', weight=1.0),
  )
  return c


def cold_start():
  """Traces of Zero, filtered and rewritten with a summary.

  T 1, right, readable, one language, no repetition (B.3.2).
  Not disclosed, and ours: how many exactly ("thousands": 5,000), samples a
  prompt, thresholds of the filters; rewriting by a template, where the paper
  has DeepSeek-V3 and people: name yours as keep.rewrite.
  """
  c = zero()
  c.keep.update(
    prompts=20_000, samples=4, limit=5_000, per_prompt=1, temperature=1.0,
    rewrite=dict(name='thought_summary'),
  )  # fmt: skip
  return c


def sft_cold():
  """SFT of the base on the cold start -> Dev1: batch 128, 5e-5 to 5e-6.

  2-3 epochs, cosine, 32,768 tokens (B.4.2).
  Not disclosed, and ours: optimizer, warm-up (none), two epochs of the range.
  """
  c = qwen2_5_32b_r1_zero.get_config()
  c.launch.job = 'sft'
  c.task = dict(
    name='verified', path='', split='train', test_share=0.0, sources=()
  )
  c.mesh.update(data=1, fsdp=128, tensor=4)
  for rules in (c.rules.train, c.rules.sample):
    rules.update(prompts=('data', 'fsdp'), samples=None)
  c.sft.update(batch_size=128, epochs=2, max_length=LENGTH)
  c.updates.update(
    minibatches=1, microbatches=1, group_microbatches=1, logits_chunk=512
  )
  c.optimizer.update(learning_rate=5e-5, schedule='cosine', final_fraction=0.1)
  c.checkpoint.every = 100  # 17 minutes
  return c


def reasoning():
  """Reasoning RL with the language reward -> Dev2 (3.2.1): eps 10, 32k tokens.

  Not disclosed, and ours: steps (the paper: until reasoning converges; here as
  many as Zero's), the weight of the language reward ("added": 1), optimizer.
  """
  c = zero()
  c.sample.early_steps = 0
  # Thought, summary, answer: as the cold start taught it.
  c.rewards.format = dict(name='format', weight=1.0, summary=True)
  c.rewards.language = dict(name='language', weight=1.0, target='en')
  return c


def rejection():
  """Verified answers of Dev2 and other replies: the 800k (B.3.3, Table 5).

  Right answers only, without mixed language, long paragraphs and code blocks;
  a quarter of the set is not reasoning.
  Not disclosed, and ours: samples a prompt (8), temperature (1).
  """
  c = reasoning()
  c.keep.update(prompts=150_000, samples=8, limit=600_000, temperature=1.0)
  replies = dict(name='verified', path=f'{DATA}/replies', split='train')
  c.keep.mix = (dict(source='general', count=200_000, task=replies),)
  return c


def sft_verified():
  """SFT of the base on the 800k -> Dev3: as sft_cold (B.4.2).

  Not disclosed, and ours: as sft_cold.
  """
  return sft_cold()


def helpful_model():
  """Helpfulness: 66,000 pairs, batch 256, 6e-6, one epoch, 8,192 tokens.

  Pairwise, on the summary; lengths of chosen and rejected balanced (3.1).
  Not disclosed, and ours: optimizer, schedule, how lengths were balanced.
  """
  c = sft_cold()
  c.launch.topology = ''  # compile_check knows train and sft
  c.reward_model.update(
    path=f'{DATA}/pairs.jsonl', loss=dict(name='pairwise'), part='summary',
    balance_lengths='weigh', batch_size=256, max_length=8_192,
  )  # fmt: skip
  c.steps = 66_000 // 256
  c.optimizer.update(learning_rate=6e-6, schedule='constant')
  c.eval.every = 50
  return c


def safety_model():
  """Safety: 106,000 labelled responses, pointwise, on the whole answer (3.1).

  Not disclosed, and ours: as helpful_model.
  """
  c = helpful_model()
  c.reward_model.update(
    path=f'{DATA}/points.jsonl', loss=dict(name='pointwise'), part='all',
    balance_lengths='none',
  )  # fmt: skip
  c.steps = 106_000 // 256
  return c


def all_scenarios():
  """RL of all scenarios -> R1 (3.2.2): T 0.7, 1,700 updates.

  General prompts and preference rewards in the last 400 updates only: 25 of 106
  rollouts.
  Not disclosed, and ours: weights of the components (1 each), shares of the
  prompts (half reasoning, the others as Table 4's 66k and 12k), optimizer.
  """
  c = reasoning()
  c.steps = 1_700 // 16
  start = c.steps - 400 // 16
  c.sample.temperature = 0.7
  chat = dict(name='jsonl', prompt_field='prompt')
  sums = _questions()
  del sums['split']
  c.task = dict(name='mixture', split='train', parts=dict(
    reasoning=sums | dict(share=0.5, domain='reasoning'),
    helpful=chat | dict(
      path=f'{DATA}/chat.jsonl', share=0.42, domain='helpful', from_step=start,
    ),
    safety=chat | dict(
      path=f'{DATA}/harm.jsonl', share=0.08, domain='safety', from_step=start,
    ),
  ))  # fmt: skip
  rule = ('reasoning',)
  for reward in ('correct', 'language'):
    c.rewards[reward] = c.rewards[reward].to_dict() | dict(domains=rule)
  for reward, part in (('helpful', 'summary'), ('safety', 'all')):
    c.rewards[reward] = dict(
      name='reward_model', path='', part=part, weight=1.0, domains=(reward,),
      from_step=start,
    )  # fmt: skip
  return c


def evaluation():
  """pass@1 of 64 samples, cons@64, T 0.6, top-p 0.95, 32,768 tokens (D.1).

  Not disclosed: nothing that matters here. Win rates are AlpacaEval 2's; give
  the judge's address and the prompts' file (win_rate.judge, win_rate.path).
  """
  c = zero()
  c.task.update(path=f'{DATA}/test.jsonl')
  # Well formed with a summary or without, as stages differ in it.
  c.rewards.format = dict(name='format', weight=1.0, summary=True)
  c.eval.update(
    prompts=500, samples=64, ks=(1, 64), votes=(16, 64), temperature=0.6,
    top_p=0.95,
  )  # fmt: skip
  c.eval.task = dict(split='test')
  c.win_rate.update(path=f'{DATA}/alpaca_eval.json')
  return c


def _questions():
  return dict(
    name='jsonl', split='train', path=f'{DATA}/rl.jsonl',
    prompt_field='prompt', answer_field='answer', verifier='exact',
  )  # fmt: skip
