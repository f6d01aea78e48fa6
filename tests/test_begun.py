"""What a folder was begun with, what may differ now, and how it is told."""

import pathlib

import pytest

from configs import base
from grpo_jax import begun, cli

FOLDER = pathlib.Path('runs/a')


def test_fields_that_are_free_are_fields_of_the_config():
  sections = {*base.get_config()}
  assert {n.split('.')[0] for n in begun.FREE_OF_RUNS} <= sections


def test_what_differs_is_found_wherever_it_is():
  old = {'seed': 1, 'task.name': 'a', 'mesh.data': 1, 'gone': 3}
  new = {'seed': 1, 'task.name': 'b', 'mesh.data': 2, 'come': 4}
  assert begun.changed(old, new) == ['come', 'gone', 'mesh.data', 'task.name']
  assert begun.changed(old, new, free=('mesh', 'gone', 'name')) == [
    'come', 'task.name',
  ]  # fmt: skip
  assert begun.changed(old, new, free=('task.name', 'gone', 'come')) == [
    'mesh.data'
  ]
  assert begun.changed(old, dict(old)) == []


def test_the_first_differences_are_told_with_the_remedy():
  begun.refuse_other(FOLDER, {'a': 1}, {'a': 2}, free=('a',))
  with pytest.raises(ValueError) as error:
    begun.refuse_other(FOLDER, {'a': 1, 'b': 'x' * 100}, {'a': 2}, flag='out')
  assert str(error.value) == (
    'runs/a was begun with other values: a=1 there and a=2 here, '
    f'b={"x" * 77}... there and no b here; use another --out or remove that '
    'folder'
  )
  with pytest.raises(ValueError, match='c=2 here, and 2 more; use'):
    begun.refuse_other(
      FOLDER, dict.fromkeys('abcde', 1), dict.fromkeys('abcde', 2)
    )


def test_a_config_of_before_differs_in_nothing_from_itself_read_again(tmp_path):
  cfg = base.get_config()
  cli.refuse_another(cfg, tmp_path, free=())  # nothing was begun
  cli.save_config(cfg, tmp_path)
  cli.refuse_another(cfg, tmp_path, free=())
  cfg.cpu_devices = 4
  cli.refuse_another(cfg, tmp_path, free=begun.FREE)
  cfg.seed = 5
  with pytest.raises(ValueError, match='seed=0 there and seed=5 here'):
    cli.refuse_another(cfg, tmp_path, free=begun.FREE)
