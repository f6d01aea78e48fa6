"""Each job from end to end, as a user runs it, on a very small model."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny

from grpo_jax import checkpoint_items, tokenizer
from grpo_jax.models import hf
from grpo_jax.runs import open_run

# Enough answers of the fine-tuned model that some are right.
MANY = ('prompts=8', 'samples=8', 'batch_prompts=8')


def succeed(job, *flags):
  done = tiny.job(job, *flags)
  assert done.code == 0, done.err
  return done


def assert_same_bits(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def json_lines(text):
  return [json.loads(line) for line in text.splitlines()]


def snapshot(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_a_run_leaves_what_its_readers_expect():
  run = open_run(tiny.run('train'))
  assert run.config.prompts_per_step == 4
  assert run.metrics['step'].tolist() == list(range(11))
  for name in (
    'reward/mean', 'reward/std', 'reward/coin', 'length/mean', 'length/max',
    'length/clipped_share', 'kl', 'entropy', 'clip_share', 'grad_norm',
    'zero_variance_share', 'logprob_gap/mean', 'logprob_gap/max',
    'time/rollout', 'time/update', 'tokens_per_s/step', 'nonfinite',
    'memory/host_peak_bytes', 'learning_rate', 'eval/pass@1',
  ):  # fmt: skip
    assert np.isfinite(run.metrics[name][-1]), name
  # Weight 1 for the coin, and a fresh model is never right.
  assert (run.metrics['reward/mean'] == run.metrics['reward/coin'])[1:].all()
  [*_, last] = run.samples(10)
  assert last.keys() == {
    'step', 'prompt', 'completion', 'answer', 'reward', 'rewards', 'advantage',
    'length', 'finished', 'given',
  }  # fmt: skip
  assert run.steps == [8, 10]


def test_sampler_and_trainer_agree_to_the_last_digits():
  # float32 on the CPU: rounding of another order of sums, no more.
  assert (
    open_run(tiny.run('train')).metrics['logprob_gap/max'][1:] < 1e-4
  ).all()


def test_many_updates_a_rollout_end_on_two_devices_and_two_threads(tmp_path):
  """64 updates that nothing waits for would wait for each other for ever."""
  devices = (
    '--xla_force_host_platform_device_count=2 '
    '--xla_cpu_collective_call_terminate_timeout_seconds=30'
  )
  env = tiny.environment() | {'XLA_FLAGS': devices, 'PJRT_NPROC': '2'}
  fields = {
    'steps': 1, 'prompts_per_step': 128, 'group_size': 16, 'eval.every': 0,
    'updates.minibatches': 64, 'mesh.data': 2, 'model.embed_dim': 256,
    'model.mlp_dim': 1024,
  }  # fmt: skip
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  done = tiny.finish(
    tiny.start('train', f'--workdir={tmp_path}', *flags, env=env)
  )
  assert done.code == 0, done.err[-2000:]


def test_fine_tuning_lowers_the_loss():
  nll = open_run(tiny.run('sft')).metrics['nll'][1:]
  assert nll[-1] < nll[0] - 0.5


def test_fine_tuning_on_everything_runs(tmp_path):
  flags = ['--config.sft.loss_on=everything', '--config.sft.max_length=24']
  succeed('sft', f'--workdir={tmp_path}', '--config.steps=1', *flags)


def test_texts_that_are_learned_without_their_end_are_counted(tmp_path):
  flags = (f'--workdir={tmp_path}', '--config.steps=1')
  done = tiny.job('sft', *flags, '--config.sft.max_length=4')
  assert done.code == 0
  assert (
    '100 of the first 100 texts are cut at sft.max_length=4 tokens and have '
    'no end; the longest has 5' in done.err
  )
  assert 'are cut' not in succeed('sft', *flags[:1], '--config.steps=2').err


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
  first = tiny.rows(tiny.run('train'))
  flags = ('--config.steps=2', '--config.checkpoint.every=1')
  succeed('train', f'--workdir={tmp_path}/same', *flags)
  succeed('train', f'--workdir={tmp_path}/other', *flags, '--config.seed=1')
  same, other = (tiny.rows(tmp_path / k) for k in ('same', 'other'))
  assert len(same) == 5  # steps 1 and 2, evaluations of 0, 1 and 2
  assert same == first[:5]
  assert all(a != b for a, b in zip(same[1::2], other[1::2], strict=True))


def test_a_finished_run_started_again_changes_nothing():
  workdir = tiny.run('train')
  before = snapshot(workdir)
  done = succeed('train', f'--workdir={workdir}')
  assert 'resuming at step 10' in done.err
  assert snapshot(workdir) == before


def test_the_workdir_of_another_job_is_refused(tmp_path):
  """Of these two, states have one structure."""
  workdir = f'--workdir={tmp_path / "run"}'
  of_both = ('--config.algorithm.kl_coef=0.0', '--config.eval.every=0')
  succeed('sft', workdir, '--config.steps=1', *of_both)
  done = tiny.job('train', workdir, '--config.steps=2', *of_both)
  assert done.code == 2
  assert 'is a run of sft: to go on from its model, give train' in done.err


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported') / 'model'
  done = succeed('export', f'--workdir={tiny.run("sft")}', f'--out={folder}')
  assert done.out == f'written to {folder}\n' and done.err == ''
  return folder


def test_an_exported_folder_loads_back_equal(exported):
  run = open_run(tiny.run('sft'))
  assert_same_bits(hf.load(exported), run.params())
  assert hf.read_config(exported) == run.model_config()
  text = '12+3=<answer>15</answer>'
  ids = run.tokenizer().encode(text)
  assert tokenizer.from_folder(exported).encode(text) == ids
  written = json.loads((exported / 'generation_config.json').read_text())
  eos = written['eos_token_id']
  eos = (eos,) if isinstance(eos, int) else tuple(eos)
  assert eos == run.tokenizer().eos_ids


def test_an_export_in_bfloat16_rounds_the_weights(exported, tmp_path):
  folder = tmp_path / 'half'
  flags = (f'--init_from={exported}', f'--out={folder}', '--dtype=bfloat16')
  succeed('export', *flags)
  rounded = jax.tree.map(
    lambda x: x.astype('bfloat16').astype('float32'), hf.load(exported)
  )
  assert_same_bits(hf.load(folder), rounded)
  config = json.loads((folder / 'config.json').read_text())
  assert 'bfloat16' in (config.get('dtype'), config.get('torch_dtype'))


@pytest.mark.parametrize('source', ['run', 'folder'])
def test_training_starts_from_a_run_or_a_folder(exported, tmp_path, source):
  start = {'run': tiny.run('sft'), 'folder': exported}[source]
  flags = ('--config.steps=1', '--config.eval.every=0')
  succeed('train', f'--workdir={tmp_path}', f'--init_from={start}', *flags)
  # The reference policy is a copy of what the run started from.
  path = checkpoint_items.folder(tmp_path) / '1'
  items, _ = checkpoint_items.read(path, {'params': None, 'rest': None})
  wanted = open_run(tiny.run('sft')).params()
  assert_same_bits(items['rest']['ref_params'], wanted)
  moved = items['params']['embed'] != wanted['embed']
  assert moved.any()


def test_a_gguf_file_becomes_a_folder_with_equal_weights(tmp_path):
  import test_gguf  # skips without the gguf package

  file = tmp_path / 'model.gguf'
  test_gguf.write(file, 'llama')
  out = tmp_path / 'out'
  succeed('export', f'--init_from={file}', f'--out={out}', '--config=')
  reference = pathlib.Path(__file__).parent / 'reference' / 'llama'
  assert_same_bits(hf.load(out), hf.load(reference))


def test_a_prompt_is_answered_from_a_folder_without_any_config(exported):
  flags = ('--config=', f'--init_from={exported}')
  done = succeed('generate', *flags, '--prompt=3+4=', '--prompt=1+1=')
  rows = json_lines(done.out)
  assert [row['prompt'] for row in rows] == ['3+4=', '1+1=']
  for row in rows:
    assert row['answer'] == '' and row['logprob'] < 0
    assert 1 <= row['length'] <= 64
    assert row['finished'] or row['length'] == 64
  assert done.err == ''


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """Rows that generate writes for the run's task."""
  out = tmp_path_factory.mktemp('answers') / 'deep' / 'answers.jsonl'
  workdir = tiny.run('sft')
  done = succeed(
    'generate',
    f'--workdir={workdir}',
    f'--out={out}',
    *(f'--config.generate.{field}' for field in MANY),
  )
  assert done.out == f'8 prompts answered in {out}\n'
  return json_lines(out.read_text())


