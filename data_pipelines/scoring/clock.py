"""Wall-clock times of scoring exports, brought to seconds from the recording's start.

Dates are compared here and go no further: no message and no note carries one.
"""

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Sequence

from data_pipelines.findings import Finding
from data_pipelines.scoring.record import ScoringError

DAY_S = 86400.0
_CLOCK = re.compile(
    r"(?:(?P<date>\d{1,4}[./-]\d{1,2}[./-]\d{1,4})[ T-]+)?"
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})[:.](?P<second>\d{2})(?:[.,](?P<part>\d{1,9}))?"
    r"(?: ?(?P<half>[AaPp][Mm]))?"
)


@dataclasses.dataclass(frozen=True)
class ClockTime:
    """A time of day in s, with the three numbers of its date as written, or None."""

    second_of_day: float
    date: tuple[str, str, str] | None


def parse_clock(text: str) -> ClockTime | None:
    """Return the clock time that `text` holds (`15/01/2016 22:30:00`, `10:31 PM`), or None."""
    match = _CLOCK.fullmatch(text.strip())
    if not match:
        return None
    hour, minute, second = (int(match[name]) for name in ("hour", "minute", "second"))
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (match["half"].lower() == "pm")
    if hour > 24 or minute > 59 or second > 60:
        return None
    part = float(f"0.{match['part']}") if match["part"] else 0.0
    date = tuple(re.split(r"[./-]", match["date"])) if match["date"] else None
    return ClockTime(hour * 3600.0 + minute * 60 + second + part, date)


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
    times: Sequence[ClockTime], recording, path
) -> tuple[list[float], list[Finding]]:
    """Return the clock times as seconds from the recording's start, and what had to be decided.

    Dates, where the file has them, order the rows; otherwise a step back by more than 12 h is a
    midnight. The day of the recording's start is its header's where both files have a real date;
    otherwise the one that puts the first row within 12 h of the start.

    Raises:
        ScoringError: the recording's start is not known, a date is impossible, or the dates say
            that the scoring is of another night.
    """
    start_s = getattr(recording, "start_of_day_s", None)
    if start_s is None:
        raise ScoringError(
            f"{path}: this export has wall-clock times; it can be read only together with a "
            "recording whose start time of day is known"
        )
    dated = all(time.date is not None for time in times)
    if dated:
        dates = _dates(times, path)
        seconds = [
            (date - dates[0]).days * DAY_S + time.second_of_day for date, time in zip(dates, times)
        ]
    else:
        seconds, day = [], 0.0
        for index, time in enumerate(times):
            if index and time.second_of_day < times[index - 1].second_of_day - DAY_S / 2:
                day += DAY_S
            elif index and time.second_of_day > times[index - 1].second_of_day + DAY_S / 2:
                day -= DAY_S
            seconds.append(day + time.second_of_day)
    first = circular_difference(times[0].second_of_day, start_s)
    began = recording_start(recording)
    if dated and began is not None and not (date_is_blank(began) or date_is_blank(dates[0])):
        first = (dates[0] - began.replace(hour=0, minute=0, second=0)).days * DAY_S
        first += times[0].second_of_day - start_s
        if abs(first) > 2 * DAY_S:
            raise ScoringError(f"{path}: its dates are not the recording's: it is of another night")
    return [first + second - seconds[0] for second in seconds], []


def _dates(times, path) -> list[datetime.datetime]:
    """Return the dates in the reading (day, month or year first) that keeps them closest."""
    best = None
    for order in ((2, 1, 0), (2, 0, 1), (0, 1, 2)):
        try:
            dates = [
                datetime.datetime(
                    *(_number(time.date[place], place == order[0]) for place in order)
                )
                for time in times
            ]
        except ValueError:
            continue
        span = max(dates) - min(dates)
        if best is None or span < best[0]:
            best = (span, dates)
    if best is None or best[0].days > 14:
        raise ScoringError(f"{path}: its dates do not parse or span more than 14 days")
    return best[1]


def _number(text: str, is_year: bool) -> int:
    if is_year and len(text) <= 2:
        return int(text) + (1900 if int(text) >= 85 else 2000)
    return int(text)
