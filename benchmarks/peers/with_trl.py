"""Times of TRL's GRPOTrainer: `python FILE REQUEST.json`.

The trainer is TRL's own, whole steps of it. Replaced are the tokenizer of
prompts, since they are given as ids, and, where a workload has lengths, what
follows them in each completion. An update is what of a step is not generation.
"""

import sys
import tempfile
import time

import datasets
import peer
import torch
import transformers
import trl


class Trainer(trl.GRPOTrainer):
  """Prompts are given as ids, completions cut; generation is timed."""

  def give(self, prompts, lengths):
    """Ids [Q P] and lengths [Q G]."""
    self.given, self.lengths, self.generating = prompts, lengths, []

  def _tokenize_prompts(self, prompts):
    self.asked = [int(prompt) for prompt in prompts]
    return [self.given[q].tolist() for q in self.asked], None, {}

  def _generate_single_turn(self, *args, **kwargs):
    begin = time.perf_counter()
    ids, logprobs = super()._generate_single_turn(*args, **kwargs)
    self.generating.append(time.perf_counter() - begin)
    if {len(row) for row in ids} != {self.lengths.max()}:
      raise RuntimeError('a completion has ended by itself')
    waiting = [iter(row) for row in self.lengths.tolist()]
    lengths = [next(waiting[q]) for q in self.asked]
    return [row[:n] for row, n in zip(ids, lengths, strict=True)], logprobs


class Steps(transformers.TrainerCallback):
  """Seconds of each step."""

  def __init__(self):
    self.seconds = []

  def on_step_begin(self, *args, **kwargs):
    self.begin = time.perf_counter()

  def on_step_end(self, *args, **kwargs):
    self.seconds.append(time.perf_counter() - self.begin)


def make(request, folder, callback) -> Trainer:
  """TRL's trainer as its documentation has it, in fp32 on the CPU."""
  workload = request['workload']
  rows = workload['prompts'] * workload['group_size']
  parts = workload['peer_parts']
  args = trl.GRPOConfig(
    folder,
    report_to='none',
    logging_strategy='no',
    save_strategy='no',
    use_cpu=True,
    bf16=False,
    # Recomputing would cost time; peer_parts keeps the memory down.
    activation_checkpointing=False,
    model_init_kwargs={'dtype': 'float32'},
    max_steps=1 + request['repeats'],
    per_device_train_batch_size=rows // parts,
    gradient_accumulation_steps=parts,
    num_generations=workload['group_size'],
    max_completion_length=workload['completion'],
    num_iterations=1,
    beta=request['kl_coef'],
    learning_rate=request['learning_rate'],
    lr_scheduler_type='constant',
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    generation_kwargs={'min_new_tokens': workload['completion']},
    shuffle_dataset=False,
    dataloader_pin_memory=False,
    disable_tqdm=True,
  )
  prompts = [{'prompt': str(q)} for q in range(workload['prompts'])]
  return Trainer(
    model=request['folder'],
    reward_funcs=lambda completions, **_: list(map(peer.reward, completions)),
    args=args,
    train_dataset=datasets.Dataset.from_list(prompts),
    processing_class=transformers.AutoTokenizer.from_pretrained(
      request['folder']
    ),
    callbacks=[callback],
  )


def main() -> None:
  """Answers a request."""
  request = peer.read(sys.argv[1:])
  torch.set_num_threads(request['threads'])
  begin, steps = time.perf_counter(), Steps()
  with tempfile.TemporaryDirectory() as folder:
    trainer = make(request, folder, steps)
    trainer.give(*peer.arrays(request))
    trainer.train()
  rollouts, seconds = trainer.generating[1:], steps.seconds[1:]
  if not len(rollouts) == len(seconds) == request['repeats']:
    raise RuntimeError(f'{len(rollouts)} rollouts in {len(seconds)} steps')
  updates = [s - r for s, r in zip(seconds, rollouts, strict=True)]
  modules = (torch, transformers, trl)
  peer.answer(
    {
      'seconds': {'rollout': rollouts, 'update': updates, 'step': seconds},
    },
    versions={m.__name__: m.__version__ for m in modules},
    begin=begin,
  )


if __name__ == '__main__':
  main()
