"""Findings of R1 at a tiny scale: recipes of arms and seeds."""
