"""What the times of a scoring count: seconds, epochs, milliseconds, samples, or the clock.

A file rarely says it, and a wrong guess moves every stage. So a unit is taken only where the
heading names it or where the spacing of the rows and the length of the recording leave no other;
what was decided is a finding, and what stays open is refused.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import MAX_TIME_S, ScoringError
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import (
    DAY_S,
    ClockTime,
    circular_difference,
    onsets_from_start,
    parse_clock,
    spread_minutes,
)
from data_pipelines.scoring.words.vocabulary import normalise

EPOCH, SECOND, MILLISECOND, MINUTE, HOUR, SAMPLE = (
    "epoch numbers",
    "seconds",
    "milliseconds",
    "minutes",
    "hours",
    "samples",
)
DAY = "days, as spreadsheets keep times"
FACTORS = {SECOND: 1.0, MILLISECOND: 1e-3, MINUTE: 60.0, HOUR: 3600.0}
_HEADING_UNITS = {
    EPOCH: "epoch epochs epoche epochen epoca epocas epoque epoques epoc epocs epoka",
    SECOND: "s sec secs second seconds sekunde sekunden secondes segundos secondi seconden sek",
    MILLISECOND: "ms msec millisecond milliseconds millisekunden millisecondes milisegundos",
    MINUTE: "min mins minute minutes minuten minutos minuti",
    HOUR: "h hour hours stunden heures horas ore uren",
    SAMPLE: "sample samples begsample endsample",
}
_UNIT_OF_WORD = {word: unit for unit, words in _HEADING_UNITS.items() for word in words.split()}
STEPS_S = (1, 2, 3, 4, 5, 6, 10, 15, 20, 30, 60)
"""Lengths of scored epochs that are met, in s."""

COMMON_RATES_HZ = (50, 64, 100, 125, 128, 200, 250, 256, 400, 500, 512, 1000, 1024, 2000, 2048)


@dataclasses.dataclass(frozen=True)
class Axis:
    """Times of the rows of a list.

    Attributes:
        onsets: In s from the start of the recording.
        lengths: In s; a row of a list with a constant step lasts one step, a row of a list of
            changes until the next.
        notes: What was decided and nobody needs to look at.
        findings: What was decided and a user should look at.
    """

    onsets: list[float]
    lengths: list[float]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def unit_of_heading(heading: str | None) -> str | None:
    """Return the unit that a column's heading names (`Onset (ms)`, `Epoche`), or None."""
    words = normalise(heading or "").split()
    return next((_UNIT_OF_WORD[word] for word in reversed(words) if word in _UNIT_OF_WORD), None)


def rates_of(recording) -> list[float]:
    """Return the sampling rates of a recording in Hz, without repetition; none if not known."""
    found: dict[float, None] = {}
    for index in range(len(getattr(recording, "labels", ()))):
        try:
            found[float(recording.sfreq_hz(index))] = None
        except ValueError:
            continue
    return list(found)


def _decided(unit: str, about: str) -> Finding:
    return Finding("time_axis", unit, f"{about} was taken as {unit}, by its steps and length")


