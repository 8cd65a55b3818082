"""The page of a scored night: one HTML file that needs no network, to look at and to print.

What it draws comes from strangers' files: texts are escaped by the template or set as text by the
script, numbers go in as JSON, and a content-security policy allows the page its own script and
style alone, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import pathlib

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.recordings.base import Recording
from data_pipelines.scoring import STAGES, Scoring
from hypnos_jax.reports import page
from hypnos_jax.reports.scored_night_panels import map_of, panels_of
from hypnos_jax.scored.night import ScoredNight
from hypnos_jax.scored.summary import sentences

MOST_BYTES = 3_000_000


def write_page(
    path: pathlib.Path,
    night: ScoredNight,
    *,
    recording: Recording | None = None,
    scored: Scoring | None = None,
    epochs: np.ndarray | None = None,
) -> int:
    """Write the page, and return its size in bytes.

    Args:
        path: the file.
        night: as it was scored.
        recording: it, for spectrum, saturation, heart rate and position.
        scored: a person's scoring, drawn under the model's, with their agreement.
        epochs: embeddings [E, D] of the night, for a map.

    Raises:
        ValueError: the page would be larger than 3 MB.
    """
    data = {
        "duration_s": float(night.duration_s),
        "start_of_day_s": night.start_of_day_s,
        "panels": panels_of(night, recording, scored),
        "doubtful": [[r.first, min(r.stop, len(night.stages))] for r in night.trust.reasons],
        "map": None if epochs is None else map_of(epochs, night.stages),
    }
    script, style = _asset("scored_night.js"), _asset("scored_night.css")
    html = page.render(
        "scored_night.html",
        title=f"Night {night.recording}",
        night=night,
        sentences=sentences(night.summary) if night.summary else [],
        numbers=_numbers(night),
        agreement=_agreement(night.stages, scored.stages) if scored is not None else None,
        # JSON within a script element: only "<" could end it.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    content = html.encode()
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: the page would have {len(content):,} bytes; 3 MB are allowed")
    with atomic_write(path, "wb") as file:
        file.write(content)
    return len(content)


def _asset(name: str) -> str:
    return (importlib.resources.files(__package__) / "templates" / name).read_text()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _numbers(night: ScoredNight) -> list[tuple[str, str]]:
    """Rows of the table of the night, in the field's words."""
    sleep, oxygen = (night.summary.get(name, {}) for name in ("sleep", "oximetry"))
    rows = [("length", f"{night.duration_s / 3600:.2f} h")]
    for name, words in (
        ("tst_min", "total sleep time"),
        ("sol_min", "sleep onset latency"),
        ("waso_min", "wake after sleep onset"),
        ("rem_latency_min", "REM latency"),
    ):
        if sleep.get(name) is not None:
            rows.append((words, f"{sleep[name]:.1f} min"))
    if sleep.get("efficiency") is not None:
        rows.append(("sleep efficiency", f"{sleep['efficiency']:.1%}"))
    for name, value in (sleep.get("stage_share") or {}).items():
        if value is not None:
            rows.append((f"{name} of sleep", f"{value:.1%}"))
    for name, words in (("mean", "mean SpO2"), ("nadir", "lowest SpO2")):
        if oxygen.get(name) is not None:
            rows.append((words, f"{oxygen[name]:.1f} %"))
    if (oxygen.get("t90") or {}).get("minutes") is not None:
        rows.append(("SpO2 below 90 %", f"{oxygen['t90']['minutes']:.1f} min"))
    if len(night.uncertain):
        rows.append(("epochs marked uncertain", f"{np.mean(night.uncertain):.1%}"))
    return rows


def _agreement(model: np.ndarray, scorer: np.ndarray) -> dict | None:
    """How far the model and a scorer agree: share, kappa, and the counts of each pair."""
    count = min(len(model), len(scorer))
    a, b = scorer[:count].astype(int), model[:count].astype(int)
    known = (a >= 0) & (b >= 0)
    if not known.any():
        return None
    counts = np.bincount(a[known] * 5 + b[known], minlength=25).reshape(5, 5)
    share = np.trace(counts) / counts.sum()
    chance = (counts.sum(0) @ counts.sum(1)) / counts.sum() ** 2
    return {
        "epochs": int(known.sum()),
        "share": f"{share:.1%}",
        "kappa": f"{(share - chance) / (1 - chance):.2f}" if chance < 1 else "-",
        "stages": STAGES,
        "counts": counts.tolist(),
    }
