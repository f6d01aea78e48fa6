"""A reference that is a model of its own: on-policy distillation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import base, on_policy_distill
from grpo_jax import (
  checkpoint_items,
  policy,
  programs,
  reference,
  report_warnings,
  training,
  validation_rl,
)
from grpo_jax.models import hf
from grpo_jax.structs import Batch
from launch import step_programs
from launch.program import bytes_of

V, C = 4, 2  # <pad>, <eos>, '0' and '1'; tokens of a completion


def fresh(seed, **model):
  """A policy with random parameters."""
  cfg = tiny.get_config()
  cfg.seed = seed
  cfg.model.update(model)
  return cfg, policy.open_policy(cfg)


def write(folder, seed, **model):
  """A Hugging Face folder with one."""
  _, pol = fresh(seed, **model)
  hf.save(folder, pol.params(), pol.model, files=pol.files)
  return folder


def every_completion():
  """All V^C completions of one prompt, as a group."""
  targets = np.array([*itertools.product(range(V), repeat=C)], np.int32)[None]
  first = np.full((1, V**C, 1), 3, np.int32)
  return Batch(
    trunk=np.array([[0, 2]], np.int32),
    trunk_mask=np.array([[False, True]]),
    inputs=np.concatenate([first, targets[:, :, :-1]], -1),
    targets=targets,
    mask=np.ones(targets.shape, bool),
    advantages=np.zeros(targets.shape[:2], np.float32),
  )


def cumulative(logprobs, teacher, *, through_sampling):
  """KL(policy || teacher) of token 1, plus that of token 2 on average.

  Over the whole vocabulary. With `through_sampling` it is the KL of whole
  completions, where token 1 answers for what it leads to.
  """
  ours, theirs = (x.reshape(V, V, C) for x in (logprobs, teacher))
  kl = jnp.exp(ours) * (ours - theirs)
  reach = jnp.exp(ours[:, 0, 0])
  if not through_sampling:
    reach = jax.lax.stop_gradient(reach)
  return kl[:, 0, 0].sum() + jnp.sum(reach * kl[:, :, 1].sum(1))


def test_the_mean_gradient_is_that_of_each_tokens_reverse_kl():
  cfg = on_policy_distill.get_config('tests.tiny')
  cfg.tokenizer = dict(alphabet='01', specials=())
  cfg.updates.remat = 'none'
  student = policy.open_policy(cfg)
  # Another width, depth and number of heads.
  larger = cfg.copy_and_resolve_references()
  larger.model.update(num_layers=2, embed_dim=48, num_heads=4, head_dim=12)
  larger.seed = 1
  teacher = policy.open_policy(larger)
  batch = jax.tree.map(jnp.asarray, every_completion())
  weights = programs.frozen(teacher.params(), teacher.dtype)
  score = training.logprobs_of(student, cfg)
  objective = training.policy_objective(cfg)
  params = student.params()
  theirs = jax.jit(training.logprobs_of(teacher, cfg))(weights, batch)[0]

  @jax.jit
  def gradients(params):
    ours = score(params, batch)[0]
    seen = jnp.exp(ours.sum(-1))  # how often a completion is sampled
    scored = batch.replace(old_logprobs=ours, ref_logprobs=theirs)

    def sampled(params):
      loss, _ = objective(scored, *score(params, batch))
      return jnp.sum(seen[:, :, None] * loss)

    def analytic(params, through_sampling):
      return cumulative(
        score(params, batch)[0], theirs, through_sampling=through_sampling
      )

    return (
      jax.grad(sampled)(params),
      jax.grad(analytic)(params, False),
      jax.grad(analytic)(params, True),
    )

  found, wanted, whole = gradients(params)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(wanted))
  assert scale > 0.01
  # Sums of 16 completions in fp32.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale),
    found,
    wanted,
  )
  # What a token leads to is no part of it.
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole, wanted)
  assert max(jax.tree.leaves(gaps)) > 0.05 * scale


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """Of another size than the tiny policy."""
  folder = tmp_path_factory.mktemp('teacher') / 'model'
  return write(folder, 5, num_layers=2, embed_dim=64, num_heads=4)


@pytest.fixture(scope='module')
def runs(teacher, tmp_path_factory):
  """A run of four steps, and one that was stopped at two."""
  folder = tmp_path_factory.mktemp('runs')
  for name, steps in (('whole', [4]), ('halves', [2, 4])):
    for count in steps:
      done = train(folder / name, teacher, f'--config.steps={count}')
      assert done.code == 0, done.err
  return folder


def train(workdir, teacher, *flags):
  return tiny.job(
    'train', '--config=configs/on_policy_distill.py:tests.tiny',
    f'--workdir={workdir}', f'--config.algorithm.reference_from={teacher}',
    "--config.updates.offload=('reference',)", '--config.eval.every=0', *flags,
  )  # fmt: skip


def final(workdir):
  path = checkpoint_items.folder(workdir) / '4'
  return checkpoint_items.read(path, {'params': None, 'rest': None})


def test_a_run_with_a_teacher_that_was_stopped_ends_with_the_same_bits(runs):
  assert tiny.rows(runs / 'halves') == tiny.rows(runs / 'whole')
  (found, extra), (wanted, same) = final(runs / 'halves'), final(runs / 'whole')
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(x, y)
  assert extra['teacher'] == same['teacher']


def test_a_teacher_is_no_part_of_a_checkpoint(runs):
  items, _ = final(runs / 'whole')
  assert items['rest']['ref_params'] is None


def test_the_teacher_alone_moves_the_policy(runs):
  rows = tiny.rows(runs / 'whole')
  # A copy of the policy would be at 0 at first.
  assert rows[0]['kl'] > 0.1
  assert all(row['policy_loss'] == 0 and row['grad_norm'] > 0 for row in rows)


def test_a_teacher_that_has_changed_is_refused(runs, tmp_path):
  other = write(tmp_path / 'other', 6, num_layers=2, embed_dim=64, num_heads=4)
  done = train(runs / 'halves', other, '--config.steps=6')
  assert done.code == 2
  assert (
    f'error: algorithm.reference_from={other} has other weights than when this '
    'run began'
  ) in done.err


def test_another_tokenizer_is_refused_in_one_line(tmp_path):
  cfg = tiny.get_config()
  cfg.tokenizer.alphabet = cfg.tokenizer.alphabet[::-1]
  pol = policy.open_policy(cfg)
  folder = tmp_path / 'model'
  hf.save(folder, pol.params(), pol.model, files=pol.files)
  done = train(tmp_path / 'run', folder)
  assert done.code == 2
  [line] = done.err.splitlines()
  assert line.startswith(
    f'error: algorithm.reference_from={folder} has another vocabulary than the '
    "policy ('0' is 6 in one, 25 in the other)"
  )


def test_a_teacher_that_stops_by_other_tokens_is_refused(teacher, tmp_path):
  cfg, pol = fresh(0)
  cfg.algorithm.reference_from = str(teacher)
  assert reference.open_reference(pol, cfg).model.num_layers == 2
  cfg.algorithm.reference_from = str(tmp_path)
  for name in ('config.json', 'tokenizer.json'):
    (tmp_path / name).write_text((teacher / name).read_text())
  (tmp_path / 'tokenizer_config.json').write_text('{"eos_token": "<pad>"}')
  with pytest.raises(ValueError, match=r'ends its answers by .*\(0,\).*\(1,\)'):
    reference.open_reference(pol, cfg)


@pytest.mark.parametrize(
  'fields, saying',
  [
    ({'kl_coef': 0.0}, 'has no part in the loss with algorithm.kl_coef=0'),
    (
      {'kl_coef': 1.0, 'reference_every': 4},
      'reference_every=4 would put the policy in the place of',
    ),
  ],
)
def test_what_a_teacher_contradicts_is_refused(fields, saying):
  c = base.get_config()
  c.algorithm.update(reference_from='models/teacher', **fields)
  with pytest.raises(ValueError, match=saying):
    validation_rl.of_training(c, ways=tiny.ways())


def test_the_preset_pays_no_reward_and_updates_once_a_rollout():
  c = on_policy_distill.get_config()
  validation_rl.of_training(c, ways=tiny.ways())
  assert {reward.weight for reward in c.rewards.values()} == {0.0}
  assert c.updates.epochs == c.updates.minibatches == 1


@pytest.mark.parametrize('experiment', ['qwen3_8b', 'dapo:quickstart'])
def test_no_group_is_dropped_for_rewards_that_nobody_pays(experiment):
  c = on_policy_distill.get_config(experiment)
  assert not c.filters.drop_zero_variance
  assert (c.filters.rounds, c.filters.retire_above) == (1, 1.0)
  c.filters.drop_zero_variance = True
  with pytest.raises(ValueError, match='nothing to learn from: no reward has'):
    validation_rl.of_training(c, ways=tiny.ways())
  # What a reward without a weight is told is elsewhere, and not a traceback.
  with c.unlocked():
    del next(iter(c.rewards.values())).weight
  validation_rl._filters(c)


def test_no_report_misses_rewards_where_a_teacher_pays_none():
  steps = np.arange(1, 41)
  flat = {'reward/mean': 0, 'reward/std': 0, 'zero_variance_share': 1}
  curves = {k: np.full(40, float(v)) for k, v in flat.items()}
  for cfg, count in ((on_policy_distill, 0), (base, 2)):
    rows = report_warnings.findings(
      {'step': steps, **curves}, cfg.get_config().to_dict()
    )
    assert len([r for r in rows if r['state'] == 'found']) == count


def test_a_launch_knows_the_teachers_memory_and_program():
  cfg = on_policy_distill.get_config('tests.tiny')
  cfg.algorithm.reference_from = 'on/the/pod'
  with pytest.raises(ValueError, match='launch.reference_size='):
    of_config(cfg)
  cfg.launch.reference_size = 'smollm2_135m'
  programs = of_config(cfg)
  assert [p.name for p in programs] == [
    'publish', 'prefill', 'decode a token', 'teacher logprobs', 'update',
  ]  # fmt: skip
  # By which its queries and keys are known: the job's own model has 16.
  assert [p.head_dim for p in programs] == [0, 0, 0, 64, 0]
  size = bytes_of(programs[3].args[0])
  assert size == 4 * 134_515_008  # of smollm2_135m, in fp32 on a CPU
  assert all(p.beside >= size for p in programs if 'teacher' not in p.name)
  assert programs[3].beside < size
  cfg.updates.offload = ('reference',)
  assert all(p.beside < size for p in of_config(cfg))
  programs[3].fn.lower(*programs[3].args)


def of_config(cfg):
  pol = step_programs.open_policy(cfg, jax.devices()[:1])
  return list(step_programs.of_config(cfg, pol, (1, 4)))
