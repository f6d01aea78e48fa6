"""The numbers game: reach a target with + - * / from given numbers.

Generated, and solvable by construction. Any valid expression is right, so the
reference completion is one solution of many.
"""

import ast
from fractions import Fraction
import operator
import random
import re

from grpo_jax.tasks import common

ALPHABET = '0123456789+-*/()=;, '

# {numbers} is '3, 7, 25' in a sentence and '3,7,25' in the short form.
STYLES = {
  'words': (
    'Using the numbers [{numbers}], create an expression that equals '
    '{target}. You can use + - * / and parentheses; use {rule}.'
  ),
  'short': '{numbers};{target}=',
}
_RULES = {
  'all': 'each number exactly once',
  'any': 'each number at most once',
}
_OPERATIONS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}
_EXPRESSION = re.compile(r'[0-9+\-*/() ]{1,200}')
_TRIES = 10_000


def countdown(
  *,
  split: str,
  size: int,
  numbers: int = 3,
  max_number: int = 25,
  max_target: int = 100,
  seed: int = 0,
  use: str = 'all',
  style: str = 'words',
) -> common.Task:
  """Problems with `numbers` numbers in 1..max_number, target in 1..max_target.

  Args:
    split: 'train' or 'test': about a tenth of all problems, by hash of the
      sorted numbers and the target.
    size: number of examples.
    numbers: how many are given.
    max_number, max_target: upper bounds.
    seed: of the generator; the splits are disjoint across seeds too.
    use: 'all', each number exactly once, or 'any', each at most once.
    style: 'words', or 'short' ('3,7,25;46=') for character models.

  Raises:
    ValueError: an argument out of range, or no problem of the split among
      those that the bounds allow.
  """
  common.check_arguments('countdown', split=split, size=size)
  for name, value, known in (('use', use, _RULES), ('style', style, STYLES)):
    if value not in known:
      raise ValueError(
        f'countdown: {name}={value!r} must be one of {sorted(known)}'
      )
  if numbers < 2 or min(max_number, max_target) < 2:
    raise ValueError(
      f'countdown: numbers={numbers}, max_number={max_number} and '
      f'max_target={max_target} must be at least 2'
    )

  def make(i):
    draw = random.Random(f'countdown/{seed}/{split}/{i}')
    given, target, steps, solution = _problem(
      draw, numbers, max_number, max_target, split
    )
    comma = ', ' if style == 'words' else ','
    prompt = (
      STYLES[style]
      .replace('{numbers}', comma.join(map(str, given)))
      .replace('{target}', str(target))
      .replace('{rule}', _RULES[use])
    )
    completion = f'<think>{";".join(steps)}</think><answer>{solution}</answer>'
    facts = {'numbers': tuple(given), 'target': target, 'use': use}
    return common.Example(prompt, solution, completion, facts)

  make(0)  # too few problems: say so at the start
  # The short form's models have no letters.
  summary = '{answer}' if style == 'short' else 'The answer is {answer}.\n'
  return common.Task(size, make, _check, summary=summary)


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
  """Exact value and the integers used, None unless it is plain arithmetic.

  Only non-negative integers, + - * / (and signs), and parentheses count; the
  text is parsed, never executed.
  """
  if not _EXPRESSION.fullmatch(expression):
    return None
  used: list[int] = []
  try:
    tree = ast.parse(expression.strip(), mode='eval')
    return _value(tree.body, used), used
  except (ArithmeticError, MemoryError, RecursionError, SyntaxError):
    return None
  except ValueError:  # a node that is no plain arithmetic
    return None


def _check(answer: str, example: common.Example) -> bool:
  result = evaluate(answer.translate(str.maketrans('×÷−', '*/-')).strip())
  if result is None:
    return False
  value, used = result
  left = list(example.data['numbers'])
  for number in used:
    if number not in left:
      return False
    left.remove(number)
  complete = not left or (example.data['use'] == 'any' and bool(used))
  return complete and value == example.data['target']


def _value(node: ast.AST, used: list[int]) -> Fraction:
  if isinstance(node, ast.Constant) and type(node.value) is int:
    used.append(node.value)
    return Fraction(node.value)
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
    value = _value(node.operand, used)
    return -value if isinstance(node.op, ast.USub) else value
  if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
    left, right = _value(node.left, used), _value(node.right, used)
    return _OPERATIONS[type(node.op)](left, right)
  raise ValueError(f'{type(node).__name__} is no arithmetic')


def _problem(draw, count, max_number, max_target, split):
  """Given numbers, target, steps, solution; of the wanted split."""
  for _ in range(_TRIES):
    given = [draw.randint(1, max_number) for _ in range(count)]
    found = _combine(draw, given, max_target)
    if found is None:
      continue
    target, steps, solution = found
    if common.split_of(f'{sorted(given)}{target}') == split:
      return given, target, steps, solution
  raise ValueError(
    f'countdown: no {split} problem in {_TRIES} draws of {count} numbers up to '
    f'{max_number} with a target up to {max_target}; raise max_number or '
    'max_target'
  )


def _combine(draw, given, max_target):
  """Joins random pairs until one number is left, all of them positive."""
  pool = [(number, str(number)) for number in given]
  steps = []
  while len(pool) > 1:
    draw.shuffle(pool)
    (a, left), (b, right) = pool.pop(), pool.pop()
    choices = [('+', a + b), ('*', a * b)]
    if a > b:
      choices.append(('-', a - b))
    if a % b == 0:
      choices.append(('/', a // b))
    sign, value = draw.choice(choices)
    steps.append(f'{a}{sign}{b}={value}')
    pool.append((value, f'({left}{sign}{right})'))
  target, solution = pool[0]
  if not 1 <= target <= max_target:
    return None
  return target, steps, solution[1:-1]