def test_answers_are_a_line_each_in_the_order_of_the_questions(answers):
  assert len(answers) == 8 * 8
  for q in range(8):
    group = answers[8 * q : 8 * q + 8]
    [prompt] = {row['prompt'] for row in group}
    assert {row['answer'] for row in group} == {str(eval(prompt[:-1]))}
  assert len({row['completion'] for row in answers}) > 8


def test_answers_do_not_depend_on_the_batch(answers, tmp_path):
  out = tmp_path / 'answers.jsonl'
  fields = ('prompts=8', 'samples=8', 'batch_prompts=3')
  flags = [f'--config.generate.{field}' for field in fields]
  succeed('generate', f'--workdir={tiny.run("sft")}', f'--out={out}', *flags)
  found = json_lines(out.read_text())
  for a, b in zip(found, answers, strict=True):
    # Sums in another order for another batch: float32 rounding.
    assert a.pop('logprob') == pytest.approx(b['logprob'], abs=1e-3)
    assert a == {k: v for k, v in b.items() if k != 'logprob'}


def is_right(prompt, completion):
  """Whether a sum is answered, within tags at the end, with its value."""
  found = re.fullmatch('(?:[^<]|<[^a/])*<answer>([0-9]+)</answer>', completion)
  return bool(found) and int(found[1]) == eval(prompt.removesuffix('='))


