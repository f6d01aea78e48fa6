"""The stages of the R1 recipe on Qwen2.5-32B: FILE:STAGE, a function each.

The paper's numbers (2501.12948v2), on a base whose R1-Zero the paper reports
too (B.4.1, F.1); slices are of TPU v5p. Each docstring says what of its stage
is not disclosed. Data are files of yours in the folder `DATA`: JSON lines, each
with a prompt and, but for the reward models, the language it is asked in (en,
zh).

  math.jsonl      answer, which the prompt asks to put in \\boxed{}
  stem.jsonl      answer and options: its letter, in \\boxed{} too, and texts
  logic.jsonl     as stem.jsonl
  code.jsonl      inputs, outputs: what its program reads and is to write
  bugs.jsonl      test, entry_point: of the function that is to be repaired
  open.jsonl      answer, which only a model can compare with another
  helpful.jsonl, safety.jsonl   prompts alone
  test.jsonl      as math.jsonl: what is evaluated
  pairs.jsonl     prompt, chosen, rejected, margin
  points.jsonl    prompt, response, label
  replies/        a verified set of replies that are not reasoning

Compiled (configs/compiled) are sft_cold, whose programs sft_verified has too,
all_scenarios, whose programs but the reward models' reasoning has, and
`qwen2_5_32b_r1_zero`; zero differs from that one in `chunk`: its caches begin
at half the length and grow once. None has run on hardware.
"""

from configs import distill, qwen2_5_32b_r1_zero, recipe_parts

DATA = 'data/r1'
# The judge of `rejection`, DeepSeek-V3 in the paper: a server of yours.
JUDGE = dict(url='http://localhost:8000/v1', model='judge', key_from='')
# Those whose programs launch.compile_check --all compiles.
SIZES = ('zero', 'sft_cold', 'reasoning', 'sft_verified', 'all_scenarios')
LENGTH = 32_768  # tokens

# Files of RL prompts: thousands of them in the paper (Table 4; of `open` ours),
# which are their shares here, the domain, and how answers are graded.
_OPTION = dict(
  answer_field='answer', verifier='option', data_fields=('options', 'language')
)
_ANSWER = dict(answer_field='answer', data_fields=('language',))
_PROMPTS = dict(data_fields=('language',))
_FILES = dict(
  math=(26, 'math', _ANSWER | dict(verifier='math')),
  code=(17, 'code', dict(
    verifier='code', data_fields=('inputs', 'outputs', 'language'),
  )),
  bugs=(8, 'code', dict(
    verifier='code', data_fields=('test', 'entry_point', 'language'),
  )),
  stem=(22, 'stem', _OPTION),
  logic=(15, 'logic', _OPTION),
  helpful=(66, 'helpful', _PROMPTS),
  safety=(12, 'safety', _PROMPTS),
  open=(62, 'open', _ANSWER | dict(verifier='exact')),
)  # fmt: skip
_ZERO = ('math', 'code', 'bugs', 'stem')  # F.1
_REASONING = (*_ZERO, 'logic')


def get_config(stage: str = 'zero'):
  stage, _, student = stage.partition(':')
  known = (
    *SIZES, 'cold_start', 'rejection', 'helpful_model', 'safety_model',
    'evaluation',
  )  # fmt: skip
  if stage not in known:
    raise ValueError(f'no stage {stage!r}; there are {", ".join(known)}')
  if student and stage != 'evaluation':
    raise ValueError(f'{stage}:{student}: only evaluation has students')
  return globals()[stage](*([student] if student else []))


