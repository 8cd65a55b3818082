"""Wall-clock times of scoring exports, brought to seconds from the recording's start.

Dates are compared here and go no further: no message and no note carries one.
"""

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import ScoringError
from data_pipelines.scoring.times.clock_changes import CHANGES_S, Rows, clock_changes, count_outside

DAY_S = 86400.0
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = re.compile(
    r"(?:(?P<date>\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{1,2}[ -](?P<month>[A-Za-z]{3})[ -]\d{2,4})"
    r"[ T,-]+)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})|[:.](?P<minutes>\d{2})[:.](?P<second>\d{2})"
    r"(?:[.,](?P<part>\d{1,9}))?)"
    r"(?: ?(?P<half>[ap])\.? ?m\.?)?(?P<zone> ?Z| ?[+-](?:0\d|1[0-4]):?\d{2})?",
    re.IGNORECASE,
)
_DAY_FIRST, _MONTH_FIRST, _YEAR_FIRST = (2, 1, 0), (2, 0, 1), (0, 1, 2)
_SAME_HALF_S = 600.0  # so near to the recording's start, a scoring that is 12 h off is its own
_SAME_START_S = 60.0  # so near to a filled-in start, the scoring's clock was filled in too


@dataclasses.dataclass(frozen=True)
class ClockTime:
    """A clock time as written.

    Attributes:
        second_of_day: seconds from midnight; 86,400 and more where hours go on after 23.
        date: the three numbers of its date as written, or None.
        month_named: whether the month was a word, so that the date is day, month, year.
        zoned: whether it names a time zone (`Z`, `+01:00`).
    """

    second_of_day: float
    date: tuple[str, str, str] | None
    month_named: bool = False
    zoned: bool = False


def parse_clock(text: str) -> ClockTime | None:
    """Return the clock time that `text` holds (`15/01/2016 22:30:00`, `10:31 PM`), or None."""
    match = _CLOCK.fullmatch(text.strip())
    if not match:
        return None
    hour, minute = int(match["hour"]), int(match["minute"] or match["minutes"])
    second = int(match["second"] or 0)
    if match["half"]:
        afternoon = match["half"].lower() == "p"
        if hour > 23 or hour > 12 and not afternoon or hour == 0 and afternoon:
            return None
        hour = hour if hour > 12 else hour % 12 + 12 * afternoon
    if hour > 47 or minute > 59 or second > 60 or match["zone"] and not match["second"]:
        return None
    part = float(f"0.{match['part']}") if match["part"] else 0.0
    date = tuple(re.split(r"[ ./-]", match["date"])) if match["date"] else None
    if match["month"]:
        if match["month"].lower() not in _MONTHS:
            return None
        date = (date[0], str(_MONTHS.index(match["month"].lower()) + 1), date[2])
    seconds = hour * 3600.0 + minute * 60 + second + part
    return ClockTime(seconds, date, bool(match["month"]), bool(match["zone"]))


def length_between(start: ClockTime, end: ClockTime) -> float:
    """Return how long a row lasts that has no duration, in s.

    An end less than half an hour or an hour before the start is of a clock that was set back by so
    much meanwhile.
    """
    length = (end.second_of_day - start.second_of_day) % DAY_S
    back = next((x for x in sorted(CHANGES_S) if length > DAY_S - x), DAY_S)
    return length - DAY_S + back if back < DAY_S else length


