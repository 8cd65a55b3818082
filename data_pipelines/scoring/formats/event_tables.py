"""Scoring in tables with a heading: a row a stage or event, with its start and duration.

BIDS events, NSRR STAGES, Polyman (HMC), MNE's annotations, Snooz and other exports differ in the
names and units of their columns alone.
"""

import dataclasses

from data_pipelines.findings import Finding
from data_pipelines.scoring.formats import headings
from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.formats.lists import code_stage
from data_pipelines.scoring.record import MAX_ROWS, Scoring, ScoringError, make_scoring
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import length_between, parse_clock
from data_pipelines.scoring.times.stage_spans import scales_of
from data_pipelines.scoring.times.time_units import (
    FACTORS,
    clock_onsets,
    unit_of_heading,
)
from data_pipelines.scoring.words.vocabulary import CODE_BOOKS, code_book_of, normalise, stage_of

Rows = list[list[str]]

# Where several columns could be the text, the earlier word is the one that names the stage.
_BIDS_ORDER = ("stage hum", "sleep stage", "stage", "trial type", "value")
# Elsewhere a row of an event may say in which stage it lies.
_TEXT_ORDER = ("event", "annotation", "description", "sleep stage", "stage", "name", "type")
_START_ORDER = ("onset", "recording onset", "start sec", "start time", "start")
_NO_TIME = ("", "n/a", "na", "none", "-")
_MISSING = (*_NO_TIME, "nan")  # of a stage; as a time it is a number that went wrong


@dataclasses.dataclass(frozen=True)
class Columns:
    """Places of the columns of a table, None for one that it has not."""

    start: int
    length: int | None
    end: int | None
    text: int


def columns_of(heading: list[str]) -> Columns | None:
    """Return the columns that a heading names, None if a start, an extent or a text is missing."""
    names = [normalise(name) for name in heading]
    bare = [headings.bare(name) for name in names]

    def place(known, order=()):
        found = [at for at in range(len(names)) if bare[at] in known]
        found.sort(key=lambda at: order.index(bare[at]) if bare[at] in order else len(order))
        return found[0] if found else None

    start = place(headings.TIME, _START_ORDER)
    length, end = place(headings.LENGTH), place(headings.END)
    text = place(headings.TEXT, _BIDS_ORDER if is_bids([heading]) else _TEXT_ORDER)
    if start is None or text is None or (length is None and end is None):
        return None
    return Columns(start, length, end, text)


def is_bids(rows: Rows) -> bool:
    """Whether the first line has the columns that every BIDS events file has."""
    return bool(rows) and {"onset", "duration"} <= {name.casefold() for name in rows[0]}


def heading_at(rows: Rows) -> int | None:
    """Return which of the first rows is the heading of a table of stages or events, or None."""
    return next((at for at, row in enumerate(rows[:100]) if columns_of(row)), None)


def has_recording_onsets(rows: Rows) -> bool:
    """Whether a heading is that of Polyman: its first columns are a date and a clock."""
    at = heading_at(rows)
    return at is not None and any(normalise(name) == "recording onset" for name in rows[at])


