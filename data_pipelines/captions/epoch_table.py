"""A night's epochs as a table: captions, facts and flags, as CSV, Parquet or JSON.

Neither the name of the recording nor any text of its files is in it: times are from its start, and
captions hold the words of the grammar and numbers.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipelines.captions import measures
from data_pipelines.captions.agreement import differences
from data_pipelines.captions.facts import MODALITIES, SLOTS, Facts, Interval
from data_pipelines.captions.grammar import render
from data_pipelines.captions.measures import NightFacts
from data_pipelines.captions.night_summary import Number
from data_pipelines.captions.parse import parse
from data_pipelines.files import atomic_write
from data_pipelines.store import EPOCH_S

CAPTIONS = (*MODALITIES, "global")
FORMATS = ("csv", "parquet")
FORMAT = "hypnos_jax.described/1"


@dataclasses.dataclass(frozen=True)
class Row:
    """An epoch in words and numbers.

    Attributes:
        epoch: its number; it begins 30 s x that after the recording does.
        facts: of it.
        captions: name in ``CAPTIONS`` -> text.
        flags: what keeps something from being said: "no stage", "no position", "events not
            scored", "gated: <slot>", and "caption differs: <name>" where a caption, read back, says
            something else than the facts.
        generated: name in ``MODALITIES`` -> what a model wrote, where one was asked.
        differences: where that is otherwise than the facts; see ``agreement.differences``.
    """

    epoch: int
    facts: Facts
    captions: Mapping[str, str]
    flags: tuple[str, ...]
    generated: Mapping[str, str] = dataclasses.field(default_factory=dict)
    differences: tuple[str, ...] = ()


def rows_of(facts: NightFacts, recording: str) -> list[Row]:
    """Return a row an epoch.

    Args:
        facts: of the night.
        recording: its name, which decides the wording and is said nowhere.
    """
    key = hashlib.sha256(recording.encode("utf-8", "surrogateescape")).hexdigest()
    rows = []
    for epoch in range(facts.epochs):
        own = facts.epoch(epoch)
        captions = {name: str(render(own, name, recording=key, epoch=epoch)) for name in CAPTIONS}
        differ = [name for name in MODALITIES if parse(captions[name]).facts != _said(own, name)]
        flags = ["no stage"] if own.stage is None else []
        flags += ["no position"] if own.position is None else []
        flags += ["events not scored"] if own.events is None else []
        flags += [f"gated: {name}" for name in facts.numbers if name not in own.numbers]
        flags += [f"caption differs: {name}" for name in differ]
        rows.append(Row(epoch, own, captions, tuple(flags)))
    return rows


def with_generated(rows: list[Row], texts: Sequence[Mapping[str, str] | None]) -> list[Row]:
    """Return the rows with what a model wrote of each epoch, and where it differs.

    Args:
        rows: an epoch each.
        texts: modality -> text of each epoch; None where the model had no signal. Epochs at the end
            may be missing.
    """
    found = []
    for row, own in itertools.zip_longest(rows, texts[: len(rows)]):
        own = own or {}
        differ = [
            phrase
            for name, text in own.items()
            for phrase in differences(parse(text), row.facts, name)
        ]
        found.append(dataclasses.replace(row, generated=own, differences=tuple(differ)))
    return found


def _said(facts: Facts, modality: str) -> Facts:
    return facts.of(modality).printed()


def write_table(path: pathlib.Path, rows: list[Row], form: str = "csv") -> None:
    """Write the rows as a table of one of ``FORMATS``; a number that is not there is empty."""
    columns = _columns(rows)
    if form == "parquet":
        import pyarrow
        import pyarrow.parquet

        with atomic_write(path) as file:
            pyarrow.parquet.write_table(pyarrow.table(columns), file)
        return
    with atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_json(path: pathlib.Path, rows: list[Row], summary: Mapping[str, Number]) -> None:
    """Write the night's numbers and the rows as one JSON document."""
    document = {
        "format": FORMAT,
        "measures": measures.VERSION,
        "night": {name: dataclasses.asdict(number) for name, number in summary.items()},
        "epochs": [
            {
                "epoch": row.epoch,
                "start_s": row.epoch * EPOCH_S,
                "captions": dict(row.captions),
                "facts": dataclasses.asdict(row.facts),
                "flags": list(row.flags),
                **_generated(row),
            }
            for row in rows
        ],
    }
    with atomic_write(path, "w") as file:
        json.dump(document, file, indent=1, allow_nan=False)


def _generated(row: Row) -> dict:
    if not row.generated:
        return {}
    return {"generated": dict(row.generated), "generated_differs": list(row.differences)}


def _columns(rows: list[Row]) -> dict[str, list]:
    """Name -> values of all rows."""
    columns = {
        "epoch": [row.epoch for row in rows],
        "start_s": [row.epoch * EPOCH_S for row in rows],
        "stage": [row.facts.stage for row in rows],
        "position": [row.facts.position for row in rows],
        "events": [None if x.facts.events is None else _listed(x.facts.events) for x in rows],
    }
    columns |= {name: [row.captions[name] for row in rows] for name in CAPTIONS}
    for name, slot in SLOTS.items():
        values = [row.facts.numbers.get(name) for row in rows]
        decimals = slot.decimals
        columns[name] = [None if x is None else round(x, decimals) for x in values]
    for name in ("heart_rate", "spo2"):
        columns[f"{name}.trends"] = [_listed(row.facts.trends.get(name, ())) for row in rows]
    columns["position_changes"] = [
        "; ".join(f"{x.position} at {x.at_s:.1f}" for x in row.facts.position_changes)
        for row in rows
    ]
    columns["flags"] = ["; ".join(row.flags) for row in rows]
    if any(row.generated for row in rows):
        for name in MODALITIES:
            columns[f"generated.{name}"] = [row.generated.get(name) for row in rows]
        columns["generated_differs"] = ["; ".join(row.differences) for row in rows]
    return columns


def _listed(intervals: Iterable[Interval]) -> str:
    """Intervals as text: what, from when to when, and whether it is cut."""
    found = []
    for x in intervals:
        cut = f"{' (began before)' if x.before else ''}{' (goes on)' if x.after else ''}"
        found.append(f"{x.kind} {x.start_s:.1f}-{x.stop_s:.1f}{cut}")
    return "; ".join(found)


def share_of_numbers(facts: NightFacts) -> float:
    """Return the share of the printed numbers that the night's epochs have."""
    printed = [name for name, slot in SLOTS.items() if slot.printed]
    there = [np.isfinite(facts.numbers[name]).sum() for name in printed if name in facts.numbers]
    return float(np.sum(there) / max(len(printed) * facts.epochs, 1))
