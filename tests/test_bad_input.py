"""What a mistake looks like: one line, with its cause and what to do."""

import json
import pathlib
import shutil

import pytest
import tiny

REFERENCE = pathlib.Path(__file__).parent / 'reference' / 'llama'


def refuse(job, *flags, saying, **options):
  """Runs a job that must end in exactly one line with all these words."""
  done = tiny.job(job, *flags, **options)
  assert done.code == 2, done.err
  lines = done.err.splitlines()
  assert len(lines) == 1, done.err
  assert lines[0].startswith('error: ')
  for words in saying:
    assert words in lines[0]


@pytest.mark.parametrize(
  'flags, saying',
  [
    (['--config.stepz=3'], ["'stepz'", 'Did you mean "steps"', 'group_size']),
    (['--config.task.nonsense=3'], ["config.task has no field 'nonsense'"]),
    (['--config.steps.more=3'], ["config.steps has no field 'more'"]),
    (['--config.steps=abc'], ['--config.steps=abc', 'invalid literal']),
    (['--confg=x'], ["flag 'confg'", 'Did you mean: config']),
    (['--config=nowhere.py'], ['--config=nowhere.py: no such file']),
    (
      ['--config.task.name=arithmetik'],
      ["no 'arithmetik'", "did you mean 'arithmetic'", 'gsm8k'],
    ),
    (['--config.rewards.coin.name=coin'], ["no 'coin'", 'random']),
    (['--config.algorithm.loss.name=clp'], ["no 'clp'", "'clip'"]),
    (
      ['--config.reward_gate=shape'],
      ["reward_gate='shape'", 'coin, correct, format'],
    ),
    (
      ['--config.prompts_per_step=5'],
      ['prompts_per_step=5', '2 updates.minibatches', 'multiple of 2'],
    ),
    (
      ['--config.sample.temperature=0.0'],
      ['sample.temperature=0.0', 'above 0', 'greedy'],
    ),
    (
      ['--config.eval.samples=1'],
      ['eval.samples=1', 'k=2', 'raise eval.samples'],
    ),
    (['--config.eval.batch_prompts=0'], ['eval.batch_prompts=0']),
    (['--config.eval.every=-2'], ['eval.every=-2 must not be negative']),
    (['--config.log.samples=-1'], ['log.samples=-1 must not be negative']),
    (['--config.optimizer.learning_rate=nan'], ['learning_rate=nan is no num']),
    ([f'--config.seed={10**20}'], [f'seed={10**20} is beyond 64 bits']),
    (['--config.model.num_layers=0'], ['model.num_layers=0 must be at least']),
    (['--config.log.samples_every=0'], ['log.samples_every=0']),
    (
      ['--config.updates.remat=some'],
      ["remat='some'", 'none, full, attention, dots'],
    ),
    (
      ['--config.optimizer.learning_rate=-0.1'],
      ['optimizer.learning_rate=-0.1 must be above 0'],
    ),
    (
      ['--config.optimizer.clip_norm=-1.0'],
      ['optimizer.clip_norm=-1.0 must not be negative'],
    ),
    (['--config.optimizer.schedule=cos'], ["schedule='cos'", 'cosine']),
    (['--init_from=/no/model'], ['/no/model: no such folder', 'config.json']),
    (['--init_from=/no/model.gguf'], ['/no/model.gguf: no such file']),
    (
      ['--config.sample.max_prompt_length=3'],
      ['a prompt (', 'limit of 3', 'raise sample.max_prompt_length'],
    ),
  ],
  ids=lambda value: value[0] if value[0].startswith('--') else '',
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, flags, saying):
  refuse('train', f'--workdir={tmp_path}', *flags, saying=saying)


@pytest.mark.parametrize(
  'job, flags, saying',
  [
    ('train', [], ['--workdir=DIR is needed']),
    ('sft', [], ['--workdir=DIR is needed']),
    ('evaluate', [], ['--workdir=DIR is needed']),
    ('export', [], ['--out=FOLDER is needed']),
    ('evaluate', ['--workdir=/no/run'], ['no run in /no/run', '--init_from']),
    ('generate', ['--workdir=/no/run'], ['no run in /no/run', '--init_from']),
    ('export', ['--out=x'], ['name the --workdir of a run']),
    (
      'train',
      ['--config=', '--workdir=/no/run'],
      ['nothing to start from', 'init_from', 'tokenizer.alphabet'],
    ),
    (
      'sft',
      ['--workdir=/no/run', '--config.updates.microbatches=3'],
      ['sft.batch_size=16', '3 updates.microbatches', 'multiple of 3'],
    ),
    (
      'sft',
      ['--workdir=/no/run', '--config.sft.max_length=0'],
      ['sft.max_length=0 must be at least 1'],
    ),
  ],
)
def test_a_job_asks_for_what_it_needs(job, flags, saying):
  refuse(job, *flags, saying=saying)
  assert not pathlib.Path('/no/run').exists()


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
  file = tmp_path / 'file'
  file.write_text('mine')
  refuse('train', f'--workdir={file}', saying=[f'{file} is a file'])
  refuse('train', f'--workdir={file}/run', saying=[f'{file}/run', 'directory'])
  assert file.read_text() == 'mine'


