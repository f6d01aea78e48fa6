"""Configs fail at the start, with what is valid and what to do."""

import types

from absl import flags
from ml_collections import config_flags
import pytest
import tiny

from configs import base
from grpo_jax import advantages, config, losses, validation, validation_rl
from grpo_jax.training import KL, LOSS


def test_pick_binds_the_arguments_of_the_config():
  spec = dict(name='clip', eps_high=0.28)
  picked = config.pick(losses, spec, takes=LOSS)
  assert picked.func is losses.clip and picked.keywords == {'eps_high': 0.28}
  assert spec == dict(name='clip', eps_high=0.28)


@pytest.mark.parametrize(
  'module, spec, takes, message',
  [
    (
      losses, dict(name='clipp'), LOSS,
      r"losses has no 'clipp' \(did you mean 'clip'\?\); there are: cispo, "
      r'clip, gmpo, gspo, reinforce, sapo, vespo$',
    ),
    (
      losses, dict(name='tokens'), ('mask',),
      r"losses has no 'tokens'.*; there are: constant, prompt_mean, "
      r'sequence_mean, sequence_sum, token_mean$',
    ),
    # A KL estimator is no loss, and helpers are nothing at all.
    (losses, dict(name='k3'), LOSS, r"losses has no 'k3'; there are: cispo, "),
    (
      advantages, dict(name='_mean'), ('rewards',),
      r"advantages has no '_mean'; there are: group, max_rl, reinforce_pp, "
      r'rloo$',
    ),
    (
      losses, dict(name='clip', eps_hihg=0.3), LOSS,
      r"losses.clip takes no 'eps_hihg' \(did you mean 'eps_high'\?\); it "
      r'takes: eps_low, eps_high, dual_clip$',
    ),
    (
      losses, dict(name='k3', scale=2), KL,
      r"losses.k3 takes no 'scale'; it takes: nothing$",
    ),
    (
      losses, dict(name='constant'), ('mask',),
      r'losses.constant needs length$',
    ),
    (losses, dict(eps_low=0.1), LOSS, r'has no name; it selects .* losses$'),
  ],
)  # fmt: skip
def test_pick_refuses_with_the_valid_ones(module, spec, takes, message):
  with pytest.raises(ValueError, match=message):
    config.pick(module, spec, takes=takes)


def module_of(**functions):
  module = types.ModuleType('grpo_jax.invented')
  vars(module).update(functions)
  return module


def test_what_the_caller_gives_cannot_be_set_from_the_config():
  def letters(*, alphabet, length):
    return alphabet, length

  module = module_of(letters=letters, unrelated=lambda *, other: other)
  spec = dict(name='letters', length=3)
  assert config.pick(module, spec, alphabet='ab')() == ('ab', 3)
  with pytest.raises(
    ValueError, match="letters takes no 'alphabet'; it takes: length$"
  ):
    config.pick(module, spec | dict(alphabet='c'), alphabet='ab')
  # A function that does not take what is given is not on offer.
  with pytest.raises(ValueError, match='there are: letters$'):
    config.pick(module, dict(name='unrelated', other=1), alphabet='ab')


def test_a_function_of_any_arguments_takes_any():
  module = module_of(free=lambda **kwargs: kwargs)
  assert config.pick(module, dict(name='free', anything=1))() == {'anything': 1}


def changed(**fields):
  cfg = base.get_config()
  cfg.update_from_flattened_dict(fields)
  return cfg


def test_the_base_config_is_valid():
  validation_rl.of_training(base.get_config(), ways=tiny.ways(8, 1))


@pytest.mark.parametrize(
  'field',
  [
    'steps', 'prompts_per_step', 'group_size', 'sample.max_prompt_length',
    'sample.max_completion_length', 'sample.chunk', 'sample.trunk_multiple',
    'updates.epochs', 'updates.minibatches', 'updates.microbatches',
    'updates.logits_chunk', 'updates.length_multiple', 'updates.max_nonfinite',
    'checkpoint.every', 'log.samples_every',
  ],
)  # fmt: skip
def test_a_count_below_1_is_refused(field):
  with pytest.raises(ValueError, match=f'^{field}=0 must be at least 1$'):
    validation_rl.of_training(changed(**{field: 0}), ways=tiny.ways())


