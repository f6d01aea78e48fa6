"""Verified sets: which answers are kept to learn from, and where (keep)."""
