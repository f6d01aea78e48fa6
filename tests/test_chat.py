"""Talking to a checkpoint: streaming, the thought dimmed, turns, commands."""

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
import talker
import tiny
from tokenizers import decoders

from configs import base
from grpo_jax import answers, chat, policy, programs, questions, streaming
from grpo_jax.tasks import of_prompts

DIM, PLAIN = '\x1b[2m', '\x1b[0m'
# Bytes of 2, 3 and 4 a character.
TEXT = 'é und 日本 🙂!'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return talker.write(tmp_path_factory.mktemp('talker') / 'model')


def config(folder, **fields):
  c = base.get_config()
  c.init_from = str(folder)
  c.sample.update(chunk=32, trunk_multiple=64)
  c.chat.update(max_prompt_length=64, max_completion_length=32, every=1)
  c.update_from_flattened_dict(fields)
  return c


class Terminal(io.StringIO):
  """What a terminal would be shown."""

  def isatty(self):
    return True


def talk(monkeypatch, capsys, cfg, *lines, terminal=False):
  """Standard output and standard error of a session with these lines."""
  out = Terminal() if terminal else io.StringIO()
  with monkeypatch.context() as m:
    m.setattr(sys, 'stdin', io.StringIO(''.join(f'{x}\n' for x in lines)))
    m.setattr(sys, 'stdout', out)
    chat.run(cfg)
  return out.getvalue(), capsys.readouterr().err


def in_one_go(cfg, *texts, temperature=1.0):
  """What the sampler gives for these prompts, written already."""
  pol = policy.open_policy(cfg)
  plain = cfg.copy_and_resolve_references()
  plain.prompt.update(chat=False)
  task = of_prompts(texts)
  examples = [task.example(i) for i in range(len(task))]
  answerer = answers.Answerer(
    pol,
    questions.questions_of(task, plain, pol.tokenizer),
    samples=1,
    batch_prompts=len(texts),
    max_completion_length=32,
    chunk=32,
    seats=0,
    temperature=temperature,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
  )
  params = programs.publish(pol)(pol.params())
  [part] = answerer.run(params, examples, seed=cfg.seed)
  return [row[0] for row in part.completions]


@pytest.fixture(scope='module')
def expected(folder):
  """Two turns without streaming: the second prompt holds the first."""
  [first] = in_one_go(config(folder), '[user]hi[assistant]')
  again = f'[user]hi[assistant]{first}[user]you[assistant]'
  _, second = in_one_go(config(folder), '[user]hi[assistant]', again)
  return first, second


def test_what_is_streamed_is_what_one_go_samples(
  folder, expected, monkeypatch, capsys
):
  out, err = talk(monkeypatch, capsys, config(folder), 'hi', 'you', '/quit')
  first, second = expected
  assert first.startswith(talker.THOUGHT) and first != second
  assert out == f'{first}\n{second}\n'
  assert "turns by the tokenizer's chat template" in err


def test_tokens_come_as_many_at_a_time_as_asked(folder):
  cfg = config(folder, **{'chat.every': 3})
  talking = chat.Chat(cfg, policy.open_policy(cfg))
  sizes = [len(piece) for piece in talking.answer('hi')]
  assert set(sizes[:-1]) == {3} and 1 <= sizes[-1] <= 3


@pytest.mark.parametrize('no_color', ['', '1'])
def test_a_terminal_shows_the_thought_dimmed_unless_told_not_to(
  folder, expected, monkeypatch, capsys, no_color
):
  monkeypatch.setenv('NO_COLOR', no_color)
  out, _ = talk(monkeypatch, capsys, config(folder), 'hi', terminal=True)
  first = expected[0]
  if no_color:
    assert out == f'{first}\n'
  else:
    said = first.removeprefix(talker.THOUGHT)
    assert out == f'{DIM}{talker.THOUGHT}{PLAIN}{said}{PLAIN}\n'


@pytest.mark.parametrize('no_color', ['', '1'])
def test_with_or_without_colours_a_terminal_gets_no_control_characters(
  folder, monkeypatch, capsys, no_color
):
  def texts(pieces, **_):
    yield from ('a\x1b]52;c;x\x07' for _ in pieces)

  monkeypatch.setenv('NO_COLOR', no_color)
  monkeypatch.setattr(streaming, 'texts', texts)
  out, _ = talk(monkeypatch, capsys, config(folder), 'hi', terminal=True)
  assert 'a\u241b]52;c;x\u2407' in out
  assert '\x07' not in out and '\x1b]' not in out


def test_commands_do_what_they_say(folder, expected, monkeypatch, capsys):
  lines = (
    '/help', 'hi', '/reset', '/temperature 0', '/temperature cold', '/rest', '',
    'a' * 64, 'hi', '/quit', 'hi',
  )  # fmt: skip
  out, err = talk(monkeypatch, capsys, config(folder), *lines)
  # Of equals it takes the first, which goes on without an end.
  greedy = talker.THOUGHT + talker.LETTERS[0] * 14
  assert out.splitlines() == [expected[0], greedy]
  told = err.splitlines()
  for command in ('/reset', '/temperature X', '/help', '/quit'):
    assert any(line.startswith(command) for line in told)
  assert 'what was said is forgotten' in told
  assert 'temperature 0.0' in told
  assert 'error: no command /rest; /help lists them' in told
  assert any(line.startswith('error: /temperature cold: ') for line in told)
  # [user], 64 letters, [assistant].
  assert (
    'error: the prompt has 66 tokens, the limit is 64: raise '
    '--config.chat.max_prompt_length'
  ) in told
  assert told[-1] == 'cut at chat.max_completion_length=32 tokens'


