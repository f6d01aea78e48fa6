"""A conversation: `python -m grpo_jax.generate --chat --workdir=RUN`.

Answers are printed as they are decoded, the thought dimmed on a terminal (not
in a pipe, nor with NO_COLOR set). Earlier turns are part of the prompt by the
tokenizer's chat template, which also decides what becomes of old thoughts.
Without one, or where a run was trained without (R1-Zero), each question stands
alone, as in training.

The answer to question n of a session is a function of (seed, n, what was said);
a run's to the first is what `generate --prompt` gives. Notes go to stderr.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys

from grpo_jax import (
  errors,
  hosts,
  layout,
  policy,
  programs,
  prompts,
  samplers,
  sharding,
  streaming,
  validation,
)  # fmt: skip
from grpo_jax.rewards import text

HELP = """\
/reset          forget what was said
/temperature X  0 always takes the likeliest token
/help           this
/quit           leave; so does Ctrl-D
Ctrl-C stops an answer, and leaves when there is none."""


def run(cfg) -> None:
  """Answers until there are no more questions.

  Raises:
    ValueError: the config does not fit, or there are several processes.
  """
  validation.of_chat(cfg)
  if hosts.are_several():
    raise ValueError('--chat has one terminal: run it in a single process')
  chat = Chat(cfg, policy.open_policy(cfg))
  _note(f'{cfg.init_from}: {chat.described()}; /help lists commands')
  # What a shell has put in the background would ignore Ctrl-C.
  with _on_ctrl_c(signal.default_int_handler):
    _converse(chat)


class Chat:
  """A policy and what was said.

  Attributes:
    turns: (question, answer) pairs that the next prompt holds.
    asked: questions of the session.
    temperature: of the next answer; 0 is greedy.
  """

  def __init__(self, cfg, pol: policy.Policy):
    self.cfg, self.policy = cfg, pol.for_groups_of(1)
    self.rows = self.policy.rows('sample')
    step, params = pol.checkpoint()
    self.params = programs.publish(pol)(params)
    self.several = takes_turns(cfg, pol.tokenizer, of_run=step is not None)
    self.temperature = cfg.generate.temperature
    self.turns, self.asked, self.samplers = [], 0, {}

  def described(self) -> str:
    """How prompts are written."""
    if self.several:
      return "turns by the tokenizer's chat template"
    return (
      f'each question alone, by prompt.template={self.cfg.prompt.template!r}'
      + (
        ' (--config.prompt.chat for the chat template)'
        if self.policy.tokenizer.chat_template
        else ' (the tokenizer has no chat template)'
      )
    )

  def command(self, line: str) -> str:
    """Does what a line that begins with / asks; what to say of it.

    Raises:
      ValueError: there is no such command, or not that temperature.
    """
    name, _, value = line.partition(' ')
    if name == '/help':
      return HELP
    if name == '/reset':
      self.turns = []
      return 'what was said is forgotten'
    if name != '/temperature':
      raise ValueError(f'no command {name}; /help lists them')
    try:
      number = float(value)
    except ValueError:
      number = -1.0
    if not 0 <= number < float('inf'):
      raise ValueError(
        f'/temperature {value}: a number of at least 0 is needed; it is '
        f'{self.temperature}'
      )
    self.temperature = number
    return f'temperature {number}'

  def text(self, question: str) -> str:
    """What the policy continues."""
    spec = self.cfg.prompt.to_dict()
    earlier = [*spec.pop('shots'), *(self.turns if self.several else [])]
    return prompts.render(
      question,
      tokenizer=self.policy.tokenizer,
      **spec | dict(chat=self.several, shots=earlier),
    )

  def answer(self, question: str) -> Iterator[list[int]]:
    """New tokens of an answer, as they come.

    Raises:
      ValueError: the prompt is too long, or has a character without a token.
    """
    ids = self.policy.tokenizer.encode(self.text(question))
    limit = self.cfg.chat.max_prompt_length
    if not 0 < len(ids) <= limit:
      remedy = '/reset forgets what was said, or ' if self.turns else ''
      raise ValueError(
        f'the prompt has {len(ids)} tokens, the limit is {limit}: {remedy}'
        'raise --config.chat.max_prompt_length'
      )
    # Widths in powers of two: a conversation that grows compiles a few times.
    width = max(64, 1 << (len(ids) - 1).bit_length())
    # Every device has a prompt; the first is read.
    rows = layout.prompts([ids] * self.rows.ways[0], multiple=width)
    whole = sharding.replicated(self.policy.mesh)
    number, self.asked = self.asked, self.asked + 1
    return streaming.tokens(
      self._sampler(),
      self.params,
      self.rows.put(rows),
      programs.stream(self.cfg.seed, 'answers', 0, whole),
      first=number,
      every=self.cfg.chat.every,
    )

  def _sampler(self):
    """Of the temperature, which is compiled in."""
    if self.temperature not in self.samplers:
      g = self.cfg.generate
      self.samplers[self.temperature] = samplers.sampler(
        self.policy,
        group_size=1,
        max_completion_length=self.cfg.chat.max_completion_length,
        chunk=self.cfg.sample.chunk,
        temperature=self.temperature,
        top_k=g.top_k,
        top_p=g.top_p,
        min_p=g.min_p,
      )
    return self.samplers[self.temperature]


def takes_turns(cfg, tokenizer, *, of_run: bool) -> bool:
  """Whether prompts are conversations by the tokenizer's chat template.

  A run's own prompts are what it was trained on, and a template of the config's
  own was asked for: both have precedence over a chat template that is merely
  there.
  """
  bare = cfg.prompt.template in ('plain', '{prompt}') and not of_run
  return cfg.prompt.chat or (bare and bool(tokenizer.chat_template))


def _converse(chat):
  """Takes lines until there are no more."""
  for line in _lines():
    line = line.strip()
    if line == '/quit':
      return
    try:
      if line.startswith('/'):
        _note(chat.command(line))
      elif line:
        _answer(chat, line)
    except ValueError as error:
      errors.tell(error)


def _answer(chat, question):
  """Prints one as it comes; it is a turn unless it was stopped."""
  tokens, ids, out = chat.answer(question), [], sys.stdout
  terminal = out.isatty()
  dims = terminal and not os.environ.get('NO_COLOR')
  with _stoppable() as stopping:
    shown = streaming.texts(
      _until(stopping, tokens, ids),
      decode=chat.policy.decode,
      stop_ids=chat.policy.stop_ids,
    )
    if terminal:
      shown = streaming.pictured(shown)
    if dims:
      opened = chat.text(question).rstrip().endswith(text.THINK)
      shown = streaming.dimmed(shown, thinking=opened)
    try:
      for piece in shown:
        print(piece, end='', flush=True, file=out)
    finally:
      print(streaming.PLAIN if dims else '', flush=True, file=out)
    if stopping():
      _note('stopped, and no part of what was said')
      return
  if ids[-1] in chat.policy.stop_ids:
    ids.pop()
  else:
    _note(f'cut at chat.max_completion_length={len(ids)} tokens')
  chat.turns.append((question, chat.policy.decode(ids)))


def _until(stopping, pieces, seen):
  """The pieces until asked to stop; `seen` gets all their tokens."""
  for piece in pieces:
    seen += piece
    yield piece
    if stopping():
      return


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
  """Within it a first Ctrl-C only answers 'asked to stop?'; a second leaves."""
  asked = []

  def handle(*_):
    if asked:
      raise KeyboardInterrupt
    asked.append(True)

  with _on_ctrl_c(handle):
    yield lambda: bool(asked)


@contextlib.contextmanager
def _on_ctrl_c(handle):
  before = signal.signal(signal.SIGINT, handle)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


def _lines():
  """Lines of standard input; a terminal is asked for them."""
  terminal = sys.stdin.isatty()
  if terminal:
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401 (input() then edits and remembers lines)
  while True:
    try:
      yield input('> ' if terminal else '')
    except EOFError:
      return


def _note(told):
  print(told, file=sys.stderr, flush=True)
