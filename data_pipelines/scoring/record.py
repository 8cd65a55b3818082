"""A scoring: stages on a 30-s grid and events in seconds, both from the recording's start.

Every format ends here, so the bounds that protect the rest of the program are here too: times are
finite and within `MAX_TIME_S`, event kinds are known, and no free text of a file survives.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.scoring.scorers import (
    MAX_SCORERS,
    agreed,
    are_sorted,
    differing,
    layers,
    padded,
)

EPOCH_S = 30
"""Length of a scored epoch (AASM manual; R&K scorings of 20 s are brought to this grid)."""

MAX_TIME_S = 14 * 86400.0
"""No event starts or lasts longer than this; a larger number is a damaged or misread file."""

MAX_EVENT_S = 86400.0
"""The longest believable event (a body position may last all night)."""

MAX_ROWS = 200_000
"""More rows than a scoring of a week in steps of 5 s has; a file with more is not read."""

STAGES = ("W", "N1", "N2", "N3", "R")
"""Stage names in the order of their codes 0..4; -1 is unscored, movement or artefact."""

EVENT_KINDS = (
    "apnea_obstructive",
    "apnea_central",
    "apnea_mixed",
    "hypopnea",
    "apnea_hypopnea",  # one of the four above, not told which
    "desaturation",
    "arousal",
    "rera",
    "leg_movement",
    "position",
    "lights_off",
    "lights_on",
)


SCORED_BEFORE = "scoring before the recording's start"
"""What a finding calls the stages that were left out because they lie before the recording."""


class ScoringError(ValueError):
    """A scoring file that cannot be read, cannot be trusted, or belongs to another recording."""


@dataclasses.dataclass(frozen=True)
class Event:
    """One scored event.

    Attributes:
        kind: one of `EVENT_KINDS`.
        onset_s: start in s from the start of the recording; may be negative (before it).
        duration_s: length in s; 0 for a moment.
        value: what the format says further, from fixed words only: the body position (`supine`,
            `prone`, `left`, `right`, `upright`), the cause of an arousal (`respiratory`,
            `leg_movement`, `periodic_leg_movement`, `spontaneous`), `epoch` where the file marks
            only the 30-s epoch.
    """

    kind: str
    onset_s: float
    duration_s: float
    value: str = ""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Stages and events of one night.

    Attributes:
        stages: int8 `[E]`; epoch `e` covers `[30 e, 30 e + 30)` s from the start of the recording;
            0 W, 1 N1, 2 N2, 3 N3, 4 R, -1 unscored.
        events: ordered by onset.
        source: the format read, e.g. `nsrr_xml`.
        events_scored: whether somebody looked for events at all. Where False, an empty list of
            events does not mean a night without events. Where it is kinds of events, somebody
            looked for these alone, as far as the file's words are understood (`apnea` stands for
            all apneas and hypopneas).
        notes: what reading had to decide and nobody needs to look at, in words without file text.
        findings: what it had to decide and a user should look at.
        scorers: int8 `[E]` of each person where the file holds several people's stages, in the
            order of their names or else of the file; their names are not kept.
    """

    stages: np.ndarray
    events: list[Event]
    source: str
    events_scored: bool | tuple[str, ...] = True
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    scorers: tuple[np.ndarray, ...] = ()


