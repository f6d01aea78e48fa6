"""The win rate: `python -m grpo_jax.evaluate --task=win_rate --workdir=RUN`

After AlpacaEval 2: the policy answers a prompt set, a judge compares each final
summary (what stands after the thought) with that of a reference, and the share
of wins is given plain and controlled for length. Leaves in the workdir
`model_outputs.json` and `annotations.json`, in AlpacaEval's formats, and
`win_rate.json`.
"""

import dataclasses
import pathlib

from tqdm import tqdm

from grpo_jax import (
  answers,
  cli,
  files,
  hosts,
  policy,
  programs,
  questions,
  scorer,
  validation,
)
from grpo_jax.alpaca import contests, difficulty, judges
from grpo_jax.alpaca.endpoint import Endpoint
from grpo_jax.config import one_of, positive
from grpo_jax.rewards import text
from grpo_jax.tasks import of_prompts

OUTPUTS = 'model_outputs.json'
ANNOTATIONS = 'annotations.json'
# Of paid annotations; never removed.
CACHE = 'judge_cache.jsonl'


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Answers, has judged, and writes."""
  workdir = cli.need_workdir(workdir)
  w = cfg.win_rate
  if not w.outputs:
    cfg = cli.from_workdir(cfg, workdir)
  validation.of_answers(cfg, 'win_rate')
  contest = contests.read(w.path, w.reference, count=w.prompts)
  if contest.left_out and hosts.is_first():
    count = len(contest.rows)
    print(f'{count} of {count + contest.left_out} prompts (win_rate.prompts)')
  difficulties = None
  if w.difficulties:
    difficulties = difficulty.read(w.difficulties)
    difficulty.check_count(difficulties, len(contest.rows))
  workdir.mkdir(parents=True, exist_ok=True)
  judge = open_judge(cfg, workdir)
  if w.outputs:
    outputs, step = contests.outputs(contest, w.outputs, w.generator), None
  else:
    generator = w.generator or workdir.resolve().name
    outputs, step = _answer(cfg, contest, generator)
  # Of several processes, one writes, and one asks whoever costs money.
  if hosts.is_first():
    files.write_json(workdir / OUTPUTS, outputs)
  if hosts.is_first() or not isinstance(judge, Endpoint):
    result, annotations = contests.compare(
      outputs,
      contest,
      judge,
      difficulties=difficulties,
      annotator=w.endpoint.model if isinstance(judge, Endpoint) else w.judge,
    )
  hosts.of_first(None, what='judging', patient=True)
  if not hosts.is_first():
    return
  files.write_json(workdir / ANNOTATIONS, annotations)
  settings = {
    'init_from': '' if w.outputs else cfg.init_from,
    'step': step,
    'seed': cfg.seed,
    'prompt': cfg.prompt.to_dict(),
    'win_rate': w.to_dict(),
  }
  cost = _cost(judge, w.endpoint)
  files.write_json(
    workdir / files.WIN_RATE, result | cost | {'settings': settings}
  )
  _show(result, cost)
  print(f'written to {workdir / files.WIN_RATE}')


def open_judge(cfg, workdir: pathlib.Path) -> judges.Judge:
  """The judge that `win_rate.judge` names.

  Raises:
    ValueError: none, or one that cannot be had.
  """
  w = cfg.win_rate
  if w.judge.startswith(('http://', 'https://')):
    settings = w.endpoint.to_dict()
    one_of('win_rate.endpoint.orders', w.endpoint.orders, ('both', 'random'))
    positive(cfg, 'win_rate.endpoint.parallel', 'win_rate.endpoint.tries')
    for price in ('price_in', 'price_out'):
      settings.pop(price)
    return Endpoint(w.judge, cache=workdir / CACHE, **settings)
  if w.judge.endswith('.json'):
    return judges.by_annotations(contests.read_rows(w.judge))
  if ':' in w.judge:
    return judges.by_function(w.judge)
  if w.judge and (pathlib.Path(w.judge) / files.REWARD_MODEL).is_file():
    # Outputs are final summaries already, as `text.reply` leaves them.
    model = scorer.open_scorer(cfg, w.judge, part='all')
    return judges.by_score(
      lambda asked, outputs: model.many(asked, [[o] for o in outputs])[:, 0]
    )
  raise ValueError(
    f'win_rate.judge={w.judge!r} names no judge: give the URL of an '
    "OpenAI-compatible endpoint, a Python function 'module:function', a .json "
    'file of annotations, or the folder of a trained reward model'
  )


def _answer(cfg, contest, generator):
  """Rows of model_outputs.json, and the step of the checkpoint."""
  w = cfg.win_rate
  task = of_prompts([r['instruction'] for r in contest.rows], source=w.path)
  examples = [task.example(i) for i in range(len(task))]
  pol = policy.open_policy(cfg)
  ask = questions.questions_of(task, cfg, pol.tokenizer)
  ask.try_rows(len(examples), max_length=ask.max_length)
  answerer = answers.of_section(
    pol, ask, cfg, 'win_rate', count=len(examples), samples=1
  )
  step, params = pol.checkpoint()
  params = programs.publish(pol)(params)
  silent = not hosts.is_first()
  bar = tqdm(total=len(examples), desc='answer', disable=silent)
  outputs = []
  for part in answerer.run(params, examples, seed=cfg.seed):
    for e, (example, (completion,)) in enumerate(
      zip(part.examples, part.completions, strict=True)
    ):
      row = contest.rows[len(outputs)]
      outputs.append({
        **{k: v for k, v in row.items() if k == 'dataset'},
        'instruction': example.prompt,
        'output': text.reply(completion),
        'generator': generator,
        'finished': bool(part.finished[e, 0]),
      })  # fmt: skip
    bar.update(len(part.examples))
  bar.close()
  return outputs, step


def _cost(judge, settings):
  if not isinstance(judge, Endpoint):
    return {}
  cost, dollars = judge.cost, None
  if settings.price_in or settings.price_out:
    dollars = cost.dollars(
      price_in=settings.price_in, price_out=settings.price_out
    )
  return {'cost': {**dataclasses.asdict(cost), 'dollars': dollars}}


def _show(result, cost):
  for name, error in (
    ('win_rate', 'standard_error'),
    ('length_controlled_winrate', 'length_controlled_stderr'),
  ):
    print(f'{name:28s}{result[name]:6.2f} ± {result[error]:.2f} %')
  if not result['length_control_tells']:
    print('  50 by default: the fit keeps nothing but length')
  for name in ('n_wins', 'n_draws', 'n_total', 'n_unjudged'):
    print(f'{name:28s}{result[name]:6d}')
  print(f'length control: {result["length_control"]}')
  if cost:
    c = cost['cost']
    dollars = c['dollars']
    print(
      f'judge: {c["requests"]} requests ({c["cached"]} more were known, '
      f'{c["refused"]} refused), {c["tokens_in"]} tokens in, '
      f'{c["tokens_out"]} out: '
      + ('price not set' if dollars is None else f'${dollars:.4f}')
    )
