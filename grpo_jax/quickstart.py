"""`make quickstart`: a tiny base model, GRPO on it, and what changed.

Pretrains on sums that are mostly answered badly, then reinforces what is right
by rule rewards alone, then evaluates both on held-out sums. Each stage is a
job with a workdir of its own and goes on where it stopped.
"""

import pathlib

from absl import flags

from configs import quickstart as rl_config
from configs import quickstart_base as base_config
from grpo_jax import (
  begun,
  cli,
  evaluate,
  files,
  policy,
  programs,
  runs,
  sft,
  train,
)

_seed = flags.DEFINE_integer('seed', 0, 'Of everything.')
_reward = flags.DEFINE_enum(
  'reward', 'rule', ['rule', 'random'], 'random is a control: a coin.'
)
MEASURES = ('pass@1', 'pass@64', 'cons@16', 'mean_length')
# Of its own: eval.json holds whatever the user evaluated last.
EVALUATION = 'quickstart_eval.json'
# The second stage starts from the first one's folder, wherever that is.
_FREE = (*begun.FREE_OF_RUNS, 'init_from')


def run(_, workdir: pathlib.Path | None) -> None:
  """Pretrain, evaluate, train, evaluate, compare."""
  workdir = cli.need_workdir(workdir)
  base_folder, rl_folder = workdir / 'base', workdir / 'grpo'
  pretrain, reinforce = base_config.get_config(), rl_config.get_config()
  pretrain.seed = reinforce.seed = _seed.value
  reinforce.init_from = str(base_folder)
  if _reward.value == 'random':
    reinforce.rewards = dict(random=dict(name='random', weight=1.0))
  cli.divide_cpu(pretrain.cpu_devices)
  cli.refuse_another(pretrain, base_folder, free=_FREE)
  cli.refuse_another(reinforce, rl_folder, free=_FREE)

  _say(f'1/4 pretraining a base model, {pretrain.steps} updates')
  sft.run(pretrain, base_folder)
  _say('2/4 evaluating it on held-out sums')
  base = _evaluate(reinforce, base_folder)
  _say(f'3/4 GRPO with {_reward.value} rewards, {reinforce.steps} steps')
  train.run(reinforce, rl_folder)
  _say('4/4 evaluating the result')
  trained = _evaluate(reinforce, rl_folder)

  summary = {
    name: {k: result[k] for k in MEASURES}
    for name, result in (('base', base), ('trained', trained))
  }
  asked = {'seed': _seed.value, 'reward': _reward.value}
  files.write_json(workdir / 'summary.json', summary | asked)
  _show(summary, base, trained, workdir)


def _evaluate(cfg, folder):
  """The result for the newest checkpoint, kept for the next time."""
  path = folder / EVALUATION
  fields = ('seed', 'dtype', 'task', 'prompt', 'sample', 'eval')
  settings = {k: v for k, v in cfg.to_dict().items() if k in fields}
  settings['step'] = runs.open_run(folder).steps[-1]
  settings = files.plain(settings)
  if path.exists():
    kept = files.read_json(path)
    # Before, the measures lay in a part of their own.
    if kept['settings'] == settings and 'result' not in kept:
      return kept
  cfg = cfg.copy_and_resolve_references()
  cfg.init_from = str(folder)
  pol = policy.open_policy(cfg)
  params = programs.publish(pol)(pol.params())
  result = evaluate.Evaluation(cfg, pol).run(params, progress=True)
  result |= {'settings': settings}
  files.write_json(path, result)
  return result


def _show(summary, base, trained, workdir):
  print(f'\n{"":12s}{"base":>10s}{"trained":>10s}')
  for name in MEASURES:
    before, after = (summary[k][name] for k in ('base', 'trained'))
    print(f'{name:12s}{before:10.3f}{after:10.3f}')
  for title, result in (('base', base), ('trained', trained)):
    print(f'\nTwo answers, {title}:')
    for row in result['examples'][:2]:
      mark = 'right' if row['right'] else f'wrong, it is {row["answer"]}'
      print(f'  {row["prompt"]} {row["completion"]}   ({mark})')
  print(
    f'\nCurves:   tensorboard --logdir {workdir}   (pip install tensorboard)'
    f'\nSamples:  {workdir}/grpo/samples.jsonl'
    f'\nNotebook: notebooks/inspect_checkpoint.ipynb'
    f'\nNext:     README.md, "Your own data and model"'
  )


def _say(text):
  print(f'\n== {text}', flush=True)


if __name__ == '__main__':
  cli.main(run)
