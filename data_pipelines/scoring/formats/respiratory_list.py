"""The respiratory event lists of UCDDB (St. Vincent's, PhysioNet): `ucddb002_respevt.txt`.

Three lines of heading, then columns of fixed places: clock time, type (`HYP-C`, `APNEA-O`, `PB`),
duration in s, lowest saturation and drop in %, snore, arousal (`+` or `-`), heart rate. The type
names the kind; C, O and M are central, obstructive and mixed.
"""

import re

from data_pipelines.scoring.record import Event, Scoring, ScoringError, make_scoring
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import onsets_from_start, parse_clock
from data_pipelines.scoring.words.unknown_words import Unknown

_ROW = re.compile(r"\s*(\d{1,2}:\d{2}:\d{2})\s+(\S+)(?:\s+EVENT)?\s+(\d{1,4})?(.*)")
_KINDS = {
    "APNEA-O": "apnea_obstructive",
    "APNEA-C": "apnea_central",
    "APNEA-M": "apnea_mixed",
    "HYP-O": "hypopnea",
    "HYP-C": "hypopnea",
    "HYP-M": "hypopnea",
}


def is_respiratory_list(text: str) -> bool:
    """Whether one of the first lines is the heading of such a list."""
    return "Respiratory Event List" in text[:400]


def read_respiratory_list(path, text: str, recording) -> Scoring:
    """Read the events; arousals and desaturations of a row have no times and are left out.

    Raises:
        ScoringError: no row is an event, or the recording's start is not known.
    """
    found, unknown = [], Unknown()
    for line in text.splitlines():
        match = _ROW.fullmatch(line.rstrip())
        if not match:
            continue
        kind = _KINDS.get(match[2].upper())
        if kind is None or match[3] is None:
            unknown.add(match[2], number_of(match[3] or ""))
            continue
        found.append((parse_clock(match[1]), kind, float(match[3])))
    if not found:
        raise ScoringError(f"{path}: no event that is known stands in this list")
    times, _, lengths = zip(*found)
    onsets, findings = onsets_from_start(times, recording, path, lengths_s=lengths)
    events = [Event(kind, onset, length) for onset, (_, kind, length) in zip(onsets, found)]
    return make_scoring(
        path,
        "ucddb_respevt",
        events=events,
        events_scored=("apnea",),
        notes=unknown.notes(),
        findings=[*findings, *unknown.findings()],
    )
