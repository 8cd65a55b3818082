"""Plain lists of stages: one entry per step, or rows with a time or an epoch number."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.scoring.formats import headings
from data_pipelines.scoring.formats.tables import luna_stage
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError, make_scoring
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import parse_clock
from data_pipelines.scoring.times.time_units import axis_of, check_count
from data_pipelines.scoring.words.unknown_words import Unknown
from data_pipelines.scoring.words.vocabulary import (
    CODE_BOOKS,
    CodeBook,
    code_book_of,
    normalise,
    stage_of,
)

_SCORER = re.compile(r"\b(scorer|rater|expert|reader|annotator|technician|auswerter|scoreur)")
_WRAPPED = 8
"""From so many entries a line on, lines are a list that was wrapped, not columns."""


_NAMES = {name.casefold(): stage for name, stage in CODE_BOOKS["names"].stages.items()}


def _word_stage(entry: str) -> int | None:
    """Return the stage that a word names; bare numbers name none."""
    if number_of(entry) is not None:
        return None
    stage = stage_of(entry)
    return _NAMES.get(entry.casefold()) if stage is None else stage


def stage_of_entry(entry: str, book: CodeBook, path, place: str) -> int:
    """Return the stage code of one entry; `2.0` is `2`, and a stage's name is itself.

    Raises:
        ScoringError: the entry is not in the code book.
    """
    stage = code_stage(entry, book)
    if stage is None:
        known = " ".join(sorted(book.stages))
        raise ScoringError(f"{path}: {place} is not in its code book ({book.about}: {known})")
    return stage


def code_stage(entry: str, book: CodeBook) -> int | None:
    """Return the stage of an entry as :func:`stage_of_entry` does, None if it has none."""
    stage = book.stages.get(entry)
    if stage is None:
        value = number_of(entry)
        if value is None:
            return _word_stage(entry)
        if value == value and abs(value) < 1e6 and value == int(value):
            stage = book.stages.get(str(int(value)))
    return stage


def book_of_entries(entries: Sequence[str], name: str | None, path) -> CodeBook:
    """Return the code book called `name`; without one, that of names where the entries are names.

    Raises:
        ScoringError: there is no such book, or bare numbers and no name.
    """
    if name is None and _are_names(entries):
        return CODE_BOOKS["names"]
    return code_book_of(name, path)


def _are_names(entries: Sequence[str]) -> bool:
    """Whether entries are names of stages; a few may be words that are not known."""
    known = sum(_word_stage(entry) is not None for entry in entries)
    return 2 * known > len(entries) and all(number_of(entry) is None for entry in entries)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """A list as it stands: the heading's fields or None, and (line number, fields) of every row."""

    heading: list[str] | None
    rows: list[tuple[int, list[str]]]

    @property
    def width(self) -> int | None:
        """Fields of a row, None if rows differ."""
        widths = {len(fields) for _, fields in self.rows}
        return widths.pop() if len(widths) == 1 else None


def _fields(line: str) -> list[str]:
    """Split a line at tabs or semicolons, else commas, else blanks; names of stages stay whole."""
    for mark in ("\t", ";", ","):
        if mark in line:
            found = [field.strip().strip("\"'").strip() for field in line.split(mark)]
            return found[:-1] if len(found) > 1 and not found[-1] else found
    line = line.strip("\"'")
    if _word_stage(line) is not None:
        return [line]
    head, _, rest = line.partition(" ")
    if rest and _word_stage(rest) is not None and (number_of(head) is not None or _clock(head)):
        return [head, rest.strip()]
    return line.split()


def _clock(field: str) -> bool:
    return parse_clock(field) is not None


def _parse(text: str, book: CodeBook | None) -> _Rows:
    heading, rows = None, []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#[":
            continue
        fields = _fields(line)
        known = book.stages if book else {}
        if not rows and not any(
            field in known or number_of(field) is not None or _entry_word(field) for field in fields
        ):
            heading = fields
            continue
        rows.append((number, fields))
    return _Rows(heading, rows)


def _entry_word(field: str) -> bool:
    # A heading `R` or `N1` is none; `Stage` or `Time` names no stage.
    return _word_stage(field) is not None or _clock(field)


