"""Tools around jobs: pods, sweeps, local processes, compile checks."""
