"""The R1 recipe: stages at real sizes and a tiny one, for grpo_jax.recipe."""
