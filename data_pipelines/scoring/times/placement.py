"""A scoring placed on the time axis of its recording: where it begins, and what lies outside."""

import dataclasses
import pathlib

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.scoring.record import EPOCH_S, SCORED_BEFORE, Scoring, ScoringError
from data_pipelines.scoring.scorers import padded
from data_pipelines.scoring.times.clock import (
    DAY_S,
    circular_difference,
    date_is_blank,
    edf_start,
    recording_start,
)

_MOST_BEFORE_S = 2 * DAY_S  # a scoring that starts earlier is of another night
_TELLING_SHIFT_S = 1.0
_NOON_S = 3600.0
_FEW_EPOCHS = 20  # in a shorter recording one epoch is no small share
_LEAST_SHARE = 0.1  # of the recording or of the scoring, whichever is shorter, must overlap
# Formats that say when something was. BIDS counts from the first sample, which its writers forget.
_ABSOLUTE_SOURCES = (
    *("edf_annotations", "noxturnal_csv", "remlogic_text"),
    *("domino_text", "ucddb_respevt", "philips_rml"),
)


def _is_same_file(path, recording) -> bool:
    own = getattr(recording, "path", None)
    return own is not None and pathlib.Path(own).resolve() == path.resolve()


def shift_of(path, recording) -> tuple[float, list[Finding]]:
    """Return where in the recording an EDF+ file of annotations starts, in s, and what was found.

    Both files say when their first record was; the dates count where both have one. A start that
    an anonymiser has filled in says nothing: the two are then taken to start together.

    Raises:
        ScoringError: it starts outside the recording.
    """
    if recording is None or _is_same_file(path, recording):
        return 0.0, []
    scored = EdfRecording(path)
    start_s = getattr(recording, "start_of_day_s", None)
    if scored.start_of_day_s is None or start_s is None:
        return 0.0, []
    shift = circular_difference(scored.start_of_day_s, start_s)
    fillers = scored.start_is_filler, getattr(recording, "start_is_filler", False)
    blanked_s = scored.start_of_day_s if fillers[0] else start_s
    noon = blanked_s >= DAY_S / 2 and abs(shift) < _NOON_S  # perhaps a nap of that hour
    if fillers[0] != fillers[1] and not noon:
        note = (
            "the start of the recording or that of its scoring was blanked (anonymised): taken to "
            "start together"
        )
        return 0.0, [Finding("time_axis", "start that is blanked", note)]
    start, began = edf_start(path), recording_start(recording)
    if None not in (start, began) and not (date_is_blank(began) or date_is_blank(start)):
        later = scored.first_onset_s - getattr(recording, "first_onset_s", 0.0)
        shift = (start - began).total_seconds() + later
    duration_s = getattr(recording, "duration_s", None)
    if not -_MOST_BEFORE_S <= shift < (duration_s if duration_s is not None else EPOCH_S):
        # How far apart they are would tell one's date from the other's.
        raise ScoringError(f"{path}: starts outside the recording: it belongs to another recording")
    if abs(shift) < _TELLING_SHIFT_S:
        return shift, []
    note = (
        f"by their headers the scoring starts {abs(shift):.6g} s "
        f"{'before' if shift < 0 else 'after'} the recording: placed so"
    )
    what = "start of the scoring beside the recording's"
    return shift, [Finding("scoring_shifted", what, note, seconds=round(abs(shift), 3))]


def check_overlap(path, scoring: Scoring, recording) -> Scoring:
    """Return a scoring that can belong to its recording, with what a user should look at.

    Raises:
        ScoringError: hardly anything of it lies within the recording, or its times are in another
            unit than seconds.
    """
    duration_s = getattr(recording, "duration_s", None)
    if duration_s is None:
        return scoring
    scored = np.flatnonzero(scoring.stages >= 0)
    onsets = [scored[0] * EPOCH_S] if len(scored) else []
    onsets += [event.onset_s for event in scoring.events[:1]]
    if onsets and min(onsets) >= duration_s:
        raise ScoringError(
            f"{path}: its first stage or event is at {min(onsets):.0f} s of a recording of "
            f"{duration_s:.0f} s: it belongs to another recording"
        )
    before_s = sum(x.seconds or 0 for x in scoring.findings if x.what == SCORED_BEFORE)
    inside_s = float((scored * EPOCH_S < duration_s).sum()) * EPOCH_S
    if before_s and inside_s < _LEAST_SHARE * min(duration_s, before_s + len(scored) * EPOCH_S):
        raise ScoringError(
            f"{path}: of {before_s + len(scored) * EPOCH_S:.0f} s of scoring {inside_s:.0f} s lie "
            "within the recording: it belongs to another recording"
        )
    _check_unit(path, scoring, recording, duration_s)
    told = [] if scoring.source in _ABSOLUTE_SOURCES else first_sample_told(recording)
    return dataclasses.replace(scoring, findings=(*scoring.findings, *told))


