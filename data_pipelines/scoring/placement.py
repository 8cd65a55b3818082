"""A scoring placed on the time axis of its recording: where it begins, and what lies outside."""

import dataclasses
import pathlib

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.clock import (
    circular_difference,
    date_is_blank,
    edf_start,
    recording_start,
)
from data_pipelines.scoring.record import EPOCH_S, Scoring, ScoringError
from data_pipelines.scoring.scorers import padded


def _is_same_file(path, recording) -> bool:
    own = getattr(recording, "path", None)
    return own is not None and pathlib.Path(own).resolve() == path.resolve()


def shift_of(path, recording) -> tuple[float, list[Finding]]:
    """Return where in the recording an EDF+ file of annotations starts, in s, and what was found.

    Raises:
        ScoringError: it starts outside the recording.
    """
    if recording is None or _is_same_file(path, recording):
        return 0.0, []
    start = edf_start(path)
    began, start_s = recording_start(recording), getattr(recording, "start_of_day_s", None)
    if start is None or start_s is None:
        return 0.0, []
    second = start.hour * 3600 + start.minute * 60 + start.second
    shift = circular_difference(second, int(start_s))
    if began is not None and not (date_is_blank(began) or date_is_blank(start)):
        shift = (start - began).total_seconds()
    duration_s = getattr(recording, "duration_s", None)
    if not -EPOCH_S <= shift < (duration_s if duration_s is not None else EPOCH_S):
        # How far apart they are would tell one's date from the other's.
        raise ScoringError(f"{path}: starts outside the recording: it belongs to another recording")
    return shift, []


def check_overlap(path, scoring: Scoring, recording) -> None:
    """Refuse a scoring that begins after its recording has ended.

    Raises:
        ScoringError: it does.
    """
    duration_s = getattr(recording, "duration_s", None)
    if duration_s is None:
        return
    scored = np.flatnonzero(scoring.stages >= 0)
    onsets = [scored[0] * EPOCH_S] if len(scored) else []
    onsets += [event.onset_s for event in scoring.events[:1]]
    if onsets and min(onsets) >= duration_s:
        raise ScoringError(
            f"{path}: its first stage or event is at {min(onsets):.0f} s of a recording of "
            f"{duration_s:.0f} s: it belongs to another recording"
        )


def align(scoring: Scoring, duration_s: float) -> tuple[Scoring, list[str]]:
    """Bring a scoring to the length of its recording.

    Epochs and events past the end are left out, missing epochs become -1, events that outlast the
    recording are cut at its end. A last epoch that the recording fills to less than half is left
    out, like a scoring's own half epochs.

    Args:
        scoring: as read.
        duration_s: length of the recording in s.

    Returns:
        the scoring with exactly `floor(duration_s / 30 + 1 / 2)` epochs, and what was done.

    Raises:
        ScoringError: nothing of the scoring lies within the recording, so it belongs to another.
    """
    count = int(duration_s / EPOCH_S + 0.5)
    stages, notes = scoring.stages, []
    scored = np.flatnonzero(stages >= 0)
    inside = [event for event in scoring.events if event.onset_s < duration_s]
    if (len(scored) or scoring.events) and not (len(scored) and scored[0] < count) and not inside:
        raise ScoringError(
            f"the scoring starts {scored[0] * EPOCH_S if len(scored) else 0} s or more into a "
            f"recording of {duration_s:g} s: it belongs to another recording"
        )
    if len(stages) > count:
        lost = int((stages[count:] >= 0).sum())
        notes.append(
            f"scoring is {(len(stages) - count) * EPOCH_S} s longer than the recording; "
            f"{lost} scored epochs past its end left out"
        )
        stages = stages[:count]
    elif len(stages) < count:
        notes.append(
            f"scoring is {(count - len(stages)) * EPOCH_S} s shorter than the recording; "
            f"{count - len(stages)} epochs are unscored"
        )
        stages = np.concatenate([stages, np.full(count - len(stages), -1, np.int8)])
    if len(inside) < len(scoring.events):
        notes.append(
            f"{len(scoring.events) - len(inside)} events past the recording's end left out"
        )
    events = [
        dataclasses.replace(event, duration_s=min(event.duration_s, duration_s - event.onset_s))
        for event in inside
    ]
    aligned = dataclasses.replace(
        scoring,
        stages=stages,
        events=events,
        notes=(*scoring.notes, *notes),
        scorers=tuple(row[:count] for row in padded([*scoring.scorers, stages])[:-1]),
    )
    return aligned, notes