def test_greedy_training_is_refused_with_the_reason():
  with pytest.raises(
    ValueError, match='^sample.temperature=0.0 must be above 0 .* all equal$'
  ):
    validation_rl.of_training(
      changed(**{'sample.temperature': 0.0}), ways=tiny.ways()
    )


def test_a_negative_kl_coef_is_refused():
  with pytest.raises(
    ValueError, match='^algorithm.kl_coef=-0.1 must not be negative$'
  ):
    validation_rl.of_training(
      changed(**{'algorithm.kl_coef': -0.1}), ways=tiny.ways()
    )


def test_k1_in_the_loss_is_refused_with_the_reason():
  cfg = changed(**{'algorithm.kl_coef': 0.1, 'algorithm.kl.name': 'k1'})
  with pytest.raises(ValueError, match='k1 does nothing .* zero on average'):
    validation_rl.of_training(cfg, ways=tiny.ways())
  cfg.algorithm.kl_coef = 0.0
  validation_rl.of_training(cfg, ways=tiny.ways())


@pytest.mark.parametrize(
  'row_ways, parts, multiple', [(1, '', 12), (2, ' x 2 devices', 24)]
)
def test_indivisible_prompts_are_refused_with_numbers_and_remedy(
  row_ways, parts, multiple
):
  fields = {'updates.minibatches': 3, 'updates.microbatches': 4}
  cfg = changed(prompts_per_step=20, **fields)
  with pytest.raises(
    ValueError,
    match='^prompts_per_step=20 does not divide over 3 updates.minibatches x '
    f'4 updates.microbatches{parts}; set it to a multiple of {multiple}$',
  ):
    validation_rl.of_training(cfg, ways=tiny.ways(row_ways, 1))
  cfg.prompts_per_step = 24
  validation_rl.of_training(cfg, ways=tiny.ways(row_ways, 1))


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(count=9), r'length_buckets=9 must be in 0 \.\. 8'),
    (dict(count=-1), r'length_buckets=-1 must be in 0 \.\. 8'),
    # Of 64 tokens: 64, 48 and 32, which as multiples of 32 are two.
    (
      dict(count=3, multiple=32),
      'length_buckets=3 widths .*=64 are not all different .*=32: 64, 32; set '
      'length_buckets to 2 or',
    ),
  ],
)
def test_buckets_that_cannot_be_are_refused_with_the_remedy(fields, message):
  cfg = changed(
    **{
      'updates.length_buckets': fields['count'],
      'updates.length_multiple': fields.get('multiple', 16),
    }
  )
  with pytest.raises(ValueError, match=message):
    validation_rl.of_training(cfg, ways=tiny.ways())


def test_buckets_of_fine_tuning_are_refused_with_the_reason():
  cfg = changed(**{'updates.length_buckets': 2})
  validation_rl.of_training(cfg, ways=tiny.ways())
  with pytest.raises(
    ValueError, match='packs completions of one prompt, .* 0$'
  ):
    validation.of_sft(cfg, ways=(1, 1, 1))


def test_an_evaluation_on_what_is_trained_on_is_told():
  c = base.get_config()
  c.updates.minibatches = 4
  c.task = dict(name='jsonl', path='a.jsonl', split='train')
  assert validation_rl.hints(c) == []
  c.eval.every = 10
  [hint] = validation_rl.hints(c)
  assert 'evaluation asks all of a.jsonl, and what is trained on it' in hint
  c.eval.task = dict(split='test', path='b.jsonl')
  assert validation_rl.hints(c) == []
  c.eval.task = dict(split='test')
  c.task.test_share = 0.1
  assert validation_rl.hints(c) == []