def check_time(value: float, what: str, path) -> float:
    """Return `value` as a float in s.

    Raises:
        ScoringError: it is not finite, or beyond `MAX_TIME_S`.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ScoringError(f"{path}: {what} is {value}, not a number of seconds")
    if abs(value) > MAX_TIME_S:
        raise ScoringError(
            f"{path}: {what} of {value:g} s is more than {MAX_TIME_S / 86400:g} days; "
            "is the file damaged, or are its times in another unit than seconds?"
        )
    return value


def check_duration(value: float, what: str, path, *, limit_s: float = MAX_TIME_S) -> float:
    """Return `value` as a duration in s.

    Raises:
        ScoringError: it is not finite, negative, or longer than `limit_s`.
    """
    value = check_time(value, what, path)
    if value < 0:
        raise ScoringError(f"{path}: {what} of {value:g} s is negative")
    if value > limit_s:
        raise ScoringError(f"{path}: {what} of {value:g} s is longer than {limit_s:g} s")
    return value


def epochs_from_runs(
    runs: Iterable[tuple[float, float, int]],
) -> np.ndarray:
    """Return stages on the 30-s grid from runs of any length that start anywhere.

    Rule (ours, the majority): an epoch gets the stage that holds the most of its seconds, unscored
    time counting as a stage of its own, provided it holds at least half of the epoch; of two that
    hold equally much, the one that comes first. So 5-s and 20-s steps, runs that start between
    two grid points and half epochs at the end are all handled alike.

    Args:
        runs: (onset_s, duration_s, stage code) with checked times; what lies before 0 is left out.

    Returns:
        int8 `[E]`, from 0 to the end of the last run; -1 where nothing was scored.
    """
    runs = [(max(onset, 0.0), onset + length, stage) for onset, length, stage in runs]
    runs = [run for run in runs if run[1] > run[0]]
    if not runs:
        return np.zeros(0, np.int8)
    count = math.ceil(max(end for _, end, _ in runs) / EPOCH_S - 1e-9)
    seconds = np.zeros((count, len(STAGES) + 1))
    first = np.full(seconds.shape, np.inf)
    for start, end, stage in runs:
        a, b = int(start // EPOCH_S), min(math.ceil(end / EPOCH_S - 1e-9), count)
        if b <= a:
            continue
        edges = np.arange(a, b) * float(EPOCH_S)
        held = np.minimum(edges + EPOCH_S, end) - np.maximum(edges, start)
        seconds[a:b, stage] += held
        first[a:b, stage] = np.minimum(first[a:b, stage], np.maximum(edges, start))
    seconds = seconds.round(6)
    most = seconds.max(axis=1, keepdims=True)
    choice = np.where(seconds == most, first, np.inf).argmin(axis=1)
    choice = np.where(most[:, 0] >= EPOCH_S / 2, choice, len(STAGES))
    return np.where(choice == len(STAGES), -1, choice).astype(np.int8)


def make_scoring(
    path,
    source: str,
    *,
    runs: Sequence[tuple[float, float, int]] = (),
    events: Iterable[Event] = (),
    events_scored: bool | tuple[str, ...] = True,
    notes: Sequence[str] = (),
    findings: Sequence[Finding] = (),
    scorers: Sequence[Sequence[tuple[float, float, int]]] = (),
) -> Scoring:
    """Return a checked `Scoring` from stage runs and events.

    Runs that overlap and differ are several people's: epochs where they differ are unscored.

    Args:
        path: for messages.
        source: the format read.
        runs: (onset_s, duration_s, stage code) of everybody.
        events: in any order.
        events_scored: as in `Scoring`.
        notes: as in `Scoring`.
        findings: as in `Scoring`.
        scorers: the runs of each person, where the file names them; together they are `runs`.

    Raises:
        ScoringError: a time is not finite, negative where it may not be, or absurd; or the file
            holds neither a stage nor an event.
    """
    checked = []
    if len(runs) > MAX_ROWS:
        raise ScoringError(f"{path}: {len(runs)} stages; expected at most {MAX_ROWS}")
    for onset, length, stage in runs:
        onset = check_time(onset, "a stage's onset", path)
        checked.append((onset, check_duration(length, "a stage's duration", path), stage))
    if sum(length for _, length, _ in checked) > 2 * MAX_TIME_S:
        raise ScoringError(
            f"{path}: its stages add up to more than {2 * MAX_TIME_S / 86400:g} days"
        )
    notes = list(notes)
    findings = [*findings, *_scored_before(checked)]
    kept, before = [], 0
    for event in events:
        onset = check_time(event.onset_s, "an event's onset", path)
        length = check_duration(event.duration_s, "an event's duration", path, limit_s=MAX_EVENT_S)
        if onset + length < 0:
            before += 1
            continue
        if len(kept) == MAX_ROWS:
            raise ScoringError(f"{path}: more than {MAX_ROWS} events")
        kept.append(dataclasses.replace(event, onset_s=onset, duration_s=length))
    if before:
        notes.append(f"{before} events before the start of the recording left out")
    if not checked and not kept:
        raise ScoringError(
            f"{path}: no sleep stage and no event that is known was found in it (read as {source})"
        )
    kept.sort(key=lambda event: (event.onset_s, event.kind, event.duration_s))
    if kept and len(kept) > 1 and min(collections.Counter(kept).values()) > 1:
        kept = list(dict.fromkeys(kept))
        notes.append("every event is written more than once: taken once")
    stages, people, told = _of_people(path, checked, scorers)
    if people and events_scored and _overlap(kept):
        events_scored = False
        told.append(Finding("several_scorers", "events", _EVENTS_OF_SEVERAL))
    elif not people and _overlap([x for x in kept if x.kind in _BREATHING and x.value != "epoch"]):
        told.append(Finding("several_scorers", "events", _BREATHING_OVERLAPS))
    findings = (*findings, *told)
    return Scoring(stages, kept, source, events_scored, tuple(notes), findings, people)


_BREATHING = {"apnea_obstructive", "apnea_central", "apnea_mixed", "hypopnea", "apnea_hypopnea"}
_BREATHING_OVERLAPS = (
    "apneas or hypopneas of one kind overlap: are they several people's, and counted twice?"
)
_EVENTS_OF_SEVERAL = (
    "events of one kind overlap, so they are several people's: they count as not scored"
)


def _overlap(events) -> bool:
    """Whether one in ten events or more begins well before the last one of its kind has ended."""
    ends: dict[str, float] = {}
    early = 0
    for event in events:
        early += event.onset_s < ends.get(event.kind, -math.inf) - 2.0
        end = event.onset_s + event.duration_s
        ends[event.kind] = max(end, ends.get(event.kind, -math.inf))
    return early > 0 and 10 * early >= len(events)


def _short(runs, stages) -> list[Finding]:
    """The finding that most of the time with a stage, or most stages, come out as no epoch."""
    spans = [(max(x, 0.0), x + length) for x, length, stage in runs if x + length > 0 <= stage]
    given_s = sum(end - start for start, end in spans)
    scored_s = float((stages >= 0).sum()) * EPOCH_S
    lost = given_s >= EPOCH_S and scored_s < given_s / 2
    brief = 2 * sum(end - start < EPOCH_S / 2 for start, end in spans) > len(spans)
    if not lost and not (brief and scored_s < (spans[-1][1] - spans[0][0]) / 2):
        return []
    note = (
        f"the stages last {given_s:.6g} s in all, so short that they give a stage to {scored_s:g} s"
        " of epochs: are their durations right?"
    )
    return [Finding("stage_marks", "short durations", note, seconds=round(given_s, 3))]


def _of_people(path, runs, named):
    """Return the stages, each person's where there are several, and the findings."""
    apart = [list(rows) for rows in named] or layers(runs)
    if len(apart) > MAX_SCORERS:
        raise ScoringError(
            f"{path}: more than {MAX_SCORERS} stages at the same time; are its durations "
            "those of the stages?"
        )
    if len(apart) < 2:
        stages = epochs_from_runs(runs)
        return stages, (), _short(runs, stages)
    people = padded([epochs_from_runs(rows) for rows in apart])
    people = tuple(row for row in people if (row >= 0).any())
    scored = np.array([row >= 0 for row in people])
    if len(people) < 2 or (named and 2 * (scored.sum(0) > 1).sum() < scored.sum(1).min()):
        return epochs_from_runs(runs), (), []
    stages = agreed(people)
    told = differing(people, stages)
    if not told:
        return epochs_from_runs(runs), people if named else (), []
    # A few rows that overlap others are a correction; with holes, one's rows fill another's.
    whole = 10 * scored.sum(1).min() >= 9 * scored.sum(1).max() and not are_sorted(people, apart)
    return stages, people if named or whole else (), told


def _scored_before(runs) -> list[Finding]:
    """What `epochs_from_runs` leaves out because it lies before time 0, from an epoch on."""
    lost_s = sum(min(x + length, 0.0) - x for x, length, stage in runs if x < 0 <= stage)
    if lost_s < EPOCH_S:
        return []
    note = f"{lost_s:.6g} s of scoring before the start of the recording left out"
    return [Finding("scoring_trimmed", SCORED_BEFORE, note, seconds=round(lost_s, 3))]