def first_sample_told(recording) -> list[Finding]:
    """The finding that a scoring without a start of its own could count from the header's start."""
    later_s = getattr(recording, "first_onset_s", 0.0)
    if abs(later_s) < EPOCH_S / 2:
        return []
    note = (
        f"the recording's first sample is {later_s:.6g} s after the start in its header: the "
        "times of a scoring that are no clock times are taken to count from the first sample"
    )
    return [Finding("time_axis", "first sample after the header's start", note, seconds=later_s)]


def _check_unit(path, scoring: Scoring, recording, duration_s: float) -> None:
    """Refuse stages that all last so many times 30 s as a second has milliseconds or samples.

    Raises:
        ScoringError: they do, and the scoring is so many times as long as the recording.
    """
    length_s = len(scoring.stages) * EPOCH_S
    changes = np.flatnonzero(np.diff(scoring.stages)) + 1
    if length_s < 3 * duration_s or len(changes) < 2:
        return
    step = int(np.gcd.reduce(changes))
    rates = {1000: "milliseconds"}
    for index in range(len(getattr(recording, "labels", ()))):
        if recording.problem(index) is None and recording.sfreq_hz(index) >= 10:
            rates.setdefault(float(recording.sfreq_hz(index)), "samples")
    for rate, unit in rates.items():
        # Counted in such units, an epoch is of `rate` epochs; the whole is about one recording.
        if step % rate == 0 and length_s / rate < 2 * duration_s + EPOCH_S:
            raise ScoringError(
                f"{path}: its times look like {unit}, {rate:g} a second: the scoring is "
                f"{length_s / duration_s:.0f} times as long as the recording; give seconds"
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
        the scoring with exactly `floor(duration_s / 30 + 1 / 2)` epochs, and what was done; of more
        than one epoch or event that is among its findings, otherwise among its notes.

    Raises:
        ScoringError: nothing of the scoring lies within the recording, so it belongs to another.
    """
    count = int(duration_s / EPOCH_S + 0.5)
    stages, told = scoring.stages, []
    scored = np.flatnonzero(stages >= 0)
    inside = [event for event in scoring.events if event.onset_s < duration_s]
    if (len(scored) or scoring.events) and not (len(scored) and scored[0] < count) and not inside:
        raise ScoringError(
            f"the scoring starts {scored[0] * EPOCH_S if len(scored) else 0} s or more into a "
            f"recording of {duration_s:g} s: it belongs to another recording"
        )
    if len(stages) > count:
        lost = int((stages[count:] >= 0).sum())
        note = (
            f"scoring is {(len(stages) - count) * EPOCH_S} s longer than the recording; "
            f"{lost} scored epochs past its end left out"
        )
        told.append(("scoring_trimmed", "scoring after the recording's end", note, lost))
        stages = stages[:count]
    elif len(stages) < count:
        missing = count - len(stages)
        note = (
            f"scoring is {missing * EPOCH_S} s shorter than the recording; "
            f"{missing} epochs are unscored"
        )
        told.append(("scoring_length", "scoring shorter than the recording", note, missing))
        stages = np.concatenate([stages, np.full(missing, -1, np.int8)])
    kept = int((stages >= 0).sum())
    if len(stages) and not kept and not scoring.events:
        note = "no epoch of the recording is scored by it"
        told.append(("scoring_length", "no epoch scored", note, count))
    elif len(scored) and count >= _FEW_EPOCHS and kept < _LEAST_SHARE * count:
        note = f"only {kept} of the recording's {count} epochs are scored"
        told.append(("scoring_length", "few epochs scored", note, count - kept))
    if len(inside) < len(scoring.events):
        lost = len(scoring.events) - len(inside)
        note = f"{lost} events past the recording's end left out"
        told.append(("scoring_trimmed", "events after the recording's end", note, lost))
    events = [
        dataclasses.replace(event, duration_s=min(event.duration_s, duration_s - event.onset_s))
        for event in inside
    ]
    # An epoch more or less is how programs round; more is for a user to look at.
    grave = [row for row in told if row[3] > 1]
    findings = [
        Finding(kind, what, note, seconds=None if "events" in what else float(epochs * EPOCH_S))
        for kind, what, note, epochs in grave
    ]
    aligned = dataclasses.replace(
        scoring,
        stages=stages,
        events=events,
        notes=(*scoring.notes, *(row[2] for row in told if row not in grave)),
        findings=(*scoring.findings, *findings),
        scorers=tuple(row[:count] for row in padded([*scoring.scorers, stages])[:-1]),
    )
    return aligned, [row[2] for row in told]