def test_parts_of_a_mixture_that_evaluation_asks_too_are_told():
  c = base.get_config()
  file = dict(name='jsonl', share=1.0)
  apart = file | dict(path='b.jsonl', test_share=0.1)
  sums = dict(name='arithmetic', share=1.0)
  parts = dict(a=file | dict(path='a.jsonl'), b=apart, c=sums)
  c.task = dict(name='mixture', split='train', parts=parts)
  # Evaluation asks the parts that have answers.
  assert validation.shared_questions(c) == []
  c.task.parts.a.answer_field = 'a'
  [hint] = validation.shared_questions(c)
  assert 'all of a.jsonl' in hint
  # What a run was trained on is its own config's.
  assert validation.shared_questions(c, sums) == []
  c.task.parts.a.test_share = 0.1
  assert validation.shared_questions(c) == []


@pytest.mark.parametrize(
  'fields',
  [
    # 32, 64, ... 2,048, 3,000 slots; 96 x 4 ... 1,536, 2,000; early ones too.
    dict(max_completion_length=3000, chunk=32),
    dict(max_completion_length=2000, chunk=96, seats=8),
    dict(max_completion_length=4096, chunk=1024, early_steps=5,
         early_completion_length=3000),
  ],
)  # fmt: skip
def test_caches_that_the_kernel_cannot_read_are_told_at_the_start(fields):
  c = changed()
  c.sample.update(fields)
  validation_rl.of_training(c, ways=tiny.ways())
  c.sample.decoding = 'kernel'
  with pytest.raises(ValueError, match='a cache of [23]000 slots in blocks of'):
    validation_rl.of_training(c, ways=tiny.ways())


def test_parts_of_groups_are_refused_where_there_are_no_groups():
  cfg = changed(**{'updates.group_microbatches': 4})
  with pytest.raises(ValueError, match='splits groups, .* set it to 1$'):
    validation.of_sft(cfg, ways=(1, 1, 1))


def test_what_is_set_of_a_critic_without_effect_is_told():
  c = base.get_config()
  c.updates.minibatches = 4
  assert validation_rl.hints(c) == []
  c.critic.update(epochs=4, learning_rate=3e-4)
  [hint] = validation_rl.hints(c)
  assert hint.startswith('critic.epochs, critic.learning_rate: no effect')
  c.algorithm.advantages = dict(name='gae', lam=1.0, gamma=1.0)
  assert validation_rl.hints(c) == []
  c.critic.coef = 1.0
  assert validation_rl.hints(c)[0].startswith('critic.coef: no effect')
  c.critic.update(shared=True, epochs=1)
  [hint] = validation_rl.hints(c)
  assert hint.startswith('critic.learning_rate: no effect')


def test_one_update_a_rollout_is_explained():
  [hint] = validation_rl.hints(base.get_config())
  assert 'the ratio is 1 and policy_loss stays near 0' in hint


def test_rows_that_divide_pass():
  config.divides(12, {'a': 3, 'b': 4}, field='rows')
  with pytest.raises(
    ValueError, match='rows=13 .* 3 a x 4 b; .* multiple of 12'
  ):
    config.divides(13, {'a': 3, 'b': 4}, field='rows')


def test_a_misspelt_field_fails_with_a_suggestion():
  cfg = base.get_config().lock()
  with pytest.raises(AttributeError, match='[Dd]id you mean.*temperature'):
    cfg.sample.temprature = 0.7
  with pytest.raises(AttributeError, match='[Dd]id you mean.*group_size'):
    cfg.group_siez = 8


def parse(monkeypatch, override):
  argv = ['train', f'--config={base.__file__}', override]
  # config_flags looks there for the fields that are overridden.
  monkeypatch.setattr('sys.argv', argv)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', None, flag_values=values)
  values(argv)
  return values.config


def test_a_misspelt_flag_fails_with_a_suggestion(monkeypatch):
  cfg = parse(monkeypatch, '--config.sample.temperature=0.5')
  assert cfg.sample.temperature == 0.5
  with pytest.raises(AttributeError, match='[Dd]id you mean.*temperature'):
    parse(monkeypatch, '--config.sample.temprature=0.5')
