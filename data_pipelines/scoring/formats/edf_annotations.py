"""Scoring in EDF+ annotations: beside the signals, or in a file of its own (Sleep-EDF, HMC).

Source: Kemp and Olivan 2003, European data format 'plus', sections 2.2 and 3 (time-stamped
annotation lists and standard texts).
"""

import datetime
import math
import pathlib

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.scoring.formats.stage_marks import Mark, Text, runs_of_marks, split_scorer
from data_pipelines.scoring.record import (
    Event,
    Scoring,
    ScoringError,
    check_duration,
    check_time,
    make_scoring,
)
from data_pipelines.scoring.words.unknown_words import Unknown, is_stage_name
from data_pipelines.scoring.words.vocabulary import code_book_of, event_of, stage_of
from data_pipelines.scoring.words.written_words import EDF_STAGES, edf_text, events_mark, stage_runs

_ANNOTATION_BYTES = 2000


def is_edf(head: bytes) -> bool:
    """Whether a file that starts with these 8 bytes is EDF or BDF."""
    return head[:8] in (b"0       ", b"\xffBIOSEMI")


def read_annotations(path) -> tuple[list[tuple[float, float | None, str]], list[Finding]]:
    """Return the (onset_s, duration_s or None, text) of an EDF+ or BDF+ file, by onset.

    Also returns what of its annotations could not be read.

    Raises:
        ScoringError: it is not such a file, or is damaged.
    """
    try:
        recording = EdfRecording(path)
        annotations = recording.annotations
    except RecordingError as error:
        raise ScoringError(str(error)) from None
    return annotations, [x for x in recording.findings if x.kind == "unread_annotation"]


def scoring_from_annotations(
    path, annotations, *, source: str, shift_s=0.0, findings=(), code_book: str | None = None
):
    """Return the `Scoring` that (onset_s, duration_s or None, text) rows hold.

    A stage without a duration lasts until the next stage row (`stage_marks`). Words that are not
    known are told as findings; texts that look like neither a stage nor an event are left out.
    What follows `@@` in a text is the channel that EDF+ links it to.

    Args:
        path: for messages.
        annotations: the rows, in the file's order.
        source: the format read.
        shift_s: where in the recording the rows' time 0 lies.
        findings: of the reader.
        code_book: what bare entries mean, one of `CODE_BOOKS`; without it they mean nothing.

    Raises:
        ScoringError: none of the rows is a stage or an event, a time is out of bounds, or several
            people's stages without durations cannot be told apart.
    """
    rows = [(float(onset) + shift_s, length, str(text)) for onset, length, text in annotations]
    rows.sort(key=lambda row: row[0])
    book = code_book_of(code_book, path).stages if code_book else {}
    unknown, events = Unknown(), []
    marks, others = [], []
    for onset, length, text in rows:
        text, scorer = split_scorer(text)
        stage = book.get(text.strip()) if text.strip() in book else stage_of(text)
        event = event_of(text) if stage is None else None
        if stage is not None:
            onset = check_time(onset, "a stage's onset", path)
            if length is not None:
                length = check_duration(length, "a stage's duration", path)
            marks.append(Mark(onset, length, stage, scorer))
        elif event is not None:
            events.append(Event(event[0], onset, length or 0.0, event[1]))
        elif math.isfinite(onset):
            known = length is not None and math.isfinite(length)
            others.append(Text(onset, length if known else None, text))
    people, told = runs_of_marks(path, marks, others, unknown)
    runs = [run for person in people for run in person]
    if not runs and not events:
        return _nothing_known(path, source, others, unknown, findings)
    return make_scoring(
        path,
        source,
        runs=runs,
        events=events,
        events_scored=unknown.events_scored(events),
        notes=unknown.notes(),
        findings=[*findings, *told, *unknown.findings()],
        scorers=people if len(people) > 1 else (),
    )


def _nothing_known(path, source, others, unknown, findings) -> Scoring:
    """Return a scoring without stages where there are words for them, none of which is known.

    Raises:
        ScoringError: there are none either.
    """
    found = unknown.findings()
    if any(finding.kind == "unknown_stage" for finding in found):
        findings = (*findings, *found)
        return Scoring(np.zeros(0, np.int8), [], source, False, tuple(unknown.notes()), findings)
    numbers = sum(text.text.strip().lstrip("-").isdigit() for text in others)
    raise ScoringError(
        f"{path}: no sleep stage and no event that is known was found in it (read as {source})"
        + ("; bare numbers mean nothing without a code book" if 2 * numbers > len(others) else "")
    )


def has_stages(annotations) -> bool:
    """Whether one of (onset_s, duration_s or None, text) rows is a stage, be its word not known."""
    texts = {split_scorer(text)[0] for _, _, text in annotations}
    return any(stage_of(text) is not None or is_stage_name(text) for text in texts)


def write_edf_annotations(path, scoring, *, start: datetime.datetime) -> None:
    """Write a scoring as an EDF+C file of annotations alone, named by the standard's own texts.

    The header names nobody. Successive epochs of one stage become one annotation, as Sleep-EDF
    has it; the same scoring gives the same bytes.

    Args:
        path: the file to write.
        scoring: stages and events; positions are written as `Position <value>`.
        start: start of the recording, to put into the header; a part of a second goes into the
            time of the first record.
    """
    rows = [
        (onset, length, EDF_STAGES[stage]) for onset, length, stage in stage_runs(scoring.stages)
    ]
    for event in scoring.events:
        text = edf_text(event)
        if text:
            rows.append((event.onset_s, event.duration_s, text))
    rows.sort()
    # A record says when it is from the header's start on, which is a whole second.
    first = _annotation(start.microsecond / 1e6, None, "")
    rows = [(onset + start.microsecond / 1e6, length, text) for onset, length, text in rows]
    mark = events_mark(scoring)
    lists = [first, *[_annotation(0, None, mark)] * bool(mark), *(_annotation(*x) for x in rows)]
    blocks, block = [], b""
    for item in lists:
        if len(block) + len(item) > _ANNOTATION_BYTES:
            blocks.append(block)
            block = first
        block += item
    blocks.append(block)
    header = (
        f"{'0':<8}{'X X X X':<80}{'Startdate X X X X':<80}{start:%d.%m.%y%H.%M.%S}{512:<8}"
        f"{'EDF+C':<44}{len(blocks):<8}{0:<8}{1:<4}"
        f"{'EDF Annotations':<16}{'':<80}{'':<8}{-1:<8}{1:<8}{-32768:<8}{32767:<8}{'':<80}"
        f"{_ANNOTATION_BYTES // 2:<8}{'':<32}"
    ).encode("ascii")
    body = b"".join(block.ljust(_ANNOTATION_BYTES, b"\0") for block in blocks)
    pathlib.Path(path).write_bytes(header + body)


def _annotation(onset: float, duration: float | None, text: str) -> bytes:
    length = "" if duration is None else f"\x15{_seconds(duration)}"
    sign = "-" if onset < 0 else "+"
    return f"{sign}{_seconds(abs(onset))}{length}\x14{text}\x14\0".encode()


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
