"""What the page of a scored night draws: panels on one time axis, as plain numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from data_pipelines.channels import resolve
from data_pipelines.channels.quality import check_quality
from data_pipelines.recordings.base import Recording
from data_pipelines.recordings.opening import read_channel
from data_pipelines.scoring import EPOCH_S, Event, Scoring
from data_pipelines.signals.heartbeats import find_r_peaks
from hypnos_jax.scored.night import ScoredNight

HYPNOGRAM = ("W", "R", "N1", "N2", "N3")  # from top to bottom
CODES = {"W": 0, "N1": 1, "N2": 2, "N3": 3, "R": 4}
MOST_HZ, COLUMNS = 30, 1500  # of a spectrogram
LEAST_ECG_HZ = 60
LANES = {
    "apnea_obstructive": "apnea", "apnea_central": "apnea", "apnea_mixed": "apnea",
    "hypopnea": "hypopnea", "apnea_hypopnea": "apnea or hypopnea", "arousal": "arousal",
    "desaturation": "desaturation", "rera": "RERA", "leg_movement": "leg movement",
}  # fmt: skip

Panel = dict[str, Any]


def panels_of(night: ScoredNight, recording: Recording | None, scored: Scoring | None) -> list:
    """Return the panels of a night, top to bottom, as JSON.

    Args:
        night: as it was scored.
        recording: it; None draws what the scores alone have.
        scored: a person's scoring, to stand beside the model's.

    Returns:
        Dictionaries with ``name``, ``kind`` (``steps stack image lanes line``), ``note`` (what it
        shows, for readers who do not see it) and the kind's numbers.
    """
    found = [_hypnogram("model", night.stages, night.uncertain)]
    if scored is not None:
        found.append(_hypnogram("scorer", scored.stages[: len(night.stages)]))
    if len(night.stage_probabilities):
        found.append(_hypnodensity(night))
    channels = _channels(recording) if recording is not None else {}
    spectrum = _spectrogram(recording, channels)
    found += [spectrum] if spectrum else []
    found.append(_lanes("events", night.events))
    if scored is not None and scored.events:
        found.append(_lanes("scorer's events", scored.events))
    for name, make in (("spo2", _saturation), ("ecg", _heart), ("position", _position)):
        if name in channels:
            panel = make(recording, channels[name])
            found += [panel] if panel else []
    return found


def _hypnogram(name: str, stages: np.ndarray, uncertain: np.ndarray | None = None) -> Panel:
    place = {code: HYPNOGRAM.index(stage) for stage, code in CODES.items()}
    rows = [place.get(stage) for stage in stages.tolist()]
    marks = [] if uncertain is None else np.flatnonzero(uncertain).tolist()
    counts = ", ".join(f"{x} {int((stages == CODES[x]).sum())}" for x in HYPNOGRAM)
    return {
        "name": f"stages, {name}",
        "kind": "steps",
        "labels": list(HYPNOGRAM),
        "step_s": EPOCH_S,
        "rows": rows,
        "marks": marks,
        "note": f"Epochs of the {name}: {counts}; {len(marks)} are marked as uncertain.",
    }


def _hypnodensity(night: ScoredNight) -> Panel:
    fine = len(night.fine_stages) > 0
    rows = night.fine_stages if fine else night.stage_probabilities
    rows = np.where(np.isfinite(rows), np.round(rows, 3), 0)
    step_s = night.cell_s["stage5"] if fine else EPOCH_S
    return {
        "name": "probability of stages",
        "kind": "stack",
        "labels": list(HYPNOGRAM),
        "step_s": step_s,
        "rows": [rows[:, CODES[name]].tolist() for name in HYPNOGRAM],
        "note": f"Probability of each stage every {step_s:g} s, stacked.",
    }


def _channels(recording: Recording) -> dict:
    """Canonical channels that quality control does not refuse, by name, with their bindings."""
    found = resolve.resolve(recording.labels, unreadable=recording.unreadable)
    wanted = {
        name: bound
        for name, bound in found.bindings.items()
        if name in ("spo2", "ecg", "position") or name.startswith("eeg")
    }
    first = next((name for name in ("eeg_c4", "eeg_c3") if name in wanted), None)
    first = first or next((name for name in wanted if name.startswith("eeg")), None)
    keep = {name: x for name, x in wanted.items() if not name.startswith("eeg") or name == first}
    narrowed = type(found)(**{**vars(found), "bindings": keep})
    quality = check_quality(recording, narrowed).channels
    return {name: x.binding for name, x in quality.items() if x.status != "refused"}


def _spectrogram(recording, channels) -> Panel | None:
    name = next((name for name in channels if name.startswith("eeg")), None)
    if name is None:
        return None
    samples, rate_hz = read_channel(recording, channels[name])
    rate_hz = float(rate_hz)
    step = max(2.0, len(samples) / rate_hz / COLUMNS)  # s of a column
    size = int(step * rate_hz)
    count = len(samples) // size
    if count < 2 or rate_hz < 2 * 10:
        return None
    x = np.nan_to_num(samples[: count * size]).reshape(count, size)
    # Multitaper: the mean over orthogonal windows is steadier than one window's spectrum.
    tapers = scipy.signal.windows.dpss(size, 3, 5)
    bins = np.fft.rfftfreq(size, 1 / rate_hz)
    keep = bins <= min(MOST_HZ, rate_hz / 2)
    power = sum(np.abs(np.fft.rfft(x * t, axis=1)[:, keep]) ** 2 for t in tapers)
    level = 10 * np.log10(power.T[::-1] + 1e-6)
    low, high = np.percentile(level, [5, 98])
    rows = max(1, len(level) // 90)  # 90 rows are enough for an inch of paper
    level = level[: len(level) // rows * rows].reshape(-1, rows, count).mean(1)
    shades = np.clip((level - low) / max(high - low, 1e-6), 0, 1)
    return {
        "name": f"spectrum, {name}",
        "kind": "image",
        "labels": [f"{min(MOST_HZ, rate_hz / 2):g} Hz", "0 Hz"],
        "stop_s": count * size / rate_hz,
        "image": _picture(shades),
        "note": f"Spectrogram of {name}, multitaper, 0 to {MOST_HZ} Hz; bright is strong.",
    }


def _picture(shades: np.ndarray) -> str:
    """A PNG as a data URI, in cividis, which people with and without red-green vision read."""
    import matplotlib
    import matplotlib.image

    file = io.BytesIO()
    colours = (matplotlib.colormaps["cividis"](shades)[..., :3] * 255).astype(np.uint8)
    matplotlib.image.imsave(file, colours, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _lanes(name: str, events: Sequence[Event]) -> Panel:
    lanes: dict[str, list] = {}
    for event in events:
        if event.kind in LANES:
            row = [round(event.onset_s, 1), round(max(event.duration_s, 1.0), 1)]
            lanes.setdefault(LANES[event.kind], []).append(row)
    counts = ", ".join(f"{len(rows)} {lane}" for lane, rows in lanes.items()) or "none"
    return {
        "name": name,
        "kind": "lanes",
        "labels": list(lanes),
        "rows": list(lanes.values()),
        "note": f"Events: {counts}.",
    }


def _line(name, unit, step_s, values, note) -> Panel | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.percentile(known, [0.5, 99.5])
    pad = max(0.05 * (high - low), 0.5)
    rows = [round(float(x), 1) if np.isfinite(x) else None for x in values]
    limits = [
        float(min(known.min(), low - pad) if name == "SpO2" else low - pad),
        float(high + pad),
    ]
    return {
        "name": f"{name}, {unit}",
        "kind": "line",
        "labels": [f"{limits[1]:.0f}", f"{limits[0]:.0f}"],
        "limits": limits,
        "step_s": step_s,
        "rows": rows,
        "note": note,
    }


def _saturation(recording, binding) -> Panel | None:
    samples, rate_hz = read_channel(recording, binding)
    rate = max(1, round(float(rate_hz)))
    x = samples[: len(samples) // (2 * rate) * 2 * rate].reshape(-1, 2 * rate)
    x = np.where((x >= 50) & (x <= 100), x, np.nan)
    with np.errstate(all="ignore"):
        values = np.array([np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in x])
    note = "Oxygen saturation, median of 2 s; where the oximeter shows no finger there is a gap."
    return _line("SpO2", "%", 2.0 * rate / float(rate_hz), values, note)


def _heart(recording, binding) -> Panel | None:
    samples, rate_hz = read_channel(recording, binding)
    rate = round(float(rate_hz))
    if rate < LEAST_ECG_HZ:
        return None
    # Beats are found at a whole rate; of another one, times are scaled back.
    peaks = find_r_peaks(np.nan_to_num(samples), rate) * rate / float(rate_hz)
    gaps, at = np.diff(peaks), peaks[1:]
    good = (gaps > 0.3) & (gaps < 2)
    edges = np.arange(0, int(len(samples) / float(rate_hz)), 5)
    values = np.full(len(edges), np.nan)
    for place, (first, stop) in enumerate(zip(edges, edges + 10)):
        own = gaps[(at >= first) & (at < stop) & good]
        values[place] = 60 / np.median(own) if len(own) > 3 else np.nan
    return _line("heart rate", "1/min", 5.0, values, "Heart rate, median of 10 s of beats.")


def _position(recording, binding) -> Panel | None:
    if binding.codes is None:
        return None
    samples, rate_hz = read_channel(recording, binding)
    words = dict(binding.codes)
    step = max(1, round(10 * float(rate_hz)))
    names = sorted(set(words.values()))
    rows = [words.get(float(x)) for x in samples[::step]]
    return {
        "name": "body position",
        "kind": "steps",
        "labels": names,
        "step_s": step / float(rate_hz),
        "rows": [names.index(x) if x in names else None for x in rows],
        "marks": [],
        "note": "Body position every 10 s.",
    }


def map_of(epochs: np.ndarray, stages: np.ndarray) -> list | None:
    """Return points (x, y, stage) of a night's epochs: two principal components of [E, D]."""
    count = min(len(epochs), len(stages))
    x = epochs[:count].astype(np.float64)
    known = x.any(1)
    if known.sum() < 3:
        return None
    x = x[known] - x[known].mean(0)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    points = x @ axes[:2].T
    points /= np.abs(points).max() or 1
    return [
        [round(float(a), 3), round(float(b), 3), int(s)]
        for (a, b), s in zip(points, stages[:count][known])
    ]
