"""Backends: where the runs of a sweep are started; all start the same commands of a planned run."""
