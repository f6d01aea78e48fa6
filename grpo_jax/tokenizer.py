"""Text to token ids and back, for tiny character models and for real ones.

Before stage 2 and after stage 4 of a step. One class around the `tokenizers`
package, made from an alphabet (`char`), from a Hugging Face folder
(`from_folder`), or from its parts. `chat` renders the folder's own template.
"""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from grpo_jax import errors
from grpo_jax.chat_template import ChatTemplate

PAD, EOS = '<pad>', '<eos>'
_SPECIAL_NAMES = ('bos_token', 'eos_token', 'pad_token', 'unk_token')


class Tokenizer:
  """A vocabulary, its special tokens and its chat template.

  Args:
    backend: the `tokenizers` object.
    config: contents of tokenizer_config.json.
    generation: contents of generation_config.json: its `eos_token_id` (one or
      several) and `pad_token_id` are used.
    chat_template: Jinja source; '' for none.
    name: what error messages call it.

  Attributes:
    eos_ids: every id that ends a completion; never empty.
    pad_id: may be one of `eos_ids`; masks come from lengths, never from ids.
    vocab_size: one more than the highest id, added tokens included. A model
      may have more rows; those are never sampled.
    special_tokens: name -> text of bos_token, eos_token, ...

  Raises:
    ValueError: no end-of-sequence token, or one that is not in the vocabulary.
  """

  def __init__(
    self,
    backend: tokenizers.Tokenizer,
    *,
    config: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
    chat_template: str = '',
    name: str = 'tokenizer',
  ):
    self.backend, self.name = backend, name
    self._config = dict(config)
    self._generation = {} if generation is None else dict(generation)
    self.chat_template = chat_template
    self.special_tokens = _special_tokens(config)
    self.vocab_size = 1 + max(backend.get_vocab().values(), default=-1)
    self.eos_ids = self._find_eos()
    self.pad_id = self._find_pad()
    self._prefix = _prefix(backend)
    # Compiled here, so that a damaged template fails before any work.
    self._template = (
      ChatTemplate(chat_template, name) if chat_template else None
    )

  def encode(self, text: str, *, start: bool = True) -> list[int]:
    """Token ids of a text.

    Args:
      text: special tokens written out in it become their single ids.
      start: whether the text begins a sequence. Then the tokens that the
        tokenizer.json's post-processor puts in front (a BOS, in Llama's) are
        put there, unless the text begins with them already, as a rendered chat
        does. What it would append (an EOS) never is. Completions, which go on
        from a prompt, are encoded with start=False.

    Raises:
      ValueError: a character that the vocabulary cannot express.
    """
    try:
      ids = self.backend.encode(text, add_special_tokens=False).ids
    except Exception as error:
      raise ValueError(self._unencodable(text, error)) from None
    if start and ids[: len(self._prefix)] != self._prefix:
      return self._prefix + ids
    return ids

  def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
    """Text of token ids; ids beyond the vocabulary (padding rows) are dropped.

    Args:
      ids: any integers.
      skip_special: drop pad, BOS, EOS and the like; tags such as <think> are
        text and stay.
    """
    known = [int(i) for i in ids if 0 <= i < self.vocab_size]
    return self.backend.decode(known, skip_special_tokens=skip_special)

  def chat(
    self,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    **kwargs,
  ) -> str:
    """The conversation as text, by the chat template.

    The text holds the template's own BOS; `encode` does not add another.

    Args:
      messages: dicts of 'role' and 'content'.
      add_generation_prompt: end where the assistant's turn begins.
      **kwargs: the template's own switches, such as `date_string`.

    Raises:
      ValueError: there is no template, or it refuses the conversation.
    """
    if self._template is None:
      raise ValueError(
        f'{self.name} has no chat template; set prompt.chat=False or add a '
        'chat_template.jinja'
      )
    return self._template.render(
      messages,
      special_tokens=self.special_tokens,
      add_generation_prompt=add_generation_prompt,
      **kwargs,
    )

  def save(self, folder: str | pathlib.Path):
    """Writes the files that `from_folder` and `transformers` load."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Names alone: how a special token matches is in tokenizer.json.
    config = {**self._config, **self.special_tokens}
    config.setdefault('tokenizer_class', 'PreTrainedTokenizerFast')
    config.pop('chat_template', None)
    self.backend.save(str(folder / 'tokenizer.json'))
    _write_json(folder / 'tokenizer_config.json', config)
    _write_json(folder / 'special_tokens_map.json', self.special_tokens)
    generation = {
      'pad_token_id': self.pad_id,
      **self._generation,
      'eos_token_id': list(self.eos_ids),
    }
    _write_json(folder / 'generation_config.json', generation)
    if self.chat_template:
      path = folder / 'chat_template.jinja'
      path.write_text(self.chat_template, encoding='utf-8')

  def _find_eos(self) -> tuple[int, ...]:
    ids = []
    if 'eos_token' in self.special_tokens:
      ids.append(self._id(self.special_tokens['eos_token']))
    more = self._generation.get('eos_token_id')
    if more is not None:
      ids += [more] if isinstance(more, int) else list(more)
    wrong = [i for i in ids if not 0 <= i < self.vocab_size]
    if wrong or not ids:
      raise ValueError(
        f'{self.name}: end-of-sequence ids {ids}, vocabulary of '
        f'{self.vocab_size}: set eos_token in tokenizer_config.json or '
        'eos_token_id in generation_config.json to tokens it has'
      )
    return tuple(dict.fromkeys(ids))

  def _find_pad(self) -> int:
    if 'pad_token' in self.special_tokens:
      return self._id(self.special_tokens['pad_token'])
    pad = self._generation.get('pad_token_id')
    return self.eos_ids[0] if pad is None else pad

  def _id(self, token: str) -> int:
    found = self.backend.token_to_id(token)
    if found is None:
      raise ValueError(
        f'{self.name}: {token!r} of tokenizer_config.json is not in the '
        'vocabulary of tokenizer.json'
      )
    return found

  def _unencodable(self, text: str, error: Exception) -> str:
    rest = text
    for added in self.backend.get_added_tokens_decoder().values():
      rest = rest.replace(added.content, '')
    for character in dict.fromkeys(rest):
      try:
        self.backend.encode(character, add_special_tokens=False)
      except Exception:
        return (
          f'{self.name} has no token for the character {character!r} in '
          f'{text[:60]!r}; add it to the alphabet'
        )
    return f'{self.name} cannot encode {text[:60]!r}: {errors.line(error)}'


def char(*, alphabet: str, specials: tuple[str, ...] = ()) -> Tokenizer:
  """A token for every character of the alphabet and for every special.

  Ids: <pad> 0, <eos> 1, then the specials, then the alphabet, in order.

  Args:
    alphabet: the characters, each once.
    specials: texts such as '<think>' that are one token each. They are text to
      `decode`, which keeps them.
  """
  tokens = [PAD, EOS, *specials, *alphabet]
  vocab = {token: i for i, token in enumerate(tokens)}
  repeated = sorted({t for i, t in enumerate(tokens) if vocab[t] != i})
  if repeated or not alphabet:
    raise ValueError(
      f'alphabet={alphabet!r}, specials={specials}: an alphabet of distinct '
      f'characters and other specials is needed; repeated: {repeated}'
    )
  backend = tokenizers.Tokenizer(models.WordLevel(vocab))
  backend.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
  backend.decoder = decoders.Fuse()
  backend.add_special_tokens([PAD, EOS])
  backend.add_tokens(
    [
      tokenizers.AddedToken(s, normalized=False, special=False)
      for s in specials
    ]
  )
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': EOS,
    'pad_token': PAD,
    'clean_up_tokenization_spaces': False,
  }
  return Tokenizer(backend, config=config, name='the character tokenizer')


def from_folder(path: str | pathlib.Path) -> Tokenizer:
  """The tokenizer of a Hugging Face model folder.

  Reads tokenizer.json, tokenizer_config.json, and where they exist
  generation_config.json, special_tokens_map.json and chat_template.jinja.

  Raises:
    FileNotFoundError: no folder, or one of the two needed files is missing.
    ValueError: a damaged file, or no end-of-sequence token.
  """
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder}: no such tokenizer folder')
  model = folder / 'tokenizer.json'
  if not model.is_file():
    raise FileNotFoundError(
      f'{model}: no such file; save the tokenizer in the fast format '
      '(tokenizer.json) into this folder'
    )
  try:
    backend = tokenizers.Tokenizer.from_file(str(model))
  except Exception as error:
    raise ValueError(
      f'{model} is damaged ({errors.line(error)}); fetch it again'
    ) from None
  # Padding and truncation belong to whoever saved it, not to the text.
  backend.no_padding()
  backend.no_truncation()
  config = _read_json(folder / 'tokenizer_config.json', needed=True)
  # Older folders name special tokens only in this file.
  named = _read_json(folder / 'special_tokens_map.json', needed=False)
  config = {k: v for k, v in named.items() if k in _SPECIAL_NAMES} | config
  return Tokenizer(
    backend,
    config=config,
    generation=_read_json(folder / 'generation_config.json', needed=False),
    chat_template=_chat_template(folder, config),
    name=str(folder),
  )


def _chat_template(folder: pathlib.Path, config: Mapping[str, Any]) -> str:
  file = folder / 'chat_template.jinja'
  if file.is_file():
    return file.read_text(encoding='utf-8')
  template = config.get('chat_template')
  if isinstance(template, list):  # several, by name
    named = {entry['name']: entry['template'] for entry in template}
    template = named.get('default')
  return '' if template is None else template


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
  found = {}
  for name in _SPECIAL_NAMES:
    token = config.get(name)
    if isinstance(token, Mapping):  # an AddedToken, written out
      token = token['content']
    if token is not None:
      found[name] = token
  return found


def _prefix(backend: tokenizers.Tokenizer) -> list[int]:
  """The ids that the post-processor puts in front of any text."""
  probe = next(iter(backend.get_vocab()))
  encoded = backend.encode(probe, add_special_tokens=True)
  # What the post-processor adds belongs to no input sequence.
  own = (i for i, s in enumerate(encoded.sequence_ids) if s is not None)
  return encoded.ids[: next(own, 0)]


def _read_json(path: pathlib.Path, *, needed: bool) -> dict[str, Any]:
  if not path.is_file():
    if needed:
      raise FileNotFoundError(f'{path}: no such file; the folder is incomplete')
    return {}
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged ({errors.line(error)}); fetch it again'
    ) from None
  if not isinstance(content, dict):
    raise ValueError(f'{path} is damaged: it holds no JSON object')
  return content


def _write_json(path: pathlib.Path, content: Mapping[str, Any]):
  text = json.dumps(content, indent=2, ensure_ascii=False)
  path.write_text(text + '\n', encoding='utf-8')
