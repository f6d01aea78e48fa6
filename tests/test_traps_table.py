"""`traps.md` names a test for every trap, and every test it names is there."""

import ast
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parent
TABLE = (FOLDER / 'traps.md').read_text(encoding='utf-8')
IDS = [f'T{i}' for i in range(1, 44)] + [f'J{i}' for i in range(1, 11)]

ROW = re.compile(r'\| *([TJ]\d+) *\|([^|]+)\|([^|]+)\|')
NAMED = re.compile(r'`(?:tests/)?([\w/]+\.py)::(\w+)(\[[^`]+\])?`')
CANNOT = 'Cannot occur: '


def rows(table: str) -> list[tuple[str, str, str]]:
  """(id, trap, tests or reason) of every row, in order."""
  lines = [ROW.fullmatch(line.strip()) for line in table.splitlines()]
  return [tuple(cell.strip() for cell in x.groups()) for x in lines if x]


def in_source(source: str) -> dict[str, bool]:
  """Tests of a file that can run -> whether they have parameters."""
  found = {}
  for node in ast.parse(source).body:
    if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
      marks = [ast.unparse(decorator) for decorator in node.decorator_list]
      if not any('mark.skip' in mark or 'mark.xfail' in mark for mark in marks):
        found[node.name] = any('parametrize' in mark for mark in marks)
  return found


def in_folder() -> dict[str, dict[str, bool]]:
  return {
    path.relative_to(FOLDER).as_posix(): in_source(path.read_text('utf-8'))
    for path in FOLDER.rglob('test_*.py')
  }


def faults(table: str, tests: dict[str, dict[str, bool]]) -> list[str]:
  """What is wrong with a table, in words."""
  found = []
  ids = [row[0] for row in rows(table)]
  found += [f'{i} is missing' for i in IDS if i not in ids]
  found += [f'{i} is doubled' for i in IDS if ids.count(i) > 1]
  found += [f'{i} is no trap' for i in ids if i not in IDS]
  for i, _, proof in rows(table):
    named = NAMED.findall(proof)
    if not named and not proof.startswith(CANNOT):
      found.append(f'{i} names no test, nor why it cannot occur')
    if proof.count('::') != len(named):
      found.append(f'{i} has a name that cannot be read')
    for file, name, case in named:
      known = tests.get(file, {})
      if name not in known:
        found.append(f'{i}: there is no {file}::{name}')
      elif case and not known[name]:
        found.append(f'{i}: {file}::{name} has no parameters')
  return found


def test_every_trap_has_a_row_and_every_named_test_exists():
  assert faults(TABLE, in_folder()) == []


def test_rows_are_in_order_and_tell_the_trap_briefly():
  found = rows(TABLE)
  assert [row[0] for row in found] == IDS
  # No row is lost because a cell holds what the pattern does not read.
  assert len(found) == sum(
    bool(re.match(r'\| *[TJ]\d', line)) for line in TABLE.splitlines()
  )
  assert max(len(trap.split()) for _, trap, _ in found) <= 14


# A table without faults, and tests of its own.
TESTS = {
  'test_a.py': in_source("""
import pytest
def test_plain(): pass
@pytest.mark.parametrize('x', [1, 2])
def test_cases(x): pass
@pytest.mark.skip
def test_skipped(): pass
def helper(): pass
""")
}
GOOD = '\n'.join(f'| {i} | a trap | `test_a.py::test_plain` |' for i in IDS)


def test_a_table_without_faults_has_none():
  assert faults(GOOD, TESTS) == []


@pytest.mark.parametrize(
  ('proof', 'fault'),
  [
    ('`test_a.py::test_gone`', 'T7: there is no test_a.py::test_gone'),
    ('`test_b.py::test_plain`', 'T7: there is no test_b.py::test_plain'),
    ('`test_a.py::helper`', 'T7: there is no test_a.py::helper'),
    ('`test_a.py::test_skipped`', 'T7: there is no test_a.py::test_skipped'),
    ('`test_a.py::test_plain[1]`', 'T7: test_a.py::test_plain has no param'),
    ('`test_a.py::test_plain` test_a.py::test_x', 'T7 has a name that cannot'),
    ('we are careful', 'T7 names no test, nor why it cannot occur'),
    ('', 'T7 is missing'),
  ],
)
def test_a_row_that_proves_nothing_is_found(proof, fault):
  table = GOOD.replace(
    '| T7 | a trap | `test_a.py::test_plain` |',
    f'| T7 | a trap | {proof} |' if proof else '',
  )
  [found] = faults(table, TESTS)
  assert found.startswith(fault)


def test_a_case_of_a_test_with_parameters_may_be_named():
  assert not faults(GOOD.replace('plain`', 'cases[2]`', 1), TESTS)


def test_a_doubled_and_an_unknown_id_are_found():
  more = GOOD + '\n| T7 | a trap | Cannot occur: no. |\n| T44 | b | Cannot. |'
  assert faults(more, TESTS) == [
    'T7 is doubled',
    'T44 is no trap',
    'T44 names no test, nor why it cannot occur',
  ]
