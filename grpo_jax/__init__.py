"""grpo_jax: GRPO for language models in JAX, from one CPU to TPU pods."""
