"""Files of a checkpoint as Orbax reads them, with errors that name the folder."""

from __future__ import annotations

import json
import pathlib

from orbax.checkpoint import v1 as ocp

from hypnos_jax.runtime.seals import CheckpointError


def load(folder: pathlib.Path, wanted: dict) -> dict:
    """Return the checkpointables that are wanted, name -> value.

    Args:
        folder: of a step.
        wanted: name -> shapes with their shardings, None for JSON.

    Raises:
        CheckpointError: they are not there, or are others.
    """
    try:
        return ocp.load_checkpointables(folder, wanted)
    except Exception as error:
        raise CheckpointError(
            f"{folder} is complete but does not fit this program or config: {causes(error)}"
        ) from error


def load_meta(folder: pathlib.Path) -> dict:
    """Return the ``meta`` of a checkpoint; errors as ``load``."""
    return json.loads(load(folder, {"meta": None})["meta"]["json"])


def causes(error: BaseException) -> str:
    """Return an error and what it came from, in a line."""
    found = []
    while error is not None:
        found.append(f"{type(error).__name__}: {str(error)[:500]}")
        error = error.__cause__
    return " <- ".join(found)
