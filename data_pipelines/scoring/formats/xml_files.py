"""Scoring in XML: NSRR's annotation files, old and new, Compumedics Profusion's, and Philips'.

Elements are found by name, in whatever order they stand; entities, external references and DTDs
are refused (defusedxml), so a hostile file cannot grow in memory or reach for another file.
"""

import codecs
import dataclasses
import re
import xml.etree.ElementTree

from data_pipelines.findings import Finding
from data_pipelines.scoring.formats.philips import read_philips
from data_pipelines.scoring.record import (
    EPOCH_S,
    Event,
    Scoring,
    ScoringError,
    check_duration,
    check_time,
    make_scoring,
)
from data_pipelines.scoring.text import decode, encoding_of, number_of
from data_pipelines.scoring.times.clock import circular_difference, parse_clock
from data_pipelines.scoring.words.unknown_words import Unknown, looks_like
from data_pipelines.scoring.words.vocabulary import CODE_BOOKS, event_of, stage_of

START_TOLERANCE_S = 60.0
_TELLING_S = 5.0  # clocks are copied in minutes or seconds; less moves no stage


def read_xml(path, data: bytes, recording=None) -> Scoring:
    """Read NSRR, Profusion or Philips XML.

    Args:
        path: for messages.
        data: the file's bytes; its own declaration says their encoding.
        recording: the recording it belongs to, or None.

    Raises:
        ScoringError: not well-formed, hostile, of another kind, or of another recording.
    """
    root, notes = _root(path, data)
    name = _name(root)
    if name == "CMPStudyConfig":
        scoring = _profusion(path, root)
    elif name == "PatientStudy":
        scoring = read_philips(path, root, recording)
    elif name == "PSGAnnotation" or any(_name(node) == "ScoredEvents" for node in root.iter()):
        scoring = _nsrr(path, root, recording)
    else:
        raise ScoringError(
            f"{path}: XML of another kind; expected the root PSGAnnotation (NSRR), CMPStudyConfig "
            "(Profusion) or PatientStudy (Philips)"
        )
    return dataclasses.replace(scoring, notes=(*notes, *scoring.notes))


_DECLARATION = re.compile(r"\s*<\?xml\b[^>]*?\?>")
_ENCODING = re.compile(r"encoding\s*=\s*[\"']([\w.:-]{1,40})[\"']")
_SEEMS = {"utf-8": "UTF-8", "cp1252": "Windows-1252"}


def _encoding_name(text: str) -> str:
    """Return the name of an encoding; other words of a file are not repeated."""
    try:
        codecs.lookup(text)
    except LookupError:
        return "none that is known"
    return text


