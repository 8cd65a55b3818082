"""A locked test split: nights that nothing reads until an opening of it is written down.

A lock is a file in the store's folder, with a line for itself and one for each opening. It guards
against haste, not against malice: a copy of the store without the file is not locked.
"""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from collections.abc import Sequence

FILE = "test_openings.jsonl"
OPEN = "HYPNOS_JAX_OPEN_TEST"  # environment: folders whose test split the command may read


def lock(store: str | os.PathLike) -> None:
    """Lock the test split of a store; one that is locked stays as it is."""
    if not is_locked(store):
        _append(store, {"locked": _now()})


def is_locked(store: str | os.PathLike) -> bool:
    """Return whether the test split needs opening, by this process too."""
    return (pathlib.Path(store) / FILE).is_file()


def may_read(store: str | os.PathLike) -> bool:
    """Return whether this process may read the test nights of a store."""
    opened = os.environ.get(OPEN, "").split(os.pathsep)
    return not is_locked(store) or os.path.realpath(store) in opened


def record_opening(store: str | os.PathLike, command: Sequence[str], model: str = "") -> int:
    """Write an opening down; return its number, 1 for the first.

    Args:
        store: a locked one.
        command: that will read the test nights.
        model: checksum of what it judges; "" where it judges none.

    Raises:
        ValueError: the store is not locked.
    """
    if not is_locked(store):
        raise ValueError(f"{store} is not locked; python -m launch.open_test --lock locks it")
    _append(store, {"opened": _now(), "command": list(command), "model": model})
    return len(openings(store))


def openings(store: str | os.PathLike) -> list[dict]:
    """Return the openings of a store's test split, the first one first; none if not locked."""
    if not is_locked(store):
        return []
    text = (pathlib.Path(store) / FILE).read_text(encoding="utf-8")
    return [row for row in map(json.loads, text.splitlines()) if "opened" in row]


def environment(stores: Sequence[str | os.PathLike]) -> dict[str, str]:
    """Return the environment in which a command may read the test nights of some stores."""
    return os.environ | {OPEN: os.pathsep.join(os.path.realpath(store) for store in stores)}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _append(store, row) -> None:
    with open(pathlib.Path(store) / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
