"""Mixtures of tasks: shares, steps, domains, and what contradicts."""

import dataclasses
import json

import ml_collections
import numpy as np
import pytest
import tiny

from configs import base
from grpo_jax import (
  accuracy,
  evaluate,
  policy,
  questions,
  rewards,
  rollout,
  tasks,
)  # fmt: skip
from grpo_jax import grader as grader_lib
from grpo_jax.rewards import text
from grpo_jax.tasks import shares
from grpo_jax.tokenizer import char

SUMS = dict(
  name='arithmetic', seed=0, min_ops=1, max_ops=1, max_number=9, size=40
)
COUNTDOWN = dict(name='countdown', seed=0, size=30, numbers=3)


def part(spec=SUMS, **more):
  return spec | more


def mixture(**parts):
  return tasks.mixture(parts=parts)


def drawn(task, count, steps, **more):
  """[steps count] indices."""
  return np.array(
    [task.batch(count, seed=0, step=step, **more) for step in steps]
  )


def names(task, indices):
  """Of the domains of these examples."""
  return [task.example(i).domain for i in np.ravel(indices)]


def prompts_file(folder, count=12):
  path = folder / 'prompts.jsonl'
  lines = [json.dumps({'q': f'{i % 9 + 1} +1='}) for i in range(count)]
  path.write_text('\n'.join(lines))
  return dict(name='jsonl', path=str(path), prompt_field='q')


# Shares


def test_examples_know_their_domain_and_their_part_judges_them():
  task = mixture(a=part(domain='reasoning', share=1), b=part(share=1, size=5))
  assert len(task) == 45
  first, last = task.example(0), task.example(44)
  assert (first.domain, last.domain) == ('reasoning', 'b')
  alone = tasks.arithmetic(**{k: v for k, v in SUMS.items() if k != 'name'},
                           split='train')  # fmt: skip
  assert first.prompt == alone.example(0).prompt
  assert last.prompt == alone.example(4).prompt
  assert task.verify(first.answer, first)
  assert not task.verify(first.answer + '0', first)
  with pytest.raises(IndexError):
    task.example(45)


def test_every_step_has_the_shares_to_within_one_and_all_steps_exactly():
  task = mixture(
    a=part(share=5), b=part(share=3), c=part(share=2)
  )  # fmt: skip
  counts = np.array([
    [names(task, row).count(name) for name in 'abc']
    for row in drawn(task, 8, range(50))
  ])  # fmt: skip
  assert (counts.sum(1) == 8).all()
  wanted = np.array([4.0, 2.4, 1.6])
  assert (abs(counts - wanted) < 1).all()
  # 400 prompts: 200, 120, 80, to within the discrepancy of 50 steps.
  assert (abs(counts.sum(0) - wanted * 50) < 3).all()


def test_a_part_of_less_than_one_prompt_a_step_is_asked_now_and_then():
  task = mixture(many=part(share=0.9), few=part(share=0.1))
  counts = [names(task, r).count('few') for r in drawn(task, 2, range(100))]
  assert set(counts) == {0, 1} and abs(sum(counts) - 20) <= 2


def test_draws_are_a_function_of_the_step_alone():
  task = mixture(a=part(share=2), b=part(share=1, from_step=3))
  forwards = drawn(task, 6, range(10))
  backwards = drawn(mixture(b=part(share=1, from_step=3), a=part(share=2)),
                    6, range(9, -1, -1))[::-1]  # fmt: skip
  np.testing.assert_array_equal(forwards, backwards)
  other = task.batch(6, seed=1, step=0)
  assert other.tolist() != forwards[0].tolist()


def test_a_part_is_gone_through_before_any_of_it_comes_again():
  task = mixture(a=part(share=1, size=40), b=part(share=1, size=10))
  found = drawn(task, 4, range(20)).ravel()
  assert sorted(found[found < 40]) == list(range(40))
  own = found[found >= 40]
  # Epoch after epoch, each an order of its own.
  for epoch in np.split(own, 4):
    assert sorted(epoch) == list(range(40, 50))
  assert own[:10].tolist() != own[10:20].tolist()


