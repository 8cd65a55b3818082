"""Files of a scored night for other programs: BIDS, Luna, EDF+, JSON; and a table of all nights."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.scoring import EPOCH_S, writing
from data_pipelines.scoring.words import written_words
from hypnos_jax.scored.night import ScoredNight

SUFFIXES = ("_events.tsv", ".annot", "_annotations.edf", "_summary.json", "_scored.npz")
COHORT = "cohort.csv"


def write_night(folder: pathlib.Path, night: ScoredNight, *, comment: str = "") -> list[str]:
    """Write all files of a night, ``<recording>`` and ``SUFFIXES``; the last one comes last.

    Args:
        folder: gets them; folders in the recording's name are made.
        night: what is written.
        comment: of ``<recording>_scored.npz``, which says that the others are there too.

    Returns:
        What the forms of other programs do not hold, a sentence each.
    """
    stem = folder / night.recording
    stem.parent.mkdir(parents=True, exist_ok=True)
    events, luna, edf, summary, own = (stem.with_name(stem.name + x) for x in SUFFIXES)
    told = []
    if len(night.stages):
        given = {"start_of_day_s": night.start_of_day_s, "duration_s": night.duration_s}
        for path in (luna, edf):
            lost = writing.write_scoring(path, night.scoring, **given, replace=True)
            told += [f"{path.suffix}: {line}" for line in lost]
        with atomic_write(events, "wb") as file:
            file.write(bids_events(night))
    with atomic_write(summary, "w") as file:
        file.write(json.dumps(told_of(night), indent=1) + "\n")
    night.save(own, comment=comment)
    return told


def bids_events(night: ScoredNight) -> bytes:
    """Return BIDS events with two columns more: ``probability``, and ``uncertain`` of a stage.

    A stage's probability is its own, an event's the mean of its cells; ``n/a`` where none is told.
    """
    head, *rows = writing.bids_events(night.scoring).decode().splitlines()
    stages = {text: code for code, text in written_words.EDF_STAGES.items()}
    events = {
        (round(e.onset_s * 1000), written_words.edf_text(e)): night.probability(e)
        for e in night.events
    }
    lines = [f"{head}\tprobability\tuncertain"]
    for row in rows:
        onset, _, text = row.split("\t")
        probability, uncertain = events.get((round(float(onset) * 1000), text), math.nan), "n/a"
        if text in stages and stages[text] >= 0:
            epoch = int(float(onset) // EPOCH_S)
            probability = float(night.stage_probabilities[epoch, stages[text]])
            uncertain = str(bool(night.uncertain[epoch])).lower()
        shown = "n/a" if math.isnan(probability) else f"{probability:.3f}"
        lines.append(f"{row}\t{shown}\t{uncertain}")
    return ("\n".join(lines) + "\n").encode()


def told_of(night: ScoredNight) -> dict[str, Any]:
    """Return what ``_summary.json`` holds: trust, numbers of the night, how it was read."""
    epochs = len(night.stages)
    return {
        "recording": night.recording,
        "duration_s": night.duration_s,
        "trust": {
            "verdict": night.trust.verdict,
            "reasons": [
                {"name": x.name, "note": x.note, "epochs": [x.first, min(x.stop, epochs)]}
                for x in night.trust.reasons
            ],
        },
        "uncertain_share": float(np.mean(night.uncertain)) if len(night.uncertain) else None,
        "summary": night.summary,
        "findings": list(night.findings),
        "model": night.model,
    }


def row_of(night: ScoredNight) -> dict[str, Any]:
    """Return the night's row of the cohort's table: one number a column."""
    told = told_of(night)
    row = {
        "recording": night.recording,
        "status": "refused" if night.trust.verdict == "refused" else "scored",
        "reason": "; ".join(reason.note for reason in night.trust.reasons),
        "verdict": night.trust.verdict,
        "hours": round(night.duration_s / 3600, 4),
        "uncertain_share": told["uncertain_share"],
    }
    return row | flat(night.summary) | {"findings": len(night.findings), "model": night.model}


def flat(summary: dict) -> dict[str, Any]:
    """Return the numbers of ``summary.summarise`` by one name each; an index bears its rule."""
    row = {}
    for part, prefix in (("sleep", ""), ("oximetry", "spo2_")):
        for name, value in summary.get(part, {}).items():
            if isinstance(value, dict):
                row |= {f"{prefix}{name}_{key}": x for key, x in value.items()}
            elif name != "reason" and not isinstance(value, list):
                row[f"{prefix}{name}"] = value
    found = summary.get("indices", {})
    for kind, records in found.items():
        for record in records if isinstance(records, list) else [records]:
            rule = record.get("rule", "")
            row[f"{kind}_{rule}" if rule and isinstance(records, list) else kind] = record["value"]
    return row


def write_table(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> list[pathlib.Path]:
    """Write rows as CSV, and as Parquet beside it where pyarrow is installed; return the files.

    Texts of a cell that a spreadsheet would run as a formula get a quote in front.
    """
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path, "w", newline="") as file:
        table = csv.DictWriter(file, names, restval="")
        table.writeheader()
        table.writerows({k: _plain(v) for k, v in row.items()} for row in rows)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return [path]
    columns = {name: [row.get(name) for row in rows] for name in names}
    beside = path.with_suffix(".parquet")
    with atomic_write(beside, "wb") as file:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return [path, beside]


def _plain(value):
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r"):
        return f"'{value}"
    return "" if value is None else value


def rejected_rows(rejected: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of recordings that could not be read."""
    return [{"recording": name, "status": "rejected", "reason": why} for name, why in rejected]
