"""Scoring in EDF+ annotations: beside the signals, or in a file of its own (Sleep-EDF, HMC).

Source: Kemp and Olivan 2003, European data format 'plus', sections 2.2 and 3 (time-stamped
annotation lists and standard texts).
"""

import dataclasses
import datetime
import pathlib
import re

import numpy as np

from data_pipelines.scoring.clock import header_start
from data_pipelines.scoring.record import EPOCH_S, Event, ScoringError, make_scoring
from data_pipelines.scoring.vocabulary import event_of, stage_of

MAX_SIGNALS = 4096
MAX_ANNOTATIONS = 1_000_000
MAX_RECORDS = 2_000_000
MAX_BYTES = 256 * 2**20
_ONSET = re.compile(rb"[+-]\d{1,12}(\.\d{0,12})?")
_DURATION = re.compile(rb"\d{1,12}(\.\d{0,12})?")
_STAGE_NAMES = ("W", "N1", "N2", "N3", "R")
_EVENT_TEXTS = {
    "apnea_obstructive": "Obstructive apnea",
    "apnea_central": "Central apnea",
    "apnea_mixed": "Mixed apnea",
    "hypopnea": "Hypopnea",
    "desaturation": "Oxygen desaturation",
    "arousal": "EEG arousal",
    "rera": "RERA",
    "leg_movement": "Limb movement",
    "lights_off": "Lights off",
    "lights_on": "Lights on",
}
_ANNOTATION_BYTES = 2000


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """The annotations of an EDF+ or BDF+ file and what is needed to place them in time.

    Attributes:
        start: date and time of the header; None where they do not parse. For comparison only.
        signals: number of channels that are not annotations.
        annotations: (onset_s, duration_s or None, text) in file order, time keeping left out.
    """

    start: datetime.datetime | None
    signals: int
    annotations: list[tuple[float, float | None, str]]


def _integer(raw: bytes, what: str, path, low: int, high: int) -> int:
    text = raw.decode("latin-1").strip(" \0")
    if not re.fullmatch(r"-?\d{1,12}", text):
        # The text itself stays out of the message: a shifted header puts a name here.
        raise ScoringError(f"{path}: the EDF header has no whole number as {what}")
    if not low <= int(text) <= high:
        raise ScoringError(
            f"{path}: the EDF header gives {int(text)} as {what}; expected {low} to {high}"
        )
    return int(text)


def is_edf(head: bytes) -> bool:
    """Whether a file that starts with these 8 bytes is EDF or BDF."""
    return head[:8] in (b"0       ", b"\xffBIOSEMI")


