"""Scoring in tables of vendors: Noxturnal and RemLogic exports, Luna annotations."""

import re

from data_pipelines.findings import Finding
from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.record import EPOCH_S, Event, Scoring, ScoringError, make_scoring
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import (
    ClockTime,
    length_between,
    onsets_from_start,
    parse_clock,
)
from data_pipelines.scoring.words.unknown_words import Unknown, looks_like
from data_pipelines.scoring.words.vocabulary import (
    event_of,
    is_known,
    normalise,
    says_what,
    stage_of,
)

Rows = list[list[str]]


def is_noxturnal(rows: Rows) -> bool:
    """Whether one of the first rows has two clock times and a text, as Noxturnal exports."""
    return any(_is_noxturnal_row(row) for row in rows[:10])


def _is_noxturnal_row(row) -> bool:
    return len(row) >= 3 and all(parse_clock(field) for field in row[:2]) and bool(row[2])


def read_noxturnal(path, rows: Rows, recording) -> Scoring:
    """Read a Noxturnal event export: start, end, event, duration; headings in any language.

    Raises:
        ScoringError: the recording's start is not known, or the export is of another night.
    """
    first = next(index for index, row in enumerate(rows) if _is_noxturnal_row(row))
    written = sum(len(row) >= 3 and bool(row[2]) for row in rows[first:])
    rows = [row for row in rows[first:] if _is_noxturnal_row(row)]
    starts = [parse_clock(row[0]) for row in rows]
    ends = [parse_clock(row[1]) for row in rows]
    lengths = [number_of(row[3]) if len(row) > 3 and row[3] else None for row in rows]
    lengths = [
        length_between(start, end) if length is None else length
        for start, end, length in zip(starts, ends, lengths)
    ]
    annotations = []
    onsets, findings = onsets_from_start(starts, recording, path, lengths_s=lengths, ends=ends)
    for row, onset, length in zip(rows, onsets, lengths, strict=True):
        if normalise(row[2]) == "plm":
            continue  # A series of leg movements; its movements have rows of their own.
        annotations.append((onset, length, row[2]))
    if written > len(rows):
        note = f"{written - len(rows)} rows whose start or end is no clock time: not read"
        what = "rows without clock times"
        findings.append(Finding("unread_annotation", what, note, count=written - len(rows)))
    return scoring_from_annotations(path, annotations, source="noxturnal_csv", findings=findings)


def _remlogic_columns(row) -> tuple[int, int, int] | None:
    names = [normalise(field) for field in row]
    found = []
    for choices in (("time hh mm ss", "time"), ("event",), ("duration s", "duration")):
        places = [names.index(choice) for choice in choices if choice in names]
        if not places:
            places = [i for i, name in enumerate(names) if name.startswith(f"{choices[0]} ")]
        if not places:
            return None
        found.append(places[0])
    return tuple(found)


def is_remlogic(rows: Rows) -> bool:
    """Whether a heading with the columns time, event and duration stands in the first rows.

    RemLogic writes lines about the export above it, or names the form of its times.
    """
    at = next((at for at, row in enumerate(rows[:100]) if _remlogic_columns(row)), None)
    if at is None:
        return False
    return at > 0 or any(normalise(name).startswith("time hh") for name in rows[at])


def read_remlogic(path, rows: Rows, recording) -> Scoring:
    """Read the text that RemLogic (Embla) exports: free lines, a heading, then one event a line.

    Raises:
        ScoringError: the recording's start is not known, or a row has no clock time.
    """
    first = next(index for index, row in enumerate(rows) if _remlogic_columns(row))
    time_at, event_at, length_at = _remlogic_columns(rows[first])
    times: list[ClockTime] = []
    found = []
    for number, row in enumerate(rows[first + 1 :], first + 2):
        if len(row) <= max(time_at, event_at):
            continue
        time = parse_clock(row[time_at])
        if time is None:
            raise ScoringError(f"{path}: row {number} has no clock time in the column of times")
        length = number_of(row[length_at]) if len(row) > length_at else None
        times.append(time)
        found.append((length, row[event_at]))
    if not times:
        raise ScoringError(f"{path}: no event stands under its heading")
    lengths = [length for length, _ in found]
    onsets, findings = onsets_from_start(times, recording, path, lengths_s=lengths)
    annotations = [(onset, length, text) for onset, (length, text) in zip(onsets, found)]
    return scoring_from_annotations(path, annotations, source="remlogic_text", findings=findings)


