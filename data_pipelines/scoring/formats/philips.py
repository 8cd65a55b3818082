"""Scoring of Philips Sleepware (Alice): `.rml`, XML with the root `PatientStudy`.

Stages are changes, `Stage Type="NonREM1" Start="0"`, each until the next; a person's are below
`UserStaging`, the program's own below `MachineStaging`. Events have a `Family` and a `Type`. Times
count seconds from `RecordingStart`. As public readers of PSG-Audio and MESA have it; the vendor
publishes no description.
"""

import dataclasses
import re

from data_pipelines.findings import Finding
from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.record import Scoring, ScoringError
from data_pipelines.scoring.text import number_of
from data_pipelines.scoring.times.clock import (
    circular_difference,
    onsets_from_start,
    parse_clock,
)
from data_pipelines.scoring.times.placement import first_sample_told

SAME_LENGTH_S = 5.0


def _name(node) -> str:
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def _all(root, name):
    return [node for node in root.iter() if _name(node) == name]


def read_philips(path, root, recording) -> Scoring:
    """Read stages, events and body positions of an `.rml`.

    Args:
        path: For messages.
        root: The parsed root element.
        recording: The recording it belongs to, or None; its start and length tell which part of a
            study in several files it is.

    Raises:
        ScoringError: A time is missing, or the recording is of another night.
    """
    duration_s = _duration(root)
    shift_s, findings = _shift(path, root, recording, duration_s)
    until_s = duration_s
    if until_s is None and recording is not None:
        until_s = recording.duration_s - shift_s
    blocks, by_machine, others = _stages(root)
    annotations = _until_next(path, blocks, "Type", until_s)
    annotations += _until_next(path, _all(root, "BodyPositionItem"), "Position", until_s)
    for node in _all(root, "Event"):
        if node.get("Family") != "User":  # comments and settings of the screen
            length = number_of(node.get("Duration", "")) or 0.0
            annotations.append((_start(path, node), length, node.get("Type", "")))
    scoring = scoring_from_annotations(
        path, annotations, source="philips_rml", shift_s=shift_s, findings=findings
    )
    note = "its stages are the program's own (MachineStaging), no person's"
    notes = (note, *scoring.notes) if by_machine else scoring.notes
    found = scoring.findings
    if others:
        text = f"{others + 1} stagings of one kind that differ: the first is read"
        found = (*found, Finding("several_scorers", f"{others + 1} stagings", text, others))
    return dataclasses.replace(scoring, notes=notes, findings=found)


def _start(path, node) -> float:
    value = number_of(node.get("Start", ""))
    if value is None:
        raise ScoringError(f"{path}: a {_name(node)} has no number as Start")
    return value


def _until_next(path, nodes, attribute, until_s) -> list[tuple[float, float | None, str]]:
    """Return changes as spans; the last lasts until the end of the study, where that is known."""
    rows = sorted((_start(path, node), node.get(attribute, "")) for node in nodes)
    ends = [*(start for start, _ in rows[1:]), until_s]
    spans = []
    for (start, text), end in zip(rows, ends):
        if end is None:
            spans.append((start, None, text))
        elif end > start:
            spans.append((start, end - start, text))
    return spans


def _stages(root) -> tuple[list, bool, int]:
    """Return the stage elements of a person, else of the program; whether it was the latter.

    Also returns how many other stagings of the same kind differ from it.
    """
    for place in ("UserStaging", "MachineStaging", "StagingData"):
        blocks = [block for node in _all(root, place) for block in node if _all(block, "Stage")]
        if blocks:
            # Where a study has several kinds of staging, AASM's is the one used here.
            block = next((block for block in blocks if "AASM" in _name(block)), blocks[0])
            if _name(block) == "Stage":
                return blocks, place == "MachineStaging", 0
            alike = [_all(x, "Stage") for x in blocks if _name(x) == _name(block)]
            written = {tuple((x.get("Start"), x.get("Type")) for x in stages) for stages in alike}
            return _all(block, "Stage"), place == "MachineStaging", len(written) - 1
    return [], False, 0


def _duration(root) -> float | None:
    """Return the length of the study in s: that of its one session, None if it is not said."""
    sessions = _all(root, "Session")
    if len(sessions) != 1:
        return None
    lengths = [number_of(node.text or "") for node in sessions[0] if _name(node) == "Duration"]
    return lengths[0] if lengths and lengths[0] and lengths[0] > 0 else None


def _shift(path, root, recording, duration_s):
    """Where in the recording the study starts, in s: before it in the later files of a study."""
    length_s = getattr(recording, "duration_s", None)
    if getattr(recording, "start_of_day_s", None) is None:
        return 0.0, []
    whole = duration_s is not None and length_s and abs(duration_s - length_s) <= SAME_LENGTH_S
    for node in _all(root, "RecordingStart"):
        text = re.sub(r"(\.\d+)?(Z|[+-]\d\d:\d\d)?$", "", (node.text or "").strip())
        clock = parse_clock(text)
        if clock is not None and whole:
            # The same study as a whole; its start may have been blanked.
            later = circular_difference(recording.start_of_day_s, clock.second_of_day)
            if abs(later) <= SAME_LENGTH_S or getattr(recording, "start_is_filler", False):
                return 0.0, []
            note = (
                f"the recording starts {abs(later):.6g} s {'after' if later > 0 else 'before'} its "
                "study and is as long: taken to start together"
            )
            return 0.0, [Finding("time_axis", "start that the scoring names", note)]
        if clock is not None:
            (shift_s,), findings = onsets_from_start([clock], recording, path)
            if duration_s and length_s and not -duration_s < shift_s < length_s:
                raise ScoringError(f"{path}: its study lies outside: it is of another recording")
            return shift_s, list(findings)
    return 0.0, first_sample_told(recording)
