"""Sweeps: each file says which runs to make of a config (launch.sweep)."""
