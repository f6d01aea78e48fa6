"""One update: what it must equal, and what it must not depend on.

Most tests use a model of one table, whose logits are the row of the input
token, so that gradients can be written down; the rest use the decoder.
"""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grpo_jax import (
  advantages,
  layout,
  losses,
  objectives,
  policy,
  programs,
  sharding,
  update,
)
from grpo_jax.models import transformer
from grpo_jax.structs import Batch

V = 20
EOS = 3
LR = 0.5
# Compiles in half the time; the numbers are small.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def make_batch(prompt_ids, completions, rewards):
  """A batch whose old and reference logprobs are near those of the models."""
  prompts = layout.prompts(prompt_ids, multiple=4)
  batch = layout.branches(prompts, completions, max_length=32, multiple=4)
  rng = np.random.default_rng(0)
  near = lambda: -3 + 0.3 * rng.normal(size=batch.mask.shape)
  batch = batch.replace(
    advantages=jax.jit(advantages.group)(jnp.asarray(rewards, jnp.float32)),
    old_logprobs=near().astype(np.float32),
    ref_logprobs=near().astype(np.float32),
  )
  return jax.tree.map(jnp.asarray, batch)


PROMPTS = [[5, 6, 7, 8], [9], [4, 10, 11, 12, 13, 2], [5, 6]]
COMPLETIONS = [
  [[8, 9, EOS], [7, EOS], [6, 5, 4, 8, EOS]],
  [[EOS], [2, 2, 2, 2, 2, 2], [4, EOS]],
  [[11, 12, 4, EOS], [10, EOS], [9, 9, 9, EOS]],
  [[15, EOS], [16, 17, EOS], [18, 19, 14, 13, 12, 11, 10]],
]
REWARDS = [[1, 0, 0], [0, 1, 1], [0.5, 0, 1], [0, 0, 1]]


@functools.cache
def ragged():
  return make_batch(PROMPTS, COMPLETIONS, REWARDS)


TABLE = jnp.asarray(
  np.random.default_rng(1).normal(0, 0.5, (V, V)), jnp.float32
)


def table_score(params, batch):
  """Logprobs and entropy of a model that looks at one token."""
  logprobs = jax.nn.log_softmax(params[batch.inputs])
  picked = jnp.take_along_axis(logprobs, batch.targets[..., None], -1)[..., 0]
  return picked, -jnp.sum(jnp.exp(logprobs) * logprobs, -1)


def objective(kl_coef=0.1):
  return functools.partial(
    objectives.policy, loss=losses.clip, kl=losses.k3, kl_coef=kl_coef
  )


WEIGHTINGS = {
  'token_mean': losses.token_mean,
  'sequence_mean': losses.sequence_mean,
  'constant': functools.partial(losses.constant, length=10),
}


@functools.cache
def table_update(microbatches=1, kl_coef=0.1, adam=False):
  tx = optax.adam(LR) if adam else optax.sgd(LR)
  one = functools.partial(
    update.update,
    score=table_score,
    objective=objective(kl_coef),
    weigh=losses.token_mean,
    tx=tx,
    parts=(microbatches, 1),
  )
  init = functools.partial(update.init_state, tx=tx, reference=False)
  return init, jit(one)


def table_step(batch, params=TABLE, **settings):
  init, one = table_update(**settings)
  return one(init(params), batch)