def spread_minutes(
    times: Sequence[ClockTime], lengths_s: Sequence[float | None] | None = None
) -> tuple[Sequence[ClockTime], list[Finding]]:
    """Return times of rows that follow one another, where the file has them in whole minutes.

    Of two rows of 22:00 and two of 22:01, the second of each is half a minute later. A first minute
    with fewer rows than the others begins within it.

    Args:
        times: Start of each row, in the order of the file.
        lengths_s: How long each row lasts; where they disagree with it, nothing is changed.
    """
    seconds = np.array([time.second_of_day for time in times])
    steps = np.diff(seconds) % DAY_S
    if len(steps) < 2 or (seconds % 60).any() or not np.isin(steps, (0, 60)).all():
        return times, []
    minute = np.concatenate([[0], np.cumsum(steps > 0)])
    counts = np.bincount(minute)
    most = int(counts.max())
    if most not in (2, 3, 4, 6) or len(counts) < 3 or (counts[1:-1] != most).any():
        return times, []
    said = {round(x, 3) for x in lengths_s or () if x is not None}
    if said - {round(60 / most, 3)}:
        return times, []
    place = np.arange(len(times)) - np.concatenate([[0], np.cumsum(counts)])[minute]
    place[minute == 0] += most - counts[0]
    found = [
        dataclasses.replace(time, second_of_day=time.second_of_day + float(at) * 60 / most)
        for time, at in zip(times, place)
    ]
    note = f"its clock times are whole minutes: the {most} rows of each were spread over it"
    return found, [Finding("time_axis", "clock times without seconds", note)]


def edf_start(path) -> datetime.datetime | None:
    """Return date and time of an EDF header, for comparison only; None if they are not a date."""
    try:
        with pathlib.Path(path).open("rb") as file:
            header = file.read(256)
    except OSError:
        return None
    match = re.fullmatch(
        r"(\d\d)\.(\d\d)\.(\d\d)(\d\d)[.:](\d\d)[.:](\d\d)", header[168:184].decode("latin-1")
    )
    if not match:
        return None
    day, month, year, *clock = map(int, match.groups())
    try:
        # EDF clips its two-digit years at 1985.
        return datetime.datetime(year + (1900 if year >= 85 else 2000), month, day, *clock)
    except ValueError:
        return None


def date_is_blank(start: datetime.datetime) -> bool:
    """Whether a date is the filler of an anonymised file (a first of January) and says nothing."""
    return (start.month, start.day) == (1, 1)


def recording_start(recording) -> datetime.datetime | None:
    """Return date and time of a recording's EDF header, for comparison only; None if unknown."""
    path = pathlib.Path(getattr(recording, "path", None) or "")
    return edf_start(path) if path.suffix.lower() in (".edf", ".bdf", ".rec") else None


def circular_difference(later_s: float, earlier_s: float) -> float:
    """Return the difference of two times of day in s, within (-12 h, 12 h]."""
    return DAY_S / 2 - (DAY_S / 2 - (later_s - earlier_s)) % DAY_S


def onsets_from_start(
    times: Sequence[ClockTime],
    recording,
    path,
    *,
    lengths_s: Sequence[float | None] | None = None,
    ends: Sequence[ClockTime | None] | None = None,
) -> tuple[list[float], list[Finding]]:
    """Return the clock times as seconds from the recording's start, and what had to be decided.

    Dates, where the file has them, order the rows: in the order of day, month and year that agrees
    with the recording's header, or, where that has no date, that keeps them closest. Without dates
    a step by more than 12 h is a midnight. Where several days or orders are possible, the scoring
    lies within the recording. A clock that was set back or forward meanwhile is put right where
    the rows tell how (see `clock_changes`).

    Args:
        times: start of each row, in the order of the file.
        recording: the recording, for its start and its length.
        path: for messages.
        lengths_s: how long each row lasts, as the file says; None where it does not.
        ends: end of each row by the clock, where the file has them.

    Raises:
        ScoringError: the recording's start is not known, a date is impossible, the dates say that
            the scoring is of another night, or the clock was set and the rows do not tell when.
    """
    start_s = getattr(recording, "start_of_day_s", None)
    if start_s is None:
        raise ScoringError(
            f"{path}: this export has wall-clock times; it can be read only together with a "
            "recording whose start time of day is known"
        )
    times, spread = spread_minutes(times, lengths_s)
    duration_s = getattr(recording, "duration_s", None)
    readings = _readings(times, recording, start_s, path)
    # The first of those that fit equally well: they are in the order of likelihood.
    onsets, note = min(readings, key=lambda reading: count_outside(reading[0], duration_s))
    outside = count_outside(onsets, duration_s)
    findings = [*spread, *_told_of_filler(times, recording, start_s, outside, path)]
    if any(time.zoned for time in times) and outside:
        raise ScoringError(
            f"{path}: its clock times are of a time zone (UTC?) that is not the recording's: taken "
            "as they are they lie outside the recording; give times of the recording's clock"
        )
    if note:
        findings.append(Finding("time_axis", "clock times read in another way", note))
    rows = Rows(
        onsets,
        np.array([np.nan if x is None else x for x in lengths_s or [None] * len(times)], float),
        np.array([_end_step(time, end) for time, end in zip(times, ends or [None] * len(times))]),
    )
    onsets, told = clock_changes(rows, start_s, duration_s, path)
    return onsets.tolist(), [*findings, *told]


