"""Scripts that run other systems, each by its own environment's Python."""
