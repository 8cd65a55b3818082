"""Clocks set back or forward in the night: wall-clock rows jump, the recording runs on.

Clocks are set by an hour (Europe between 0:00 and 3:00 UTC, America at 2:00, some countries at
midnight), on Lord Howe Island by half an hour. What a jump is shows in the rows themselves: one
row's start and length say where the next begins, and all rows lie within the recording.
"""

import dataclasses

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import ScoringError

CHANGES_S = (3600.0, 1800.0)

_TOLERANCE_S = 60.0  # so far outside the recording a row may lie by a start given in minutes
_EXACT_S = 1.0
_SHORT_S = 300.0  # up to this length, rows follow one another; longer are positions and such
_NEAR_S = 600.0  # between the rows before and after a jump lies less than this
_LAST_HOUR = 4  # clocks are set between 22:00 and 4:00


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of an export in the order of the file.

    Attributes:
        onsets_s: start of each in s from the recording's start, as the clock shows it.
        lengths_s: how long each lasts by the file, NaN where that is unsaid.
        end_steps_s: from its start to its end as the clock shows them, NaN where unsaid.
    """

    onsets_s: np.ndarray
    lengths_s: np.ndarray
    end_steps_s: np.ndarray


def count_outside(onsets_s: np.ndarray, duration_s: float | None) -> int:
    """Return how many rows begin outside the recording; 0 where its length is not known."""
    if duration_s is None:
        return 0
    onsets_s = np.asarray(onsets_s)
    return int(((onsets_s < -_TOLERANCE_S) | (onsets_s > duration_s + _TOLERANCE_S)).sum())


def clock_changes(
    rows: Rows, start_s: float, duration_s: float | None, path
) -> tuple[np.ndarray, list[Finding]]:
    """Return the onsets on one axis of time, and what was found of clocks that were set.

    Args:
        rows: as the clock shows them.
        start_s: time of day at which the recording starts.
        duration_s: length of the recording in s, or None.
        path: for messages.

    Raises:
        ScoringError: the clock was set, and the rows do not tell which of them come after it.
    """
    onsets = rows.onsets_s
    drops = np.flatnonzero(np.diff(onsets) < -1e-6) + 1
    lengths = _lengths(rows)
    jumped = _jumped_within(rows)
    found = None
    if len(drops) == 1:
        found = _set_back(onsets, lengths, int(drops[0]), bool(jumped), duration_s, path)
    if found is None:
        found = _set_forward(onsets, lengths, jumped, start_s, duration_s)
    if found is not None:
        return found
    stretched = _is_stretched(lengths) and count_outside(onsets, duration_s)
    if jumped or stretched or _is_doubled(onsets, lengths, start_s):
        raise ScoringError(
            f"{path}: the clock was set in this night (summer time), and its rows do not tell "
            "which of them are of the hour before and which of the hour after; give times that "
            "count from the recording's start"
        )
    return onsets, []


def _lengths(rows: Rows) -> np.ndarray:
    """Return the lengths of the rows in s; one that is unsaid is the usual step between rows."""
    steps = np.diff(rows.onsets_s)
    steps = steps[(steps > 0) & (steps <= _SHORT_S)].round(3)
    usual = _mode(steps) if len(steps) else 0.0
    return np.where(np.isnan(rows.lengths_s), usual, rows.lengths_s)


def _mode(values: np.ndarray) -> float:
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()])


def _jumped_within(rows: Rows) -> dict[int, float]:
    """Return the rows whose length is not that between their clock times, and by how much."""
    surplus = rows.end_steps_s - rows.lengths_s
    return {
        int(row): float(np.round(surplus[row]))
        for row in np.flatnonzero(~np.isnan(surplus))
        if any(abs(abs(surplus[row]) - change) <= _EXACT_S for change in CHANGES_S)
    }


def _set_back(onsets, lengths, at, jumped, duration_s, path):
    """Rows in order but for one step back by up to an hour."""
    drop = onsets[at - 1] - onsets[at]
    before = np.arange(max(0, at - 20), at)
    ends = (onsets + lengths)[before[lengths[before] <= _SHORT_S]]
    plain = count_outside(onsets, duration_s)
    for change in CHANGES_S:
        if not change - _NEAR_S <= drop <= change + _EXACT_S:
            continue
        later = np.arange(len(onsets)) >= at
        shifted = onsets + np.where(later, change, 0.0)
        # To the second: rows of a group that begins anew would lie just past the end.
        outside = 0 if duration_s is None else int((shifted > duration_s - _EXACT_S).sum())
        follows = bool((np.abs(onsets[at] + change - ends) <= _EXACT_S).any())
        if outside > plain:
            continue
        if not (follows or jumped or outside < plain):
            raise ScoringError(
                f"{path}: its times step back by {drop:.0f} s, as where the clock is set back "
                "(summer time), and do not tell whether it was; give times that count from the "
                "recording's start"
            )
        return shifted, [_told("back", change, later)]
    return None


def _set_forward(onsets, lengths, jumped, start_s, duration_s):
    """Rows, in any order, that leave out an hour: the clock was set, or nobody scored it."""
    order = np.argsort(onsets, kind="stable")
    starts, lasting = onsets[order], lengths[order]
    is_short = lasting <= _SHORT_S
    ends = np.maximum.accumulate(np.where(is_short, starts + lasting, starts))
    gaps = starts[1:] - ends[:-1]
    for change in CHANGES_S:
        found = np.flatnonzero(np.abs(gaps - change) <= _EXACT_S) + 1
        if len(found) != 1:
            continue
        at = int(found[0])
        step = lasting[at - 1] if is_short[at - 1] else 0.0
        plausible = _is_hour_of_change(start_s + ends[at - 1], step)
        later = onsets >= starts[at]
        shifted = onsets - np.where(later, change, 0.0)
        fewer = count_outside(shifted, duration_s) < count_outside(onsets, duration_s)
        if any(value > 0 for value in jumped.values()) or plausible and fewer:
            return shifted, [_told("forward", change, later)]
        if plausible:
            note = (
                f"nothing is scored for {change / 60:.0f} min at an hour when clocks are set "
                "forward (summer time): taken as a gap in the scoring"
            )
            what = "hour without scoring when clocks are set"
            return onsets, [Finding("time_axis", what, note, seconds=change)]
    return None


def _is_hour_of_change(clock_s: float, step_s: float) -> bool:
    """Whether a row of `step_s` that ends at a time of day may hold the moment of a change."""
    clock_s %= 86_400
    return clock_s % 1800 <= step_s + _EXACT_S and not _LAST_HOUR <= (clock_s - step_s) / 3600 < 22


def _is_stretched(lengths) -> bool:
    """Whether one row of a file of equal rows is longer than they by what a clock is set."""
    usual = _mode(lengths)
    if (lengths == usual).mean() < 0.5:
        return False
    return any((np.abs(lengths - usual - x) <= _EXACT_S).sum() == 1 for x in CHANGES_S)


def _is_doubled(onsets, lengths, start_s) -> bool:
    """Whether one hour of the clock, and only one, is filled twice with rows of equal length.

    Less than the hour where the scoring begins or ends within it; then the other end is a moment
    when clocks are set.
    """
    regular = lengths == _mode(lengths[lengths > 0]) if (lengths > 0).any() else lengths > 0
    starts, counts = np.unique(onsets[regular].round(3), return_counts=True)
    twice = starts[counts == 2]
    if len(twice) < 10 or (counts > 2).any() or (counts == 1).sum() < len(twice) / 10:
        return False
    step = _mode(lengths[regular])
    first, stop = twice[0], twice[-1] + step
    if len(twice) * step < 0.8 * (stop - first):
        return False
    at_change = any(_is_hour_of_change(start_s + x, step) for x in (first, first + step, stop))
    return any(0.8 * x <= stop - first <= x or at_change and stop - first < x for x in CHANGES_S)


def _told(way: str, change: float, moved: np.ndarray) -> Finding:
    note = (
        f"the clock was set {way} by {change / 60:.0f} min in this night (summer time): "
        f"{moved.sum()} of {len(moved)} rows moved to where the recording runs on"
    )
    return Finding("time_axis", f"clock set {way}", note, seconds=change)
