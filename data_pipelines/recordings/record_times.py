"""Gaps between the records of a file that says of itself that it has none (EDF+C, BDF+C).

The records' own times are believed where they tell one story: a lasting step forward is a gap.
Jitter, rounded times and a clock that runs a little fast or slow are none.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from data_pipelines.findings import Finding

Run = tuple[int, int, Fraction]
"""Contiguous records: the first, the one after the last, and when they start, in s."""

CONTIGUOUS_S = Fraction(1, 20)
"""A record may start this far from where the last one ended and still count as its continuation."""

LONGEST_GAPS_S = 36 * 3600
"""A file with more seconds of gaps than these is several recordings."""

PROBES = 4096
"""Records whose times are looked at first; more only where these contradict the header. Between
two of them a gap could hide only together with an overlap of the same length."""

_NEIGHBOURS = 3  # a step in time is lasting if so many records on both sides agree
_DRIFT_S = 15.0  # half an epoch: a clock that is further off than this moves stages


def runs_of_continuous(
    time_of: Callable[[int], Fraction | None], count: int, record_s: Fraction
) -> tuple[list[Run], list[Finding]]:
    """Return the runs of contiguous records, and what contradicts the header.

    Args:
        time_of: Start of a record in s by its own time, None where it has none.
        count: Number of records.
        record_s: Length of a record in s.

    Returns:
        One run where the times agree with the header, or cannot all be true.
    """
    whole = [(0, count, Fraction(0))]
    stride = -(-count // PROBES)
    picked = np.unique(np.append(np.arange(0, count, stride), count - 1))
    picked, lags = _lags(time_of, picked, record_s)
    if len(picked) < 2:
        return whole, []
    if np.abs(np.diff(lags)).max() <= CONTIGUOUS_S:
        return whole, _drift(lags, picked, record_s)
    if stride > 1:
        picked, lags = _lags(time_of, np.arange(count), record_s)
    tolerance = _tolerance(picked, lags, record_s)
    forward, backward = _steps(lags, tolerance)
    gaps = lags[forward + 1] - lags[forward]
    if len(backward):
        said = f"the records' own times run back or overlap at {len(backward)} places"
    elif len(forward) > max(1, (len(lags) - 1) // 2):
        said = f"the records' own times leave a gap after {len(forward)} of {count} records"
    elif gaps.sum() > LONGEST_GAPS_S:
        said = f"the records' own times leave gaps of {gaps.sum():.0f} s"
    elif len(forward) == 0:
        around = np.lib.stride_tricks.sliding_window_view(np.pad(lags, 1, mode="edge"), 3)
        if np.abs(lags - np.median(around, axis=1)).max() <= max(1.0, tolerance):
            return whole, _drift(lags, picked, record_s)
        said = "single records have times of their own that those around them contradict"
    else:
        first = time_of(int(picked[0]))
        starts = [0, *(int(record) for record in picked[forward + 1])]
        onsets = [Fraction(0), *(time_of(record) - first for record in starts[1:])]
        stops = [*starts[1:], count]
        note = (
            f"{len(gaps)} gaps of together {gaps.sum():.6g} s between the records of a file marked "
            "continuous: filled with NaN"
        )
        finding = Finding(
            "time_axis",
            "gaps in a file marked continuous",
            note,
            count=len(gaps),
            seconds=round(float(gaps.sum()), 3),
        )
        return list(zip(starts, stops, onsets)), [finding]
    note = f"{said}, which cannot be true of a file marked continuous: taken one after the other"
    return whole, [Finding("time_axis", "record times that contradict each other", note)]


def _lags(time_of, picked, record_s) -> tuple[np.ndarray, np.ndarray]:
    """Return the records that have a time, and how much later than the header's that is, in s."""
    found = [(int(record), time_of(int(record))) for record in picked]
    found = [(record, time) for record, time in found if time is not None]
    if not found:
        return np.zeros(0, int), np.zeros(0)
    origin = found[0][1] - found[0][0] * record_s
    lags = [float(time - origin - record * record_s) for record, time in found]
    return np.array([record for record, _ in found]), np.array(lags)


def _tolerance(picked, lags, record_s) -> float:
    """Return the step in s that rounding and jitter of the times explain."""
    steps = np.diff(lags)
    jitter = 4 * float(np.median(np.abs(steps - np.median(steps))))
    times = lags + picked * float(record_s)
    rounding = 0.0
    for unit in (1.0, 0.1, 0.01):
        if np.abs(times / unit - np.round(times / unit)).max() < 1e-4:
            rounding = unit if (record_s / Fraction(str(unit))).denominator != 1 else 0.0
            break
    return float(CONTIGUOUS_S) + jitter + rounding


def _steps(lags: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return after which times the lag grows, and after which it falls, for good."""
    padded = np.pad(lags, _NEIGHBOURS - 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _NEIGHBOURS)
    before, after = windows[: len(lags) - 1], windows[_NEIGHBOURS : _NEIGHBOURS + len(lags) - 1]
    step = np.diff(lags)
    up = (after.min(axis=1) - before.max(axis=1) > tolerance) & (step > tolerance)
    down = (after.max(axis=1) - before.min(axis=1) < -tolerance) & (step < -tolerance)
    return np.flatnonzero(up), np.flatnonzero(down)


def _drift(lags, picked, record_s) -> list[Finding]:
    drift = float(lags[-1] - lags[0])
    if abs(drift) <= _DRIFT_S:
        return []
    share = drift / float((picked[-1] - picked[0]) * record_s)
    note = (
        f"by the records' own times the recording is {drift:+.0f} s longer than its samples "
        f"({share:+.2%}): its annotations drift against its signals"
    )
    return [Finding("time_axis", "clock that drifts", note, seconds=round(abs(drift), 3))]