def looks_like_list(text: str, code_book: str | None, path) -> str | None:
    """Return why a text is no list of stages that can be read now, None if it is one.

    Args:
        text: The file's beginning; its last line may be cut.
        code_book: The name of the book of bare numbers, or None.
        path: For messages.

    Raises:
        ScoringError: There is no code book of that name.
    """
    book = code_book_of(code_book, path) if code_book is not None else None
    parsed = _parse(text, book)
    rows = parsed.rows
    entries = [field for _, fields in rows for field in fields]
    if not entries:
        return "it is empty"
    numbers = [entry for entry in entries if number_of(entry) is not None]
    words = [entry for entry in entries if _word_stage(entry) is not None]
    clocks = [entry for entry in entries if _clock(entry)]
    if len(numbers) + len(words) + len(clocks) < 0.8 * len(entries):
        return "it is no list of stages"
    if len(words) * 3 >= len(entries):
        return None
    if book:
        width = min(len(fields) for _, fields in rows)
        shares = [
            sum(code_stage(fields[place], book) is not None for _, fields in rows) / len(rows)
            for place in range(width)
        ]
        return None if max(shares) > 0.8 else "it is no list of stages of this code book"
    if len({len(fields) for _, fields in rows}) > 1 or len(rows[0][1]) > 3:
        return "it is no list of stages"
    codes = {number_of(fields[-1]) for _, fields in rows}
    if len(codes) > 12 or None in codes or not all(-10 <= code <= 10 for code in codes):
        return "it is no list of stages"
    choices = ", ".join(CODE_BOOKS)
    return f"its stages are bare numbers: --code_book=NAME says what they mean ({choices})"


def read_list(path, text: str, *, code_book: str | None, recording=None) -> Scoring:
    """Read a plain list of stages, by names or with a named code book.

    One entry per line (or several, separated by blanks or commas) is one per step of the book. In
    rows of several fields the heading says which are times and stages; without one, a first field
    that grows is a time: seconds, clock times, or what else its steps and the recording's length
    say without doubt. Lines that start with `#` or `[` and first lines of other words are headings.

    Raises:
        ScoringError: bare numbers and no code book, an entry that is not in it, or a column that
            is neither times nor epoch numbers.
    """
    book = code_book_of(code_book, path) if code_book is not None else None
    parsed = _parse(text, book)
    time_at, stage_at = _columns(parsed, book, path)
    if len(stage_at) > 1:
        return _people(path, parsed, time_at, stage_at, code_book, recording)
    if not stage_at:
        entries = [(field, f"line {number}") for number, fields in parsed.rows for field in fields]
    else:
        entries = [(fields[stage_at[0]], f"line {number}") for number, fields in parsed.rows]
    book = book_of_entries([entry for entry, _ in entries], code_book, path)
    unknown = Unknown()
    if _are_names([entry for entry, _ in entries]):
        for entry, _ in entries:
            if code_stage(entry, book) is None:
                unknown.stage(entry, book.step_s)
        entries = [(x if code_stage(x, book) is not None else "?", place) for x, place in entries]
    stages = [stage_of_entry(entry, book, path, place) for entry, place in entries]
    if time_at is None:
        duration_s = getattr(recording, "duration_s", None)
        check_count(len(stages), book.step_s, duration_s, path)
        return make_scoring(
            path,
            "list",
            runs=runs_of(stages, book.step_s),
            events_scored=False,
            findings=unknown.findings(),
        )
    axis = axis_of(
        [fields[time_at] for _, fields in parsed.rows],
        step_s=book.step_s,
        heading=parsed.heading[time_at] if parsed.heading else None,
        repeats=any(a == b for a, b in zip(stages, stages[1:])),
        recording=recording,
        path=path,
    )
    return make_scoring(
        path,
        "list",
        runs=list(zip(axis.onsets, axis.lengths, stages)),
        events_scored=False,
        notes=axis.notes,
        findings=[*axis.findings, *unknown.findings()],
    )


def _people(path, parsed, time_at, stage_at, code_book, recording) -> Scoring:
    """Read a list with a column for each of several scorers."""
    entries = [fields[place] for _, fields in parsed.rows for place in stage_at]
    book = book_of_entries(entries, code_book, path)
    rows = [
        [
            stage_of_entry(fields[place], book, path, f"line {number}")
            for number, fields in parsed.rows
        ]
        for place in stage_at
    ]
    times = [str(index) for index in range(len(parsed.rows))]
    heading = "epoch"
    if time_at is not None:
        times = [fields[time_at] for _, fields in parsed.rows]
        heading = parsed.heading[time_at]
    axis = axis_of(
        times, step_s=book.step_s, heading=heading, repeats=True, recording=recording, path=path
    )
    people = [list(zip(axis.onsets, axis.lengths, stages)) for stages in rows]
    return make_scoring(
        path,
        "list",
        runs=[run for person in people for run in person],
        events_scored=False,
        notes=axis.notes,
        findings=axis.findings,
        scorers=people,
    )


