"""The code reward: the completion's program is run against tests.

Stage 5 of a step. Programs run in the sandbox of `sandbox.py`, one process or
more for each, so host threads only wait. Named so, as `code` is a module of
Python's own.

An example's `data` holds one of
  test, entry_point, prefix?   a test as HumanEval writes them: `check` gets
                               the function of that name; prefix is code that
                               comes before program and test
  inputs, outputs, visible?    lists of texts, for stdin and stdout; `visible`
                               says how many of the first pairs the prompt
                               shows
"""

from collections.abc import Callable
import functools
import re
import time

from grpo_jax.rewards import sandbox, sandbox_modes, text
from grpo_jax.rewards.fault_counts import record
from grpo_jax.rewards.rules import Reward

_FUTURE = re.compile(
  r'^from __future__ import (?:\([^)]*\)|[^\n(])*\n?', re.MULTILINE
)
# Times a program's wall time that all of its pairs may take together.
_ALL_PAIRS = 6


def code(
  *,
  task,
  mode: str = 'auto',
  partial: bool = False,
  wall_seconds: float = 10.0,
  cpu_seconds: int = 5,
  memory_mb: int = 512,
  output_bytes: int = 1 << 20,
  processes: int = 32,
  file_mb: int = 16,
) -> Reward:
  """1.0 where the program passes all tests of its example.

  Args:
    task: its first example shows whether it has tests.
    mode: 'bubblewrap', 'rlimits', or 'auto' for the first that works.
    partial: pays the share of input/output pairs that are right; those that
      the prompt shows earn nothing. A test is passed as a whole or not. Pairs
      not reached within six times wall_seconds count as wrong.
    wall_seconds, cpu_seconds, memory_mb, output_bytes, processes, file_mb: of
      each run of a program, see `sandbox.Limits`.

  Raises:
    ValueError: no sandbox works here, a limit is not positive, or the task
      has no tests.
  """
  for one in task.kinds:
    tests_of(one.example(0))
  limits = sandbox.Limits(
    wall_seconds=wall_seconds,
    cpu_seconds=cpu_seconds,
    memory_mb=memory_mb,
    output_bytes=output_bytes,
    processes=processes,
    file_mb=file_mb,
  )
  judge = grader(mode=mode, partial=partial, limits=limits)
  return lambda completion, example: judge(text.program(completion), example)


def grader(
  *, mode: str, partial: bool, limits: sandbox.Limits
) -> Callable[[str, object], float]:
  """(program, example) -> reward; total, as a reward is."""
  place = sandbox_modes.active(mode)

  def judge(source, example):
    if not source.strip():
      return 0.0
    try:
      data = tests_of(example)
      if 'test' in data:
        return _by_test(source, data, limits, place)
      return _by_pairs(source, data, partial, limits, place)
    except (RuntimeError, OSError, ValueError) as error:
      record('code/failed', f'{error}; scored 0')
      return 0.0

  return judge


def verifier(mode: str = 'auto') -> Callable[[str, object], bool]:
  """(answer, example) -> whether its program passes; `check` of a task.

  Args:
    mode: of the sandbox, which is looked for at the first answer.
  """

  @functools.cache
  def judge():
    return grader(mode=mode, partial=False, limits=sandbox.Limits())

  return lambda answer, example: judge()(text.code_of(answer), example) == 1.0


def joined(prefix: str, source: str, entry_point: str) -> str:
  """The program with what comes before it.

  A source that defines the entry point follows the prefix, one that does not
  goes on where the prefix ends.
  """
  name = re.escape(entry_point)
  whole = re.search(
    rf'^(?:(?:async )?def|class)\s+{name}\b|^{name}\s*=', source, re.MULTILINE
  )
  both = f'{prefix}\n\n{source}' if whole else prefix + source
  # Such imports must come first.
  return ''.join(_FUTURE.findall(both)) + _FUTURE.sub('', both)


def same_output(given: bytes, expected: str) -> bool:
  """Whether lines agree but for the whitespace around them; '' never does."""
  lines = _lines(given.decode('utf-8', 'replace'))
  return lines != [''] and lines == _lines(expected)


def _by_test(source, data, limits, place) -> float:
  prefix, entry_point = data.get('prefix', ''), data['entry_point']
  result = sandbox.check(
    joined(prefix, source, entry_point),
    test=data['test'],
    entry_point=entry_point,
    prefix=prefix,
    limits=limits,
    sandbox=place,
  )
  return float(result.outcome == 'passed')


def _by_pairs(source, data, partial, limits, place) -> float:
  pairs = list(zip(data['inputs'], data['outputs'], strict=True))
  first = data.get('visible', 0) if partial else 0
  if first >= len(pairs):
    raise ValueError('every pair of an example is shown in its prompt')
  right, deadline = 0, time.monotonic() + _ALL_PAIRS * limits.wall_seconds
  for given, expected in pairs[first:]:
    result = sandbox.run(source, stdin=given, limits=limits, sandbox=place)
    passed = result.outcome == 'exited 0'
    passed = passed and same_output(result.output, expected)
    if not (passed or partial):
      break
    right += passed
    if time.monotonic() > deadline:
      break
  share = right / len(pairs[first:])
  return share if partial else float(share == 1.0)


def tests_of(example) -> dict:
  """The example's data; ValueError where they hold no tests."""
  data = example.data
  if isinstance(data.get('test'), str) and data.get('entry_point'):
    return data
  inputs, outputs = data.get('inputs'), data.get('outputs')
  if _texts(inputs) and _texts(outputs) and len(inputs) == len(outputs):
    return data
  raise ValueError(
    'reward code: an example has no tests; its data must hold test and '
    f'entry_point, or as many inputs as outputs, and hold {sorted(data)}'
  )


def _texts(values) -> bool:
  """Whether these are texts, at least one."""
  listed = isinstance(values, list | tuple) and len(values) > 0
  return listed and all(isinstance(value, str) for value in values)


def _lines(output: str) -> list[str]:
  return [line.strip() for line in output.strip().split('\n')]
