"""Times of `transformers.generate` alone: `python FILE REQUEST.json`."""

import sys
import time

import peer
import torch
import transformers


def main() -> None:
  """Answers a request."""
  request = peer.read(sys.argv[1:])
  torch.set_num_threads(request['threads'])
  begin = time.perf_counter()
  workload = request['workload']
  prompts, _ = peer.arrays(request)
  ids = torch.from_numpy(prompts).long()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    request['folder'], dtype=torch.float32
  )
  length = workload['completion']

  def rollout():
    return model.generate(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      do_sample=True,
      temperature=1.0,
      top_k=0,
      top_p=1.0,
      num_return_sequences=workload['group_size'],
      # None ends by itself.
      min_new_tokens=length,
      max_new_tokens=length,
      pad_token_id=0,
    )

  clock = peer.Clock()
  for _ in range(1 + request['repeats']):
    shape = tuple(clock('rollout', rollout).shape)
  rows = workload['prompts'] * workload['group_size']
  if shape != (rows, prompts.shape[1] + length):
    raise RuntimeError(f'generated {shape}')
  versions = {m.__name__: m.__version__ for m in (torch, transformers)}
  peer.answer({'seconds': clock.seconds}, versions=versions, begin=begin)


if __name__ == '__main__':
  main()