def test_before_a_part_begins_the_others_share_its_prompts():
  task = mixture(
    a=part(share=1), b=part(share=1), late=part(share=2, from_step=5)
  )
  counts = [
    [names(task, row).count(name) for name in ('a', 'b', 'late')]
    for row in drawn(task, 8, [0, 4, 5, 9])
  ]
  assert counts == [[4, 4, 0], [4, 4, 0], [2, 2, 4], [2, 2, 4]]


def test_a_schedule_counts_steps_where_a_step_draws_several_times():
  task = mixture(a=part(share=1), late=part(share=1, from_step=2))
  late = [
    names(task, row).count('late') for row in drawn(task, 4, range(9), rounds=3)
  ]
  assert late == [0] * 6 + [2] * 3


@pytest.mark.parametrize(
  'parts, told',
  [
    ({}, 'parts is empty'),
    ({'a': part()}, "part 'a' has share=None"),
    ({'a': part(share=0)}, "part 'a' has share=0"),
    ({'a': part(share=1, from_step=2)}, 'no part takes part at step 0'),
    ({'a': part(share=1, from_step=-1)}, 'from_step=-1'),
    ({'a': part(share=1, split='test')}, "part 'a' has a split of its own"),
    ({'a': dict(name='mixture', share=1)}, 'is a mixture; list its parts'),
    ({'a': part(share=1, sise=3)}, "part 'a'.*did you mean 'size'"),
    ({'a': dict(name='sums', share=1)}, "part 'a': tasks has no 'sums'"),
  ],
)
def test_a_mixture_that_makes_no_sense_is_refused(parts, told):
  with pytest.raises(ValueError, match=told):
    tasks.mixture(parts=parts)


