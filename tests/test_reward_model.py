"""Reward models: losses by hand, data, scores, and RL by one, end to end."""

import dataclasses
import functools
import json
import math
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import base
from grpo_jax import (
  batched_rewards,
  files,
  grader,
  layout,
  losses,
  measures,
  pairs,
  policy,
  preference_losses,
  preferences,
  reward_model,
  scorer,
  sharding,
  tasks,
  validation,
  win_rate,
)
from grpo_jax.alpaca import judges
from grpo_jax.preferences import Row
from grpo_jax.rewards import Completion, text
from grpo_jax.structs import Batch


def sigmoid(x):
  return 1 / (1 + math.exp(-x))


# Losses


def scored(values, wanted, factors=None):
  """A batch whose mask is true on slot 1 of 3, and values that are there."""
  values, wanted = np.array(values), np.array(wanted, np.float32)
  shape = (*values.shape, 3)
  mask = np.broadcast_to(np.arange(3) == 1, shape)
  spread = np.full(shape, 9.0, np.float32)
  spread[:, :, 1] = values
  batch = Batch(
    trunk=None, trunk_mask=None, inputs=None, targets=None,
    mask=jnp.array(mask),
    returns=np.where(mask, wanted[:, :, None], np.float32(0)),
    factors=None if factors is None
    else np.broadcast_to(np.array(factors)[:, None, None], shape),
  )  # fmt: skip
  return batch, jnp.array(spread)


def total(loss, batch, values):
  """What `update` minimises, and its gradient at the masked slot."""
  weights = losses.token_mean(batch.mask)

  def fn(values):
    token_loss, _ = loss(batch, values)
    return jnp.sum(jnp.where(batch.mask, weights * token_loss, 0.0))

  value, grads = jax.value_and_grad(fn)(values)
  assert not grads[:, :, [0, 2]].any()
  return float(value), np.asarray(grads[:, :, 1])


def test_pairwise_loss_and_gradient_by_hand():
  batch, values = scored([[2.0, 0.5], [-1.0, 1.0]], np.zeros((2, 2)))
  value, grads = total(preference_losses.pairwise, batch, values)
  wanted = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(2.0))) / 2
  assert value == pytest.approx(wanted, rel=1e-6)
  first, second = sigmoid(-1.5) / 2, sigmoid(2.0) / 2
  np.testing.assert_allclose(
    grads, [[-first, first], [-second, second]], rtol=1e-5
  )
  _, metrics = preference_losses.pairwise(batch, values)
  found = {k: np.asarray(v)[:, :, 1] for k, v in metrics.items()}
  np.testing.assert_array_equal(found['accuracy'], [[1, 1], [0, 0]])
  np.testing.assert_array_equal(found['margin'], [[1.5, 1.5], [-2, -2]])


def test_pairs_may_ask_for_a_margin_and_have_a_weight():
  batch, values = scored([[2.0, 0.5]], [[3.0, 0.0]], factors=[0.25])
  loss = lambda *xs: preference_losses.pairwise(*xs, margin_scale=0.5)
  value, _ = total(loss, batch, values)
  # 1.5 - 0.5 * 3 = 0
  assert value == pytest.approx(0.25 * math.log(2))


def test_pointwise_loss_and_gradient_by_hand():
  batch, values = scored([[2.0], [2.0], [0.0]], [[1.0], [0.0], [0.75]])
  value, grads = total(preference_losses.pointwise, batch, values)
  wanted = math.log1p(math.exp(-2)) + math.log1p(math.exp(2)) + math.log(2)
  assert value == pytest.approx(wanted / 3, rel=1e-6)
  by_hand = [[sigmoid(2) - 1], [sigmoid(2)], [0.5 - 0.75]]
  np.testing.assert_allclose(grads, np.array(by_hand) / 3, rtol=1e-5)
  _, metrics = preference_losses.pointwise(batch, values)
  right = np.asarray(metrics['accuracy'])[:, :, 1]
  np.testing.assert_array_equal(right, [[1], [0], [0.5]])


# Measures


