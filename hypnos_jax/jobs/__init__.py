"""Runs and the jobs beside them: sweeps, their progress, eval jobs, leases."""