def read_annotation_file(path) -> AnnotationFile:
    """Read the annotations of an EDF+ or BDF+ file; signals are passed over, not loaded.

    Raises:
        ScoringError: the header or a list of annotations is malformed.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(256)
        if len(header) < 256 or not is_edf(header):
            raise ScoringError(f"{path}: not an EDF or BDF file")
        width = 3 if header[:1] == b"\xff" else 2
        count = _integer(header[252:256], "the number of signals", path, 1, MAX_SIGNALS)
        table = file.read(256 * count)
        if len(table) < 256 * count:
            raise ScoringError(f"{path}: the file ends within its header of {count} signals")
        labels = [table[16 * i : 16 * i + 16].decode("latin-1").strip() for i in range(count)]
        lengths = []
        for i in range(count):
            raw = table[216 * count + 8 * i : 216 * count + 8 * i + 8]
            lengths.append(
                width * _integer(raw, "the samples of a signal per record", path, 0, 10**8)
            )
        bounds = np.cumsum([0, *lengths])
        data_start, record = 256 * (count + 1), int(bounds[-1])
        wanted = [
            i for i, label in enumerate(labels) if label in ("EDF Annotations", "BDF Annotations")
        ]
        annotations: list[tuple[float, float | None, str]] = []
        if wanted and record:
            records = max(size - data_start, 0) // record
            if len(wanted) == count and (size - data_start) % record:
                records += 1  # A file of annotations alone is read to its last byte.
            if records > MAX_RECORDS or records * sum(lengths[i] for i in wanted) > MAX_BYTES:
                raise ScoringError(f"{path}: {records} records, or their annotations, are too many")
            for index in range(records):
                for position, i in enumerate(wanted):
                    file.seek(data_start + index * record + int(bounds[i]))
                    block = file.read(lengths[i])
                    annotations += _annotations_of(block, path, keeps_time=position == 0)
                    if len(annotations) > MAX_ANNOTATIONS:
                        raise ScoringError(f"{path}: more than {MAX_ANNOTATIONS} annotations")
    return AnnotationFile(header_start(header), count - len(wanted), annotations)


def _annotations_of(block: bytes, path, *, keeps_time: bool):
    """Yield the annotations of one record; the first list of the first channel keeps time."""
    for order, item in enumerate(block.split(b"\x14\x00")):
        stamp, *texts = item.lstrip(b"\0").split(b"\x14")
        if not stamp:
            continue
        onset, _, duration = stamp.partition(b"\x15")
        if not _ONSET.fullmatch(onset) or not (duration == b"" or _DURATION.fullmatch(duration)):
            raise ScoringError(f"{path}: an EDF+ annotation has a malformed onset or duration")
        for text in texts:
            if text and not (keeps_time and order == 0 and not text.strip()):
                try:
                    words = text.decode("utf-8")
                except UnicodeDecodeError:
                    words = text.decode("latin-1")
                yield float(onset), float(duration) if duration else None, words


def scoring_from_annotations(path, annotations, *, source: str, shift_s: float = 0.0):
    """Return the `Scoring` that (onset_s, duration_s or None, text) rows hold.

    A stage without a duration lasts until the next stage row, at most one epoch if it is the last
    one. Rows that name neither a stage nor an event are left out.

    Raises:
        ScoringError: none of the rows is a stage or an event, or a time is out of bounds.
    """
    rows = [(float(onset) + shift_s, length, str(text)) for onset, length, text in annotations]
    rows.sort(key=lambda row: row[0])
    stage_rows, events, dropped = [], [], 0
    for onset, length, text in rows:
        stage = stage_of(text)
        if stage is not None:
            stage_rows.append((onset, length, stage))
            continue
        event = event_of(text)
        if event is None:
            dropped += 1
            continue
        events.append(Event(event[0], onset, length or 0.0, event[1]))
    runs = []
    for index, (onset, length, stage) in enumerate(stage_rows):
        if not length:
            after = stage_rows[index + 1][0] if index + 1 < len(stage_rows) else onset + EPOCH_S
            length = after - onset
        runs.append((onset, length, stage))
    notes = [f"{dropped} annotations that are neither a stage nor an event left out"]
    return make_scoring(
        path,
        source,
        runs=runs,
        events=events,
        events_scored=bool(events),
        notes=notes if dropped else [],
    )


def write_edf_annotations(path, scoring, *, start: datetime.datetime) -> None:
    """Write a scoring as an EDF+C file of annotations alone, named by the standard's own texts.

    The header names nobody. Successive epochs of one stage become one annotation, as Sleep-EDF
    has it; the same scoring gives the same bytes.

    Args:
        path: the file to write.
        scoring: stages and events; positions are written as `Position <value>`.
        start: start of the recording, to put into the header.
    """
    rows = []
    edges = np.flatnonzero(np.diff(scoring.stages)) + 1
    starts = [0, *edges.tolist()] if len(scoring.stages) else []
    for first, stop in zip(starts, [*starts[1:], len(scoring.stages)], strict=True):
        stage = int(scoring.stages[first])
        text = f"Sleep stage {_STAGE_NAMES[stage] if stage >= 0 else '?'}"
        rows.append((first * EPOCH_S, (stop - first) * EPOCH_S, text))
    for event in scoring.events:
        text = _EVENT_TEXTS.get(event.kind, f"Position {event.value}")
        rows.append((event.onset_s, event.duration_s, text))
    rows.sort()
    lists = [_annotation(0, None, "")]
    lists += [_annotation(*row) for row in rows]
    blocks, block = [], b""
    for item in lists:
        if len(block) + len(item) > _ANNOTATION_BYTES:
            blocks.append(block)
            block = _annotation(0, None, "")
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
