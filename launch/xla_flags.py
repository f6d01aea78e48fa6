"""Flags of the TPU compiler that every launched job runs with.

`TPU_FLAGS` is their list, `of_chip` has those of a chip besides, `environment`
the variables that carry them. The TPU runtime reads LIBTPU_INIT_ARGS once, when
it starts: it must be in the environment before `jax` is imported. libtpu ends a
process over a flag it does not know; all of these are in libtpu 0.0.42.1, which
setup.py installs for TPU.
"""

from launch import chips

TPU_FLAGS = {
  # Orders a program so that transfers run while the cores compute.
  'xla_tpu_enable_latency_hiding_scheduler': 'true',
  # Splits a collective into a start and a done, fused with the computation
  # between them; without it the scheduler has little to overlap.
  'xla_tpu_enable_async_collective_fusion': 'true',
  # Does so for all-gathers: FSDP's weights arrive during the layer before.
  'xla_tpu_enable_async_collective_fusion_fuse_all_gather': 'true',
  # Lets one collective overlap several fusions in a row, not just the next.
  'xla_tpu_enable_async_collective_fusion_multiple_steps': 'true',
  # Lets the tensor core compute while it serves a collective.
  'xla_tpu_overlap_compute_collective_tc': 'true',
  # Asynchronous all-gathers, for those that are not fused.
  'xla_enable_async_all_gather': 'true',
  # Asynchronous permutes: the steps of a ring, of context parallelism.
  'xla_enable_async_collective_permute': 'true',
  # Weight gradients are summed over rows, which lie on many chips. From this
  # size of a result on (MiB), the compiler would compute them as a ring of
  # slivers, each faster to send than to compute: never.
  'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000',
  # Between slices: sums gradients over the data centre network while the
  # backward pass goes on.
  'xla_tpu_enable_data_parallel_all_reduce_opt': 'true',
  # Does so for gradients of different sizes too.
  'xla_tpu_data_parallel_opt_different_sized_ops': 'true',
}


def of_chip(chip: chips.Chip | None) -> dict[str, str]:
  """Flag -> value; of an unknown chip those that fit all."""
  if chip is None or not chip.fusion_kib:
    return TPU_FLAGS
  # Larger blocks of a product's operands in a core's memory: read less often.
  return TPU_FLAGS | {'xla_tpu_scoped_vmem_limit_kib': str(chip.fusion_kib)}


def environment(accelerator: str = '') -> dict[str, str]:
  """Environment variables of a TPU job: name -> value.

  Args:
    accelerator: the slice it runs on, as in v5p-128; '' if that is not known.
  """
  found = of_chip(chips.of_accelerator(accelerator))
  arguments = (f'--{name}={value}' for name, value in found.items())
  return {'LIBTPU_INIT_ARGS': ' '.join(arguments)}
