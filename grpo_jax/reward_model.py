"""Reward models: `python -m grpo_jax.reward_model --config=... --workdir=...`

A scalar head on the body that `init_from` names, trained on pairs (Bradley and
Terry) or on labelled responses, and measured on held-out prompts. When it is
done, `reward_model.json` in the workdir says how it reads texts; RL names the
workdir in `rewards.X = dict(name='reward_model', path=...)`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib

import numpy as np

from grpo_jax import (
  cli,
  config,
  critic,
  files,
  hosts,
  layout,
  losses,
  measures,
  policy,
  preference_losses,
  preferences,
  scorer,
  tasks,
  trainer,
  validation,
)  # fmt: skip
from grpo_jax.loop import Loop
from grpo_jax.outcome import one_update
from grpo_jax.preferences import Row
from grpo_jax.structs import Batch, PyTree

SHOWN = {'loss': 'loss', 'right': 'accuracy', 'held out': 'eval/accuracy'}
# Rows that are read as tokens before the first step, for their errors.
_MOST_TRIED = 2000
_NEXT = "rewards.NAME=dict(name='reward_model', path='{workdir}', weight=...)"


def run(cfg, workdir: pathlib.Path | None) -> None:
  """Trains from `cfg.init_from`, or goes on where `workdir` stopped."""
  workdir = cli.need_workdir(workdir)
  r = cfg.reward_model
  loss = config.pick(preference_losses, r.loss, takes=('batch', 'values'))
  config.one_of('reward_model.loss', r.loss.name, tuple(preferences.FIELDS))
  group = 2 if r.loss.name == 'pairwise' else 1
  # A pair is compared where it lies: its two are never apart.
  pol = policy.open_policy(cfg).for_groups_of(1)
  validation.of_reward_model(cfg, group=group, ways=pol.rows('train').ways)
  lesson = Lesson(cfg, pol)
  loop = Loop(
    cfg,
    workdir,
    pol,
    _trainer(pol, cfg, loss),
    job='reward_model',
    shown=SHOWN,
    evaluation=lesson,
  )
  loop.run(
    prepare=lesson.batch,
    step=one_update(loop.trainer),
    publish=lambda params: params,
    following=_NEXT,
  )
  _leave(cfg, workdir, lesson, loop)


class Lesson:
  """The rows of a config: batches to learn from, and what is held out."""

  measure = 'accuracy'  # of what the best has most
  optional = ('accuracy_longer', 'accuracy_shorter')  # of no such pair none

  def __init__(self, cfg, pol: policy.Policy):
    """Reads the file.

    Raises:
      FileNotFoundError, ValueError: naming the file, the line and the remedy.
    """
    r = cfg.reward_model
    self.cfg, self.rows = cfg, pol.rows('train')
    self.reader = scorer.Reader(
      # The part is taken when the file is read.
      pol.tokenizer, cfg.prompt.to_dict(), 'all'
    )  # fmt: skip
    found = preferences.read(
      r.path, kind=r.loss.name, part=r.part, min_margin=r.min_margin
    )
    train, held_out = preferences.split(found, test_share=r.test_share)
    self.train = preferences.balance(
      train, method=r.balance_lengths, seed=cfg.seed
    )
    # Of all sources that a file has one after the other.
    drawn = np.random.RandomState(cfg.seed).permutation(len(held_out))
    self.held_out = [held_out[i] for i in sorted(drawn[: r.test_rows])]
    self.read = [len(found), len(train), len(self.train), len(held_out)]
    for row in [*self.train, *self.held_out][:_MOST_TRIED]:
      self._ids(row)
    self.score = scorer.program(pol, parts=(cfg.updates.microbatches, 1))

  def batch(self, step: int) -> tuple[Batch, int]:
    """The rows of a step, a function of (seed, step), and their tokens."""
    indices = tasks.batch_indices(
      len(self.train),
      self.cfg.reward_model.batch_size,
      seed=self.cfg.seed,
      step=step,
    )
    batch = self._lay_out([self.train[i] for i in indices])
    return self.rows.put(batch), int(_lengths(batch).sum())

  def run(
    self,
    params: PyTree,
    *,
    progress: bool = False,
    stopping: Callable[[], object] = lambda: False,
  ) -> dict | None:
    """Measures of the held-out rows; see `summarise`. None if it left."""
    del progress
    size, scores, lengths = self.cfg.reward_model.batch_size, [], []
    for start in range(0, len(self.held_out), size):
      part = self.held_out[start : start + size]
      # The last batch is filled up, so that it runs the same program.
      batch = self._lay_out(part + [part[-1]] * (size - len(part)))
      got = self.score(params, self.rows.put(batch))
      got = hosts.everywhere(got, what='scores')
      scores.append(got[: len(part)])
      lengths.append(_lengths(batch)[: len(part)])
      if stopping():
        return None
    wanted = np.array([row.wanted for row in self.held_out])
    return summarise(
      np.concatenate(scores),
      np.concatenate(lengths),
      wanted,
      prompts=[row.prompt for row in self.held_out],
    )

  def _lay_out(self, rows: Sequence[Row]) -> Batch:
    ids = [self._ids(row) for row in rows]
    batch = layout.responses(
      [prompt for prompt, _ in ids],
      [responses for _, responses in ids],
      trunk_multiple=self.cfg.sample.trunk_multiple,
      multiple=self.cfg.updates.length_multiple,
    )
    shape = batch.mask.shape
    wanted = np.array([row.wanted for row in rows], np.float32)
    factors = np.array([row.weight for row in rows], np.float32)
    return batch.replace(
      returns=np.where(batch.mask, wanted[:, :, None], np.float32(0)),
      factors=np.broadcast_to(factors[:, None, None], shape),
    )

  def _ids(self, row):
    longest = self.cfg.sample.max_prompt_length
    try:
      prompt = self.reader.prompt_ids(row.prompt)
      opening = self.reader.opening(row.prompt)
      responses = [
        self.reader.response_ids(x, opening=opening) for x in row.responses
      ]
    except ValueError as error:
      raise ValueError(f'{row.where}: {error}') from None
    if not 0 < len(prompt) <= longest:
      raise ValueError(
        f'{row.where}: the prompt has {len(prompt)} tokens, and must have 1 to '
        f'{longest}; raise sample.max_prompt_length or drop the row'
      )
    most = self.cfg.reward_model.max_length
    return prompt, [ids[:most] for ids in responses]


def summarise(
  scores: np.ndarray,
  lengths: np.ndarray,
  wanted: np.ndarray,
  *,
  prompts: Sequence[str],
) -> dict[str, float]:
  """Measures of held-out rows.

  Args:
    scores: [N G], of pairs (G = 2, the chosen first) or of responses (G = 1).
    lengths: [N G] tokens.
    wanted: [N G], the labels if G = 1.
    prompts: [N]; errors are clustered by them.

  Returns:
    'loss', 'accuracy' (half of a tie), its standard error; 'margin', how far
    scores are apart on the right side; 'score_mean', 'score_std';
    'length_correlation', Spearman's of score and length; of pairs 'accuracy'
    where the chosen response is the longer, and where it is the shorter: a
    model that likes length is right in the first and wrong in the second.
  """
  gap, share = scores[:, 0].astype(np.float64), 1.0
  if scores.shape[1] == 2:
    gap = gap - scores[:, 1]
  else:
    # A label of 0.8 is that of a response that is right in 0.8 of the cases.
    share = wanted[:, 0].astype(np.float64)

  def expected(of):
    """[N], over the two labels that a row may have."""
    return share * of(gap) + (1 - share) * of(-gap)

  right = expected(lambda x: (1 + np.sign(x)) / 2)
  found = {
    'loss': float(expected(lambda x: np.logaddexp(0, -x)).mean()),
    'accuracy': float(right.mean()),
    'accuracy_stderr': measures.standard_error(right, clusters=prompts),
    'margin': float(expected(lambda x: x).mean()),
    'score_mean': float(scores.mean()),
    'score_std': float(scores.std()),
    'length_correlation': measures.rank_correlation(
      scores.ravel(), lengths.ravel()
    ),
  }
  if scores.shape[1] == 2:
    more = lengths[:, 0] - lengths[:, 1]
    for name, chosen in (('longer', more > 0), ('shorter', more < 0)):
      found[f'chosen_{name}_share'] = float(chosen.mean())
      if chosen.any():
        found[f'accuracy_{name}'] = float(right[chosen].mean())
  return found


def _lengths(batch):
  """[Q G] tokens of the responses: the last is the input that is scored."""
  return batch.mask.argmax(-1)


def _trainer(pol, cfg, loss) -> trainer.Trainer:
  declared = critic.declare_apart(pol)

  def scoring(policy):
    values = critic.values_apart(policy, remat=cfg.updates.remat)
    return lambda params, batch: (values(params, batch),)

  made = trainer.trainer(
    pol,
    cfg,
    objective=loss,
    # One token counts of each response, so this is the mean over responses.
    weigh=losses.token_mean,
    scoring=scoring,
    updates=cfg.steps,
    declared=declared,
  )
  head = np.zeros(declared['value_head'].shape, np.float32)
  return dataclasses.replace(
    made,
    init=lambda body: made.init({'body': body, 'value_head': head}),
  )


def _leave(cfg, workdir, lesson, loop) -> None:
  """Measures the final parameters and writes what scoring needs to know."""
  found = lesson.run(loop.state.params)
  if not hosts.is_first():
    return
  read, train, learned, held_out = lesson.read
  files.write_json(
    workdir / files.REWARD_MODEL,
    {
      'step': cfg.steps,
      'loss': cfg.reward_model.loss.to_dict(),
      'part': cfg.reward_model.part,
      'prompt': cfg.prompt.to_dict(),
      'rows': {
        'read': read, 'train': train, 'after_balancing': learned,
        'held_out': held_out,
      },
      'held_out': found,
    },
  )  # fmt: skip
  for name, value in found.items():
    print(f'{name:22s} {value:.4f}')


if __name__ == '__main__':
  cli.main(run)
