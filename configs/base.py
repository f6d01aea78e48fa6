"""Every field once, with its unit and default. Leaves call this and assign.

A field that selects a function is a dict with the function's name and its
arguments, as in `dict(name='clip', eps_high=0.28)`.
"""

import importlib

from ml_collections import ConfigDict


def start(experiment: str = '') -> ConfigDict:
  """What an algorithm's config starts from.

  Args:
    experiment: the config in this folder to run the algorithm on, with its own
      argument after a colon, or a module ('tests.tiny'); '' for `get_config`.
  """
  if not experiment:
    return get_config()
  experiment, _, argument = experiment.partition(':')
  name = experiment if '.' in experiment else f'configs.{experiment}'
  try:
    module = importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise ValueError(f'no experiment {experiment!r}: {error}') from None
  return module.get_config(*([argument] if argument else []))


def assign(section: ConfigDict, **fields) -> None:
  """Sets fields whole: `update` would keep arguments of another function."""
  for name, value in fields.items():
    section[name] = value


def minibatches(c: ConfigDict, count: int) -> None:
  """Sets the updates of a rollout; microbatches are of what is left of it."""
  count = min(count, c.prompts_per_step)
  before = c.updates.minibatches * c.updates.microbatches
  c.updates.minibatches = count
  c.updates.microbatches = max(1, before // count)


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.seed = 0  # of data order, sampling noise and fresh parameters
  c.steps = 100  # rollouts (train) or optimizer updates (sft, reward_model)

  # Where the policy comes from: a run's workdir, a Hugging Face folder, a
  # .gguf file, or '' for fresh parameters of the size below.
  c.init_from = ''
  c.model = dict(
    num_layers=4,
    embed_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=384,
    rope_theta=10_000.0,
    qkv_bias=False,
    qk_norm=False,
    tied_head=True,
  )
  c.tokenizer = dict(alphabet='', specials=())  # of fresh models: characters
  c.dtype = 'auto'  # of matmuls and caches: bfloat16 on TPU, float32 elsewhere
  # Of whole sequences, a function of models.causal: full, chunked or splash;
  # auto is splash on TPU and full elsewhere.
  c.attention = 'auto'

  # What is asked. `task` names a function in grpo_jax.tasks; `mixture` asks
  # several of them by shares, which may depend on the step.
  c.task = dict(name='arithmetic', split='train', seed=0, size=100_000)
  c.prompt = dict(
    template='plain',  # a name in grpo_jax.prompts.TEMPLATES, or a text
    chat=False,  # wrap in the tokenizer's chat template
    system='',  # system message; without chat, text before the prompt
    shots=(),  # (prompt, completion) pairs shown before the prompt
  )
  # How answers are judged: functions in grpo_jax.rewards or batched_rewards,
  # each with a weight and, if need be, two fields more:
  #   domains=('helpful',)  of a mixture, that it judges; absent: all of them
  #   from_step=1300        the first step (rollout), from 0, that it takes part
  #                         in; absent: 0
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, extract='tags'),
    format=dict(name='format', weight=0.1),
  )
  c.reward_gate = ''  # a component that must be 1 for any reward at all

  # Sampling.
  c.prompts_per_step = 16  # Q
  c.group_size = 16  # G, completions per prompt
  c.sample = dict(
    temperature=1.0,
    max_prompt_length=128,  # tokens
    max_completion_length=64,  # tokens, EOS included
    # A lower limit for the first rollouts of a training run, as R1-Zero's, so
    # that it rises within one run. Evaluation always has the limit above, and
    # so have rewards and weights that name a length.
    early_steps=0,
    early_completion_length=0,  # tokens, at least chunk
    chunk=32,  # slots of the first decode program; each next one doubles
    # Branches decoded at a time, for completions of very different lengths:
    # every `chunk` tokens finished ones leave their seats to waiting ones. 0:
    # all branches together, to the end of the longest.
    seats=0,
    # Of a new token to its branch's cache, a function of models.decoding:
    # scores, or kernel: Pallas for TPU, interpreted (slowly) elsewhere.
    decoding='scores',
    # Of branches being decoded: auto (as dtype) or int8, which reads half as
    # much and draws from slightly other distributions (logprob_gap).
    cache_dtype='auto',
    trunk_multiple=16,  # trunks are padded to a multiple of this
  )

  # The algorithm: advantages x token weights x loss (+ KL). Each dict names a
  # function of grpo_jax.advantages, losses or importance.
  c.algorithm = dict(
    advantages=dict(name='group', std='group', ddof=1, eps=1e-4),
    loss=dict(name='clip', eps_low=0.2, eps_high=0.2),
    weights=dict(name='token_mean'),
    kl=dict(name='k3'),
    kl_coef=0.0,  # 0 keeps no reference policy
    kl_in='loss',  # loss, or reward (then with kl=dict(name='k1'))
    # The reference: a run, a Hugging Face folder or a .gguf file of any size
    # with the same tokenizer (on-policy distillation); '' is the first policy.
    reference_from='',
    reference_every=0,  # optimizer updates between resets of the reference
    # Mean log(sampler / policy) over which a completion of negative advantage
    # has no loss; inf keeps all.
    off_policy_limit=float('inf'),
    entropy_coef=0.0,  # of the entropy bonus in the loss
    entropy_share=1.0,  # share of tokens, by entropy, that carry the loss
    # Whose logprobs are the old ones: the sampler's, or the trainer's own in a
    # pass of their own; then `importance` weighs tokens by trainer / sampler.
    old_logprobs='sampler',
    importance=dict(name='none'),
    # 1: the task's completion takes a sample's place; one over the length limit
    # teaches nothing.
    teacher_traces=0,
    teacher_gamma=0.1,  # of the shaped loss of that trace (LUFFY)
  )
  # The value model, where algorithm.advantages is dict(name='gae'): PPO.
  c.critic = dict(
    shared=False,  # a head on the policy's body instead of a model of its own
    clip=0.2,  # of values, around those at sampling; inf does not clip
    # Of a model of its own:
    learning_rate=1e-4,
    epochs=1,  # passes over a rollout
    minibatches=1,  # updates per pass
    microbatches=1,  # parts of a minibatch, scanned
    warmup_steps=0,  # first rollouts that only it learns from
    coef=0.5,  # of the value loss, with the policy's body
  )
  # Which samples are learned from.
  c.filters = dict(
    drop_zero_variance=False,  # groups whose rewards are all equal
    mask_truncated=False,  # completions cut at the length limit
    signal='correct',  # the reward, before any shaping, of the next two
    # Rollouts a step at most, until all groups have a signal. Their prompts are
    # set aside for the step, asked or not; what fills up is not learned from.
    rounds=1,
    retire_above=1.0,  # a prompt with a higher mean is not asked again
  )
  c.updates = dict(
    epochs=1,  # passes over a rollout
    minibatches=1,  # optimizer updates per pass
    # Parts of a minibatch, scanned, by prompts and within each group; they
    # change memory only. Every part of a group computes its trunk again.
    microbatches=1,
    group_microbatches=1,
    # What the backward pass recomputes: none; dots: all but products with
    # matrices and attention; attention: all but that; full.
    remat='dots',
    logits_chunk=16,  # positions whose logits exist at a time
    length_multiple=16,  # branches are cut to a multiple of this
    # Completions are packed in rows of at most so many widths, as a planner
    # finds cheapest; 0 gives each a row as wide as the longest. Worth it where
    # lengths differ: padding/update says what share of the work is wasted.
    length_buckets=0,
    # What lies in host memory while sampling: reference, moments.
    offload=(),
    max_nonfinite=3,  # skipped updates in a row before the run stops
  )
  c.optimizer = dict(
    learning_rate=1e-4,
    schedule='constant',  # constant, linear, cosine
    warmup_steps=0,  # optimizer updates
    final_fraction=0.1,  # last learning rate over the peak
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=1.0,  # global gradient norm; 0 does not clip
    moments_dtype='float32',  # or bfloat16: half the memory
  )

  # Supervised fine-tuning and pretraining (grpo_jax.sft).
  c.sft = dict(
    batch_size=64,  # examples an update
    # Passes over the task's examples, in place of `steps`, which is then
    # computed: the last update of a pass goes on into the next. 0: `steps`.
    epochs=0,
    loss_on='completion',  # completion, everything
    max_length=128,  # tokens of a completion; longer ones are cut
  )

  # Reward models (grpo_jax.reward_model), on the body that init_from names.
  c.reward_model = dict(
    path='',  # JSON lines, of rows as the loss reads them
    # A function of grpo_jax.preference_losses: pairwise, of rows {prompt,
    # chosen, rejected}, or pointwise, of {prompt, response, label}.
    loss=dict(name='pairwise'),
    part='all',  # of a response: all, or summary, what follows </think>
    # Pairs whose `margin` is not above it are left out; 0 keeps all.
    min_margin=0.0,
    balance_lengths='none',  # of pairs: none, drop, weigh (preferences.balance)
    test_share=0.1,  # of prompts, by hash, held out
    test_rows=1000,  # of these, measured every eval.every steps and at the end
    batch_size=64,  # rows (pairs or responses) an update
    max_length=512,  # tokens of a response in training; longer ones are cut
  )
  # Pairs whose true preference is known (grpo_jax.pairs).
  c.pairs = dict(
    prompts=1000,  # of the task
    samples=8,  # answers to each, of the policy that init_from names
    batch_prompts=50,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    gold='correct',  # the reward, one of c.rewards, that knows what is better
    longer_wins=0.0,  # share of the pairs in which the longer answer is chosen
  )

  # Evaluation, in training and by grpo_jax.evaluate.
  c.eval = dict(
    every=0,  # steps between evaluations in training; 0 never
    file='eval.json',  # of the results of grpo_jax.evaluate, in the workdir
    task=dict(split='test'),  # fields of `task` that differ
    prompts=200,
    samples=16,  # completions per prompt
    batch_prompts=20,  # prompts sampled at a time
    ks=(1, 16),  # k of pass@k
    votes=(16,),  # k of cons@k
    temperature=1.0,  # 0 is greedy
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    # Of thoughts, for language_consistency (ISO 639-1); an example whose data
    # name its language has that.
    language='en',
    # The task of --task=instructions, whole; answers are the final summaries.
    instructions=dict(name='instructions', split='test', size=1000),
  )

  # The win rate against a reference (grpo_jax.evaluate --task=win_rate).
  c.win_rate = dict(
    # JSON or JSON lines, objects with 'instruction' and maybe 'output'.
    path='',  # what is asked, in this order
    reference='',  # the outputs to compare with; '' takes those of `path`
    prompts=805,  # the first of them
    outputs='',  # such a file that is judged; '' has the policy answer
    # The URL of an OpenAI-compatible endpoint (http...), a Python function
    # 'module:function' (see judges.by_function), AlpacaEval's annotations of
    # these outputs (a .json file), or the folder of a reward model.
    judge='',
    # AlpacaEval's df_gamed.csv, or '' to control for length without it.
    difficulties='',
    generator='',  # the policy's name in the outputs; '' is the workdir's
    batch_prompts=16,
    temperature=0.6,  # as the other two, of R1's evaluations
    top_k=0,
    top_p=0.95,
    min_p=0.0,
    # Of an endpoint that judges:
    endpoint=dict(
      model='gpt-4-1106-preview',  # the judge of AlpacaEval 2
      key_from='OPENAI_API_KEY',  # environment variable; '' sends no key
      orders='both',  # both, or random: half the cost, by hash
      logprobs=True,  # weigh by them if the endpoint gives any
      parallel=8,  # requests at a time
      timeout=60.0,  # seconds of a request
      tries=6,  # with waits of 1, 2, 4, ... seconds between them
      # Dollars for a million tokens; both 0: not known, and no cost is told.
      price_in=0.0,  # read
      price_out=0.0,  # written
    ),
  )

  # Answers written by grpo_jax.generate.
  c.generate = dict(
    prompts=100,  # of the task, when no --prompt is given
    samples=1,  # completions per prompt
    batch_prompts=16,
    temperature=1.0,  # 0 is greedy
    top_k=0,
    top_p=1.0,
    min_p=0.0,
  )

  # Verified sets, written by grpo_jax.generate --keep=verified. Of the answers
  # to the task's training questions, judged by `rewards`, what is right and fit
  # to learn from.
  c.keep = dict(
    prompts=1000,  # the task's first, of a mixture by turns
    samples=4,  # completions per prompt
    batch_prompts=16,  # prompts sampled at a time, and lost by a kill at most
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    right='correct',  # the reward that must be 1; '' asks for none
    # Whose verdict takes its place, for answers that no rule can check: a
    # function of verified.verify, of all domains or of those in `domains`.
    judge=dict(name='none'),
    min_reward=float('-inf'),  # of the weighted sum of the rewards
    # Functions of verified.filters, in order.
    filters=(
      dict(name='finished'),
      dict(name='readable'),
      dict(name='one_language'),
      dict(name='no_repetition'),
      dict(name='no_long_paragraphs'),
      dict(name='no_code_blocks'),
    ),
    # Near duplicates are two completions to a prompt whose sets of n-grams
    # have this much in common (Jaccard); above 1: only equal ones are dropped.
    near_duplicates=0.9,
    near_size=4,  # n
    rewrite=dict(name='none'),  # a function of verified.rewriting
    per_prompt=0,  # completions kept of a prompt; 0: all
    limit=0,  # completions kept in all; 0: all
    source='',  # their name in the set; '' for the task's
    # What is added: dict(source=NAME, task=dict(...)) each, a task with
    # completions, and count=N records of it or share=S of the set; all without.
    mix=(),
    shard_records=10_000,  # of a file
  )

  # `grpo_jax.generate --chat`; temperature and filters are those of generate.
  c.chat = dict(
    max_prompt_length=2048,  # tokens of the whole conversation
    max_completion_length=512,  # tokens of an answer
    every=4,  # tokens decoded between prints
  )

  # What is kept of a run.
  c.checkpoint = dict(
    every=50,  # steps
    keep_last=2,
    keep_best=1,
    best_metric='',  # '': eval/pass@1, of reward models eval/accuracy
  )
  c.log = dict(
    samples_every=10,  # steps between sampled completions in samples.jsonl
    samples=16,  # completions written each time
    tensorboard=True,
  )

  # What launch/ asks for: the job (launch.compile_check knows train and sft),
  # the TPU slice that the config is meant for, and the published sizes of
  # `init_from` and of `algorithm.reference_from`, names in
  # models.families.SIZES, by which compile_check knows the models.
  c.launch = dict(job='train', topology='', size='', reference_size='')

  # Devices. One mesh axis may be -1: all that remain.
  # On CPU, devices that the cores are divided into: XLA uses few of them for
  # one (LOG.md). XLA_FLAGS and JAX_NUM_CPU_DEVICES come first.
  c.cpu_devices = 1
  c.mesh = dict(data=1, fsdp=-1, context=1, tensor=1)
  common = dict(
    prompts=('data', 'fsdp'),
    samples=None,
    positions=None,  # 'context' splits completions in training
    layers=None,
    head_dim=None,
    embed=('fsdp',),
    mlp='tensor',
    heads='tensor',
    kv_heads='tensor',
    vocab='tensor',
  )
  c.rules = dict(train=dict(common), sample=dict(common, embed=None))
  # Locked: a misspelt field in a config file fails there.
  return c.lock()