def test_evaluation_agrees_with_counting_its_answers(answers, tmp_path):
  # The noise of a question is the same in both jobs, so the answers are.
  done = succeed(
    'evaluate',
    f'--workdir={tmp_path}',
    f'--init_from={tiny.run("sft")}',
    *(f'--config.eval.{field}' for field in MANY),
  )
  result = json.loads((tmp_path / 'eval.json').read_text())
  right = [is_right(row['prompt'], row['completion']) for row in answers]
  share = np.mean(right)
  assert 0 < share < 1  # or the count would show nothing
  assert result['pass@1'] == pytest.approx(share, abs=1e-12)
  by_problem = np.reshape(right, (8, 8))
  assert result['per_problem'] == by_problem.mean(1).tolist()
  # pass@2 by counting pairs: 1 - C(wrong, 2) / C(8, 2).
  wrong = (~by_problem).sum(1)
  pairs = np.mean(1 - wrong * (wrong - 1) / 56)
  assert result['pass@2'] == pytest.approx(pairs, abs=1e-12)
  lengths = [row['length'] for row in answers]
  assert result['mean_length'] == pytest.approx(np.mean(lengths))
  cut = [not row['finished'] for row in answers]
  assert result['truncated'] == pytest.approx(np.mean(cut))
  shown = f'{"pass@1":28s} {share:.4f}'
  assert shown in done.out and str(tmp_path / 'eval.json') in done.out


def test_an_evaluation_of_a_run_needs_only_its_workdir():
  workdir = tiny.run('sft')
  succeed('evaluate', '--config=', f'--workdir={workdir}')
  [*_, last] = open_run(workdir).metrics['eval/pass@1']
  # The same questions and noise as after the last step.
  assert open_run(workdir).eval['pass@1'] == last
  (workdir / 'eval.json').unlink()


def judged(job, folder):
  """Rows that `pairs` or `points` writes of the run's training questions."""
  done = succeed(
    job,
    f'--workdir={folder}',
    f'--init_from={tiny.run("sft")}',
    *(f'--config.pairs.{field}' for field in MANY),
  )
  path = folder / f'{job}.jsonl'
  assert [p.name for p in folder.iterdir()] == [path.name]
  return json_lines(path.read_text()), done.out, path


def test_of_two_answers_with_other_scores_the_better_is_chosen(tmp_path):
  rows, said, path = judged('pairs', tmp_path)
  assert said.startswith(f'{len(rows)} pairs of 8 prompts in {path}; ')
  assert 3 < len(rows) <= 8 * 4
  for row in rows:
    assert (row['gold_chosen'], row['gold_rejected']) == (1, 0)
    assert is_right(row['prompt'], row['chosen'])
    assert not is_right(row['prompt'], row['rejected'])
    assert row['by'] == 'gold'
  # Nothing but the score chooses.
  assert {row['longer'] for row in rows} == {False, True}


def test_every_other_answer_is_labelled_by_its_score(tmp_path):
  rows, said, path = judged('points', tmp_path)
  assert len({(r['prompt'], r['response']) for r in rows}) == len(rows)
  assert len({row['prompt'] for row in rows}) == 8
  right = [is_right(row['prompt'], row['response']) for row in rows]
  assert [row['label'] for row in rows] == right
  assert 0 < sum(right) < len(right)  # or the labels would show nothing
  told = f'{len(right) - sum(right)} of label 0, {sum(right)} of label 1\n'
  assert said == f'{len(rows)} answers to 8 prompts in {path}: {told}'


def test_a_run_is_compared_from_the_command_line(tmp_path):
  rows = [
    {'instruction': f'{i} +{i}=', 'output': '', 'dataset': 'sums'}
    for i in range(1, 6)
  ]
  path = tmp_path / 'sums.json'
  path.write_text(json.dumps(rows))
  done = succeed(
    'evaluate', '--task=win_rate', f'--workdir={tmp_path / "w"}',
    f'--init_from={tiny.run("sft")}', f'--config.win_rate.path={path}',
    '--config.win_rate.judge=test_win_rate:longer',
    '--config.win_rate.prompts=4', '--config.win_rate.batch_prompts=4',
  )  # fmt: skip
  outputs = json.loads((tmp_path / 'w' / 'model_outputs.json').read_text())
  assert [row['instruction'] for row in outputs] == [
    row['instruction'] for row in rows[:4]
  ]
  assert {row['generator'] for row in outputs} == {'w'}
  assert {row['dataset'] for row in outputs} == {'sums'}
  result = json.loads((tmp_path / 'w' / 'win_rate.json').read_text())
  # The reference says nothing: a word wins, and silence is a tie.
  said = np.mean([(1 + bool(row['output'])) / 2 for row in outputs])
  assert result['win_rate'] == pytest.approx(100 * said)
  assert f'{100 * said:6.2f} ±' in done.out
  assert result['settings']['step'] == open_run(tiny.run('sft')).steps[-1]
