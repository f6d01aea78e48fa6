"""What the backward pass keeps of a layer, and what it recomputes, by name."""

from collections.abc import Callable

import jax

ATTENTION = 'attention'  # the name of what attention gives
_keep = jax.checkpoint_policies
_attention = _keep.save_only_these_names(ATTENTION)
# Kept are: all; each layer's input alone; what attention gives too, whose
# kernel names its outputs so; that and the products with matrices.
POLICIES = {
  'none': None,
  'full': _keep.nothing_saveable,
  'attention': _attention,
  'dots': _keep.save_from_both_policies(
    _keep.checkpoint_dots_with_no_batch_dims, _attention
  ),
}


def rematerialised(body: Callable, policy: str) -> Callable:
  """The body of a scan, which keeps what a policy of POLICIES says."""
  if policy == 'none':
    return body
  return jax.checkpoint(body, policy=POLICIES[policy], prevent_cse=False)
