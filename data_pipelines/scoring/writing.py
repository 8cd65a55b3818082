"""A scoring written for other programs: BIDS events, Luna, NSRR's XML, EDF+, YASA's CSV.

What is written is read back before it takes its place, and compared: what a form cannot hold is
returned in words, so nothing is left out in silence. The same scoring gives the same bytes; no
date, no name and no text of the source is written.
"""

import collections
import dataclasses
import datetime
import pathlib
import tempfile
from collections.abc import Callable
from xml.sax.saxutils import escape

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.scoring.files import read_scoring
from data_pipelines.scoring.formats.edf_annotations import write_edf_annotations
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError
from data_pipelines.scoring.words import written_words as words

BLANK_DATE = datetime.date(1985, 1, 1)
"""The date that anonymised EDF files carry; it says nothing."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A form to write.

    Attributes:
        name: for people.
        content: (scoring, start of the recording in s of its day or None, its length in s or None)
            -> the file's bytes.
    """

    name: str
    content: Callable[[Scoring, float | None, float | None], bytes]


def form_of(path) -> Form:
    """Return the form that a file's suffix names.

    Raises:
        ScoringError: it names none; the message lists them.
    """
    path = pathlib.Path(path)
    form = FORMS.get(path.suffix.lower())
    if form is None:
        choices = ", ".join(f"{suffix} ({form.name})" for suffix, form in FORMS.items())
        raise ScoringError(f"{path}: its suffix says the form to write, one of {choices}")
    return form


def write_scoring(
    path,
    scoring: Scoring,
    *,
    start_of_day_s: float | None = None,
    duration_s: float | None = None,
    replace: bool = False,
) -> list[str]:
    """Write a scoring in the form that the file's suffix names; complete or absent.

    Args:
        path: the file: `.tsv`, `.annot`, `.xml`, `.edf` or `.csv`.
        scoring: stages and events.
        start_of_day_s: start of the recording in s from midnight; EDF+ and NSRR's XML say it.
        duration_s: length of the recording; NSRR's XML says it. By default, of the stages.
        replace: whether a file that is there may be replaced.

    Returns:
        what the form does not hold, a sentence each.

    Raises:
        ScoringError: no such form, or nothing of the scoring can be written in it.
        FileExistsError: the file is there.
        OSError: it cannot be written.
    """
    path = pathlib.Path(path)
    form = form_of(path)
    scoring = dataclasses.replace(scoring, events=[_in_ms(event) for event in scoring.events])
    content = form.content(scoring, start_of_day_s, duration_s)
    with tempfile.TemporaryDirectory() as folder:
        trial = pathlib.Path(folder, f"written{path.suffix.lower()}")
        trial.write_bytes(content)
        try:
            found = read_scoring(trial)
        except ScoringError:
            raise ScoringError(f"{path}: {form.name} can hold nothing of this scoring") from None
    if not np.array_equal(found.stages, scoring.stages):
        raise ScoringError(f"{path}: its stages would read back differently; nothing was written")
    with atomic_write(path, "wb" if replace else "xb") as file:
        file.write(content)
    return _not_held(scoring, found)


def _not_held(scoring: Scoring, found: Scoring) -> list[str]:
    """Say which events, values and facts of a scoring are not in what was read back."""
    lost = collections.Counter(map(_key, scoring.events))
    lost.subtract(collections.Counter(map(_key, found.events)))
    without_value = collections.Counter(key[:3] for key in (-lost).elements())
    left_out, bare = collections.Counter(), collections.Counter()
    for key in (+lost).elements():
        if without_value[key[:3]] > 0:
            without_value[key[:3]] -= 1
            bare[f"{key[0]} ({key[3]})"] += 1
        else:
            left_out[key[0]] += 1
    told = []
    if left_out:
        told.append(f"{left_out.total()} events are left out: {_counted(left_out)}")
    if bare:
        told.append(f"{bare.total()} events lose what is in brackets: {_counted(bare)}")
    if found.events_scored != scoring.events_scored:
        told.append("it does not say for which events somebody looked")
    if scoring.scorers:
        told.append(
            f"the stages of {len(scoring.scorers)} people are not kept apart: where they differ, "
            "epochs are unscored"
        )
    return told


def _key(event):
    return event.kind, _ms(event.onset_s), _ms(event.duration_s), event.value


def _in_ms(event):
    onset, duration = _ms(event.onset_s) / 1000, _ms(event.duration_s) / 1000
    return dataclasses.replace(event, onset_s=onset, duration_s=duration)


def _counted(counts) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(ms: int) -> str:
    """Seconds of whole ms, as few digits as they need."""
    return f"{ms / 1000:.3f}".rstrip("0").rstrip(".")


