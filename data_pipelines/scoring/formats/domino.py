"""Scoring that Domino (SOMNOmedics) exports as text: a file for the sleep profile, one a signal.

A heading of `Name: value` lines, then `22:00:00,000; Wake` (a row every `Rate`) in a profile, or
`00:41:31,513-00:41:42,736; 11;Hypopnea` in a list of events. As public readers of these exports
have it (Snooz's converter among them); the vendor publishes no description.
"""

import re

from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import (
    ClockTime,
    length_between,
    onsets_from_start,
    parse_clock,
)
from data_pipelines.scoring.words.vocabulary import normalise

_TIME = (
    r"(?:\d{1,4}[./-]\d{1,2}[./-]\d{1,4}[ T]+)?\d{1,2}:\d{2}:\d{2}(?:[.,]\d{1,6})?(?: ?[AaPp][Mm])?"
)
_ROW = re.compile(rf"({_TIME}) *; *([^;]*)")
_SPAN = re.compile(rf"({_TIME}) *- *({_TIME}) *; *([^;]*); *([^;]*)(?:;.*)?")
_RATE = re.compile(r"([\d.,]+) *(ms|s|sec|min)")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\0", "").splitlines() if line.strip()]


def is_domino(text: str) -> bool:
    """Whether a file begins as Domino's exports do, or has rows as they have."""
    lines = _lines(text)
    if any(line.startswith("Signal ID") for line in lines[:5]):
        return True
    return sum(bool(_SPAN.fullmatch(line)) for line in lines[:20]) >= 3


def is_event_list(text: str) -> bool:
    """Whether it is a list of events (`Signal Type: Impuls`), not one value a row."""
    rows = [line for line in _lines(text) if _SPAN.fullmatch(line) or _ROW.fullmatch(line)]
    return is_domino(text) and bool(rows) and bool(_SPAN.fullmatch(rows[0]))


def start_of(text: str) -> ClockTime | None:
    """Return the start that the heading names; None if it names none."""
    times = [parse_clock(value) for value in _heading(_lines(text))]
    return next((time for time in times if time is not None), None)


def _heading(lines: list[str]) -> list[str]:
    """Return the values of the `Name: value` lines above the rows."""
    values = []
    for line in lines[:20]:
        if _SPAN.fullmatch(line) or _ROW.fullmatch(line):
            break
        values.append(line.partition(":")[2].strip())
    return values


def read_domino(path, text: str, recording) -> Scoring:
    """Read a sleep profile or a list of events.

    Raises:
        ScoringError: it is an analogue signal, a row is none, or the recording's start is not
            known.
    """
    rows = []
    for number, line in enumerate(_lines(text), 1):
        span, row = _SPAN.fullmatch(line), _ROW.fullmatch(line)
        if span:
            rows.append((span[1], span[2], span[4]))
        elif row:
            rows.append((row[1], None, row[2]))
        elif rows:
            raise ScoringError(f"{path}: row {number} is not a time and a text, as Domino writes")
    heading = _heading(_lines(text))
    if any(value.casefold().startswith("analog") for value in heading) or not rows:
        raise ScoringError(f"{path}: an export of Domino without stages or events")
    rate_s = _rate(heading, path)
    starts = [parse_clock(start) for start, _, _ in rows]
    if None in starts:
        raise ScoringError(f"{path}: a row of this export of Domino has no time of day")
    ends = [None if end is None else parse_clock(end) for _, end, _ in rows]
    if any(end is None and row[1] is not None for end, row in zip(ends, rows)):
        raise ScoringError(f"{path}: a row of this export of Domino has no time of day")
    lengths = [
        rate_s if end is None else length_between(start, end) for start, end in zip(starts, ends)
    ]
    onsets, findings = onsets_from_start(starts, recording, path, lengths_s=lengths, ends=ends)
    # A lone `A` stands for the artefact that the list of words in the heading names.
    texts = ["?" if normalise(name) == "a" else name for _, _, name in rows]
    annotations = list(zip(onsets, lengths, texts))
    return scoring_from_annotations(path, annotations, source="domino_text", findings=findings)


def _rate(heading: list[str], path) -> float:
    """Return how long a row of a profile lasts, in s."""
    found = [match for match in map(_RATE.fullmatch, heading) if match]
    value = number_of(found[0][1]) if found else None
    if value is None:
        return float(EPOCH_S)
    rate_s = value * {"ms": 1e-3, "min": 60.0}.get(found[0][2], 1.0)
    if not 0 < rate_s <= 3600:
        raise ScoringError(f"{path}: its Rate is {rate_s:g} s; expected the length of an epoch")
    return rate_s