def test_a_run_that_was_trained_without_turns_has_none(folder):
  cfg = config(folder)
  tokenizer = policy.open_policy(cfg).tokenizer
  assert chat.takes_turns(cfg, tokenizer, of_run=False)
  assert not chat.takes_turns(cfg, tokenizer, of_run=True)
  cfg.prompt.chat = True
  assert chat.takes_turns(cfg, tokenizer, of_run=True)


def test_a_template_of_the_config_asks_each_question_alone(folder):
  cfg = config(folder, **{'prompt.template': 'Q: {prompt} A:'})
  talking = chat.Chat(cfg, policy.open_policy(cfg))
  talking.turns.append(('hi', 'é'))
  assert talking.text('you') == 'Q: you A:'
  assert "by prompt.template='Q: {prompt} A:'" in talking.described()
  cfg.prompt.chat = True
  talking = chat.Chat(cfg, policy.open_policy(cfg))
  talking.turns.append(('hi', 'é'))
  assert talking.text('you') == (
    '[user]Q: hi A:[assistant]é[user]Q: you A:[assistant]'
  )


def byte_fallback():
  """Llama's way: bytes that are no token of their own, written <0xC3>."""
  found = talker.backend()
  found.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
  return lambda ids: found.decoder.decode([f'<0x{i:02X}>' for i in ids])


@pytest.mark.parametrize('kind', ['byte level', 'byte fallback'])
@pytest.mark.parametrize('size', [1, 2, 3])
def test_a_character_split_over_tokens_is_shown_once_it_is_whole(kind, size):
  if kind == 'byte level':
    ids, decode = talker.backend().encode(TEXT).ids, talker.backend().decode
  else:
    ids, decode = list(TEXT.encode()), byte_fallback()
  assert len(ids) == len(TEXT.encode())
  pieces = [ids[i : i + size] for i in range(0, len(ids), size)]
  shown = list(streaming.texts(pieces, decode=decode, stop_ids=()))
  assert ''.join(shown) == TEXT
  assert not any('\N{REPLACEMENT CHARACTER}' in piece for piece in shown)
  assert len(shown) > len(TEXT) / size / 2


def test_a_character_that_is_never_completed_shows_at_the_end():
  ids = [*b'a\xe6\x97']
  shown = list(
    streaming.texts([[i] for i in ids], decode=byte_fallback(), stop_ids=())
  )
  assert shown == ['a', byte_fallback()(ids[1:])]


@pytest.mark.parametrize('size', [1, 2, 5, 100])
def test_a_tag_cut_anywhere_switches_the_dimming(size):
  text = 'a<b<think>x</thin</think>c<think>d'
  pieces = [text[i : i + size] for i in range(0, len(text), size)]
  shown = ''.join(streaming.dimmed(pieces, thinking=False))
  assert shown == (
    f'a<b{DIM}<think>x</thin</think>{PLAIN}c{DIM}<think>d{PLAIN}'
  )


def test_a_thought_that_the_prompt_has_opened_is_dimmed_from_the_start():
  shown = ''.join(streaming.dimmed(['x</think>y'], thinking=True))
  assert shown == f'{DIM}x</think>{PLAIN}y'


def test_a_model_cannot_drive_the_terminal():
  shown = ''.join(streaming.pictured(['a\x1b[2J\r\x9b\n\t']))
  assert shown == 'a\u241b[2J\u240d\N{REPLACEMENT CHARACTER}\n\t'


class Session:
  """`generate --chat` on a terminal of its own."""

  def __init__(self, *flags):
    self.ours, theirs = pty.openpty()
    self.seen = ''
    self.process = tiny.start(
      'generate', '--config=', '--chat', *flags,
      stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)

  def type(self, text):
    os.write(self.ours, text.encode())

  def press_ctrl_c(self):
    self.process.send_signal(signal.SIGINT)

  def until(self, text):
    """Reads on until this is shown; all that was shown on the way."""
    end = time.monotonic() + 200
    while text not in self.seen and time.monotonic() < end:
      if not select.select([self.ours], [], [], 1)[0]:
        continue
      try:
        self.seen += os.read(self.ours, 4096).decode(errors='replace')
      except OSError:  # it has closed the terminal
        break
    before, found, self.seen = self.seen.partition(text)
    assert found, f'no {text!r} after {before!r}'
    return before


def test_ctrl_c_stops_an_answer_and_then_the_session(folder, monkeypatch):
  monkeypatch.delenv('NO_COLOR', raising=False)
  session = Session(
    f'--init_from={folder}', '--config.generate.temperature=0.0',
    '--config.sample.chunk=4096', '--config.chat.max_completion_length=4096',
    '--config.chat.every=1',
  )  # fmt: skip
  session.until('> ')
  session.type('hi\n')
  shown = session.until(talker.LETTERS[0])
  assert f'{DIM}{talker.THOUGHT}{PLAIN}' in shown
  session.press_ctrl_c()
  session.until('stopped, and no part of what was said')
  session.until('> ')
  # Readline may swallow one that comes in the instant of its prompt.
  for _ in range(50):
    session.press_ctrl_c()
    with contextlib.suppress(subprocess.TimeoutExpired):
      session.process.wait(4)
      break
  assert session.process.wait(1) == 128 + signal.SIGINT