def bids_events(scoring: Scoring, start_of_day_s=None, duration_s=None) -> bytes:
    """Return BIDS events: a row an epoch and a row an event, with EDF+'s standard texts.

    Source: BIDS specification, task events: tab-separated, `onset` and `duration` in s first.
    """
    rows = [
        (epoch * EPOCH_S * 1000, 0, EPOCH_S * 1000, words.EDF_STAGES[int(stage)])
        for epoch, stage in enumerate(scoring.stages)
    ]
    for event in scoring.events:
        text = words.edf_text(event)
        if text:
            rows.append((_ms(event.onset_s), 1, _ms(event.duration_s), text))
    mark = words.events_mark(scoring)
    if mark:
        rows.append((0, 1, None, mark))
    rows.sort(key=lambda row: row[:2])
    lines = [
        f"{_seconds(onset)}\t{'n/a' if length is None else _seconds(length)}\t{text}\n"
        for onset, _, length, text in rows
    ]
    return ("onset\tduration\ttrial_type\n" + "".join(lines)).encode()


def luna_annot(scoring: Scoring, start_of_day_s=None, duration_s=None) -> bytes:
    """Return Luna's `.annot`: a row an epoch and a row an event, in s from the recording's start.

    Source: Luna's documentation of annotations: class, instance, channel, start, stop, meta.
    """
    rows = [
        (epoch * EPOCH_S * 1000, 0, EPOCH_S * 1000, words.LUNA_STAGES[int(stage)], ".")
        for epoch, stage in enumerate(scoring.stages)
    ]
    for event in scoring.events:
        names = words.luna_class(event)
        if names:
            rows.append((_ms(event.onset_s), 1, _ms(event.duration_s), *names))
    mark = words.events_mark(scoring)
    if mark:
        name, _, kinds = mark.partition(": ")
        rows.append((0, 1, 0, name.lower().replace(" ", "_"), kinds.replace(" ", "") or "."))
    rows.sort(key=lambda row: row[:2])
    lines = [
        f"{name}\t{instance}\t.\t{_seconds(onset)}\t{_seconds(onset + length)}\t.\n"
        for onset, _, length, name, instance in rows
    ]
    return ("class\tinstance\tchannel\tstart\tstop\tmeta\n" + "".join(lines)).encode()


def nsrr_xml(scoring: Scoring, start_of_day_s=None, duration_s=None) -> bytes:
    """Return NSRR's XML: the recording's start and length, events, runs of stages.

    Source: the annotation files of NSRR's cohorts (root `PSGAnnotation`).
    """
    length_s = len(scoring.stages) * EPOCH_S if duration_s is None else duration_s
    clock = ""
    if start_of_day_s is not None:
        clock = f"<ClockTime>00.00.00 {_clock(start_of_day_s):%H.%M.%S}</ClockTime>\n"
    rows = [("", "Recording Start Time", 0, _ms(length_s), clock)]
    mark = words.events_mark(scoring, empty=True)
    if mark:
        rows.append(("Technician Notes|Technician Notes", mark, 0, 0, ""))
    for event in scoring.events:
        names = words.nsrr_concept(event)
        if names:
            rows.append((*names, _ms(event.onset_s), _ms(event.duration_s), ""))
    for onset, duration, stage in words.stage_runs(scoring.stages):
        concept = words.NSRR_STAGES[stage]
        rows.append(("Stages|Stages", concept, onset * 1000, duration * 1000, ""))
    events = "".join(
        f"<ScoredEvent>\n<EventType>{escape(kind)}</EventType>\n"
        f"<EventConcept>{escape(concept)}</EventConcept>\n<Start>{onset / 1000}</Start>\n"
        f"<Duration>{duration / 1000}</Duration>\n{more}</ScoredEvent>\n"
        for kind, concept, onset, duration, more in rows
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<PSGAnnotation>\n'
        f"<SoftwareVersion>Compumedics</SoftwareVersion>\n<EpochLength>{EPOCH_S}</EpochLength>\n"
        f"<ScoredEvents>\n{events}</ScoredEvents>\n</PSGAnnotation>\n"
    ).encode()


def yasa_csv(scoring: Scoring, start_of_day_s=None, duration_s=None) -> bytes:
    """Return the hypnogram of YASA (0.7 and later) as pandas writes it: no events.

    Source: YASA's class `Hypnogram`: index `Epoch`, column `Stage`, names of five stages.
    """
    lines = [f"{i},{words.YASA_STAGES[int(stage)]}\n" for i, stage in enumerate(scoring.stages)]
    return ("Epoch,Stage\n" + "".join(lines)).encode()


def _edf(scoring: Scoring, start_of_day_s=None, duration_s=None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "written.edf")
        write_edf_annotations(path, scoring, start=_clock(start_of_day_s or 0))
        return path.read_bytes()


def _clock(start_of_day_s: float) -> datetime.datetime:
    """Return the time of day, on the blank date."""
    midnight = datetime.datetime.combine(BLANK_DATE, datetime.time())
    return midnight + datetime.timedelta(milliseconds=_ms(start_of_day_s) % 86_400_000)


FORMS = {
    ".tsv": Form("BIDS events", bids_events),
    ".annot": Form("Luna annotations", luna_annot),
    ".xml": Form("NSRR XML", nsrr_xml),
    ".edf": Form("EDF+ annotations", _edf),
    ".csv": Form("YASA hypnogram (stages alone)", yasa_csv),
}
"""The forms by suffix."""