def _end_step(start: ClockTime, end: ClockTime | None) -> float:
    """Return the seconds from a row's start to its end as the clock shows them, or NaN."""
    if end is None:
        return np.nan
    return circular_difference(end.second_of_day, start.second_of_day)


def _told_of_filler(times, recording, start_s, outside: int, path) -> list[Finding]:
    first = circular_difference(times[0].second_of_day % DAY_S, start_s)
    if not getattr(recording, "start_is_filler", False) or abs(first) <= _SAME_START_S:
        return []
    said = "the recording's start was blanked (anonymised) and is no time of day"
    # Noon, and a scoring without a date of its own that fits, may be what they seem.
    if start_s < DAY_S / 2 and (outside or any(_is_real(time) for time in times)):
        raise ScoringError(
            f"{path}: {said}: the clock times of this export cannot be placed; give the header its "
            "true start, or the scoring in seconds from the start"
        )
    note = f"perhaps {said}: the scoring's clock times are placed by it"
    return [Finding("time_axis", "start that may be blanked", note)]


def _is_real(time: ClockTime) -> bool:
    """Whether a time has a date that nobody filled in."""
    return time.date is not None and sorted(map(int, time.date))[:2] != [1, 1]


def _readings(times, recording, start_s, path) -> list[tuple[np.ndarray, str]]:
    """Return the onsets in s in every way that the times can be read, and a note where needed."""
    seconds = np.array([time.second_of_day for time in times])
    by_clock = _by_clock(seconds)
    near = circular_difference(seconds[0] % DAY_S, start_s)
    if all(time.date is None for time in times):
        days = [near, near + DAY_S] if near < 0 else [near]
        readings = [(by_clock - by_clock[0] + first, "") for first in days]
        steps = np.diff(by_clock)
        ordered = not len(steps) or steps.min() >= 0 and steps.max() <= DAY_S / 4
        if not ordered and (getattr(recording, "duration_s", None) or 0) < DAY_S:
            # Rows in no order of time: each at the one place that a day has for it.
            readings.append(((seconds - start_s) % DAY_S, ""))
        readings += _half_days(seconds, start_s)
        if seconds[0] < 1 and abs(near) > _SAME_START_S:
            readings = _from_zero(by_clock, near, readings, getattr(recording, "duration_s", None))
        return readings
    began = _start_with_day(recording, start_s)
    dated, impossible = [], True
    for days, first_date in _dates(times):
        impossible = False
        # A row without a date is of the day that puts it next to the row before it.
        onsets = np.empty(len(times))
        known = np.flatnonzero(~np.isnan(days))
        for row in [*range(known[0], len(times)), *reversed(range(known[0]))]:
            onsets[row] = days[row] * DAY_S + seconds[row]
            if np.isnan(days[row]):
                beside = onsets[row - 1] if row > known[0] else onsets[row + 1]
                onsets[row] = beside + circular_difference(seconds[row] % DAY_S, beside % DAY_S)
            elif seconds[row] >= DAY_S and row and onsets[row] - onsets[row - 1] > DAY_S / 2:
                onsets[row] -= DAY_S  # 24:00:00 written for the 0:00:00 of that day
        if began is not None and not (date_is_blank(began) or date_is_blank(first_date)):
            shift = (first_date - began).total_seconds()
            if abs(shift + onsets[0]) > 2 * DAY_S:
                continue
            dated.append((onsets + shift, np.ptp(onsets)))
            continue
        onsets = near + onsets - onsets[0]
        dated += [(onsets + day, np.ptp(onsets)) for day in (0, DAY_S)[: 1 + (near < 0)]]
    if impossible:
        raise ScoringError(f"{path}: its dates do not parse or span more than 14 days")
    if not dated:
        raise ScoringError(f"{path}: its dates are not the recording's: it is of another night")
    dated.sort(key=lambda reading: reading[1])
    readings = [(onsets, "") for onsets, _ in dated]
    if np.diff(dated[0][0]).min(initial=0) < -DAY_S / 2:
        note = "its dates do not change at midnight: read by the clock alone"
        readings.append((by_clock - by_clock[0] + dated[0][0][0], note))
    return readings


