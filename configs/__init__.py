"""Experiments: one file each, all built on `configs.base`."""
