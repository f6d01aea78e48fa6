"""Tokenizers: exact round trips, every EOS, one BOS, chat templates."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from grpo_jax import tokenizer

SPECIALS = ('<think>', '</think>', '<answer>', '</answer>')
CHATML = (
  '{{ bos_token }}{% for m in messages %}\n'
  '  {% if m.role == "tool" %}{{ raise_exception("no tools") }}{% endif %}\n'
  '  {% if m.role == "skip" %}{% continue %}{% endif %}\n'
  '[{{ m.role }}]{{ m.content | trim }}{% endfor %}'
  '{% if add_generation_prompt %}[assistant]{% endif %}'
)


def make_char():
  return tokenizer.char(alphabet='0123456789+-=; \n', specials=SPECIALS)


def make_llama_like(folder, *, template=CHATML, **generation):
  """A small word tokenizer with Llama's habit of a BOS in front."""
  names = ['<bos>', '<eos>', '<turn>', '[user]', '[assistant]', 'a', 'b', 'c']
  backend = tokenizers.Tokenizer(
    models.WordLevel({n: i for i, n in enumerate(names)})
  )
  backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  backend.decoder = decoders.Fuse()
  backend.add_special_tokens(names[:5])
  backend.post_processor = processors.TemplateProcessing(
    single='<bos> $A <eos>', special_tokens=[('<bos>', 0), ('<eos>', 1)]
  )
  folder.mkdir(exist_ok=True)
  backend.save(str(folder / 'tokenizer.json'))
  bos = {'__type': 'AddedToken', 'content': '<bos>'}
  config = {'bos_token': bos, 'eos_token': '<eos>'}
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  if generation:
    (folder / 'generation_config.json').write_text(json.dumps(generation))
  if template:
    (folder / 'chat_template.jinja').write_text(template)
  return folder


def test_characters_and_specials_are_one_token_each():
  tok = make_char()
  ids = tok.encode('<think>1+2=3</think>')
  # pad 0, eos 1, four specials, then the alphabet from 6: '1' is 7.
  assert ids == [2, 7, 16, 8, 18, 9, 3]
  assert tok.vocab_size == 2 + 4 + 16
  assert (tok.pad_id, tok.eos_ids) == (0, (1,))


@pytest.mark.parametrize(
  'text', ['', '1 +\n\n 2', '<think>1</think><answer>2</answer>', ' 1 ']
)
def test_character_tokenizer_round_trips_through_its_saved_file(text, tmp_path):
  tok = make_char()
  tok.save(tmp_path)
  again = tokenizer.from_folder(tmp_path)
  assert tok.decode(tok.encode(text)) == text
  assert again.encode(text) == tok.encode(text)
  assert again.decode(tok.encode(text)) == text
  assert (again.pad_id, again.eos_ids, again.vocab_size) == (
    tok.pad_id,
    tok.eos_ids,
    tok.vocab_size,
  )


def test_eos_is_skipped_and_tags_are_kept_when_decoding():
  tok = make_char()
  ids = [*tok.encode('<answer>5</answer>'), 1, 0, 0]
  assert tok.decode(ids) == '<answer>5</answer>'
  assert tok.decode(ids, skip_special=False).endswith('<eos><pad><pad>')


def test_ids_of_padding_rows_decode_to_nothing():
  tok = make_char()
  assert tok.decode([7, tok.vocab_size, 10_000, -1]) == '1'


@pytest.mark.parametrize('text', ['1+x', '<think>x', '1é'])
def test_character_outside_the_alphabet_is_named(text, tmp_path):
  tok = make_char()
  with pytest.raises(ValueError, match=repr(text[-1])):
    tok.encode(text)
  tok.save(tmp_path)
  with pytest.raises(ValueError, match=repr(text[-1])):
    tokenizer.from_folder(tmp_path).encode(text)


def test_repeated_character_is_refused():
  with pytest.raises(ValueError, match="repeated: \\['1'\\]"):
    tokenizer.char(alphabet='121')


def test_every_eos_id_is_found_once(tmp_path):
  folder = make_llama_like(tmp_path, eos_token_id=[1, 2])
  assert tokenizer.from_folder(folder).eos_ids == (1, 2)