def leaves_equal(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@functools.cache
def table_gradient(microbatches):
  one = functools.partial(
    update.accumulate,
    score=table_score,
    objective=objective(),
    parts=(microbatches, 1),
  )
  return jit(one)


@pytest.mark.parametrize('parts', [2, 4])
def test_no_weighting_depends_on_the_split_into_microbatches(parts):
  batch, seen = ragged(), []
  for weigh in WEIGHTINGS.values():
    weights = weigh(batch.mask)
    whole = table_gradient(1)(TABLE, batch, weights)
    split = table_gradient(parts)(TABLE, batch, weights)
    # The same fp32 terms of order 1e-2, added in another order.
    for a, b in zip(
      jax.tree.leaves(split), jax.tree.leaves(whole), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    seen.append(float(whole[1]))
  assert len(set(seen)) == 3


def test_params_and_metrics_do_not_depend_on_microbatches():
  whole, metrics = table_step(ragged())
  split, others = table_step(ragged(), microbatches=2)
  assert jnp.abs(whole.params - TABLE).max() > 1e-2
  # fp32 rounding of parameters of order 1.
  np.testing.assert_allclose(split.params, whole.params, rtol=1e-6, atol=1e-7)
  assert others.keys() == metrics.keys()
  for name, value in metrics.items():
    assert others[name] == pytest.approx(float(value), rel=1e-5), name


def test_metrics_are_token_means_over_the_global_batch():
  batch = ragged()
  _, metrics = table_step(batch, microbatches=2)
  mask = np.asarray(batch.mask)
  picked, entropy = map(np.asarray, table_score(TABLE, batch))
  gap = (picked - np.asarray(batch.old_logprobs))[mask]
  ratio = np.exp(gap)
  a = np.broadcast_to(batch.advantages[:, :, None], mask.shape)[mask]
  held = np.clip(ratio, 0.8, 1.2)
  loss = -np.minimum(ratio * a, held * a)
  x = (np.asarray(batch.ref_logprobs) - picked)[mask]
  kl = np.exp(x) - 1 - x
  expected = {
    'ratio': ratio.mean(),
    'entropy': entropy[mask].mean(),
    'logprob_gap': np.abs(gap).mean(),
    'logprob_gap_max': np.abs(gap).max(),
    'policy_loss': loss.mean(),
    'clip_share': np.mean(held * a < ratio * a),
    'kl': kl.mean(),
    'loss': (loss + 0.1 * kl).mean(),
    'nonfinite': 0.0,
    'tokens': mask.sum(),
    'padding/update': 1
    - float(mask.sum() + batch.trunk_mask.sum())
    / (batch.trunk.size + batch.inputs.size),
  }
  assert expected['clip_share'] > 0
  assert metrics.keys() == expected.keys() | {'grad_norm'}
  for name, value in expected.items():
    # fp32 sums of 43 terms.
    assert metrics[name] == pytest.approx(value, rel=2e-5, abs=1e-6), name


def test_what_a_teacher_gave_counts_in_no_mean_over_sampled_tokens():
  batch = ragged()
  given = jnp.zeros(batch.mask.shape[:2], bool).at[:, 1].set(True)
  _, metrics = table_step(batch.replace(teacher=given))
  mask = np.asarray(batch.mask)
  own = mask & ~np.asarray(given)[:, :, None]
  picked, entropy = map(np.asarray, table_score(TABLE, batch))
  gap = (picked - np.asarray(batch.old_logprobs))[own]
  assert metrics['ratio'] == pytest.approx(np.exp(gap).mean(), rel=2e-5)
  assert metrics['logprob_gap'] == pytest.approx(np.abs(gap).mean(), rel=2e-5)
  assert metrics['sampled_share'] == pytest.approx(own.sum() / mask.sum())
  # All tokens have an entropy, whoever chose them.
  assert metrics['entropy'] == pytest.approx(entropy[mask].mean(), rel=2e-5)


def test_a_steps_mean_counts_the_tokens_of_each_update():
  updates = [
    dict(loss=1.0, tokens=10.0, entropy=1.0, ratio=2.0, sampled_share=0.2),
    dict(loss=3.0, tokens=30.0, entropy=2.0, ratio=1.0, sampled_share=1.0),
    dict(loss=5.0, tokens=40.0, entropy=3.0, ratio=0.0, sampled_share=0.0),
  ]
  assert update.mean('loss', updates) == 3.0
  assert update.mean('entropy', updates) == (10 + 60 + 120) / 80
  # 2 tokens of the first, 30 of the second, none of a teacher's.
  assert update.mean('ratio', updates) == (2 * 2 + 30) / 32


def test_an_on_policy_step_is_the_policy_gradient():
  batch = ragged()
  batch = batch.replace(old_logprobs=table_score(TABLE, batch)[0])
  state, metrics = table_step(batch, kl_coef=0.0)
  assert metrics['ratio'] == 1 and metrics['logprob_gap_max'] == 0
  # Ascent on mean A log p; d log p / d row = onehot - softmax.
  table = np.asarray(TABLE, np.float64)
  softmax = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
  ascent = np.zeros((V, V))
  for q, g, t in np.argwhere(np.asarray(batch.mask)):
    token, target = batch.inputs[q, g, t], batch.targets[q, g, t]
    a = float(batch.advantages[q, g]) / float(batch.mask.sum())
    ascent[token] += a * (np.eye(V)[target] - softmax[token])
  np.testing.assert_allclose(state.params - TABLE, LR * ascent, atol=1e-6)
  norm = np.sqrt(np.sum(ascent**2))
  assert metrics['grad_norm'] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize('microbatches', [1, 2])
def test_zero_variance_group_has_zero_gradient(microbatches):
  rewards = [[0.1] * 3, [1.0] * 3, [0.0] * 3, [0.7] * 3]
  batch = make_batch(PROMPTS, COMPLETIONS, rewards)
  state, metrics = table_step(batch, kl_coef=0.0, microbatches=microbatches)
  np.testing.assert_array_equal(state.params, TABLE)
  assert metrics['grad_norm'] == 0 and metrics['loss'] == 0


def test_a_stop_token_that_is_also_the_pad_token_gets_its_gradient():
  prompts = layout.prompts([[7, 5]], multiple=1)
  eos = pad = 0
  batch = layout.branches(prompts, [[[6, eos]]], max_length=8, multiple=8)
  batch = jax.tree.map(jnp.asarray, batch)
  batch = batch.replace(
    advantages=jnp.ones((1, 1)), old_logprobs=table_score(TABLE, batch)[0]
  )
  state, _ = table_step(batch, kl_coef=0.0)
  moved = np.asarray(state.params - TABLE)
  # Two counted tokens: 5 -> 6 and 6 -> EOS. Nothing follows an EOS.
  softmax = np.asarray(jax.nn.softmax(TABLE[6]))
  np.testing.assert_allclose(
    moved[6], LR / 2 * (np.eye(V)[eos] - softmax), atol=1e-6
  )
  assert moved[6, eos] > 0.2
  assert not moved[pad].any()
  assert set(np.flatnonzero(moved.any(1)).tolist()) == {5, 6}


def spoil_advantages(batch):
  return batch.replace(advantages=batch.advantages.at[1, 1].set(jnp.nan))


@pytest.mark.parametrize('microbatches', [1, 2])
def test_a_loss_that_is_not_finite_changes_nothing(microbatches):
  init, one = table_update(microbatches=microbatches, adam=True)
  state, metrics = one(init(TABLE), ragged())
  assert metrics['nonfinite'] == 0 and state.step == 1
  after, metrics = one(state, spoil_advantages(ragged()))
  assert metrics['nonfinite'] == 1 and np.isnan(metrics['loss'])
  leaves_equal(after, state)
  # And the next update goes on from there.
  after, metrics = one(after, ragged())
  assert metrics['nonfinite'] == 0 and after.step == 2
  assert jnp.isfinite(after.params).all()


def test_without_a_token_that_counts_momentum_moves_nothing():
  init, one = table_update(adam=True)
  state, _ = one(init(TABLE), ragged())
  empty = ragged()
  empty = empty.replace(mask=jnp.zeros_like(empty.mask))
  after, metrics = one(state, empty)
  assert metrics['tokens'] == 0 and metrics['nonfinite'] == 0
  leaves_equal(after, state)


def test_a_gradient_that_is_not_finite_changes_nothing():
  # The loss is 0, the slope of the root at 0 is not.
  def root(params, batch):
    logprobs = jnp.sqrt(params['w']) + jnp.zeros(batch.mask.shape)
    return logprobs, logprobs

  tx = optax.adam(LR)
  state = update.init_state({'w': jnp.float32(0)}, tx, reference=False)
  after, metrics = jit(
    functools.partial(
      update.update,
      score=root,
      objective=objectives.supervised,
      weigh=losses.token_mean,
      tx=tx,
      parts=(1, 1),
    )
  )(state, ragged())
  assert metrics['loss'] == 0 and not np.isfinite(metrics['grad_norm'])
  assert metrics['nonfinite'] == 1
  leaves_equal(after, state)


def test_what_an_objective_says_where_the_mask_is_false_does_not_count():
  def spoilt(batch, logprobs, entropy):
    loss, metrics = objectives.supervised(batch, logprobs, entropy)
    anything = jnp.where(batch.mask, 0.0, jnp.nan)
    return loss + anything, {k: v + anything for k, v in metrics.items()}

  batch = ragged()
  one = functools.partial(update.accumulate, score=table_score, parts=(2, 1))
  args = (TABLE, batch, losses.token_mean(batch.mask))
  clean = jit(functools.partial(one, objective=objectives.supervised))(*args)
  assert jnp.isfinite(clean[1]) and clean[0].any()
  got = jit(functools.partial(one, objective=spoilt))(*args)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(clean), strict=True):
    # Two programs: rounding may differ.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_the_reference_is_a_copy_that_updates_leave_alone():
  tx = optax.sgd(LR)
  state = update.init_state(TABLE, tx, reference=True)
  np.testing.assert_array_equal(state.ref_params, TABLE)
  assert state.ref_params is not state.params and state.step == 0
  after, _ = table_update()[1](state, ragged())
  np.testing.assert_array_equal(after.ref_params, TABLE)
  assert (after.params != TABLE).any()


def test_parts_of_a_batch_are_strided_rows():
  x = jnp.arange(12).reshape(6, 2)
  parts = update.split(x, parts=(3, 1))
  np.testing.assert_array_equal(parts[1], x[1::3])
  np.testing.assert_array_equal(jnp.sort(parts.ravel()), x.ravel())


def test_parts_of_groups_share_their_prompts_and_come_together_again():
  samples = jnp.arange(6 * 4 * 2).reshape(6, 4, 2)
  trunk = jnp.arange(6 * 3).reshape(6, 3)
  batch = Batch(
    trunk=trunk, trunk_mask=trunk, inputs=samples, targets=samples, mask=samples
  )
  parts = update.split(batch, parts=(3, 2))
  assert parts.inputs.shape == (6, 2, 2, 2) and parts.trunk.shape == (6, 2, 3)
  for n, (q, g) in enumerate(itertools.product(range(3), range(2))):
    np.testing.assert_array_equal(parts.inputs[n], samples[q::3, g::2])
    np.testing.assert_array_equal(parts.trunk[n], trunk[q::3])
  whole = update.unsplit(parts.inputs, parts=(3, 2))
  np.testing.assert_array_equal(whole, samples)


# With the decoder.


@functools.cache
def decoder_programs(model):
  """Compiled (params, batch) -> logprobs and -> (gradients, loss, gap)."""
  pol = policy.Policy(
    model=model,
    tokenizer=types.SimpleNamespace(vocab_size=V),
    declared=transformer.declare(model),
    mesh=sharding.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1]),
    rules={},
    dtype=jnp.dtype('float32'),
    cache_dtype=jnp.dtype('float32'),
    attention='full',
    load=None,
    files={},
  )
  scoring = programs.token_logprobs(
    pol, temperature=0.8, remat='none', logits_chunk=4
  )

  def gradient(params, batch):
    grads, loss, _, tops = update.accumulate(
      params,
      batch,
      losses.token_mean(batch.mask),
      score=scoring,
      objective=objective(),
      parts=(1, 1),
    )
    return grads, loss, tops['logprob_gap']

  return jit(lambda *args: scoring(*args)[0]), jit(gradient)