def zero():
  """R1-Zero on the base model: lr 2e-6 (B.4.1), else as 2.1.

  512 questions x 16, in 16 updates of 32 questions; KL 0.001, reference reset
  every 400 updates; T 1; accuracy and format with equal weights; 10,400
  updates, the limit of tokens doubled after 8,200 of them. Mathematics is
  compared by rule, programs run against tests, options matched. R1-Zero's
  limits are 32,768 and 65,536; Qwen2.5-32B's is said to be 32,768, so here it
  begins at half of that.
  Not disclosed, and ours: clip eps of this stage (10), optimizer (AdamW),
  warm-up and schedule (none, constant), std's ddof and eps, what becomes of
  truncated answers (graded as they are), loss normalisation in code (sequence
  mean), the rising limit for this size, shares of the domains (as their prompts
  in Table 4), programs of one language (Python), repairs of one function.
  """
  c = qwen2_5_32b_r1_zero.get_config()
  c.steps = 650
  c.optimizer.learning_rate = 2e-6
  half = LENGTH // 2
  c.sample.update(early_steps=512, early_completion_length=half, chunk=half)
  c.task = _asked(*_ZERO)
  c.rewards = dict(
    # By the verifier of each part, as evaluation grades too.
    correct=dict(
      name='correct', weight=1.0, extract='boxed',
      extract_in=dict(code='program'),
    ),
    format=dict(name='format', weight=1.0),
  )  # fmt: skip
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

  Learning rate 3e-6, where Zero of this size has 2e-6 (B.4.1).
  Mathematics, code, STEM and logic (Table 4); the thought's words are counted
  in the language of its question (eq. 7).
  Not disclosed, and ours: steps (the paper: until reasoning converges; here as
  many as Zero's), the weight of the language reward ("added": 1), optimizer,
  shares of the domains (as their prompts), logic as multiple choice alone,
  where the paper has puzzles from generators too: add a part for them.
  """
  c = zero()
  c.optimizer.learning_rate = 3e-6
  # At once, as its limit never rises.
  c.sample.update(early_steps=0, chunk=LENGTH)
  c.task = _asked(*_REASONING)
  # Thought, summary, answer: as the cold start taught it.
  c.rewards.format = dict(name='format', weight=1.0, summary=True)
  c.rewards.language = dict(name='language', weight=1.0, target='prompt')
  return c


def rejection():
  """Verified answers of Dev2 and other replies: the 800k (B.3.3, Table 5).

  Right answers only, without mixed language, long paragraphs and code blocks;
  those that no rule can check are compared with the reference by a model. A
  quarter of the set is not reasoning.
  Not disclosed, and ours: samples a prompt (8), temperature (1), how many
  prompts are the model's to judge (62,000), which model and its prompt (the
  paper's is DeepSeek-V3): name yours as `JUDGE`.
  """
  c = reasoning()
  c.task = _asked(*_REASONING, 'open')
  c.rewards.correct.domains = _domains(*_REASONING)
  c.keep.update(
    prompts=150_000, samples=8, limit=600_000, temperature=1.0,
    source='reasoning',
  )  # fmt: skip
  c.keep.judge = dict(name='endpoint', domains=_domains('open')) | JUDGE
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

  Pairwise, on the summary; gaps above 1, lengths of chosen and rejected
  balanced (3.1).
  Not disclosed, and ours: optimizer, schedule, how lengths were balanced (by
  weights), what is held out (2 %).
  """
  return _reward_model('helpful', 'pairs.jsonl')


def safety_model():
  """Safety: 106,000 labelled responses, pointwise, on the whole answer (3.1).

  Not disclosed, and ours: as helpful_model.
  """
  return _reward_model('safety', 'points.jsonl')


def all_scenarios():
  """RL of all scenarios -> R1 (3.2.2): T 0.7, 1,700 updates.

  The sum of rule, reward model, format and language (eq. 8-10). General prompts
  and preference rewards in the last 400 updates only: 25 of 106 rollouts.
  Not disclosed, and ours: weights of the components (1 each), shares of the
  prompts (as Table 4's, so 53 % are reasoning), optimizer.
  """
  c = reasoning()
  c.steps = 1_700 // 16
  start = c.steps - 400 // 16
  c.sample.temperature = 0.7
  c.task = _asked(*_REASONING, 'helpful', 'safety')
  c.rewards.correct.domains = _domains(*_REASONING)
  for domain, part in (('helpful', 'summary'), ('safety', 'all')):
    c.task.parts[domain].from_step = start
    c.rewards[domain] = dict(
      name='reward_model', path='', part=part, weight=1.0, domains=(domain,),
      from_step=start,
    )  # fmt: skip
  return c


def evaluation(student: str = ''):
  """pass@1 of 64 samples, cons@64, T 0.6, top-p 0.95, 32,768 tokens (D.1).

  Of mathematics, compared as in training (D.1: by sympy). evaluation:SIZE is of
  a student of `distill.py`, which has a slice and a prompt of its own.
  Not disclosed: nothing that matters here. Ours: other benchmarks of the paper
  are for you to name (--config.task). Win rates are AlpacaEval 2's; give the
  judge's address and the prompts' file (win_rate.judge, win_rate.path).
  """
  c = distill.answering(student) if student else zero()
  c.launch.job = 'evaluate'
  spec = _part('test', 1, 'math', _FILES['math'][2])
  c.task = {k: v for k, v in spec.items() if k not in ('share', 'domain')}
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='boxed'),
    # Well formed with a summary or without, as stages differ in it.
    format=dict(name='format', weight=1.0, summary=True),
  )
  c.eval.update(
    prompts=500, samples=64, ks=(1, 64), votes=(16, 64), temperature=0.6,
    top_p=0.95,
  )  # fmt: skip
  c.eval.task = dict(split='test')
  c.win_rate.update(path=f'{DATA}/alpaca_eval.json')
  return c


def _asked(*files):
  """A mixture of these files."""
  parts = {name: _part(name, *_FILES[name]) for name in files}
  return dict(name='mixture', split='train', parts=parts)


def _part(name, thousands, domain, graded):
  return dict(
    name='jsonl', path=f'{DATA}/{name}.jsonl', prompt_field='prompt',
    share=thousands, domain=domain, **graded,
  )  # fmt: skip


def _domains(*files):
  return tuple(dict.fromkeys(_FILES[name][1] for name in files))


def _reward_model(kind, file):
  c = sft_cold()
  c.launch.job = 'reward_model'
  recipe_parts.reward_model(c, kind)
  c.reward_model.path = f'{DATA}/{file}'
  return c
