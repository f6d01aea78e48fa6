"""Host work of one step, part by part, as one process of several does it.

The functions are those of `train`. Arrays of which the process has a block are
stood in for by `Held`, so H hosts need no devices: this is the work of the
first, which has 1/H of the rows, and whatever it does for all rows.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import itertools
import pathlib
import statistics
import time
import types

import jax
import numpy as np
from scipy import optimize
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from grpo_jax import (
  config,
  layout,
  metrics,
  questions,
  rewards,
  rollout,
  sharding,
  tasks,
)  # fmt: skip
from grpo_jax import grader as grader_lib
from grpo_jax import tokenizer as tokenizer_lib

# What the time of a part may grow with: (of this host, of all hosts).
TERMS = ('constant', 'rows here', 'tokens here', 'rows', 'tokens')
# Parts that see tokens, and the one that makes arrays of all hosts' tokens.
# Others cannot grow with those, so a fit must not find that they do.
_BY_TOKENS, _BY_ALL_TOKENS = ('texts', 'grade'), ('texts',)
_CLIPPED = 8  # one completion in so many has no end


@dataclasses.dataclass(frozen=True)
class Size:
  """A step: Q prompts, G samples of C tokens each, over H hosts."""

  prompts: int
  group: int
  completion: int
  hosts: int

  @property
  def block(self) -> tuple[slice, slice]:
    """Prompts and samples of the first host; prompts are split first."""
    by_prompt = min(self.hosts, self.prompts)
    by_sample = self.hosts // by_prompt
    if self.prompts % by_prompt or self.group % by_sample:
      raise ValueError(f'{self}: its rows do not divide over the hosts')
    return slice(self.prompts // by_prompt), slice(self.group // by_sample)

  def terms(self) -> np.ndarray:
    """The values of `TERMS`."""
    rows, c = self.prompts * self.group, self.completion
    here = -(-rows // self.hosts)
    return np.array([1, here, here * c, rows, rows * c], np.float64)


class Held:
  """A global array of which this process has one block, and its sharding."""

  is_fully_addressable = is_fully_replicated = False

  def __init__(self, shape, block, data):
    self.shape, self.dtype, self._block = shape, data.dtype, block
    shard = types.SimpleNamespace(index=block, data=data)
    self.addressable_shards, self.sharding = [shard], self

  def addressable_devices_indices_map(self, shape):
    return {0: self._block[: len(shape)]}


class Clock:
  """Medians of CPU seconds by part: other work of the machine is not in."""

  def __init__(self, repeats: int, now: Callable[[], float]):
    self.seconds, self._repeats, self._now = {}, repeats, now

  def __call__(self, part: str, work: Callable):
    """The result of `work`, run several times."""
    taken = []
    for _ in range(self._repeats):
      begin = self._now()
      result = work()
      taken.append(self._now() - begin)
    self.seconds[part] = statistics.median(taken)
    return result


def measure(
  cfg,
  size: Size,
  *,
  tokenizer: tokenizer_lib.Tokenizer,
  folder: pathlib.Path,
  repeats: int = 5,
  now: Callable[[], float] = time.process_time,
) -> dict[str, float]:
  """Seconds of each part of a step's host work.

  Args:
    cfg: its task, prompt, rewards, log and sample.max_prompt_length count.
    size: of the step.
    tokenizer: of prompts and completions.
    folder: for the files that are written.
    repeats: of each part; the median counts.
    now: a clock.
  """
  clock = Clock(repeats, now)
  task = config.pick(tasks, cfg.task.to_dict())()
  asked = questions.questions_of(task, cfg, tokenizer)
  rows = (size.prompts, size.group)
  held = _rollout(size, tokenizer)
  drawn = itertools.count()
  indices = clock('draw', lambda: asked.indices(next(drawn), size.prompts))
  here = clock('here', lambda: sharding.here(held.mask, (size.prompts,)))
  examples = clock('read', lambda: asked.read(indices, here))
  ids = clock('tokenise', lambda: _ids(asked, examples))
  clock('lay out', lambda: _prompts(asked, ids))
  completions, finished = clock(
    'texts',
    lambda: rollout.read_texts(
      held,
      examples,
      opening=asked.opening,
      decode=lambda ids: tokenizer.decode(ids, skip_special=False),
      stop_ids=tokenizer.eos_ids,
    ),
  )
  grader = grader_lib.Grader(cfg, task)
  graded, components = clock(
    'grade', lambda: grader.grade(0, completions, examples)
  )
  # As after the exchange: numbers of all rows are known here.
  collected = rollout.Collected(
    indices=indices,
    examples=examples,
    batch=None,
    completions=completions,
    rewards=np.nan_to_num(graded),
    components={k: np.nan_to_num(v) for k, v in components.items()},
    lengths=np.full(rows, size.completion),
    finished=finished,
    sampled=size.group,
  )
  values = clock(
    'metrics', lambda: rollout.metrics([collected], decoded=np.size)
  )
  shown = clock(
    'samples',
    lambda: rollout.samples(
      collected, np.zeros(rows), text=asked.text, most=cfg.log.samples
    ),
  )
  with metrics.Writer(folder, tensorboard=False) as writer:
    clock('write', lambda: _write(writer, values, shown))
  return clock.seconds


def pool_seconds(cfg, count: int, *, workers: int, repeats: int = 5) -> float:
  """Wall seconds of a completion by Math-Verify, in `workers` processes."""
  task = config.pick(tasks, cfg.task.to_dict())()
  examples = [task.example(i) for i in range(count)]
  fns = {'verify': rewards.math_verify(task=task, workers=workers)}
  answers = [[f'<answer>\\frac{{{i}}}{{3}}</answer>'] for i in range(count)]
  # Starts the processes.
  rewards.grade(answers, examples, fns)
  clock = Clock(repeats, time.perf_counter)
  clock('all', lambda: rewards.grade(answers, examples, fns))
  return clock.seconds['all'] / count


def index_seconds(shape: tuple[int, int, int]) -> dict[int, float]:
  """Devices -> seconds to find which block of [Q G C] each of them holds."""
  found, devices = {}, jax.devices()
  for count in _up_to(len(devices)):
    mesh = sharding.make_mesh(
      dict(data=1, fsdp=count, tensor=1), devices[:count]
    )
    where = jax.sharding.NamedSharding(mesh, jax.P('fsdp'))
    q = layout.round_up(shape[0], count)
    begin = time.process_time()
    # Of a shape that was not asked for before: JAX remembers them.
    where.addressable_devices_indices_map((q, *shape[1:]))
    found[count] = time.process_time() - begin
  return found


def fit(sizes: list[Size], seconds: list[Mapping[str, float]]) -> dict:
  """part -> {term: seconds of one}, none below 0, by relative error."""
  terms = np.stack([size.terms() for size in sizes])
  # Terms of one scale: nnls stops too early otherwise.
  scale, found = terms.max(0), {}
  for part in seconds[0]:
    taken = np.maximum([s[part] for s in seconds], 1e-6)[:, None]
    counts = [1, 1, part in _BY_TOKENS, 1, part in _BY_ALL_TOKENS]
    weights, _ = optimize.nnls(
      terms / scale * counts / taken, np.ones(len(sizes))
    )
    found[part] = dict(zip(TERMS, (weights / scale).tolist(), strict=True))
  return found


def predict(fitted: Mapping, size: Size) -> dict[str, float]:
  """part -> seconds of a size by `fit`."""
  return {
    part: float(np.dot(list(each.values()), size.terms()))
    for part, each in fitted.items()
  }


def byte_pairs(seed: int = 0) -> tokenizer_lib.Tokenizer:
  """A byte-level BPE as SmolLM2's or Qwen's, of 1,000 tokens, made here."""
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=1000,
    special_tokens=[tokenizer_lib.EOS],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  texts = itertools.islice(_working(np.random.RandomState(seed)), 2000)
  backend.train_from_iterator(texts, trainer)
  return tokenizer_lib.Tokenizer(
    backend, config={'eos_token': tokenizer_lib.EOS}, name='the made tokenizer'
  )


def _rollout(size, tokenizer):
  """This host's block of completions of C tokens that reason and answer."""
  prompts, samples = size.block
  shape = (size.prompts, size.group, size.completion)
  end = tokenizer.encode('</think> <answer>42</answer>', start=False)
  end.append(tokenizer.eos_ids[0])
  random, ids = np.random.RandomState(0), []
  for sentence in _working(random):
    if len(ids) >= 2 * size.completion:
      break
    ids += tokenizer.encode(sentence, start=False)
  targets = np.empty((prompts.stop, samples.stop, size.completion), np.int32)
  for row, branch in enumerate(targets.reshape(-1, size.completion)):
    begin = random.randint(size.completion)
    branch[:] = ids[begin : begin + size.completion]
    if row % _CLIPPED != _CLIPPED - 1:
      branch[-len(end) :] = end[-size.completion :]
  mask = np.ones(targets.shape, bool)
  block = (prompts, samples, slice(None))
  return types.SimpleNamespace(
    targets=Held(shape, block, targets), mask=Held(shape, block, mask)
  )


def _working(random) -> Iterator[str]:
  """Sentences such as a completion has."""
  words = ('so', 'then', 'we add', 'which is', 'let me check', 'carry the')
  while True:
    x, y = random.randint(1000, size=2)
    yield f'{words[x % len(words)]} {x} + {y} = {x + y}.\n'


def _ids(asked, examples):
  return [
    asked.ids(e, max_length=asked.max_length) if e is not None else []
    for e in examples
  ]


def _prompts(asked, ids):
  return layout.prompts(ids, multiple=asked.multiple, longest=asked.max_length)


def _write(writer, values, shown):
  writer.write(1, values)
  writer.samples(1, shown)


def _up_to(devices):
  return [n for n in (8, 64, 512, 4096) if n <= devices]
