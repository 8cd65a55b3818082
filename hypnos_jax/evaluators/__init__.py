"""One file, one question asked of a checkpoint; see ``hypnos_jax/evaluate.py`` for how they run."""
