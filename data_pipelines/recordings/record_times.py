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

PROBES = 2048
"""Records whose times are looked at first; more only where these contradict the header. Between
two of them a gap could hide only together with an overlap of the same length."""

_NEIGHBOURS = 3  # a step in time is lasting if so many records on both sides agree
_DRIFT_S = 15.0  # half an epoch: a clock that is further off than this moves stages
_DRIFT_SHARE = 0.05  # further off is no clock
_CLOCK_STEPS = 200  # records between two seconds that a slow clock loses, at the least


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
    if _is_rounded_drift(forward, gaps):
        forward, gaps = forward[:0], gaps[:0]
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
    found = [(record, time_of(record)) for record in picked.tolist()]
    found = [(record, float(time)) for record, time in found if time is not None]
    records = np.array([record for record, _ in found], int)
    lags = np.array([time for _, time in found]) - records * float(record_s)
    return records, lags - lags[:1]


def _tolerance(picked, lags, record_s) -> float:
    """Return the step in s that rounding and jitter of the times explain."""
    steps = np.diff(lags)
    early = np.percentile(steps, 50, method="lower") - steps
    early = early[early > 0]  # gaps are never early, jitter is as often as it is late
    jitter = 4 * float(np.median(early)) if len(early) > max(5, len(steps) / 10) else 0.0
    times = lags + picked * float(record_s)
    rounding = 0.0
    for unit in (1.0, 0.1, 0.01):
        if np.abs(times / unit - np.round(times / unit)).max() < 1e-4:
            # Times in whole seconds of records of whole seconds are exact, but for a drift.
            whole = (record_s / Fraction(str(unit))).denominator == 1
            rounding = 0.0 if whole and unit > 0.1 and steps.min() > -unit / 2 else unit
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


def _is_rounded_drift(at: np.ndarray, gaps: np.ndarray) -> bool:
    """Whether steps of just one second at even distances are a slow clock in whole seconds."""
    spaces = np.diff(at)
    if len(at) < 2 or spaces.min() < _CLOCK_STEPS:
        return False
    return np.abs(gaps - 1).max() < 1e-3 and spaces.max() - spaces.min() <= 2


def _drift(lags, picked, record_s) -> list[Finding]:
    drift = float(lags[-1] - lags[0])
    share = drift / float((picked[-1] - picked[0]) * record_s)
    if abs(drift) <= _DRIFT_S and (abs(drift) <= 1 or abs(share) < _DRIFT_SHARE):
        return []
    note = (
        f"by the records' own times the recording is {abs(drift):.3g} s ({abs(share):.2%}) "
        f"{'longer' if drift > 0 else 'shorter'} than its samples: its annotations drift against "
        "its signals"
    )
    return [Finding("time_axis", "clock that drifts", note, seconds=round(abs(drift), 3))]
