"""Sweeps: ``get_sweep(size)`` returns a list of runs, each a flat dict of overrides.

A run is ``config`` ("FILE:ARGUMENT" of ``launch.train``), dotted keys of that config, and keys that
``launch.sweep`` replaces since a config cannot know them (``hypnos_jax/jobs/sweeps.py`` has the
list).
"""
