"""Compiled programs kept on disk between processes, so that a repeated command starts at once."""

import os
import pathlib

import jax

FOLDER = "~/.cache/hypnos_jax/compiled"


def keep(folder: str = FOLDER) -> None:
    """Keep programs that took a second or more to compile, JAX's default.

    Args:
        folder: where; "" for nowhere. ``JAX_COMPILATION_CACHE_DIR`` in the environment wins.
    """
    if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).expanduser()))
