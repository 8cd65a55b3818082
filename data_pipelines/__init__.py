"""Recordings to batches of numpy arrays; starts no jax backend and never imports hypnos_jax."""
