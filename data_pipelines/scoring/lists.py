"""Plain lists of stages: one entry per step, or run-length rows."""

import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError, make_scoring
from data_pipelines.scoring.tables import luna_stage
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.vocabulary import CodeBook, code_book_of


def stage_of_entry(entry: str, book: CodeBook, path, place: str) -> int:
    """Return the stage code of one entry; `2.0` is `2`.

    Raises:
        ScoringError: the entry is not in the code book.
    """
    stage = book.stages.get(entry)
    if stage is None:
        value = number_of(entry)
        if value is not None and value == value and abs(value) < 1e6 and value == int(value):
            stage = book.stages.get(str(int(value)))
    if stage is None:
        known = " ".join(sorted(book.stages))
        raise ScoringError(f"{path}: {place} is not in its code book ({book.about}: {known})")
    return stage


def read_list(path, text: str, *, code_book: str | None) -> Scoring:
    """Read a plain list of stages with a named code book.

    One entry per line (or several, separated by blanks or commas) is one per step of the book. Rows
    of two fields, the first growing, are (onset in s, stage), each until the next. Lines that start
    with `#` or `[` and a first line of words are headings.

    Raises:
        ScoringError: no code book was named, or an entry is not in it.
    """
    book = code_book_of(code_book, path)
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#[":
            continue
        fields = [field for field in re.split(r"[\s,;]+", line) if field]
        if not rows and fields and not any(map(_is_entry, fields, [book] * len(fields))):
            continue
        rows.append((number, fields))
    timed = len(rows) > 0 and all(len(fields) == 2 for _, fields in rows)
    if timed:
        onsets = [number_of(fields[0]) for _, fields in rows]
        timed = None not in onsets and all(a < b for a, b in zip(onsets, onsets[1:]))
    if timed:
        ends = [*onsets[1:], onsets[-1] + book.step_s]
        runs = [
            (onset, end - onset, stage_of_entry(fields[1], book, path, f"line {number}"))
            for (number, fields), onset, end in zip(rows, onsets, ends)
        ]
    else:
        entries = [(entry, f"line {number}") for number, fields in rows for entry in fields]
        stages = [stage_of_entry(entry, book, path, place) for entry, place in entries]
        runs = runs_of(stages, book.step_s)
    return make_scoring(path, "list", runs=runs, events_scored=False)


def _is_entry(field: str, book: CodeBook) -> bool:
    return field in book.stages or number_of(field) is not None


def runs_of(stages: Sequence[int], step_s: float) -> list[tuple[float, float, int]]:
    """Return (onset_s, duration_s, stage) for every stretch of one stage."""
    stages = np.asarray(stages, np.int64)
    if not len(stages):
        return []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(stages)) + 1])
    stops = np.append(starts[1:], len(stages))
    return [
        (float(start * step_s), float((stop - start) * step_s), int(stages[start]))
        for start, stop in zip(starts, stops)
    ]


def read_eannot(path, text: str, *, code_book: str | None) -> Scoring:
    """Read Luna's `.eannot`: one stage name per 30-s epoch; bare numbers need a code book.

    Raises:
        ScoringError: a line is no stage name.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and all(number_of(line) is not None for line in lines):
        return read_list(path, text, code_book=code_book)
    stages = [luna_stage(line) for line in lines]
    if None in stages:
        raise ScoringError(f"{path}: line {stages.index(None) + 1} is not the name of a stage")
    return make_scoring(
        path, "luna_eannot", runs=runs_of(stages, float(EPOCH_S)), events_scored=False
    )
