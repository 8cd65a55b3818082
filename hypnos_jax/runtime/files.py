"""JSON files that any reader takes; how files are written whole is ``data_pipelines.files``."""

from __future__ import annotations

import json
import math
import os

from data_pipelines.files import atomic_write


def write_json(path: str | os.PathLike, value) -> None:
    """Write a JSON file whole or not at all; numbers that are not finite become null."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value):
    """Return a JSON value with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