_LUNA_STAGES = {"l": -1, "m": -1, "u": -1, "?": -1, "": -1, "lights": -1, "gap": -1}
_LUNA_STAGE_CLASSES = {"sleepstage", "sleep stage", "stage", "stages"}


def luna_stage(text: str) -> int | None:
    """Return the stage of a Luna label, with its own M, L, U and `-` for no stage."""
    stage = stage_of(text)
    return _LUNA_STAGES.get(normalise(text)) if stage is None else stage


def read_luna_annot(path, text: str, recording) -> Scoring:
    """Read Luna's `.annot`: class, instance, channel, start, stop, meta, separated by tabs.

    Times are seconds, elapsed (`0+00:10:00`), epochs (`e:12`), clock times or dated clock times;
    a stop may be a duration (`+30`) or `...` for until the next row of another time.

    Raises:
        ScoringError: a row with too few fields or a time that is none of these.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        fields = [field.strip() for field in fields]
        if fields[0].casefold() == "class":
            continue
        if len(fields) < 4:
            raise ScoringError(f"{path}: line {number} has {len(fields)} fields; expected 4 to 6")
        start, stop = fields[2:4] if len(fields) == 4 else fields[3:5]
        rows.append((number, fields[0], fields[1], start, stop))
    clocks = [(_luna_clock(row[3]), _luna_clock(row[4])) for row in rows]
    lengths = [length_between(*clock) if all(clock) else None for clock in clocks]
    placed, findings = iter(()), []
    if any(start for start, _ in clocks):
        times, ends, lasting = zip(*((*x, long) for x, long in zip(clocks, lengths) if x[0]))
        onsets, findings = onsets_from_start(times, recording, path, lengths_s=lasting, ends=ends)
        placed = iter(onsets)
    spans = []
    for (number, _, _, start, stop), (clock, _), length in zip(rows, clocks, lengths):
        onset = next(placed) if clock else _luna_time(start, path, number)
        if length is not None:
            pass
        elif stop in ("...", "."):
            length = None if stop == "..." else 0.0
        elif stop.startswith("+"):
            length = _luna_time(stop[1:], path, number)
        else:
            length = _luna_time(stop, path, number, ends=True) - onset
        spans.append((onset, length))
    runs, events, unknown = [], [], Unknown()
    nexts: list[float | None] = [None] * len(spans)
    for at in range(len(spans) - 2, -1, -1):
        # Rows of one time are several people's, or a stage and an event.
        nexts[at] = nexts[at + 1] if spans[at][0] == spans[at + 1][0] else spans[at + 1][0]
    for (_, label, instance, _, _), (onset, length), later in zip(rows, spans, nexts):
        if length is None:
            length = float(EPOCH_S) if later is None else later - onset
        named = instance if normalise(label) in _LUNA_STAGE_CLASSES else label
        stage = luna_stage(named)
        event = event_of(f"{label} {instance}") or event_of(label)
        if stage is not None:
            runs.append((onset, length, stage))
        elif event:
            events.append(Event(event[0], onset, length, event[1]))
        elif normalise(label) in _LUNA_STAGE_CLASSES or looks_like(named) == "stage":
            unknown.stage(named, length)
            runs.append((onset, length, -1))
        else:
            known = is_known(label) and says_what(label)
            unknown.add(label if known else f"{label} {instance}".strip(" ."), length)
    return make_scoring(
        path,
        "luna_annot",
        runs=runs,
        events=events,
        events_scored=unknown.events_scored(events),
        notes=unknown.notes(),
        findings=[*findings, *unknown.findings()],
    )


def _luna_clock(text: str) -> ClockTime | None:
    return parse_clock(text.removeprefix("+")) if ":" in text and "0+" not in text else None


def _luna_time(text: str, path, number: int, *, ends: bool = False) -> float:
    """Return a time in s; an epoch `e:1` starts at 0 s and ends at 30 s."""
    value = number_of(text)
    if value is not None:
        return value
    epoch = re.fullmatch(r"e:(\d{1,7})", text)
    if epoch:
        return (int(epoch[1]) - (0 if ends else 1)) * float(EPOCH_S)
    elapsed = re.fullmatch(r"0\+(\d{1,3}):(\d{2})(?::(\d{2}(?:\.\d{1,9})?))?", text)
    if elapsed:
        hours, minutes, seconds = elapsed.groups()
        return int(hours) * 3600.0 + int(minutes) * 60 + float(seconds or 0)
    raise ScoringError(f"{path}: line {number} has a time that is not seconds, clock or epoch")
