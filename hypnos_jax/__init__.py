"""Sleep foundation models in JAX; start reading at ``hypnos_jax/train.py``."""

__version__ = "0.1.0"