def axis_of(
    entries: Sequence[str], *, step_s: float, heading: str | None, repeats: bool, recording, path
) -> Axis:
    """Return the times that a list's own column gives.

    Args:
        entries: The column as written.
        step_s: How long an epoch of the list is by its code book.
        heading: The column's heading, or None.
        repeats: Whether a stage follows itself: then a row is an epoch, not a change.
        recording: Its `duration_s`, `start_of_day_s` and rates are looked at; None if not known.
        path: For messages.

    Raises:
        ScoringError: The column is no time that is known here, or two units fit it.
    """
    clocks = [parse_clock(entry) for entry in entries]
    if all(clocks):
        clocks, spread = spread_minutes(clocks)
        steps = np.diff([clock.second_of_day for clock in clocks]) % DAY_S
        usual = _usual(steps) if repeats or (len(steps) > 1 and np.ptp(steps) < 1) else None
        onsets, notes, findings = clock_onsets(
            clocks, recording, path, step_s=step_s, lengths_s=[usual] * len(clocks)
        )
        if any(b <= a for a, b in zip(onsets, onsets[1:])):
            raise ScoringError(f"{path}: its column of times does not grow from row to row")
        findings = (*spread, *findings, *_ends_told(onsets, recording))
        return Axis(onsets, _lengths(onsets, step_s, repeats), notes, findings)
    numbers = [number_of(entry) for entry in entries]
    if None in numbers or not np.isfinite(numbers).all():
        raise ScoringError(
            f"{path}: its column of times holds neither numbers nor clock times throughout"
        )
    values = np.array(numbers, float)
    if _are_days(values, step_s, heading):
        clocks = [ClockTime(round(x % 1 * DAY_S, 2) % DAY_S, None) for x in values.tolist()]
        onsets, notes, findings = clock_onsets(clocks, recording, path, step_s=step_s)
        findings = (*findings, _decided(DAY, "the first column of the list"))
        return Axis(onsets, _lengths(onsets, step_s, repeats), notes, findings)
    if (np.diff(values) <= 0).any():
        raise ScoringError(f"{path}: its column of times does not grow from row to row")
    if np.abs(values).max() > MAX_TIME_S * 3000:
        raise ScoringError(f"{path}: its column of times holds {values[-1]:g}; is it damaged?")
    unit, factor, sure = _unit_of_column(values, step_s, heading, repeats, recording, path)
    notes, findings = (), ()
    if unit == EPOCH:
        first = values[0]
        if first < 0 or (values != np.round(values)).any():
            raise ScoringError(f"{path}: its column of epochs holds numbers that count no epoch")
        values = values - (0 if first == 0 else 1)
        if first > 1:
            note = f"the list begins with epoch {first:g}; its first epoch was taken as number 1"
            findings = (Finding("time_axis", EPOCH, note),)
        elif sure:
            notes = (f"the list counts epochs of {step_s:g} s",)
    if not sure:
        findings = (*findings, _decided(unit, "the first column of the list"))
    seconds = values * factor
    if unit in (MINUTE, HOUR):
        # Such times were rounded where they were written; 0.09167 h is 330 s.
        whole = np.round(seconds)
        seconds = np.where(np.abs(seconds - whole) < 0.05, whole, seconds)
    onsets = seconds.tolist()
    if unit == EPOCH:
        return Axis(onsets, [float(step_s)] * len(onsets), notes, findings)
    findings = (*findings, *_ends_told(onsets, recording))
    return Axis(onsets, _lengths(onsets, step_s, repeats), notes, findings)


def _are_days(values: np.ndarray, step_s: float, heading: str | None) -> bool:
    """Whether numbers are days, as spreadsheets keep dates and times: whole steps of an epoch."""
    if len(values) < 3 or unit_of_heading(heading) in (MINUTE, HOUR) or values[0] < 0:
        return False
    if np.abs(values).max() > 1e5 or np.ptp(values) > 1.5:
        return False
    steps = np.diff(values) * DAY_S / step_s
    whole = np.round(steps).astype(int)
    if whole.min() < 1 or np.abs(steps - whole).max() > 0.02:
        return False
    return int(np.gcd.reduce(whole)) % 24 != 0  # steps in hours are 24 times as large


def _ends_told(onsets, recording) -> list[Finding]:
    """The finding that times, taken as starts, may be the ends of the epochs.

    They begin one step after the recording's start and the last is at its end.
    """
    duration_s = getattr(recording, "duration_s", None)
    if duration_s is None or len(onsets) < 3 or onsets[0] <= 0:
        return []
    step = _usual(np.diff(onsets))
    if step is None or abs(onsets[0] - step) > 1 or onsets[-1] < duration_s - step / 2:
        return []
    note = f"its times begin at {onsets[0]:g} s and end with the recording: taken as starts of "
    return [Finding("time_axis", "starts or ends of epochs", note + "epochs; are they ends?")]


def _lengths(onsets, step_s, repeats) -> list[float]:
    """How long each row lasts: one step where rows are epochs, else until the next row."""
    gaps = np.diff(onsets)
    usual = _usual(gaps)
    if usual and (repeats or (len(gaps) > 1 and np.ptp(gaps) < 0.01 * usual)):
        return [float(usual)] * len(onsets)
    return [*gaps.tolist(), float(step_s)]


def _usual(gaps) -> float | None:
    """Return the gap that at least half of the rows keep, or None."""
    if not len(gaps):
        return None
    middle = float(np.median(gaps))
    return middle if np.isclose(gaps, middle, rtol=0.02).mean() >= 0.5 else None