def test_in_turn_every_part_has_its_share_however_many_are_taken():
  task = mixture(a=part(share=3), b=part(share=1, size=5), c=part(share=2))
  whole = shares.in_turn(task, len(task))
  assert sorted(whole) == list(range(85))
  for count in (1, 6, 12, 30, 60, 1000):
    # More goes on where less ends, or a set could not be added to.
    assert shares.in_turn(task, count) == whole[:count]
  for count in (6, 12, 24):
    found = names(task, whole[:count])
    assert [found.count(d) for d in 'abc'] == [count // 2, count // 6,
                                               count // 3]  # fmt: skip
  # Each in its own order; b ends with its five.
  assert [i for i in whole if 40 <= i < 45] == [*range(40, 45)]
  assert names(task, whole[:40]).count('b') == 5
  alone = tasks.arithmetic(split='train', size=9, min_ops=1, max_ops=1)
  assert shares.in_turn(alone, 4) == [0, 1, 2, 3]
  assert len(shares.in_turn(alone, 99)) == 9


# Evaluation


def test_evaluation_asks_what_rules_can_judge(tmp_path):
  task = tasks.mixture(
    split='test',
    parts=dict(
      a=part(domain='reasoning', share=3),
      b=part(domain='easy', share=1, min_ops=2, max_ops=2),
      chat=prompts_file(tmp_path) | dict(share=4),
    ),
  )
  found = shares.checkable(task)
  assert shares.domains(found) == ('easy', 'reasoning')
  asked = [found.example(i) for i in shares.first_of_each(found, 8)]
  assert [e.domain for e in asked] == ['reasoning'] * 6 + ['easy'] * 2
  assert all(tasks.split_of(e.prompt) == 'test' for e in asked)
  assert shares.checkable(
    tasks.mixture(parts=dict(chat=prompts_file(tmp_path) | dict(share=1)))
  ) is None  # fmt: skip


def test_pass_rates_are_told_by_domain():
  task = mixture(a=part(domain='x', share=1), b=part(domain='y', share=1))
  examples = [task.example(i) for i in (0, 1, 40)]
  right = [f'<answer>{e.answer}</answer>' for e in examples]
  result = accuracy.summarise(
    task,
    examples,
    [[right[0], right[0]], [right[1], ''], ['', '']],
    np.ones((3, 2), bool),
    np.ones((3, 2), int),
    ks=(),
    votes=(),
    extract={'': text.tags},
    texts=lambda *_: {},
  )
  assert result['pass@1'] == 0.5
  assert result['pass@1/x'] == 0.75 and result['pass@1/y'] == 0


def test_a_domains_own_format_reward_says_what_is_well_formed_there():
  c = tiny.get_config()
  c.task = dict(name='mixture', split='train', parts=TWO)
  c.eval.update(task=dict(split='test'), prompts=4)
  plain = dict(thought=False, domains=('reasoning',), from_step=2)
  c.rewards = dict(
    form=reward('format', **plain),
    late=reward('format', domains=('other',)),
  )
  evaluation = evaluate.Evaluation(c, policy.open_policy(c))
  example = evaluation.questions.task.example(0)
  completions = ['<answer>3</answer>', '<think>3</think><answer>3</answer>']

  def well_formed(domain):
    asked = dataclasses.replace(example, domain=domain)
    zeros = np.zeros((1, 2))
    return evaluation.texts([completions], [asked], zeros, zeros > 0)['format']

  assert well_formed('reasoning') == 1.0
  assert well_formed('other') == 0.5


# Rewards by domain and step


def config(steps=10, **changes):
  c = base.get_config()
  c.steps = steps
  for name, value in changes.items():
    c[name] = value
  return c


TWO = dict(a=part(domain='reasoning', share=1), b=part(domain='other', share=1))


def reward(name, **more):
  return dict(name=name, weight=1.0) | more


def test_rewards_judge_their_domains_from_their_step_on():
  task = mixture(**TWO)
  c = config(
    rewards=dict(
      right=reward('correct', domains=('reasoning',)),
      kind=reward('constant', value=0.5, domains=('other',), weight=2.0),
      late=reward('constant', value=3.0, from_step=4),
      all=reward('format', thought=False, weight=0.25),
    )
  )
  grader = grader_lib.Grader(c, task)
  examples = [task.example(0), task.example(40)]
  tidy = f'<answer>{examples[0].answer}</answer>'
  completions = [[tidy, 'no'], [tidy, 'no']]
  got, components = grader.grade(3, completions, examples)
  nan = np.nan
  np.testing.assert_array_equal(components['right'], [[1, 0], [nan, nan]])
  np.testing.assert_array_equal(components['kind'], [[nan, nan], [0.5, 0.5]])
  np.testing.assert_array_equal(components['all'], [[1, 0], [1, 0]])
  assert 'late' not in components
  np.testing.assert_array_equal(got, [[1.25, 0], [1.25, 1.0]])
  got, components = grader.grade(4, completions, examples)
  np.testing.assert_array_equal(got, [[4.25, 3], [4.25, 4.0]])
  np.testing.assert_array_equal(components['late'], [[3, 3], [3, 3]])


def test_metrics_leave_out_samples_that_a_component_does_not_judge():
  found = rollout.metrics(
    [
    rollout.Collected(
      indices=np.arange(2),
      examples=[None, None],
      batch=None,
      completions=[['a', 'b']] * 2,
      rewards=np.array([[1.0, 0.0], [2.0, 2.0]], np.float32),
      components={
        'right': np.array([[1, 0], [np.nan, np.nan]], np.float32),
        'never': np.full((2, 2), np.nan, np.float32),
      },
      lengths=np.ones((2, 2), int),
      finished=np.ones((2, 2), bool),
      sampled=2,
    )
    ],
    decoded=np.sum,
  )  # fmt: skip
  assert found['reward/right'] == 0.5 and found['reward/mean'] == 1.25
  assert 'reward/never' not in found


def test_a_gate_of_other_domains_gates_nothing():
  total = rewards.combine(
    {
      'gate': np.array([[1, 0], [np.nan, np.nan]], np.float32),
      'x': np.array([[2, 2], [2, 2]], np.float32),
    },
    weights={'x': 1.0},
    gate='gate',
    applies={'gate': np.array([[True], [False]])},
  )
  np.testing.assert_array_equal(total, [[2, 0], [2, 2]])


@pytest.mark.parametrize(
  'changes, told',
  [
    (dict(rewards=dict(r=reward('correct', domains=('maths',)))),
     "domains names 'maths', and the task has other, reasoning"),
    (dict(rewards=dict(r=reward('correct', domains='reasoning'))),
     r"is a text; write \('reasoning',\)"),
    (dict(rewards=dict(r=reward('correct', domains=('reasoning',)))),
     "of domain 'other' are asked from step 0 on and no reward"),
    (dict(rewards=dict(r=reward('correct', from_step=3))),
     'asked from step 0 on and no reward .* before step 3'),
    (dict(rewards=dict(r=reward('correct', from_step=10))),
     'must be a step from 0 to 9'),
    (dict(rewards=dict(
      r=reward('correct'), gate=reward('format', from_step=1)),
      reward_gate='gate'),
     "reward_gate='gate' is asked for at every step"),
    (dict(rewards=dict(
      correct=reward('correct', domains=('reasoning',)),
      rest=reward('format'))) | dict(rounds=2),
     "does not judge the domain 'other'"),
    (dict(rewards=dict(r=reward('correct'))) | dict(retire_above=0.9),
     'would change the shares'),
  ],
)  # fmt: skip
def test_rewards_and_mixtures_that_contradict_are_refused(changes, told):
  filters = {k: changes.pop(k) for k in ('rounds', 'retire_above')
             if k in changes}  # fmt: skip
  c = config(**changes)
  c.filters.update(filters)
  if 'retire_above' in filters:
    c.filters.signal = 'r'
  with pytest.raises(ValueError, match=told):
    grader_lib.check(c, mixture(**TWO))


def test_a_signal_of_no_domains_is_of_all():
  c = config(rewards=dict(correct=reward('correct', domains=())))
  c.filters.rounds = 2
  grader_lib.check(c, mixture(**TWO))


def test_where_nothing_is_paid_no_domain_needs_a_judge():
  # Distillation reports rewards and pays none.
  c = config(
    rewards=dict(r=reward('correct', domains=('reasoning',), weight=0))
  )
  with pytest.raises(ValueError, match='no reward has a weight, so there is'):
    grader_lib.check(c, mixture(**TWO))
  c.algorithm.reference_from = 'runs/teacher'
  grader_lib.check(c, mixture(**TWO))


def test_without_any_reward_all_are_0():
  task = mixture(**TWO)
  c = config(rewards=dict())
  c.algorithm.reference_from = 'runs/teacher'
  examples = [task.example(0), task.example(40)]
  got, components = grader_lib.Grader(c, task).grade(
    0, [['a'] * 3] * 2, examples
  )
  np.testing.assert_array_equal(got, np.zeros((2, 3)))
  assert components == {}


def test_a_step_at_which_no_part_has_begun_is_refused():
  task = mixture(a=part(share=1, from_step=2), b=part(COUNTDOWN, share=1))
  late = shares.joined(task.parts[:1])
  with pytest.raises(ValueError, match='no part of the mixture has begun'):
    late.batch(4, seed=0, step=0)
  assert len(late.batch(4, seed=0, step=2)) == 4


def test_a_part_that_never_begins_is_refused():
  c = config(steps=5, rewards=dict(r=reward('correct')))
  task = mixture(a=part(share=1), late=part(share=1, from_step=5))
  with pytest.raises(ValueError, match='late.from_step=5 is never reached'):
    grader_lib.check(c, task)


def test_domains_without_a_mixture_are_refused():
  c = config(rewards=dict(r=reward('correct', domains=('x',))))
  task = tasks.arithmetic(split='train', size=3, min_ops=1, max_ops=1)
  with pytest.raises(ValueError, match="names 'x', and the task is no mixture"):
    grader_lib.check(c, task)


def test_a_reward_by_rule_of_prompts_without_answers_is_refused(tmp_path):
  task = mixture(a=part(share=1), chat=prompts_file(tmp_path) | dict(share=1))
  c = config(rewards=dict(r=reward('correct')))
  with pytest.raises(ValueError, match="domain 'chat': give the reward"):
    grader_lib.reward_functions(c, task)
  c.rewards = dict(r=reward('correct', domains=('a',)))
  assert set(grader_lib.reward_functions(c, task)) == {'r'}


def test_prompts_of_every_part_are_tried_before_the_first_step(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text('{"q": "1 +1="}\n{"q": "1 +1?"}')
  c = config()
  c.task = ml_collections.ConfigDict(
    dict(
      name='mixture',
      split='train',
      parts=dict(
        a=part(share=1),
        chat=dict(name='jsonl', path=str(path), prompt_field='q', share=1),
      ),
    )
  )
  tokenizer = char(alphabet=tasks.ALPHABET, specials=tasks.SPECIALS)
  with pytest.raises(ValueError, match=r'p.jsonl: prompt 1 .*\?'):
    questions.questions(c, tokenizer, evaluation=False)


# A run


def test_pairs_and_points_are_of_the_prompts_that_gold_judges(tmp_path):
  (tmp_path / 'mixed.py').write_text(
    f"""
import sys
sys.path.insert(0, {str(tiny.REPO / 'tests')!r})
import tiny
def get_config():
  c = tiny.get_config()
  sums = dict(name='arithmetic', size=50, min_ops=1, max_ops=1, seed=0)
  c.task = dict(name='mixture', split='train', parts=dict(
    sums=sums | dict(domain='reasoning', share=0.5),
    # Asked by runs from step 5 on: pairs and points are no run.
    late=sums | dict(domain='reasoning', share=0.2, from_step=5),
    more=sums | dict(domain='helpful', share=0.5, max_number=4, seed=1)))
  c.rewards.correct.domains = ('reasoning',)
  c.pairs.update(prompts=12, samples=4)
  return c
"""
  )
  task = tasks.arithmetic(split='train', size=50, min_ops=1, max_ops=1, seed=0)
  asked = {task.example(i).prompt for i in range(50)}
  for job in ('pairs', 'points'):
    done = tiny.job(
      job,
      f'--config={tmp_path}/mixed.py',
      f'--init_from={tiny.run("sft")}',
      f'--workdir={tmp_path}/{job}',
    )
    assert done.code == 0, done.err
    rows = [
      json.loads(line)
      for line in (tmp_path / job / f'{job}.jsonl').read_text().splitlines()
    ]
    assert rows and 'nan' not in str(rows)
    assert {row['prompt'] for row in rows} <= asked


def test_a_run_on_a_mixture_resumes_with_the_same_numbers(tmp_path):
  (tmp_path / 'mixed.py').write_text(
    f"""
import sys
sys.path.insert(0, {str(tiny.REPO / 'tests')!r})
import tiny
def get_config():
  c = tiny.get_config()
  c.steps = 4
  c.checkpoint.every = 1
  sums = dict(name='arithmetic', size=50, min_ops=1, max_ops=1, seed=0)
  c.task = dict(name='mixture', split='train', parts=dict(
    sums=sums | dict(domain='reasoning', share=0.5),
    more=sums | dict(domain='helpful', share=0.5, from_step=2)))
  c.rewards = dict(
    correct=dict(name='correct', weight=1.0, domains=('reasoning',)),
    coin=dict(name='random', weight=1.0),
    late=dict(name='random', weight=1.0, seed=1, domains=('helpful',),
              from_step=2))
  return c
"""
  )
  flags = [f'--config={tmp_path}/mixed.py']
  whole = tiny.job('train', *flags, f'--workdir={tmp_path}/whole')
  assert whole.code == 0, whole.err
  for steps in (3, 4):
    done = tiny.job(
      'train', *flags, f'--workdir={tmp_path}/parts', f'--config.steps={steps}'
    )
    assert done.code == 0, done.err
  rows = tiny.rows(tmp_path / 'whole')
  assert rows == tiny.rows(tmp_path / 'parts')
  late = [row['step'] for row in rows if 'reward/late' in row]
  assert late == [3, 4]  # rollouts 2 and 3, counted from 0
  evaluated = [row for row in rows if 'eval/pass@1' in row]
  assert len(evaluated) == 5
  assert all('eval/pass@1/helpful' in row for row in evaluated)
