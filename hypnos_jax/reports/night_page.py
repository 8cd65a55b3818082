"""One page of a night in words: its numbers, its hypnogram, and the captions of its epochs.

Neither the recording's name nor a time of day is on it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

from data_pipelines.captions.epoch_table import CAPTIONS, Row
from data_pipelines.captions.night_summary import Number
from data_pipelines.files import atomic_write
from data_pipelines.scoring import Scoring
from data_pipelines.store import EPOCH_S
from hypnos_jax.reports.figures import new_figure, save_figure
from hypnos_jax.reports.hypnogram import draw_night, hms, kinds_of
from hypnos_jax.reports.page import render

TITLES = {
    "brain": "Brain",
    "heart": "Heart",
    "respiratory": "Breathing",
    "position_muscle": "Position and muscle",
    "stage_event": "Stage and events",
    "global": "In short",
}
WRITTEN = {  # words of names of numbers as they are written
    **{word: word.upper() for word in ("ahi", "odi", "rem", "t90", "n1", "n2", "n3", "w", "r")},
    "spo2": "SpO2",
}


@dataclasses.dataclass(frozen=True)
class _Axis:
    """What a hypnogram reads of a recording; the time of day is left out."""

    duration_s: float
    gaps: tuple[tuple[float, float], ...] = ()
    start_of_day_s: float | None = None
    start_is_filler: bool = True


def write_page(
    path: str | os.PathLike,
    rows: Sequence[Row],
    summary: Mapping[str, Number],
    scored: Scoring | None,
    *,
    notes: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        rows: an epoch each.
        summary: the numbers of the night.
        scored: stages and events; None where nobody scored the night.
        notes: sentences about the whole, above all.
    """
    path = pathlib.Path(path)
    notes = list(notes)
    with tempfile.TemporaryDirectory() as folder:
        picture = None
        if importlib.util.find_spec("matplotlib") is None:
            notes.append("The hypnogram needs matplotlib, which the extra `probe` installs.")
        elif scored is not None:
            picture = pathlib.Path(folder) / "hypnogram.png"
            draw_hypnogram(picture, len(rows) * EPOCH_S, scored)
        text = render(
            "night.html",
            title="A night in words",
            notes=notes,
            picture=picture,
            numbers=[["", "value", "", "how it is counted"], *_numbers(summary)],
            epochs=[_shown(row) for row in rows],
            generated=any(row.generated for row in rows),
            columns=[TITLES[name] for name in CAPTIONS],
        )
    with atomic_write(path, "w") as file:
        file.write(text)


def draw_hypnogram(path: pathlib.Path, duration_s: float, scored: Scoring) -> None:
    """Draw stages and events over the hours from the recording's start, a PNG."""
    kinds = kinds_of(scored)
    lanes = 0.5 + 0.22 * max(1, len(kinds))
    figure, axes = new_figure(2, 1, (12, 2.4 + lanes), height_ratios=[2.0, lanes])
    draw_night(*axes, _Axis(duration_s), scored, kinds, ())
    save_figure(figure, path)


def _numbers(summary):
    rows = []
    for name, number in summary.items():
        value = "-" if number.value is None else f"{number.value:.1f}"
        title = " ".join(WRITTEN.get(word, word) for word in name.split("_"))
        rows.append([title, value, number.unit, number.rule])
    return rows


def _shown(row: Row) -> dict:
    return {
        "number": row.epoch,
        "start": hms(row.epoch * EPOCH_S),
        "stage": row.facts.stage or "-",
        "captions": [row.captions[name] for name in CAPTIONS],
        "flags": "; ".join(row.flags),
        "generated": [row.generated.get(name, "") for name in CAPTIONS],
        "differences": list(row.differences),
    }
