"""What a search found, as a table, as JSON, and as a page with pictures of the epochs."""

from __future__ import annotations

import csv
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from data_pipelines.files import atomic_write
from hypnos_jax.reports.page import render

COLUMNS = ("rank", "night", "epoch", "start_s", "score", "stage", "events", "as_asked")


def write_table(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of ``COLUMNS`` as CSV; text that a spreadsheet would run is quoted."""
    with atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_harmless(row[name]) for name in COLUMNS] for row in rows)


def write_json(path: pathlib.Path, rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write what was asked and the rows as one document."""
    with atomic_write(path, "w") as file:
        json.dump({**about, "found": list(rows)}, file, indent=1, allow_nan=False)


def write_page(
    path: pathlib.Path,
    rows: Sequence[dict[str, Any]],
    draw,
    *,
    asked: str,
    notes: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> None:
    """Write the page; it needs no other file.

    Args:
        path: the HTML file.
        rows: of ``COLUMNS``, and ``caption``, what is said of the epoch.
        draw: (number of a row, path) draws its epoch as a PNG; None draws none.
        asked: what was looked for.
        notes: sentences above all.
        texts: what was embedded.
    """
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for number in range(len(rows)):
            picture = pathlib.Path(folder) / f"{number}.png"
            if draw is not None:
                draw(number, picture)
            pictures.append(picture if draw is not None else None)
        text = render(
            "search.html",
            title="Epochs that were found",
            asked=asked,
            notes=list(notes),
            texts=list(texts),
            rows=list(zip(rows, pictures, strict=True)),
        )
    with atomic_write(path, "w") as file:
        file.write(text)


def _harmless(value):
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value