def _columns(parsed: _Rows, book: CodeBook | None, path) -> tuple[int | None, list[int]]:
    """Return the places of the times (None: none) and of the stages; no place for a plain list."""
    width, rows, heading = parsed.width, parsed.rows, parsed.heading
    if width is None or width == 1 or not rows:
        return None, []
    if heading and len(heading) == width:
        names = [normalise(name) for name in heading]
        stage_at = [i for i, name in enumerate(names) if name in headings.STAGE]
        stage_at = stage_at or [i for i, name in enumerate(names) if _names_stage(name)]
        time_at = [i for i, name in enumerate(names) if _names_time(name)]
        time_at = time_at or [i for i, name in enumerate(names) if name in headings.EPOCH]
        time_at = time_at or [i for i, name in enumerate(names[:1]) if name in headings.INDEX]
        first = [fields[0] for _, fields in rows]
        if not time_at and 0 not in stage_at and len(rows) > 1 and _grows(first):
            time_at = [0]  # a heading of another word does not make it less a time
        stage_at = [i for i in stage_at if i not in time_at[:1]]
        people = [i for i, name in enumerate(names) if _SCORER.search(name)]
        if len(people) > 1 and not set(stage_at) - set(people):
            return (time_at[0] if time_at else None), people
        if len(stage_at) == 1:
            return (time_at[0] if time_at else None), stage_at
        if len(stage_at) > 1:
            raise ScoringError(f"{path}: several of its columns could be stages; keep one of them")
    columns = [[fields[place] for _, fields in rows] for place in range(width)]
    growing = [_grows(column) for column in columns]
    stages = [not grows and _are_stages(column, book) for column, grows in zip(columns, growing)]
    if width >= _WRAPPED or (len(rows) == 1 and not (width == 2 and growing[0])):
        return None, []
    # A few codes may grow as well: W, N1, N2, R.
    lasting = len(rows) == 1 or not growing[1] or _are_stages(columns[1], book)
    if width == 2 and growing[0] and lasting:
        return 0, [1]
    found = [place for place, stage in enumerate(stages) if stage]
    if growing[0] and len(found) == 1:
        return 0, found
    if width == 2 and growing[1] and found == [0] and number_of(columns[1][0]) == 0:
        return 1, [0]
    if len(found) > 1:
        raise ScoringError(
            f"{path}: {len(found)} of its columns are stages, of several scorers perhaps; keep one"
            " of them, or name them scorer1, scorer2 in a heading"
        )
    raise ScoringError(
        f"{path}: has {width} columns, and neither a heading nor a first column of growing times "
        "says which of them are the stages; expected one column, or times and stages"
    )


def _names_stage(name: str) -> bool:
    words = name.split()
    return "stage" in words or "hypnogram" in words or name.startswith("sleep stage")


def _names_time(name: str) -> bool:
    return headings.bare(name) in headings.TIME


def _grows(column: Sequence[str]) -> bool:
    if all(map(_clock, column)):
        return True
    numbers = [number_of(field) for field in column]
    return None not in numbers and all(a < b for a, b in zip(numbers, numbers[1:]))


def _are_stages(column: Sequence[str], book: CodeBook | None) -> bool:
    if book is None or _are_names(column):
        return _are_names(column)
    return all(code_stage(field, book) is not None for field in column)


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
        ScoringError: half of the lines or more are no names of stages.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and all(number_of(line) is not None for line in lines):
        return read_list(path, text, code_book=code_book)
    stages, unknown = [luna_stage(line) for line in lines], Unknown()
    if 2 * stages.count(None) >= len(stages) > 0:
        raise ScoringError(f"{path}: line {stages.index(None) + 1} is not the name of a stage")
    for line, stage in zip(lines, stages):
        if stage is None:
            unknown.stage(line, float(EPOCH_S))
    return make_scoring(
        path,
        "luna_eannot",
        runs=runs_of([-1 if stage is None else stage for stage in stages], float(EPOCH_S)),
        events_scored=False,
        findings=unknown.findings(),
    )