def config(folder, *lines):
  """A config file: the tiny one and some more assignments to `c`."""
  file = folder / 'config.py'
  text = ''.join(f'  {line}\n' for line in lines)
  file.write_text(
    'import runpy\n'
    'def get_config():\n'
    f'  c = runpy.run_path({tiny.__file__!r})["get_config"]()\n'
    f'{text}  return c\n'
  )
  return f'--config={file}'


def test_a_config_file_with_a_mistake_is_told_by_its_line(tmp_path):
  flag = config(tmp_path, 'c.tusk.size = 3')
  saying = [f'{tmp_path}/config.py:4', "'tusk'", 'Did you mean "task"']
  refuse('train', flag, f'--workdir={tmp_path}/run', saying=saying)


@pytest.mark.parametrize(
  'line, saying',
  [
    ('raise ValueError("no task here")', [':4: no task here']),
    ('c.steps = "three"', [':4: ', 'steps', 'str']),
    ('c.steps = 3)', [":4: unmatched ')'"]),
  ],
)
def test_what_a_config_file_raises_is_told_without_its_traceback(
  tmp_path, line, saying
):
  flag = config(tmp_path, line)
  prefix = f'error: {tmp_path}/config.py'
  saying = [prefix + saying[0], *saying[1:]]
  refuse('train', flag, f'--workdir={tmp_path}/run', saying=saying)


def test_an_argument_that_a_config_file_does_not_know_is_told_by_its_path():
  file = tiny.REPO / 'configs' / 'smollm2_reasoning.py'
  saying = [f'error: {file}:', ": no task 'weekday' here; there are chain_sum"]
  refuse('train', f'--config={file}:weekday', saying=saying)
  file = tiny.REPO / 'configs' / 'quickstart.py'
  saying = [f'error: {file}: get_config() takes 0 positional arguments']
  refuse('train', f'--config={file}:weekday', saying=saying)


def test_a_damaged_config_of_a_run_is_told_by_its_file(tmp_path):
  (tmp_path / 'config.json').write_text('{"steps": ')
  saying = [f'error: {tmp_path}/config.json is damaged: ']
  refuse('train', '--config=', f'--workdir={tmp_path}', saying=saying)


@pytest.mark.parametrize(
  'line, saying',
  [
    (
      'c.rewards.style = dict(name="format")',
      ['rewards.style has no weight', '0 only reports it'],
    ),
    (
      'c.rewards.mean = dict(name="format", weight=1.0)',
      ['rewards.mean: reward/mean is what all rewards come to'],
    ),
    (
      'c.rewards.coin = dict(name="random", q=1, weight=1.0)',
      ["random takes no 'q'", 'seed, p'],
    ),
    ('c.task = dict(split="train")', ['has no name']),
  ],
)
def test_a_function_without_what_it_needs_is_told(tmp_path, line, saying):
  flag = config(tmp_path, line)
  refuse('train', flag, f'--workdir={tmp_path}/run', saying=saying)


@pytest.mark.parametrize(
  'rows, saying',
  [
    (None, ['no such file']),
    ('', ['no train example', 'the file is empty']),
    ('{"q": "1+1="}', [':1: no field', "'a'", "['q']"]),
    (
      '{"q": "1+1=", "a": 2}\n{"q": "1+2=", "a": "a few"}',
      [':2: a=', "'a few' is no number", "verifier='exact'"],
    ),
    ('{"q": "1+1=", "a": 2', [':1: not JSON']),
  ],
)
def test_a_bad_jsonl_file_is_told_by_its_line(tmp_path, rows, saying):
  path = tmp_path / 'rows.jsonl'
  if rows is not None:
    path.write_text(rows)
  flag = config(
    tmp_path,
    f'c.task = dict(name="jsonl", path={str(path)!r}, prompt_field="q", '
    'answer_field="a")',
  )
  refuse(
    'train', flag, f'--workdir={tmp_path}/run', saying=[str(path), *saying]
  )