def _unit_of_column(values, step_s, heading, repeats, recording, path):
    """Return (unit, seconds per unit, whether the heading or the book's own step says it)."""
    duration_s = getattr(recording, "duration_s", None)
    named = unit_of_heading(heading)
    if len(values) < 2:
        unit = named if named and named != SAMPLE else SECOND
        return unit, step_s if unit == EPOCH else FACTORS[unit], True
    gaps = np.diff(values)
    usual = _usual(gaps)
    if usual and not repeats and np.ptp(gaps) > 0.02 * usual:
        usual = None  # times of changes, that of a few being equally far apart
    span = float(values[-1] - min(values[0], 0))
    rates = rates_of(recording)

    def covers(seconds, low=0.5):
        return duration_s is not None and low * duration_s <= seconds <= 1.1 * duration_s + 60

    if usual and np.isclose(usual, step_s, rtol=0.01) and named not in (MILLISECOND, SAMPLE):
        return SECOND, 1.0, True
    one_by_one = usual == 1 and (repeats or bool((np.diff(values) == 1).all()))
    if one_by_one and named in (None, EPOCH, SECOND):
        return _counted(values, step_s, named, duration_s, path)
    if named == EPOCH:
        # Numbers of epochs that are no run of numbers: a list of changes, or one with holes.
        raise ScoringError(
            f"{path}: its column of epochs leaves out epochs; write a row for every epoch, or the "
            "seconds at which the stages begin"
        )
    if named == SAMPLE:
        fits = [rate for rate in rates if usual and is_step(usual / rate)]
        fits = fits or [rate for rate in rates if covers(span / rate)]
        if len(fits) != 1:
            raise ScoringError(
                f"{path}: its times count samples, and the rate is not known; expected seconds"
            )
        return SAMPLE, 1 / fits[0], True
    if named:
        step = usual and usual * FACTORS[named]
        if step and (step < 0.9 or repeats and step > 120):
            raise ScoringError(
                f"{path}: by its heading its times are {named}, and its rows {step:g} s apart: no "
                "length of an epoch"
            )
        return named, FACTORS[named], True
    if usual and usual != 1:
        found = [u for u, by in FACTORS.items() if np.isclose(usual * by, step_s, rtol=0.01)]
        if not found and duration_s is not None and span > 2 * duration_s:
            found = [MILLISECOND] if is_step(usual / 1e3) and covers(span / 1e3, 0.2) else []
        if found:
            return found[0], FACTORS[found[0]], found[0] == SECOND
        fits = [rate for rate in rates if np.isclose(usual / rate, step_s)]
        if not rates:
            fits = [rate for rate in COMMON_RATES_HZ if usual / rate == step_s]
            if fits:
                raise ScoringError(
                    f"{path}: its column of times may count samples (at {fits[0]} Hz); expected "
                    "seconds or epoch numbers"
                )
        if len(fits) == 1:
            return SAMPLE, 1 / fits[0], False
        if not repeats and span <= 1.1 * (duration_s or np.inf) and round(usual % step_s, 6) == 0:
            return SECOND, 1.0, True  # changes that happen to be equally far apart
        if not is_step(usual) or (duration_s is not None and span > 1.1 * duration_s + 600):
            raise ScoringError(
                f"{path}: the rows of its first column are {usual:g} apart: neither epoch numbers "
                f"nor seconds of epochs of {step_s:g} s"
            )
        return SECOND, 1.0, True
    return _unit_of_changes(values, step_s, span, covers, rates, duration_s, path)


def is_step(seconds: float) -> bool:
    return any(np.isclose(seconds, step, rtol=1e-6) for step in STEPS_S)


def _counted(values, step_s, named, duration_s, path):
    """Rows numbered one by one: epochs, unless there are as many as the recording has seconds."""
    count = float(values[-1] - values[0] + 1)
    if step_s == 1:
        return SECOND, 1.0, True
    if duration_s is None:
        if named is not EPOCH and (named == SECOND or count * step_s > 2 * DAY_S):
            raise ScoringError(
                f"{path}: its first column counts one by one, as seconds or as epochs of "
                f"{step_s:g} s; a list of one entry a second needs --code_book=NAME@1"
            )
        return EPOCH, step_s, named == EPOCH
    by_second = 0.5 * duration_s <= count <= 1.1 * duration_s + 60
    by_epoch = count * step_s <= 1.5 * duration_s + 600
    if abs(count - duration_s) > max(1, 0.02 * duration_s) or named == EPOCH:
        check_count(count, step_s, duration_s, path)
    if named == EPOCH and by_epoch:
        return EPOCH, step_s, True
    if by_second and not by_epoch and named != EPOCH:
        return SECOND, 1.0, named == SECOND
    if by_epoch and named is None:
        return EPOCH, step_s, False
    raise ScoringError(
        f"{path}: its first column counts {count:.0f} rows one by one; for a recording of "
        f"{duration_s:.0f} s they can be taken neither as seconds nor as epochs of {step_s:g} s "
        "without doubt (--code_book=NAME@SECONDS says how long an entry lasts)"
    )


