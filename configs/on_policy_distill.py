"""On-policy distillation: the student answers, a teacher scores its tokens.

Loss per token: (log policy - log teacher)^2 / 2 of the student's own samples,
whose gradient (log policy - log teacher) grad log policy is on average that of
KL(policy || teacher) at that position; the mean over each completion, then over
completions. This is GKD (Agarwal et al. 2306.13649) with lambda = 1, samples of
the student alone, and the reverse KL; no reward has a part in it (they are
reported).

What differs from the papers:
- GKD takes the KL over the whole vocabulary. Here it is estimated at the token
  that was sampled: the same gradient on average, with more noise, and no logits
  of the teacher are held.
- A token answers for its own KL only (discount 0), not for what it leads to, as
  in GKD, which does not differentiate through sampling. MiniLLM (Gu et al.
  2306.08543) adds the log ratios of later tokens. The same config with
  `algorithm.kl=k1`, `kl_in=reward` and `advantages=rloo` pays a completion its
  whole sum; with `advantages=gae` a token what follows it.
- No teacher-mixed sampling and no pretraining loss (MiniLLM), no supervised
  part (GKD's lambda < 1).
- Temperature 1 for both. Learning rate and sizes are ours.

  --config=configs/on_policy_distill.py              sums: RL's model teaches
                                                     the base that it began as
  --config=configs/on_policy_distill.py:EXPERIMENT   another task; then give
                                                     --config.algorithm.reference_from

The student may be of any size with the same tokenizer, as of a
`quickstart_base` with another `model.embed_dim`.
"""

from configs import base


def get_config(experiment: str = 'quickstart'):
  c = base.start(experiment)
  base.assign(
    c.algorithm,
    advantages=dict(name='group', std='none'),
    # Without a reward there is no advantage, so this is 0: the KL is all.
    loss=dict(name='reinforce'),
    weights=dict(name='sequence_mean'),
    kl=dict(name='k2'),
    kl_coef=1.0,
    kl_in='loss',
    reference_every=0,
  )
  for reward in c.rewards.values():
    reward.weight = 0.0
  # Every group counts: these would judge it by rewards.
  c.filters.update(drop_zero_variance=False, rounds=1, retire_above=1.0)
  # Not on policy any more after the first update of a rollout.
  parts = c.updates.minibatches * c.updates.microbatches
  c.updates.update(epochs=1, minibatches=1, microbatches=parts)
  if experiment == 'quickstart':
    c.algorithm.reference_from = 'runs/quickstart/grpo'
    c.steps = 100
    # Every token is a signal, so that few samples do.
    c.group_size = 4
    c.updates.microbatches = 4
    c.optimizer.learning_rate = 3e-4
    c.eval.update(every=25, samples=8, ks=(1, 8), votes=(8,))
    c.log.samples_every = 25
  return c
