"""Makes `trl.npz` beside it: what TRL's own trainers give for `trl_cases`.

  python tests/reference/make_trl_reference.py [FILE]

Needs torch and trl, in the versions of `make parity`; tests read what it wrote.
The trainers are TRL's, from generation to backward; replaced are the model, by
given logprobs, and the sampler, by given completions. A completion is known by
the token of its prompt.
"""

import functools
from pathlib import Path
import sys
import tempfile

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl
from trl.experimental import gmpo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import trl_cases  # noqa: E402
import trl_inputs  # noqa: E402

STOP, PAD, WORD, FIRST_ROW = 3, 0, 5, 8
SEED = 0  # of the stored inputs; TRL's own 42 shuffles the rows


class Given:
  """A trainer with given logprobs in place of a model; goes before TRL's."""

  def play(self, inputs: dict[str, np.ndarray], case: trl_cases.Case) -> None:
    """Sets what the sampler and the models give."""
    flat = {
      k: torch.tensor(v.reshape(-1, *v.shape[2:]))
      for k, v in inputs.items()
      if k != 'rewards'
    }
    self.given, self.case = flat, case
    self.leaves = [flat[k].requires_grad_() for k in ('logprobs', 'entropy')]
    self.scored, self.whole = [], None
    self.use_vllm = bool(case.trl.get('sampler'))
    self.current_gradient_accumulation_steps = case.microbatches

  def _generate(self, prompts):
    texts = [
      [WORD] * n if cut else [WORD] * (n - 1) + [STOP]
      for n, cut in zip(
        self.given['lengths'].tolist(), self.given['truncated'], strict=True
      )
    ]
    ids = [[FIRST_ROW + row] for row in range(len(texts))]
    names = [''] * len(texts)
    if self.case.trainer == 'rloo':
      return ids, texts, names
    sampled = None
    if self.use_vllm:  # Transformers' own sampler gives none.
      sampled = [
        row[: len(text)].tolist()
        for row, text in zip(self.given['sampler_logprobs'], texts, strict=True)
      ]
    return ids, texts, None, names, sampled, {}, None, None

  def _get_per_token_logps_and_entropies(self, model, input_ids, *args, **kw):
    rows = input_ids[:, 0] - FIRST_ROW
    name = 'logprobs'
    if torch.is_grad_enabled():
      self.scored.append(rows)
    elif model is self.ref_model:
      name = 'ref_logprobs'
    elif not self.case.on_policy:
      name = 'old_logprobs'
    return self.given[name][rows], self.given['entropy'][rows], None

  def _generate_and_score_completions(self, inputs):
    self.whole = super()._generate_and_score_completions(inputs)
    return self.whole


class Grpo(Given, trl.GRPOTrainer):
  pass


class Rloo(Given, trl.RLOOTrainer):
  pass


class Gmpo(Given, gmpo.GMPOTrainer):
  pass


TRAINERS = {
  'grpo': (Grpo, trl.GRPOConfig),
  'rloo': (Rloo, trl.RLOOConfig),
  'gmpo': (Gmpo, gmpo.GMPOConfig),
}


def run(case: trl_cases.Case, inputs: dict) -> dict[str, np.ndarray]:
  """What TRL gives for a case.

  Returns:
    'advantages' [Q G]; 'ratio' [Q G C] where there is a sampler; 'loss', and
    its gradients 'logprobs' and, if it has any, 'entropy' [Q G C]: sums over
    microbatches and over all updates of the generation; 'part' [Q G], the
    number of the microbatch that a completion was in, if there are several.
  """
  shape = inputs['logprobs'].shape
  with tempfile.TemporaryDirectory() as folder:
    trainer = make(case, inputs['rewards'], folder)
  trainer.play(inputs, case)
  prompts = [dict(prompt='')] * (shape[0] * shape[1])
  steps = case.windows * case.microbatches
  loss = sum(
    float(trainer.training_step(trainer.model, prompts, None))
    for _ in range(steps)
  )
  logprobs, entropy = trainer.leaves
  out = {
    'loss': np.float32(loss),
    'logprobs': logprobs.grad.numpy().reshape(shape),
    'advantages': trainer.whole['advantages'].numpy().reshape(shape[:2]),
  }
  if entropy.grad is not None:
    out['entropy'] = entropy.grad.numpy().reshape(shape)
  if steps > 1:
    out['part'] = np.zeros(shape[:2], np.int64)
    for i, rows in enumerate(trainer.scored):
      out['part'].flat[rows.numpy()] = i
  if 'importance_sampling_ratio' in trainer.whole:
    ratio = trainer.whole['importance_sampling_ratio'].numpy()
    ratio = np.broadcast_to(ratio, (len(ratio), shape[2]))
    out['ratio'] = ratio.reshape(shape)
  return out


def make(case: trl_cases.Case, rewards: np.ndarray, folder: str):
  """TRL's trainer, built by itself from its config."""
  trainer_class, config_class = TRAINERS[case.trainer]
  settings = {k: v for k, v in case.trl.items() if k != 'sampler'}
  rows, group_size = rewards[0].size, rewards.shape[2]
  steps = case.windows * case.microbatches
  if case.windows > 1:
    settings['steps_per_generation'] = steps
  args = config_class(
    folder,
    report_to='none',
    use_cpu=True,
    bf16=False,
    per_device_train_batch_size=rows // steps,
    gradient_accumulation_steps=case.microbatches,
    num_generations=group_size,
    max_completion_length=trl_cases.LIMIT,
    reward_weights=list(case.reward_weights),
    # With one pass over a generation TRL takes the policy's own logprobs as
    # the old ones; with two it keeps old ones.
    num_iterations=1 if case.on_policy else 2,
    **settings,
  )
  return trainer_class(
    model=str(HERE / 'llama'),
    reward_funcs=[
      functools.partial(_column, column.reshape(-1)) for column in rewards
    ],
    args=args,
    train_dataset=datasets.Dataset.from_list([dict(prompt='')]),
    processing_class=_tokenizer(),
  )


def _column(values, **kwargs):
  return [None if np.isnan(v) else float(v) for v in values]


@functools.cache
def _tokenizer():
  words = {str(i): i for i in range(64)}
  model = tokenizers.models.WordLevel(words, unk_token='0')
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(model),
    eos_token=str(STOP),
    pad_token=str(PAD),
  )


def everything() -> dict[str, np.ndarray]:
  """'inputs/NAME', and 'CASE/NAME' of every case: the whole file."""
  inputs = trl_inputs.draw(SEED)
  out = {f'inputs/{k}': v for k, v in inputs.items()}
  cases = {k: (case, inputs) for k, case in trl_cases.EQUAL.items()}
  for name, (case, given) in (cases | trl_cases.DIFFERENT).items():
    out |= {f'{name}/{k}': v for k, v in run(case, given).items()}
  return out


if __name__ == '__main__':
  np.savez_compressed(
    sys.argv[1] if len(sys.argv) > 1 else trl_cases.REFERENCE, **everything()
  )