def test_held_out_pairs_are_measured_by_hand():
  found = reward_model.summarise(
    np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0], [5.0, 0.0]]),
    np.array([[4, 2], [2, 5], [3, 3], [1, 6]]),
    np.zeros((4, 2)),
    prompts=['p', 'q', 'q', 'p'],
  )
  assert found['accuracy'] == (1 + 0 + 0.5 + 1) / 4
  # Sums off the mean of 0.625: 0.75 of p, -0.75 of q.
  error = math.sqrt(2 * (0.75**2 + 0.75**2)) / 4
  assert found['accuracy_stderr'] == pytest.approx(error)
  assert found['margin'] == (1 - 3 + 0 + 5) / 4
  gaps = (1, -3, 0, 5)
  wanted = sum(math.log1p(math.exp(-x)) for x in gaps) / 4
  assert found['loss'] == pytest.approx(wanted)
  assert found['accuracy_longer'] == 1 and found['accuracy_shorter'] == 0.5
  assert found['chosen_longer_share'] == 0.25
  assert found['chosen_shorter_share'] == 0.5
  assert found['score_mean'] == 13 / 8


def test_held_out_labels_are_measured_by_hand():
  found = reward_model.summarise(
    np.array([[2.0], [1.0], [-1.0]]),
    np.ones((3, 1)),
    np.array([[1], [0], [0]]),
    prompts=['p', 'q', 'r'],
  )
  assert found['accuracy'] == pytest.approx(2 / 3)
  assert found['margin'] == pytest.approx((2 - 1 + 1) / 3)
  assert 'accuracy_longer' not in found
  soft = reward_model.summarise(
    np.array([[2.0], [1.0], [-1.0]]),
    np.ones((3, 1)),
    np.array([[0.8], [0.4], [0.5]]),
    prompts=['p', 'q', 'r'],
  )
  assert soft['accuracy'] == pytest.approx((0.8 + 0.4 + 0.5) / 3)
  assert soft['margin'] == pytest.approx((2 * 0.6 - 1 * 0.2 - 0) / 3)
  # Of three responses, and not of the six labels that they may have.
  assert soft['accuracy_stderr'] == pytest.approx(
    np.std([0.8, 0.4, 0.5], ddof=1) / 3**0.5
  )


def test_rank_correlation_by_hand():
  x = np.array([10.0, 20.0, 20.0, 90.0])  # ranks 1, 2.5, 2.5, 4
  assert measures.rank_correlation(x, x**3) == pytest.approx(1)
  assert measures.rank_correlation(x, -x) == pytest.approx(-1)
  # Ranks of y: 2, 1, 3, 4; centred products 0.75 + 0 + 0 + 2.25.
  y = np.array([5.0, 1.0, 6.0, 7.0])
  assert measures.rank_correlation(x, y) == pytest.approx(
    3 / math.sqrt(4.5 * 5)
  )
  assert measures.rank_correlation(x, np.ones(4)) == 0


# Data


def write(folder, *rows):
  path = folder / 'rows.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return str(path)


PAIR = dict(prompt='1 +1=', chosen='2', rejected='3')


