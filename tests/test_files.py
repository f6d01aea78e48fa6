"""Files are whole or not there, and one of several processes writes them."""

import json
import subprocess
import sys

import pytest
import tiny

from grpo_jax import files, hosts


def names(folder):
  return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize('content', ['zwei Zeilen\nund ä', b'\xff\x00'])
def test_a_file_is_there_with_all_its_content(tmp_path, content):
  path = tmp_path / 'a'
  files.write(path, content)
  read = path.read_bytes()
  assert read == (content if isinstance(content, bytes) else content.encode())
  assert names(tmp_path) == ['a']


def test_a_file_has_its_name_only_when_complete(tmp_path):
  path = tmp_path / 'a'
  path.write_text('old')
  with files.whole(path) as file:
    file.write('new')
    file.flush()
    assert path.read_text() == 'old'
  assert path.read_text() == 'new'


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
  path = tmp_path / 'a'
  path.write_text('old')
  with pytest.raises(error), files.whole(path) as file:
    file.write('half')
    raise error
  assert path.read_text() == 'old'
  assert names(tmp_path) == ['a']


@pytest.mark.parametrize('first', [True, False])
def test_the_first_process_writes_before_any_goes_on(
  tmp_path, monkeypatch, first
):
  path, seen = tmp_path / 'a.json', []
  monkeypatch.setattr(hosts, 'is_first', lambda: first)
  monkeypatch.setattr(
    hosts, 'wait_for_all', lambda what: seen.append((what, path.exists()))
  )
  with files.once(path) as file:
    file.write('mine')
    assert seen == []
  # That of the first is there when it comes to where all wait.
  assert seen == [('writing a.json', first)]
  assert names(tmp_path) == (['a.json'] if first else [])


def test_a_process_whose_block_fails_does_not_wait(tmp_path, monkeypatch):
  monkeypatch.setattr(hosts, 'wait_for_all', lambda _: pytest.fail('waits'))
  with pytest.raises(ValueError), files.once(tmp_path / 'a'):
    raise ValueError
  assert names(tmp_path) == []


def test_a_value_is_plain_as_its_file_has_it(tmp_path):
  value = {'shots': (('a', 'b'),), 'limit': float('inf'), 1: None}
  files.write_json(tmp_path / 'a', value)
  read = json.loads((tmp_path / 'a').read_text())
  assert files.plain(value) == read
  assert files.plain(value)['shots'] == [['a', 'b']]


def test_tools_without_jax_can_write_files():
  code = "import sys, grpo_jax.files; sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, '-c', code], cwd=tiny.REPO, check=True)
