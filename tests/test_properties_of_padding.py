"""Wider trunks and branches change no logprob and no gradient."""

import functools

from found import some
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from grpo_jax import layout, logprobs, losses
from grpo_jax.models import transformer
from grpo_jax.structs import Prompts

# Compiles in half the time; the numbers are small.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


@functools.cache
def decoder(model):
  """Logprobs of a batch, and the gradient of their mean."""

  def mean(params, batch):
    prompts = Prompts(
      trunk=batch.trunk, trunk_mask=batch.trunk_mask, last=batch.inputs[:, 0, 0]
    )
    trunk = transformer.prefill(model, params, prompts, dtype=jnp.float32)
    hidden = transformer.branches(
      model, params, batch.inputs, trunk, dtype=jnp.float32
    )
    scores, _ = logprobs.token_logprobs(
      hidden,
      transformer.head(params),
      batch.targets,
      temperature=0.8,
      vocab_size=model.vocab_size,
      chunk=3,
    )
    return jnp.sum(losses.token_mean(batch.mask) * scores), scores

  return jit(jax.grad(mean, has_aux=True))


tokens = st.integers(0, 19)  # of the session's model
prompts_of = st.lists(
  st.lists(tokens, min_size=1, max_size=6), min_size=2, max_size=2
)
completions_of = st.lists(
  st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=2, max_size=2),
  min_size=2,
  max_size=2,
)


@some
@given(prompts_of, completions_of)
def test_wider_trunks_and_branches_change_no_logprob_and_no_gradient(
  model, params, prompt_ids, completion_ids
):
  results = []
  for trunk, branch in ((5, 5), (9, 7)):
    prompts = layout.prompts(prompt_ids + [[0] * 6], multiple=trunk)
    rows = completion_ids + [[[0] * 5] * 2]
    batch = layout.branches(prompts, rows, max_length=9, multiple=branch)
    assert batch.trunk.shape[1] == trunk and batch.mask.shape[2] == branch
    # The third prompt holds the widths and counts for nothing.
    batch.mask[2] = False
    gradient, scores = decoder(model)(params, batch)
    results.append((gradient, np.asarray(scores)[batch.mask]))
  (gradient, scores), (wide_gradient, wide_scores) = results
  # float32 rounding through two layers.
  np.testing.assert_allclose(wide_scores, scores, atol=2e-5)
  for a, b in zip(
    jax.tree.leaves(wide_gradient), jax.tree.leaves(gradient), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)
