"""Compiled programs: kept on disk, so that a repeated command starts at once, and counted."""

import os
import pathlib

import jax

FOLDER = "~/.cache/hypnos_jax/compiled"
_compiled = [0]


def compiled() -> int:
    """Return how many programs this process has compiled, or read from the disk, so far."""
    return _compiled[0]


def _count(event: str, seconds: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled[0] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def keep(folder: str = FOLDER) -> None:
    """Keep programs that took a second or more to compile, JAX's default.

    Args:
        folder: where; "" for nowhere. ``JAX_COMPILATION_CACHE_DIR`` in the environment wins.
    """
    if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).expanduser()))
