"""Scorings in other folders than their recording's: told, never read.

Archives keep them in `annotations/`, `scoring/` or `hypnograms/`, beside or below the folder of the
recordings. Which of several recordings of one name such a file is of, its place does not say.
"""

import functools
import os
import pathlib

from data_pipelines.findings import Finding
from data_pipelines.scoring.search.names import (
    Listing,
    is_alone,
    is_sidecar,
    keys_of,
    listing,
    pattern_of,
    rest_of,
    says_scoring,
    words_of,
)

_UP = 2  # so many folders above the recording's are looked through
_DERIVED = "derivatives"  # where BIDS keeps what was made of recordings
_SHOWN = 5


def scorings_elsewhere(path: pathlib.Path, names: Listing) -> list[Finding]:
    """Return that files of a recording's name lie in folders whose names say scoring.

    Args:
        path: The recording.
        names: The files of its folder.
    """
    keys = keys_of(path.stem, names)
    alone = is_alone(path, names)
    found: dict[str, str] = {}
    for folder, said in _folders(path.parent):
        for folded, written in listing(folder).names.items():
            if keys[-1].casefold() not in folded and not (alone and folder.parent == path.parent):
                continue
            for name in written:
                stem = os.path.splitext(name)[0]
                rests = [rest for key in keys if (rest := rest_of(stem, key)) is not None]
                if (rests or alone and folder.parent == path.parent) and not is_sidecar(stem):
                    found[f"{said}/{name}"] = f"{said}/{pattern_of(name, *rests[:1] or [None])}"
    if not found:
        return []
    some = ", ".join(sorted(found)[:_SHOWN]) + (" ..." if len(found) > _SHOWN else "")
    note = f"not read, as it is not beside the recording, but may be its scoring: {some}"
    return [Finding("unread_file", min(found.values()), note, count=len(found))]


def _folders(folder: pathlib.Path):
    """Yield folders that may hold scorings of a folder's recordings, each with its scoring word."""
    known = {folder}
    for up in range(_UP + 1):
        base = folder.parents[up - 1] if up else folder
        if base == base.parent:
            return
        within = folder.relative_to(base).parts
        for below in _below(base):
            inner = _below(base / below) if below.casefold() == _DERIVED else ()
            for parts in [(below,), *((below, name) for name in inner)]:
                if not says_scoring(words_of(parts[-1])) or parts[-1] in within:
                    continue
                for more in {within[first:last] for first in (0, 1) for last in range(3)}:
                    there = base.joinpath(*parts, *more)
                    if there not in known:
                        known.add(there)
                        yield there, parts[-1]


def _below(folder: pathlib.Path) -> tuple[str, ...]:
    try:
        return _below_at(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return ()


@functools.lru_cache(16)
def _below_at(folder: pathlib.Path, _changed: int) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(x.name for x in entries if x.name[:1] != "." and os.path.isdir(x.path)))
