"""Sections of a report that evaluators write: what a run has found, in words, tables and pictures.

``workdir/sections/<name>.json`` is ``{"step", "title", "says", "parts"}``; ``says`` are sentences,
and a part is ``{"title", "says", "rows", "picture"}``: rows of a table with its header first, and
a picture's path below the workdir, or none of them. Everything is plain text, which the pages
escape.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from hypnos_jax.metrics import EVALUATIONS
from hypnos_jax.reports.page import read_json
from hypnos_jax.runtime.files import write_json

FOLDER = "sections"


def part(
    title: str,
    *,
    says: Sequence[str] = (),
    rows: Sequence[Sequence] = (),
    picture: str = "",
) -> dict:
    """Return a part of a section; see the module."""
    return {"title": title, "says": list(says), "rows": list(rows), "picture": picture}


def write_section(
    workdir: pathlib.Path, name: str, *, step: int, title: str, says: Sequence[str], parts: Sequence
) -> None:
    """Write what an evaluator has found; see the module.

    Args:
        workdir: the evaluator's.
        name: of the evaluator.
        step, title, says, parts: of the section.
    """
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    section = {"step": step, "title": title, "says": list(says), "parts": list(parts)}
    write_json(folder / f"{name}.json", section)


def read_sections(workdir: pathlib.Path) -> list[dict]:
    """Return a run's sections by name, the newest of each, with whole paths of pictures.

    Those of ``launch.evaluate`` and of its jobs are looked at.
    """
    newest: dict[str, tuple[int, pathlib.Path, dict]] = {}
    for folder in (workdir, *workdir.glob(f"{EVALUATIONS}/*/[0-9]*/")):
        for path in sorted((folder / FOLDER).glob("*.json")):
            section = read_json(path)
            if section["step"] >= newest.get(path.stem, (-1,))[0]:
                newest[path.stem] = section["step"], folder, section
    found = []
    for _, (_, folder, section) in sorted(newest.items()):
        parts = [own | {"picture": _picture(folder, own["picture"])} for own in section["parts"]]
        found.append(section | {"parts": parts})
    return found


def _picture(folder, name):
    path = folder / name
    return path if name and path.is_file() else None