def test_fine_tuning_on_a_task_without_completions_is_refused(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text(json.dumps({'q': '1+1=', 'a': 2}))
  flag = config(
    tmp_path,
    f'c.task = dict(name="jsonl", path={str(path)!r}, prompt_field="q", '
    'answer_field="a")',
    'c.eval.every = 0',
  )
  saying = [
    f"{path} gives no completion to learn for '1+1='",
    'task.completion_field',
  ]
  refuse('sft', flag, f'--workdir={tmp_path}/run', saying=saying)


def test_a_damaged_model_folder_is_told_by_its_file(tmp_path):
  folder = tmp_path / 'model'
  shutil.copytree(REFERENCE, folder)
  flags = [f'--init_from={folder}', f'--workdir={tmp_path}/run']
  refuse('train', *flags, saying=[f'{folder}/tokenizer.json: no such file'])
  model = tiny.run('train') / 'model'
  for file in model.glob('*token*'):
    shutil.copy(file, folder)
  weights = folder / 'model.safetensors'
  content = weights.read_bytes()
  weights.write_bytes(content[: len(content) // 2])
  refuse('train', *flags, saying=[f'{weights}: damaged or cut', 'fetch it'])
  weights.unlink()
  refuse('train', *flags, saying=[f'{folder}: neither model.safetensors nor'])


def test_a_run_without_checkpoints_is_no_start(tmp_path):
  shutil.copytree(tiny.run('train') / 'model', tmp_path / 'model')
  flag = f'--init_from={tmp_path}'
  saying = [f'{tmp_path}/checkpoints: no checkpoint', 'there are: none']
  refuse('train', flag, f'--workdir={tmp_path}/run', saying=saying)


def test_another_model_size_in_an_old_workdir_changes_nothing(tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(tiny.run('train'), workdir)
  before = snapshot(workdir)
  saying = ['params/embed', ', 32] in', ', 16] in', 'another workdir']
  refuse(
    'train',
    f'--workdir={workdir}',
    '--config.model.embed_dim=16',
    saying=[f'{workdir}/checkpoints/10', *saying],
  )
  assert snapshot(workdir) == before


def snapshot(folder):
  files = [p for p in folder.rglob('*') if p.is_file()]
  # The lock names the last process that had it, also one that was refused.
  return {p: p.read_bytes() for p in files if p.name != '.lock'}


def test_a_prompt_that_the_tokenizer_cannot_say_is_one_line():
  workdir = tiny.run('train')
  saying = ["no token for the character 'h'", "'hello'"]
  refuse('generate', f'--workdir={workdir}', '--prompt=hello', saying=saying)


def test_an_export_never_overwrites(tmp_path):
  (tmp_path / 'mine').write_text('mine')
  flags = [f'--workdir={tiny.run("train")}', f'--out={tmp_path}']
  refuse('export', *flags, saying=[f'{tmp_path}: exists', 'another folder'])
  assert snapshot(tmp_path) == {tmp_path / 'mine': b'mine'}


def test_a_full_disk_at_a_save_keeps_the_step_before(tmp_path):
  flags = [f'--workdir={tmp_path}', '--config.eval.every=0']
  done = tiny.job('train', *flags, full_at=4)
  assert done.code == 2
  errors = [x for x in done.err.splitlines() if not x.startswith('step ')]
  assert len(errors) == 1, done.err
  assert errors[0].startswith('error: no space for checkpoint 4 in ')
  assert 'step 2 is intact' in errors[0] and 'keep_last' in errors[0]
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['2']


def test_a_run_that_diverges_skips_counts_and_stops(tmp_path):
  done = tiny.job(
    'train',
    f'--workdir={tmp_path}',
    '--config.optimizer.learning_rate=1e30',
    '--config.eval.every=0',
  )
  assert done.code == 2
  errors = [x for x in done.err.splitlines() if not x.startswith('step ')]
  assert len(errors) == 1, done.err
  for words in ('error: step ', 'nonfinite=1.0', 'for 3 updates in a row'):
    assert words in errors[0]
  rows = tiny.rows(tmp_path)
  assert rows[0]['nonfinite'] < 1  # the first update is a finite one
  assert any(row['nonfinite'] > 0 for row in rows)


@pytest.mark.parametrize(
  'job, number, saying',
  [
    ('sft', 'updates.length_multiple=0', 'at least 1'),
    ('sft', 'updates.logits_chunk=0', 'at least 1'),
    ('sft', 'sample.trunk_multiple=0', 'at least 1'),
    ('generate', 'generate.batch_prompts=0', 'at least 1'),
    ('evaluate', 'sample.chunk=0', 'at least 1'),
    ('evaluate', 'sample.seats=-8', 'at least 0 (0 '),
    ('train', 'sample.seats=-8', 'at least 0 (0 '),
    ('evaluate', 'eval.temperature=-1.0', 'at least 0'),
    ('evaluate', 'eval.top_p=0.0', 'in (0, 1]'),
    ('evaluate', 'eval.min_p=1.5', 'in [0, 1)'),
  ],
)
def test_a_number_that_a_job_cannot_work_with_is_told(
  tmp_path, job, number, saying
):
  flags = [f'--workdir={tmp_path}/run', f'--init_from={tiny.run("train")}']
  saying = [f'error: {number} must be {saying}']
  refuse(job, *flags, f'--config.{number}', saying=saying)
  assert not (tmp_path / 'run').exists()


def test_the_best_by_a_measure_that_there_is_not_is_told_at_once(tmp_path):
  refuse(
    'train',
    f'--workdir={tmp_path}/run',
    f'--init_from={tiny.run("train")}',
    '--config.checkpoint.best_metric=reward/mean',
    saying=["error: checkpoint.best_metric='reward/mean' is not one of eval/"],
  )
