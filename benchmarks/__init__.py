"""Measurements: `python -m benchmarks.learner_memory`, `benchmarks.scaling`."""
