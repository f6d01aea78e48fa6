"""A Jinja chat template, rendered as `transformers` renders it."""

from collections.abc import Mapping, Sequence
import datetime
import json
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from grpo_jax import errors


class ChatTemplate:
  """Conversations to text.

  Args:
    source: Jinja.
    name: of its tokenizer, for errors.

  Raises:
    ValueError: it does not parse.
  """

  def __init__(self, source: str, name: str):
    self.name = name
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True,
      lstrip_blocks=True,
      extensions=[jinja2.ext.loopcontrols, _Generation],
    )
    environment.filters['tojson'] = _tojson
    environment.globals['raise_exception'] = _raise_exception
    environment.globals['strftime_now'] = _strftime_now
    try:
      self._template = environment.from_string(source)
    except jinja2.TemplateError as error:
      raise ValueError(
        f'the chat template of {name} is damaged: {errors.line(error)}'
      ) from None

  def render(
    self,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
    **kwargs,
  ) -> str:
    """The conversation as text.

    Args:
      messages: dicts of 'role' and 'content'.
      special_tokens: bos_token, eos_token, ...
      add_generation_prompt: end where the assistant's turn begins.
      **kwargs: the template's own switches.

    Raises:
      ValueError: it refuses the conversation.
    """
    names = {
      'tools': None,
      'documents': None,
      **special_tokens,
      'messages': list(messages),
      'add_generation_prompt': add_generation_prompt,
      **kwargs,
    }
    try:
      return self._template.render(**names)
    except (jinja2.TemplateError, TypeError) as error:
      raise ValueError(
        f'the chat template of {self.name} refused the conversation: '
        f'{errors.line(error)}'
      ) from None


class _Generation(jinja2.ext.Extension):
  """{% generation %} marks what the assistant said; here it marks nothing."""

  tags = {'generation'}

  def parse(self, parser):
    next(parser.stream)
    return parser.parse_statements(['name:endgeneration'], drop_needle=True)


def _tojson(
  value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
):
  # Jinja's own escapes HTML characters, which changes what a model reads.
  return json.dumps(
    value,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _raise_exception(message: str):
  raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
  # Not the clock: a run must ask the same after midnight as before. The day is
  # the one that Llama's templates name when they have no clock.
  return datetime.datetime(2024, 7, 26).strftime(form)