def _half_days(seconds: np.ndarray, start_s: float) -> list[tuple[np.ndarray, str]]:
    """The reading of a clock of 12 hours that does not say AM or PM, where it may be one.

    Its hours are 1 to 12, and it passes from 12 to 1 or begins near the recording's start.
    """
    half = DAY_S / 2
    if seconds.min() < 3600 or seconds.max() >= half + 3600:
        return []
    steps = np.diff(seconds)
    first = half / 2 - (half / 2 - (seconds[0] - start_s)) % half
    passes = bool((steps < -half / 2).any())
    if not passes and abs(first) > _SAME_HALF_S:
        return []
    onsets = first + np.concatenate([[0.0], np.cumsum(half / 2 - (half / 2 - steps) % half)])
    note = "its clock times fit only as those of a 12-hour clock without AM and PM: read so"
    return [(onsets, note)]


def _from_zero(by_clock, near: float, readings, duration_s) -> list[tuple[np.ndarray, str]]:
    """Readings of a clock that begins at 0:00:00: midnight, or the recording's start.

    Read as midnight, a scoring of the whole recording would lie outside it by as much as the
    recording's start is away from midnight.
    """
    length_s = np.ptp(by_clock)
    outside_s = count_outside(readings[0][0], duration_s) * length_s / len(by_clock)
    if outside_s > min(abs(near), length_s) / 2:
        note = "its clock begins at 0:00:00: read as the time since the recording's start"
        return [(by_clock - by_clock[0], note)]
    note = "its clock begins at 0:00:00: read as midnight, not as the recording's start"
    return [(onsets, note) for onsets, _ in readings]


def _by_clock(seconds: np.ndarray) -> np.ndarray:
    """Return times of day in s on one axis: a step by more than 12 h is a midnight."""
    steps = np.diff(seconds)
    days = np.where(steps < -DAY_S / 2, DAY_S, 0) - np.where(steps > DAY_S / 2, DAY_S, 0)
    return seconds + np.concatenate([[0.0], np.cumsum(days)])


def _start_with_day(recording, start_s) -> datetime.datetime | None:
    """Return when time 0 of a recording was, for comparison only; None if unknown."""
    began = recording_start(recording)
    if began is None:
        return None
    midnight = began.replace(hour=0, minute=0, second=0)
    later = (began - midnight).total_seconds() + getattr(recording, "first_onset_s", 0.0)
    return midnight + datetime.timedelta(days=later // DAY_S, seconds=start_s)


def _dates(times):
    """Yield (days from the first date or NaN, first date) for each order that makes them dates."""
    first = next(time for time in times if time.date is not None)
    orders = (_DAY_FIRST,) if first.month_named else (_DAY_FIRST, _MONTH_FIRST, _YEAR_FIRST)
    for order in orders:
        try:
            dates = [
                None
                if time.date is None
                else datetime.datetime(
                    *(_number(time.date[place], place == order[0]) for place in order)
                )
                for time in times
            ]
        except ValueError:
            continue
        origin = next(date for date in dates if date is not None)
        days = np.array([np.nan if date is None else (date - origin).days for date in dates])
        if np.nanmax(days) - np.nanmin(days) <= 14:
            yield days, origin


def _number(text: str, is_year: bool) -> int:
    if is_year and len(text) <= 2:
        return int(text) + (1900 if int(text) >= 85 else 2000)
    return int(text)