def read_event_table(path, rows: Rows, recording=None, *, code_book: str | None = None) -> Scoring:
    """Read a table with columns of starts, durations (or ends) and stages or events.

    Starts are seconds or clock times. Stages are words; bare numbers need a code book, except in
    the column `stage_hum` of BIDS events (BOAS: codes of its own, 4 is R, 8 an artefact).

    Raises:
        ScoringError: no such columns, a row without a time, an unknown code, or times in a unit
            that cannot be told.
    """
    at = heading_at(rows)
    if at is None:
        wanted = "stage_hum, sleep_stage, stage, trial_type, value"
        raise ScoringError(f"{path}: BIDS events without a column {wanted}")
    heading, source = rows[at], "bids_events" if is_bids(rows[at : at + 1]) else "event_table"
    columns = columns_of(heading)
    needed = max(x for x in dataclasses.astuple(columns) if x is not None)
    body = list(enumerate(rows[at + 1 :], at + 2))
    if len(body) > MAX_ROWS:
        raise ScoringError(f"{path}: {len(body)} rows; expected at most {MAX_ROWS}")
    for number, row in body:
        if len(row) <= needed:
            raise ScoringError(f"{path}: line {number} has {len(row)} fields of {len(heading)}")
    texts = [row[columns.text] for _, row in body]
    book = CODE_BOOKS["boas"] if normalise(heading[columns.text]) == "stage hum" else None
    bare = [number_of(text) is not None for text in texts if text.casefold() not in _MISSING]
    if book is None and sum(bare) * 5 > len(bare):
        book = code_book_of(code_book, path)
    if columns.length is None:
        by = FACTORS.get(unit_of_heading(heading[columns.start]), 1.0)
        lengths = _lengths_to_ends(path, body, columns, by)
    else:
        by = FACTORS.get(unit_of_heading(heading[columns.length]), 1.0)
        lengths = [_length(path, number, row[columns.length], by) for number, row in body]
    onsets, notes, findings = _onsets(path, heading, body, columns, recording, lengths)
    known = [_stage(text, book) is not None for text in texts]
    by, by_length, found = scales_of(
        [a for a, is_stage in zip(onsets, known) if is_stage],
        [b for b, is_stage in zip(lengths, known) if is_stage],
        recording,
        path,
    )
    findings = [*findings, *found, *_other_columns(heading, body, columns, texts)]
    onsets = [onset * by for onset in onsets]
    lengths = [None if length is None else length * by_length for length in lengths]
    if book is None or not all(bare):
        scoring = scoring_from_annotations(
            path,
            list(zip(onsets, lengths, texts)),
            source=source,
            findings=findings,
            code_book=None if book is None else code_book,
        )
        return dataclasses.replace(scoring, notes=(*notes, *scoring.notes))
    runs = []
    for (number, _), onset, length, code in zip(body, onsets, lengths, texts):
        stage = _stage(code, book)
        if stage is None and code.casefold() not in _MISSING:
            raise ScoringError(
                f"{path}: line {number} has a stage code that is not in {book.about}"
            )
        length = book.step_s if length is None else length
        runs.append((onset, length, -1 if stage is None else stage))
    return make_scoring(
        path, source, runs=runs, events_scored=False, notes=notes, findings=findings
    )


def _other_columns(heading, body, columns, texts) -> list[Finding]:
    """Tell a second column of words for stages that differ, another scorer's perhaps."""
    stages = [stage_of(text) for text in texts]
    known = sum(stage is not None and stage >= 0 for stage in stages)
    told = []
    for at in range(len(heading)):
        if at in dataclasses.astuple(columns) or not known:
            continue
        other = [stage_of(row[at]) if len(row) > at else None for _, row in body]
        both = [(a, b) for a, b in zip(stages, other) if None not in (a, b) and min(a, b) >= 0]
        differ = sum(a != b for a, b in both)
        if differ and 2 * len(both) > known:
            note = f"a second column of stages differs from the one read in {differ} rows"
            told.append(Finding("several_scorers", "columns", note, differ))
    return told


def _stage(text: str, book) -> int | None:
    return stage_of(text) if book is None else code_stage(text, book)


def _onsets(path, heading, body, columns, recording, lengths):
    """Starts in s from the start of the recording, in the order of the rows."""
    entries = [row[columns.start] for _, row in body]
    if entries and all(parse_clock(entry) for entry in entries):
        clocks = [parse_clock(entry) for entry in entries]
        return clock_onsets(clocks, recording, path, lengths_s=lengths)
    by = FACTORS.get(unit_of_heading(heading[columns.start]), 1.0)
    onsets = []
    for (number, _), entry in zip(body, entries):
        value = number_of(entry)
        if value is None:
            raise ScoringError(f"{path}: line {number} has no number as onset or duration")
        onsets.append(value * by)
    return onsets, (), []


def _length(path, number, field: str, by: float) -> float | None:
    if field.casefold() in _NO_TIME:
        return None
    value = number_of(field)
    if value is not None:
        return value * by
    clock = parse_clock(field)
    if clock is None:
        raise ScoringError(f"{path}: line {number} has no number as onset or duration")
    return clock.second_of_day


def _lengths_to_ends(path, body, columns, by: float) -> list[float | None]:
    """Durations from starts and ends of one kind, both numbers or both clock times."""
    lengths: list[float | None] = []
    for number, row in body:
        start, end = row[columns.start], row[columns.end]
        if end.casefold() in _NO_TIME:
            lengths.append(None)
            continue
        clocks = parse_clock(start), parse_clock(end)
        values = number_of(start), number_of(end)
        if None not in clocks:
            lengths.append(length_between(*clocks))
        elif None not in values:
            lengths.append((values[1] - values[0]) * by)
        else:
            raise ScoringError(f"{path}: line {number} has no number or clock time as its end")
    return lengths