@pytest.fixture(scope='module')
def gradient(model):
  return decoder_programs(model)[1]


@pytest.fixture(scope='module')
def on_policy(model, params):
  """The ragged batch, its old logprobs the decoder's own."""
  old = decoder_programs(model)[0](params, ragged())
  return ragged().replace(old_logprobs=old)


@pytest.fixture(scope='module')
def plain(params, on_policy, gradient):
  """Gradients, loss and largest |logprob - old logprob| of that batch."""
  return gradient(params, on_policy)


def assert_same(got, expected):
  """Equal gradients, losses and logprobs, but for the order of fp32 sums."""
  for a, b in zip(
    jax.tree.leaves(got[0]), jax.tree.leaves(expected[0]), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=3e-6 * float(jnp.abs(b).max()) + 1e-8)
  assert got[1] == pytest.approx(float(expected[1]), rel=1e-5, abs=1e-6)
  # Old logprobs are those of the first run: the gap compares logprobs.
  assert got[2] < 2e-5


def without_trunks(batch):
  """The same texts as Q*G rows of a branch each, prompts and all."""
  prompts = layout.prompts(
    [p[:1] for p in PROMPTS for _ in range(3)], multiple=1
  )
  pairs = [
    (p, c) for p, row in zip(PROMPTS, COMPLETIONS, strict=True) for c in row
  ]
  rows = layout.branches(
    prompts, [[p[1:] + c] for p, c in pairs], max_length=32, multiple=4
  )
  # Completion tokens sit behind the prompt's; the prompt is not counted.
  mask = np.zeros(rows.mask.shape, bool)
  old, ref = (np.zeros(mask.shape, np.float32) for _ in range(2))
  for i, (p, c) in enumerate(pairs):
    there, here = slice(len(p) - 1, len(p) - 1 + len(c)), slice(len(c))
    mask[i, 0, there] = True
    old[i, 0, there] = batch.old_logprobs[i // 3, i % 3, here]
    ref[i, 0, there] = batch.ref_logprobs[i // 3, i % 3, here]
  rows = rows.replace(
    mask=mask,
    advantages=batch.advantages.reshape(-1, 1),
    old_logprobs=old,
    ref_logprobs=ref,
  )
  return jax.tree.map(jnp.asarray, rows)


def test_sharing_the_prompt_gives_the_logprobs_and_gradients_of_whole_rows(
  params, on_policy, gradient, plain
):
  rows = without_trunks(on_policy)
  assert rows.trunk.shape == (12, 0) and rows.inputs.shape[:2] == (12, 1)
  assert rows.mask.sum() == on_policy.mask.sum()
  assert_same(gradient(params, rows), plain)
  # Every parameter was asked for, and the logprobs are not constant.
  assert all(jnp.abs(g).max() > 1e-5 for g in jax.tree.leaves(plain[0]))
  assert on_policy.old_logprobs[on_policy.mask].std() > 0.1


def test_pad_tokens_are_never_attended_to_nor_trained_on(
  params, on_policy, gradient, plain
):
  batch = on_policy
  dirty = batch.replace(
    trunk=jnp.where(batch.trunk_mask, batch.trunk, 17),
    inputs=jnp.where(batch.mask, batch.inputs, 18),
    targets=jnp.where(batch.mask, batch.targets, 19),
  )
  assert (dirty.trunk != batch.trunk).any()
  assert (dirty.inputs != batch.inputs).any()
  got = gradient(params, dirty)
  assert got[1] == plain[1] and got[2] == plain[2]
  # Exact, but for the order in which rows of the embedding are added up.
  assert_same(got, plain)


def test_permuting_prompts_or_samples_changes_no_gradient(
  params, on_policy, gradient, plain
):
  order = jnp.array([2, 0, 3, 1])
  permuted = jax.tree.map(lambda x: x[order], on_policy)
  assert_same(gradient(params, permuted), plain)
  turn = lambda x: x[:, jnp.array([1, 2, 0])]
  per_sample = {
    name: turn(getattr(on_policy, name))
    for name in (
      'inputs', 'targets', 'mask', 'advantages', 'old_logprobs', 'ref_logprobs',
    )
  }  # fmt: skip
  assert_same(gradient(params, on_policy.replace(**per_sample)), plain)


def test_more_padding_and_a_masked_row_change_no_gradient(
  params, on_policy, gradient, plain
):
  def pad(x, left=0, right=0):
    x = np.asarray(x)
    return np.pad(x, [(0, 1), *[(0, 0)] * (x.ndim - 2), (left, right)])

  batch = on_policy
  wide = Batch(
    trunk=pad(batch.trunk, left=5),
    trunk_mask=pad(batch.trunk_mask, left=5),
    inputs=pad(batch.inputs, right=6),
    targets=pad(batch.targets, right=6),
    mask=pad(batch.mask, right=6),
    advantages=np.pad(batch.advantages, ((0, 1), (0, 0)), constant_values=9),
    old_logprobs=pad(batch.old_logprobs, right=6),
    ref_logprobs=pad(batch.ref_logprobs, right=6),
  )
  wide = jax.tree.map(jnp.asarray, wide)
  # The weights of what was there are exactly the same.
  c = batch.mask.shape[2]
  for weigh in WEIGHTINGS.values():
    np.testing.assert_array_equal(
      weigh(wide.mask)[:4, :, :c], weigh(batch.mask)
    )
  assert_same(gradient(params, wide), plain)