def check_count(count: float, step_s: float, duration_s: float | None, path) -> None:
    """Refuse rows that say by their number that they stand for another step than `step_s`.

    Raises:
        ScoringError: as many rows of another usual step fill the recording, to a row.
    """
    if not duration_s or abs(count * step_s - duration_s) <= max(step_s, 0.1 * duration_s):
        return
    for other_s in (1, 2, 4, 5, 10, 20):
        if count >= 10 and abs(count * other_s - duration_s) <= max(other_s, 0.005 * duration_s):
            raise ScoringError(
                f"{path}: has {count:.0f} entries for {duration_s:.0f} s, one every {other_s} s "
                f"and not every {step_s:g} s; --code_book=NAME@{other_s} says so"
            )


def _unit_of_changes(values, step_s, span, covers, rates, duration_s, path):
    """Times at which the stage changes: seconds, unless they say otherwise by their size."""
    if duration_s is None or span <= 1.1 * duration_s + 600:
        if duration_s is not None and span < 0.1 * duration_s and values[0] <= 1:
            whole = (values == np.round(values)).all()
            factors = [(MINUTE, 60.0), (HOUR, 3600.0)] + [(EPOCH, step_s)] * bool(whole)
            fits = [(unit, by) for unit, by in factors if covers(span * by)]
            if len(fits) == 1 and not whole:
                return *fits[0], False
            if fits:
                names = " or ".join(unit for unit, _ in fits)
                raise ScoringError(
                    f"{path}: its times end at {span:g} in a recording of {duration_s:.0f} s; as "
                    f"{names} they would fit, as seconds they cover a small part. Write them in "
                    "seconds"
                )
        return SECOND, 1.0, True
    fits = [(MILLISECOND, 1e-3)] if covers(span / 1e3) else []
    fits += [(SAMPLE, 1 / rate) for rate in rates if covers(span / rate) and rate != 1]
    if len(fits) == 1:
        return *fits[0], False
    if fits:
        names = " or ".join(sorted({name for name, _ in fits}))
        raise ScoringError(
            f"{path}: its times end at {span:g} in a recording of {duration_s:.0f} s; they may be "
            f"{names}. Expected seconds"
        )
    return SECOND, 1.0, True


def clock_onsets(clocks, recording, path, *, step_s: float = 60.0, lengths_s=None, ends=None):
    """Return times from the start of the recording (`00:00:30`) or of the day as (onsets, notes,
    findings), in s from the start of the recording.

    Times that begin at 00:00:00 are counted from the start, unless the recording began at midnight.

    Raises:
        ScoringError: They are of the day, and the recording's start is not known, or of another.
    """
    first = clocks[0].second_of_day
    epoch_day = clocks[0].date is not None and [int(part) for part in clocks[0].date] == [
        1970,
        1,
        1,
    ]
    start_s = getattr(recording, "start_of_day_s", None)
    early = clocks[0].date is None and first <= max(step_s, 60.0)
    near = start_s is not None and abs(circular_difference(first, start_s)) <= 60
    if not epoch_day and (not early or near):
        onsets, findings = onsets_from_start(
            clocks, recording, path, lengths_s=lengths_s, ends=ends
        )
        return onsets, (), tuple(findings)
    day, elapsed = 0.0, []
    for before, clock in zip([clocks[0], *clocks], clocks):
        if clock.second_of_day < before.second_of_day - DAY_S / 2:
            day += DAY_S
        elapsed.append(day + clock.second_of_day)
    duration_s = getattr(recording, "duration_s", None)
    if early and start_s is not None and duration_s is not None:
        late = (first - start_s) % DAY_S
        span = elapsed[-1] - elapsed[0]
        if late + span <= duration_s + max(600.0, 0.1 * duration_s):
            # A scoring that begins at midnight would lie within the recording as well, nearly.
            note = "its times begin at 00:00:00 and were counted from the start of the recording"
            return elapsed, (), (Finding("time_axis", "times from 00:00:00", note),)
    return elapsed, ("its times were counted from the start of the recording",), ()
