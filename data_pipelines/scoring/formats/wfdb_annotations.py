"""Scoring in WFDB annotation files: slpdb's `.st`, and hypnograms as `.hyp`.

The format is PhysioNet's MIT format (WFDB Programmer's Guide, annot(5)): 16-bit words whose upper 6
bits are a code and whose lower 10 bits a time difference or a length.
"""

import pathlib
import re
import struct

from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.record import EPOCH_S, Event, Scoring, ScoringError, make_scoring
from data_pipelines.scoring.text import read_bytes
from data_pipelines.scoring.words.unknown_words import Unknown

_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63
_NOTE = 22
MAX_ANNOTATIONS = 1_000_000

_SLPDB_STAGES = {"W": 0, "1": 1, "2": 2, "3": 3, "4": 3, "R": 4, "M": -1, "MT": -1}
_AROUSAL = ("arousal", "")
_SLPDB_EVENTS = {
    "H": [("hypopnea", "")],
    "HA": [("hypopnea", ""), _AROUSAL],
    "OA": [("apnea_obstructive", "")],
    "X": [("apnea_obstructive", ""), _AROUSAL],
    "CA": [("apnea_central", "")],
    "CAA": [("apnea_central", ""), _AROUSAL],
    "L": [("leg_movement", "")],
    "LL": [("leg_movement", "")],
    "LLL": [("leg_movement", "")],
    "LLLL": [("leg_movement", "")],
    "LA": [("leg_movement", ""), _AROUSAL],
    "A": [_AROUSAL],
}
_RESPIRATORY = {"H", "HA", "OA", "X", "CA", "CAA"}


def read_wfdb(path) -> Scoring:
    """Read a WFDB annotation file of stages.

    In slpdb every annotation stands for the 30 s that follow; its first token is the stage, the
    rest are events somewhere in that epoch, which come out as events of 30 s with the value
    `epoch`. What precedes the first annotation is unscored. A file without a single respiratory
    token was not scored for events (slp41, slp45).

    Raises:
        ScoringError: malformed, without a known rate, or without stages.
    """
    path = pathlib.Path(path)
    resolution, notes = _annotations(path, read_bytes(path))
    rate_hz = resolution or _header_rate(path)
    rows = [(sample / rate_hz, text) for sample, text in notes]
    lasting = [re.fullmatch(r"(.+?)[_ ]duration: (\d{1,9}(?:\.\d+)?)", text) for _, text in rows]
    if any(lasting):
        annotations = [
            (onset, float(match[2]), match[1].replace("_", " "))
            for (onset, _), match in zip(rows, lasting)
            if match
        ]
        return scoring_from_annotations(path, annotations, source="wfdb_hyp")
    return _slpdb(path, rows)


def _slpdb(path, rows) -> Scoring:
    runs, events, unknown, respiratory = [], [], Unknown(), False
    for onset, text in rows:
        nearest = round(onset / EPOCH_S) * float(EPOCH_S)
        if abs(onset - nearest) < 0.1:  # The first annotation is at sample 1.
            onset = nearest
        for place, token in enumerate(text.split()):
            if place == 0 and token in _SLPDB_STAGES:
                runs.append((onset, float(EPOCH_S), _SLPDB_STAGES[token]))
            elif token in _SLPDB_EVENTS:
                respiratory |= token in _RESPIRATORY
                events += [Event(kind, onset, EPOCH_S, "epoch") for kind, _ in _SLPDB_EVENTS[token]]
            elif place == 0:
                unknown.stage(token, float(EPOCH_S))
                runs.append((onset, float(EPOCH_S), -1))
            elif token not in ("MT", "M"):
                unknown.event(token)
    return make_scoring(
        path,
        "wfdb_st",
        runs=runs,
        events=events,
        events_scored=respiratory and unknown.events_scored(events),
        findings=unknown.findings(),
    )


def _header_rate(path) -> float:
    """Return the sampling rate in the record's header, which counts the annotations' times."""
    header = path.with_suffix(".hea")
    if not header.is_file():
        raise ScoringError(
            f"{path}: its times count samples; {header.name} with the rate is missing"
        )
    lines = [
        line
        for line in read_bytes(header)[: 2**16].decode("latin-1").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    fields = lines[0].split() if lines else []
    match = re.match(r"\d{1,7}(\.\d{1,9})?", fields[2]) if len(fields) > 2 else None
    if not match or not 0 < float(match[0]) <= 1e6:
        raise ScoringError(f"{header}: no sampling rate in its first line")
    return float(match[0])


def _annotations(path, data: bytes) -> tuple[float | None, list[tuple[int, str]]]:
    """Return the time resolution in Hz, if the file says it, and (sample, text) of every note."""
    time, at, resolution = 0, 0, None
    notes: list[tuple[int, str]] = []
    code = None
    while at + 2 <= len(data):
        (word,) = struct.unpack_from("<H", data, at)
        kind, value = word >> 10, word & 0x3FF
        at += 2
        if kind == 0 and value == 0:
            break
        if kind == _SKIP:
            if at + 4 > len(data):
                raise ScoringError(f"{path}: ends within an annotation")
            high, low = struct.unpack_from("<hH", data, at)
            time, at = time + high * 65536 + low, at + 4
        elif kind == _AUX:
            text = data[at : at + value]
            if len(text) < value:
                raise ScoringError(f"{path}: ends within an annotation")
            at += value + value % 2
            text = text.split(b"\0")[0].decode("latin-1").strip()
            match = re.match(r"## time resolution: (\d{1,7}(?:\.\d{1,9})?)", text)
            if match and float(match[1]) > 0:
                resolution = float(match[1])
            elif text and not text.startswith("##") and code == _NOTE:
                notes.append((time, text))
        elif kind not in (_NUM, _SUB, _CHN):
            time, code = time + value, kind
        if abs(time) > 2**50 or len(notes) > MAX_ANNOTATIONS:
            raise ScoringError(f"{path}: not a WFDB annotation file")
    return resolution, notes