def test_single_eos_id_of_the_generation_config_is_added(tmp_path):
  folder = make_llama_like(tmp_path, eos_token_id=2)
  assert tokenizer.from_folder(folder).eos_ids == (1, 2)


def test_pad_falls_back_to_the_first_eos(tmp_path):
  assert tokenizer.from_folder(make_llama_like(tmp_path)).pad_id == 1


def test_start_adds_the_bos_and_never_the_eos(tmp_path):
  tok = tokenizer.from_folder(make_llama_like(tmp_path))
  assert tok.encode('a b') == [0, 5, 6]
  assert tok.encode('a b', start=False) == [5, 6]


def test_rendered_chat_has_one_bos(tmp_path):
  tok = tokenizer.from_folder(make_llama_like(tmp_path))
  text = tok.chat([{'role': 'user', 'content': ' a '}])
  assert text == '<bos>[user]a[assistant]'
  assert tok.encode(text) == [0, 3, 5, 4]


def test_template_follows_loop_controls_and_switches(tmp_path):
  tok = tokenizer.from_folder(make_llama_like(tmp_path))
  messages = [
    {'role': 'skip', 'content': 'b'},
    {'role': 'user', 'content': 'a'},
  ]
  assert tok.chat(messages, add_generation_prompt=False) == '<bos>[user]a'


def test_refusal_of_a_template_is_one_line(tmp_path):
  tok = tokenizer.from_folder(make_llama_like(tmp_path))
  with pytest.raises(ValueError, match='no tools') as caught:
    tok.chat([{'role': 'tool', 'content': 'a'}])
  assert '\n' not in str(caught.value)


def test_template_cannot_reach_outside_the_sandbox(tmp_path):
  template = '{{ messages.__class__.__mro__[1].__subclasses__() }}'
  tok = tokenizer.from_folder(make_llama_like(tmp_path, template=template))
  with pytest.raises(ValueError, match='refused'):
    tok.chat([])


def test_tojson_keeps_html_characters(tmp_path):
  template = '{% generation %}{{ messages | tojson }}{% endgeneration %}'
  tok = tokenizer.from_folder(make_llama_like(tmp_path, template=template))
  messages = [{'role': 'user', 'content': "<é'>"}]
  assert tok.chat(messages) == '[{"role": "user", "content": "<é\'>"}]'


def test_no_chat_template_is_named():
  with pytest.raises(ValueError, match='no chat template'):
    make_char().chat([])


def test_saved_folder_keeps_template_and_every_eos(tmp_path):
  folder = make_llama_like(tmp_path / 'a', eos_token_id=[1, 2], top_k=5)
  tok = tokenizer.from_folder(folder)
  tok.save(tmp_path / 'b')
  again = tokenizer.from_folder(tmp_path / 'b')
  messages = [{'role': 'user', 'content': 'a'}]
  assert again.chat(messages) == tok.chat(messages)
  assert again.eos_ids == (1, 2)
  saved = json.loads((tmp_path / 'b' / 'generation_config.json').read_text())
  assert saved['top_k'] == 5


def test_missing_folder_and_file_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    tokenizer.from_folder(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match='tokenizer.json'):
    tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize('file', ['tokenizer.json', 'tokenizer_config.json'])
def test_damaged_file_is_named_in_one_line(file, tmp_path):
  folder = make_llama_like(tmp_path)
  (folder / file).write_text('{"model":')
  with pytest.raises(ValueError, match=f'{file} is damaged') as caught:
    tokenizer.from_folder(folder)
  assert '\n' not in str(caught.value)


def test_damaged_template_fails_on_load(tmp_path):
  folder = make_llama_like(tmp_path, template='{% if %}')
  with pytest.raises(ValueError, match='chat template .* is damaged'):
    tokenizer.from_folder(folder)


def test_eos_outside_the_vocabulary_is_refused(tmp_path):
  folder = make_llama_like(tmp_path, eos_token_id=99)
  with pytest.raises(ValueError, match='99'):
    tokenizer.from_folder(folder)