def _root(path, data: bytes):
    """Return the root element and what was decided about the encoding of its text.

    A declared encoding that the bytes are not in is common: exports are copied through editors. So
    bytes that are UTF-8 are read as that, and what cannot be read as declared is read as it seems.

    Raises:
        ScoringError: not well-formed, or hostile.
    """
    # Imported here: defusedxml comes with the extra `prepare`, and only XML needs it.
    import defusedxml.ElementTree

    text, seems = decode(data), encoding_of(data)
    seems = _SEEMS.get(seems, "UTF-16")
    declaration = _DECLARATION.match(text)
    match = _ENCODING.search(declaration[0]) if declaration else None
    declared = _encoding_name(match[1]) if match else "UTF-8"
    is_declared = declared.casefold().replace("_", "-") in (seems.casefold(), "utf8")
    # Programs that write into a buffer leave zeros, and DOS its end of file, after the last tag.
    content = text[declaration.end() if declaration else 0 :].lstrip().rstrip("\0\x1a \r\n\t")
    tries = [data, content]
    if seems == "UTF-8" and not is_declared and not data.isascii():
        tries.reverse()
    problem: Exception | None = None
    for content in tries:
        try:
            root = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
        except defusedxml.DefusedXmlException as error:
            raise ScoringError(
                f"{path}: XML with a DTD, entities or references is not read "
                f"({type(error).__name__})"
            ) from None
        except (xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:
            problem = problem or error
        else:
            if isinstance(content, bytes) or is_declared:
                return root, ()
            return root, (f"its declared encoding is {declared}; it was read as {seems}",)
    line, byte = getattr(problem, "position", (0, 0))
    where = f" (line {line}, byte {byte + 1})" if line else ""
    hint = "" if is_declared else f"; its declared encoding is {declared}, it seems to be {seems}"
    raise ScoringError(f"{path}: not well-formed XML{where}{hint}") from None


def _name(node) -> str:
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def _fields(node) -> dict[str, str]:
    """Return an element's children: the text of each under its name, first one first."""
    fields: dict[str, str] = {}
    for child in node:
        fields.setdefault(_name(child), (child.text or "").strip())
    return fields


def _number(fields, name, path, number):
    value = number_of(fields.get(name, ""))
    if value is None:
        raise ScoringError(f"{path}: event {number} has no number as {name}")
    return value


def _event(concepts, onset, length) -> Event | None:
    for concept in concepts:
        if concept.casefold() == "unsure":
            # NSRR: a hypopnea of more than 50 % of flow or with a 3 % desaturation.
            return Event("hypopnea", onset, length)
    found = [event for event in map(event_of, concepts) if event]
    if not found:
        return None
    # `Hypopnea|Hypopnea (epoch)`: the part that says more.
    kind, value = max(found, key=lambda event: bool(event[1]))
    return Event(kind, onset, length, value)


def _nsrr(path, root, recording) -> Scoring:
    """Both dialects: `EventType` and `Stage 2 sleep|2`, or bare `SDO:...` concepts."""
    runs, events, unknown = [], [], Unknown()
    shift_s, told = 0.0, []
    scored = (node for node in root.iter() if _name(node) == "ScoredEvent")
    for number, node in enumerate(scored, 1):
        fields = _fields(node)
        concept = fields.get("EventConcept", "")
        concepts = [part.strip() for part in concept.split("|")]
        kind = fields.get("EventType", "").split("|")[0].strip().casefold()
        if concepts[0] == "Recording Start Time" or (not concept and "ClockTime" in fields):
            shift_s, told = _shift(path, fields, recording)
            continue
        stage = stage_of(concepts[0]) if kind in ("", "stages") else None
        event = _event(concepts, 0.0, 0.0) if stage is None and kind != "stages" else None
        if stage is None and event is None:
            length = number_of(fields.get("Duration", ""))
            if kind == "stages" or (not kind and looks_like(concepts[0]) == "stage"):
                unknown.stage(concepts[0], length or 0.0)
                onset = number_of(fields.get("Start", ""))
                runs += [(onset, length, -1)] * (None not in (onset, length))
            else:
                unknown.add(concepts[0], length, breathing=kind == "respiratory")
            continue
        onset = _number(fields, "Start", path, number)
        length = _number(fields, "Duration", path, number)
        if stage is not None:
            runs.append((onset, length, stage))
        else:
            events.append(Event(event.kind, onset, length, event.value))
    return make_scoring(
        path,
        "nsrr_xml",
        runs=[(onset + shift_s, length, stage) for onset, length, stage in runs],
        events=[dataclasses.replace(x, onset_s=x.onset_s + shift_s) for x in events],
        events_scored=unknown.events_scored(events, empty=True),
        notes=unknown.notes(),
        findings=[*told, *unknown.findings()],
    )


def _shift(path, fields, recording) -> tuple[float, list[Finding]]:
    """Return where in the recording NSRR's own record of it begins, in s, and what was found.

    Of start and length either may be wrong alone (clock times are blanked, files are cut). A
    recording that was cut out of the one that is scored is placed in it by the clock.

    Raises:
        ScoringError: both differ, and the recording is no part of the one that is scored.
    """
    start_s = getattr(recording, "start_of_day_s", None)
    duration_s = getattr(recording, "duration_s", None)
    clock = parse_clock(fields.get("ClockTime", "").split(" ")[-1])
    length = number_of(fields.get("Duration", ""))
    if None in (start_s, duration_s, clock, length):
        return 0.0, []
    later = circular_difference(start_s, clock.second_of_day)
    shorter = length - duration_s
    header_s = start_s - getattr(recording, "first_onset_s", 0.0)
    cut = abs(shorter - later) <= 2 or abs(circular_difference(header_s, clock.second_of_day)) < 1
    if later >= 1 and shorter >= later - 2 and cut:
        note = (
            f"the recording starts {later:.6g} s after the one that its scoring names and is "
            f"{shorter:.6g} s shorter: placed by the clock"
        )
        what = "recording cut out of the one that was scored"
        return -later, [Finding("scoring_shifted", what, note, seconds=round(later, 3))]
    if abs(later) > START_TOLERANCE_S and abs(shorter) > START_TOLERANCE_S:
        raise ScoringError(
            f"{path}: scores a recording of {length:g} s that starts {-later:+.0f} s from this one "
            f"of {duration_s:g} s: it belongs to another recording"
        )
    if abs(later) < _TELLING_S or getattr(recording, "start_is_filler", False):
        return 0.0, []
    if clock.second_of_day == 0:
        return 0.0, []  # blanked in the scoring
    note = (
        f"the recording starts {abs(later):.6g} s {'after' if later > 0 else 'before'} the time "
        "that its scoring names as its start: taken to start together"
    )
    return 0.0, [Finding("time_axis", "start that the scoring names", note)]


def _profusion(path, root) -> Scoring:
    """Stages by position, one per `EpochLength`; events with names, starts and durations."""
    epoch_s = number_of(root.findtext("EpochLength", str(EPOCH_S)))
    if epoch_s is None or not 0 < check_time(epoch_s, "EpochLength", path) <= 3600:
        raise ScoringError(f"{path}: EpochLength is not a positive number of seconds")
    stages = CODE_BOOKS["rk5"].stages
    runs, events, unknown = [], [], Unknown()
    for index, node in enumerate(node for node in root.iter() if _name(node) == "SleepStage"):
        code = (node.text or "").strip()
        if code not in stages:
            unknown.stage(code, epoch_s)
        runs.append((index * epoch_s, epoch_s, stages.get(code, -1)))
    scored = (node for node in root.iter() if _name(node) == "ScoredEvent")
    for number, node in enumerate(scored, 1):
        fields = _fields(node)
        event = _event([fields.get("Name", "")], 0.0, 0.0)
        if event is None:
            unknown.add(fields.get("Name", ""), number_of(fields.get("Duration", "")))
            continue
        onset = check_time(_number(fields, "Start", path, number), "an event's onset", path)
        length = check_duration(_number(fields, "Duration", path, number), "an event", path)
        events.append(Event(event.kind, onset, length, event.value))
    return make_scoring(
        path,
        "profusion_xml",
        runs=runs,
        events=events,
        events_scored=unknown.events_scored(events, empty=True),
        notes=unknown.notes(),
        findings=unknown.findings(),
    )