@pytest.mark.parametrize(
  'row, kind, told',
  [
    (dict(prompt='p', chosen='a'), 'pairwise', "2: no field 'rejected'"),
    (PAIR, 'pointwise', "2: no field 'response'"),
    (PAIR | dict(chosen=2), 'pairwise', '2: chosen=2 must be a text'),
    (PAIR | dict(prompt=' '), 'pairwise', "2: prompt=' ' must be a text"),
    (PAIR | dict(margin=-1), 'pairwise', '2: margin=-1 must be a number'),
    (dict(prompt='p', response='a', label='safe'), 'pointwise',
     "2: label='safe' must be a number from 0 to 1"),
  ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path, row, kind, told):
  good = PAIR | dict(response='a', label=True)
  with pytest.raises(ValueError, match=f'rows.jsonl:{told}'):
    preferences.read(write(tmp_path, good, row), kind=kind, part='all')


def test_pairs_that_are_not_above_a_margin_are_left_out(tmp_path):
  # R1 keeps gaps above 1: not a gap of 1, which verdicts on a scale often give.
  path = write(
    tmp_path,
    *(PAIR | dict(margin=m) for m in (0, 0.5, 1, 1.0, 2)),
  )
  read = lambda least: preferences.read(
    path, kind='pairwise', part='all', min_margin=least
  )
  assert [row.wanted for row in read(1)] == [(2.0, 0.0)]
  assert len(read(0.99)) == 3 and len(read(0)) == 5
  with pytest.raises(ValueError, match='learn from: no margin above 2'):
    read(2)
  with pytest.raises(ValueError, match='rows.jsonl:1: margin=None'):
    preferences.read(
      write(tmp_path, PAIR), kind='pairwise', part='all', min_margin=1
    )


def test_the_summary_is_what_follows_the_thought(tmp_path):
  summary = functools.partial(text.part_of, part='summary')
  assert summary('<think>a</think>\n\nb</think>c') == 'c'
  assert summary('<think>a</think>\nb') == 'b'
  assert summary('<think>never closed') == ''
  assert summary('no thought') == 'no thought'
  # As the judge of a win rate reads it.
  assert summary('<think>a</think><answer>b</answer>') == 'b'
  row = PAIR | dict(chosen='<think>x</think>2')
  [found] = preferences.read(
    write(tmp_path, row), kind='pairwise', part='summary'
  )
  assert found.responses == ('2', '3')


def test_a_share_of_the_prompts_is_held_out_also_of_a_tasks_train_prompts():
  task = tasks.arithmetic(split='train', size=400, min_ops=3, max_ops=4)
  rows = [
    Row(task.example(i).prompt, ('a', 'b'), (0.0, 0.0), '') for i in range(400)
  ]
  train, test = preferences.split(rows + rows, test_share=0.2)
  assert abs(len(test) - 160) < 60
  assert not {r.prompt for r in train} & {r.prompt for r in test}
  with pytest.raises(ValueError, match='leaves no test row of 2; .* 1 differ'):
    preferences.split(rows[:1] * 2, test_share=0.01)


def of_lengths(*sizes):
  return [
    Row(str(i), ('x' * a, 'x' * b), (0.0, 0.0), '')
    for i, (a, b) in enumerate(sizes)
  ]


def test_dropping_leaves_as_many_longer_as_shorter_in_every_bin():
  # Differences of 2-3: three longer, one shorter; of 8-15: longer ones only.
  rows = of_lengths((5, 3), (6, 3), (7, 5), (1, 3), (9, 1), (20, 10), (4, 4))
  left = preferences.balance(rows, method='drop', seed=0)
  kept = {int(row.prompt) for row in left}
  assert {3, 6} <= kept and len(kept & {0, 1, 2}) == 1 and not kept & {4, 5}
  assert preferences.balance(rows, method='drop', seed=0) == left
  others = {
    r.prompt
    for seed in range(9)
    for r in preferences.balance(rows, method='drop', seed=seed)
  }
  assert others == {'0', '1', '2', '3', '6'}


def test_weighing_gives_both_sides_of_a_bin_the_same_sum():
  rows = of_lengths((5, 3), (6, 3), (7, 5), (1, 3), (9, 1), (4, 4))
  left = preferences.balance(rows, method='weigh', seed=0)
  weights = {int(row.prompt): row.weight for row in left}
  assert weights == {
    0: pytest.approx(2 / 3), 1: pytest.approx(2 / 3), 2: pytest.approx(2 / 3),
    3: 2.0, 5: 1.0,
  }  # fmt: skip
  with pytest.raises(ValueError, match='always the longer'):
    preferences.balance(rows[:3], method='weigh', seed=0)


def test_pairs_are_chosen_by_the_true_score_or_by_length():
  answers = [
    Completion(t, tokens=n, finished=True)
    for t, n in (('a', 9), ('b', 2), ('c', 3), ('d', 5), ('e', 4), ('f', 4))
  ]
  scores = np.array([0.0, 1.0, 1.0, 1.0, 0.5, 0.25])

  def made(longer_wins):
    rows = pairs.of_answers(
      'p', answers, scores, longer_wins=longer_wins, draw=tasks.random(0)
    )
    return [(r['chosen'], r['rejected'], r['by'], r['longer']) for r in rows]

  # c and d are worth the same, so that only their length tells them apart.
  assert made(0.0) == [('b', 'a', 'gold', False), ('e', 'f', 'gold', False)]
  assert made(1.0) == [
    ('a', 'b', 'length', True), ('d', 'c', 'length', True),
    ('e', 'f', 'gold', False),
  ]  # fmt: skip
  # An answer without a score is neither better nor worse, nor is it longer.
  scores[[0, 3]] = np.nan
  assert made(0.0) == made(1.0) == [('e', 'f', 'gold', False)]


# Scores

FACTS = {'held_out': {'score_mean': 0.5, 'score_std': 2.0}}


@pytest.fixture(scope='module')
def body():
  pol = policy.open_policy(tiny.get_config())
  mesh = sharding.make_mesh({'data': 1}, jax.devices()[:1])
  return dataclasses.replace(pol, mesh=mesh)


def test_the_score_is_read_at_the_end_of_the_response():
  batch = layout.responses(
    [[5, 6, 7], [8]], [[[1, 2], [3]], [None, [1, 2, 3, 4]]],
    trunk_multiple=2, multiple=2,
  )  # fmt: skip
  # Widths: 2 trunk tokens; 4 + 1 slots, rounded up to 2 * 2^k or 2 * 3 * 2^k.
  assert batch.trunk.shape == (2, 2) and batch.mask.shape == (2, 2, 6)
  assert batch.mask.sum(-1).tolist() == [[1, 1], [0, 1]]
  assert batch.inputs[batch.mask].tolist() == [2, 3, 4]
  assert batch.inputs[0, 0, :3].tolist() == [7, 1, 2]


def test_widths_are_few_and_a_third_too_wide_at_most():
  lengths = (0, 1, 513, 1025, 1600, 32769)
  widths = [layout.slots(n, 512) for n in lengths]
  assert widths == [0, 512, 1024, 1536, 2048, 49152]
  # Completions at their limit have a width of their own.
  widths = [layout.slots(n, 512, 32770) for n in lengths]
  assert widths == [0, 512, 1024, 1536, 2048, 33280]


def test_scores_do_not_depend_on_the_batch_and_its_padding(body):
  reader = scorer.Reader(body.tokenizer, {}, 'all')
  params = body.params()
  head = jax.random.normal(jax.random.key(1), (body.model.embed_dim,))
  params = jax.device_get({'body': params, 'value_head': head})

  def model(parts, multiples):
    return scorer.Scorer(
      body, params, reader, FACTS, parts=parts, multiples=multiples
    )

  asked = ['1 +2=', '9 -3 +4=', '5 +5=', '2 +2=']
  answers = [['3', '12'], ['10', '7;7;7'], ['10', '0'], ['4', '44']]
  one = model((1, 1), (1, 1))
  wanted = np.array([
    [float(one([q], [[a]])[0, 0]) for a in row]
    for q, row in zip(asked, answers, strict=True)
  ])  # fmt: skip
  assert len(set(wanted.ravel().round(5).tolist())) == 8
  found = model((2, 2), (16, 16))(asked, answers)
  # Other widths and batches: rounding of another order of sums.
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  many = model((1, 1), (4, 8)).many(asked, answers, batch=3)
  np.testing.assert_allclose(many, wanted, rtol=1e-4, atol=1e-5)
  nowhere = one([None, '1 +1='], [['3'], ['two']])
  assert np.isnan(nowhere).all()  # another process's, and no token for 't'


def test_parts_are_of_the_rows_that_a_device_has(body, monkeypatch):
  asked = []
  program = lambda pol, *, parts: asked.append(parts)
  monkeypatch.setattr(scorer, 'program', program)
  reader = scorer.Reader(body.tokenizer, {}, 'all')
  spread = dataclasses.replace(body, mesh=sharding.make_mesh({'data': 8}))
  model = scorer.Scorer(
    spread, None, reader, FACTS, parts=(32, 2), multiples=(4, 4)
  )
  for shape in ((64, 1), (512, 16), (8, 4)):
    model._program(*shape)
  assert asked == [(8, 1), (32, 2), (1, 2)]


def test_an_opened_thought_is_read_with_one_tag(body):
  whole = '<think>1 +2</think><answer>3</answer>'
  for template, part in (('{prompt}<think>', 'all'), ('{prompt}', 'summary')):
    reader = scorer.Reader(body.tokenizer, dict(template=template), part)
    opening = reader.opening('1 +2=')
    said = reader.response_ids(whole, opening=opening)[:-1]
    ids = reader.prompt_ids('1 +2=') + said
    told = {'all': '1 +2=' + whole, 'summary': '1 +2=3'}[part]
    assert body.tokenizer.decode(ids) == told


def test_a_response_that_says_nothing_has_the_least_score(body):
  reader = scorer.Reader(body.tokenizer, {}, 'summary')
  head = jax.random.normal(jax.random.key(1), (body.model.embed_dim,))
  model = scorer.Scorer(
    body, {'body': body.params(), 'value_head': head}, reader, FACTS,
    parts=(1, 1), multiples=(4, 4),
  )  # fmt: skip
  unclosed, closed = '<think>1 +2', '<think>1 +2</think>'
  found = model(
    ['1 +2='] * 3, [[unclosed, '3'], [closed, ' '], [closed + '3', None]]
  )
  assert found[0, 0] == found[1, 0] == found[1, 1] == 0.5 - 3 * 2.0
  # Of the summary alone.
  np.testing.assert_allclose(found[2, 0], found[0, 1], rtol=1e-5)
  assert np.isnan(found[2, 1])


IN_TWO = """
import sys
sys.path[:0] = [{tests!r}, {repo!r}]
import numpy as np
import tiny
from grpo_jax import cli, hosts, policy, scorer, sharding

def job(cfg, workdir):
  pol = policy.open_policy(tiny.get_config())
  head = np.linspace(-1, 1, 32, dtype=np.float32)
  head = sharding.put(head, sharding.replicated(pol.mesh))
  model = scorer.Scorer(
    pol, dict(body=pol.params(), value_head=head),
    scorer.Reader(pol.tokenizer, dict(), 'all'), {facts!r},
    parts=(1, 1), multiples=(4, 4))
  rows = {rows!r}
  here = pol.rows('train').here(2)
  rows = [row if there else (None, [None, None])
          for row, there in zip(rows, here)]
  got = model([q for q, _ in rows], [x for _, x in rows])
  print(int(here.sum()), hosts.everywhere(got, what='scores').tolist())

sys.argv = ['job']
cli.main(job)
"""
# One is much longer, so that the widths have to be agreed on.
ROWS = [('1 +2=', ['3', '12']), ('9 -3 +4 -1 +2=', ['10', '7;7;7;7;7;7;7'])]


def test_two_processes_score_what_each_has_as_one_does(body):
  code = IN_TWO.format(
    tests=str(tiny.REPO / 'tests'), repo=str(tiny.REPO), rows=ROWS, facts=FACTS
  )
  done = subprocess.run(
    [sys.executable, '-m', 'launch.local', '--processes=2', '--devices=1',
     '--', sys.executable, '-c', code],
    cwd=tiny.REPO, capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  reader = scorer.Reader(body.tokenizer, {}, 'all')
  head = np.linspace(-1, 1, 32, dtype=np.float32)
  params = jax.device_get({'body': body.params(), 'value_head': head})
  alone = scorer.Scorer(
    body, params, reader, FACTS, parts=(1, 1), multiples=(4, 4)
  )
  wanted = np.asarray(alone([q for q, _ in ROWS], [x for _, x in ROWS]))
  told = [line for line in done.stdout.splitlines() if '[[' in line]
  assert len(told) == 2, done.stdout
  for line in told:
    here, scores = line.partition('[[')[0].split()[-1], line[line.index('[[') :]
    assert here == '1'
    np.testing.assert_allclose(json.loads(scores), wanted, rtol=1e-4, atol=1e-5)


# From end to end


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A reward model that has learned to like answers that begin with a 7."""
  folder = tmp_path_factory.mktemp('rm')
  draw = tasks.random(0)
  rows = []
  for i in range(400):
    a, b, *more = draw.randint(1, 9, 6).tolist()
    end = lambda: ''.join(map(str, draw.randint(0, 9, draw.randint(0, 4))))
    rows.append(
      dict(prompt=f'{a} +{b}=', chosen='7' + end(), rejected=f'{i % 7}' + end())
    )
  path = write(folder, *rows)
  flags = (
    f'--config.reward_model.path={path}', '--config.steps=40',
    '--config.reward_model.batch_size=32', '--config.reward_model.max_length=8',
    '--config.optimizer.learning_rate=1e-2', '--config.eval.every=20',
    '--config.checkpoint.every=20', '--config.updates.microbatches=2',
  )  # fmt: skip
  done = tiny.job('reward_model', f'--workdir={folder}/model', *flags)
  assert done.code == 0, done.err
  return folder, flags, done


def test_a_reward_model_is_no_policy(trained):
  folder, _, _ = trained
  done = tiny.job('evaluate', f'--workdir={folder}/model')
  assert done.code == 2
  assert f'{folder}/model is a reward model and writes no text' in done.err


def test_a_planted_preference_is_learned(trained):
  folder, _, done = trained
  facts = json.loads((folder / 'model' / files.REWARD_MODEL).read_text())
  assert facts['held_out']['accuracy'] > 0.9
  assert facts['rows']['read'] == 400
  assert abs(facts['held_out']['length_correlation']) < 0.4
  rows = tiny.rows(folder / 'model')
  assert rows[0]['step'] == 0 and rows[0]['eval/accuracy'] == 0.5
  assert rows[-1]['eval/accuracy'] == facts['held_out']['accuracy']
  assert "dict(name='reward_model', path=" in done.out


def test_training_goes_on_with_the_same_numbers(trained, tmp_path):
  folder, flags, _ = trained
  for steps in (20, 40):
    done = tiny.job(
      'reward_model', f'--workdir={tmp_path}', *flags, f'--config.steps={steps}'
    )
    assert done.code == 0, done.err
  assert tiny.rows(tmp_path) == tiny.rows(folder / 'model')
  found, wanted = ((f / files.REWARD_MODEL).read_text()
                   for f in (tmp_path, folder / 'model'))  # fmt: skip
  assert found == wanted


def test_a_reward_model_judges_a_win_rate(trained):
  folder, _, _ = trained
  cfg = tiny.get_config()
  cfg.win_rate.judge = str(folder / 'model')
  judge = win_rate.open_judge(cfg, folder)
  asked = [
    judges.Pair(instruction='3 +4=', output=output, reference=reference)
    for output, reference in (('7', '2'), ('2', '7'), ('71', '71'))
  ]
  won = judge(asked)
  assert won[0] > 0.5 > won[1]
  assert won[2] == 0.5


@pytest.fixture(scope='module')
def rl(trained, tmp_path_factory):
  folder, _, _ = trained
  file = tmp_path_factory.mktemp('rl') / 'rl.py'
  file.write_text(
    f"""
import sys
sys.path.insert(0, {str(tiny.REPO / 'tests')!r})
import tiny
def get_config():
  c = tiny.get_config()
  c.steps = 4
  c.eval.every = 0
  c.checkpoint.every = 1
  model = dict(name='reward_model', path={str(folder / 'model')!r})
  c.rewards = dict(
    liked=model | dict(weight=1.0),
    bounded=model | dict(weight=0.5, shape='sigmoid', from_step=2),
    near=model | dict(weight=0.0, shape='sigmoid', reference='completion'),
    format=dict(name='format', weight=0.0))
  return c
"""
  )
  workdir = file.parent / 'whole'
  done = tiny.job('train', f'--config={file}', f'--workdir={workdir}')
  assert done.code == 0, done.err
  return file, workdir


def test_a_reference_completion_must_be_there(tmp_path):
  c = tiny.get_config()
  rows = tmp_path / 'rows.jsonl'
  rows.write_text('{"q": "1+1=", "a": "2"}\n')
  c.rewards.near = dict(
    name='reward_model', path='', weight=0.0, shape='sigmoid',
    reference='completion',
  )  # fmt: skip
  task = tasks.jsonl(
    split='train', path=str(rows), prompt_field='q', answer_field='a'
  )
  with pytest.raises(ValueError, match='gives no completion to learn for'):
    grader.Grader(c, task)


def test_rl_is_paid_by_the_model(trained, rl):
  folder, _, _ = trained
  _, workdir = rl
  rows = tiny.rows(workdir)
  assert [('reward/bounded' in row) for row in rows] == [0, 0, 1, 1]
  mean = json.loads((folder / 'model' / files.REWARD_MODEL).read_text())
  mean = mean['held_out']['score_mean']
  samples = [json.loads(x) for x in (workdir / 'samples.jsonl').open()]
  last = [row for row in samples if row['step'] == 4]
  for row in last:
    found = row['rewards']
    assert found['bounded'] == pytest.approx(
      sigmoid(found['liked'] - mean), rel=1e-5
    )
    assert row['reward'] == pytest.approx(
      found['liked'] + 0.5 * found['bounded'], rel=1e-5
    )
  assert len({row['reward'] for row in last}) > 1
  assert all(row['grad_norm'] > 0 for row in rows)


def test_rl_by_a_model_resumes_with_the_same_numbers(rl, tmp_path):
  file, workdir = rl
  for steps in (3, 4):
    done = tiny.job(
      'train', f'--config={file}', f'--workdir={tmp_path}',
      f'--config.steps={steps}',
    )  # fmt: skip
    assert done.code == 0, done.err
  assert tiny.rows(tmp_path) == tiny.rows(workdir)


def test_labelled_responses_are_learned(trained, tmp_path):
  _, flags, _ = trained
  rows = [
    dict(prompt='1 +1=', response=f'{i % 10};{i}', label=int(i % 10 > 4))
    for i in range(100)
  ]
  rows = [r | dict(prompt=f'{i % 9} +{i % 7}=') for i, r in enumerate(rows)]
  done = tiny.job(
    'reward_model', f'--workdir={tmp_path}/run', *flags,
    f'--config.reward_model.path={write(tmp_path, *rows)}',
    '--config.reward_model.loss.name=pointwise', '--config.steps=20',
  )  # fmt: skip
  assert done.code == 0, done.err
  facts = json.loads((tmp_path / 'run' / files.REWARD_MODEL).read_text())
  assert facts['held_out']['accuracy'] > 0.9


# What is refused


def test_a_missing_file_or_model_is_one_line(tmp_path):
  done = tiny.job('reward_model', f'--workdir={tmp_path}/a')
  assert done.code == 2
  assert done.err.startswith('error: reward_model.path is empty; name')
  assert done.err.count('\n') == 1


@pytest.mark.parametrize(
  'changes, told',
  [
    (dict(path='/nowhere'), "'/nowhere' holds no trained reward model"),
    (dict(path='p', shape='tanh'), "shape of reward_model='tanh' is not one"),
    (dict(path='p', reference='median'), "reference of reward_model='median'"),
  ],
)
def test_a_reward_that_cannot_be_made_is_refused(changes, told):
  with pytest.raises(ValueError, match=told):
    batched_rewards.reward_model(cfg=base.get_config(), **changes)


@pytest.mark.parametrize(
  'changes, group, told',
  [
    (dict(part='thought'), 2, "part='thought' is not one of all, summary"),
    (dict(balance_lengths='drop'), 1, 'is of pairs'),
    (dict(min_margin=1.0), 1, 'is of pairs'),
    (dict(batch_size=10), 2, 'batch_size=10 does not divide over 4 devices'),
  ],
)
def test_numbers_that_do_not_fit_are_refused(changes, group, told):
  c = base.get_config()
  c.reward_model.path = 'x'
  c.reward_model.update(changes)
  with pytest.raises(ValueError, match=told):
    validation.of_reward_model(c, group=group, ways=(4, 1, 1))


@pytest.mark.parametrize('kind', ['helpful', 'safety'])
def test_the_papers_reward_models_are_configs(kind):
  found = runpy.run_path(str(tiny.REPO / 'configs/r1/reward_model.py'))
  c = found['get_config'](kind)
  c.reward_model.path = 'x'
  group = 2 if c.reward_model.loss.name == 'pairwise' else 1
  validation.of_reward_model(c, group=group, ways=(1, 1, 1))
  assert c.reward_model.batch_size == 256
  assert c.optimizer.learning_rate == 6e-6
  assert c.reward_model.part == {'helpful': 'summary', 'safety': 'all'}[kind]
  # One epoch: what is held out is not learned from, and no pair is dropped.
  rows = {'helpful': 66_000, 'safety': 106_000}[kind]
  left = rows * (1 - c.reward_model.test_share)
  assert 0 <= left / c.reward_model.batch_size - c.steps < 1
  pairs = kind == 'helpful'
  assert c.reward_model.min_margin == (1.0 if pairs else 0.0)
  assert c.reward_model.balance_lengths == ('weigh' if pairs else 'none')
  with pytest.raises(ValueError, match='helpful, safety'):
    found['get_config']('honest')
