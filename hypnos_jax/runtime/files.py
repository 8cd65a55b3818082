"""What evaluators found, as JSON files that any reader takes."""

from __future__ import annotations

import json
import math
import os
import pathlib


def write_json(path: pathlib.Path, value) -> None:
    """Write a JSON file whole or not at all; numbers that are not finite become null."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def finite(value):
    """Return a JSON value with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
