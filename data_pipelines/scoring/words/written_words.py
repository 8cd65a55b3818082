"""The words that a scoring is written with: the standard texts of each form, one row an event.

Sources: EDF+ (Kemp and Olivan 2003, standard texts), of which BIDS has none of its own; Luna's and
NSRR's terms as Luna maps the one to the other (its table `nsrr-remap`). What a form has no word for
is written in plain English, which `vocabulary` reads.
"""

from collections.abc import Iterator

import numpy as np

from data_pipelines.scoring.record import EPOCH_S, Event, Scoring
from data_pipelines.scoring.words.unknown_words import NOT_SCORED

EDF_STAGES = {
    0: "Sleep stage W",
    1: "Sleep stage N1",
    2: "Sleep stage N2",
    3: "Sleep stage N3",
    4: "Sleep stage R",
    -1: "Sleep stage ?",
}
LUNA_STAGES = {0: "W", 1: "N1", 2: "N2", 3: "N3", 4: "R", -1: "?"}
NSRR_STAGES = {
    0: "Wake|0",
    1: "Stage 1 sleep|1",
    2: "Stage 2 sleep|2",
    3: "Stage 3 sleep|3",
    4: "REM sleep|5",
    -1: "Unscored|9",
}
YASA_STAGES = {0: "WAKE", 1: "N1", 2: "N2", 3: "N3", 4: "REM", -1: "UNS"}

_RESPIRATORY, _AROUSALS = "Respiratory|Respiratory", "Arousals|Arousals"
_LIMBS, _NOTES = "Limb Movement|Limb Movement", "Technician Notes|Technician Notes"
_RESULTING = "Arousal resulting from"

# (kind, value) -> text of EDF+ and BIDS, class of Luna, EventType and EventConcept of NSRR.
_EVENTS = {
    ("apnea_obstructive", ""): (
        "Obstructive apnea",
        "apnea:obstructive",
        _RESPIRATORY,
        "Obstructive apnea|Obstructive Apnea",
    ),
    ("apnea_central", ""): (
        "Central apnea",
        "apnea:central",
        _RESPIRATORY,
        "Central apnea|Central Apnea",
    ),
    ("apnea_mixed", ""): ("Mixed apnea", "apnea:mixed", _RESPIRATORY, "Mixed apnea|Mixed Apnea"),
    ("hypopnea", ""): ("Hypopnea", "hypopnea", _RESPIRATORY, "Hypopnea|Hypopnea"),
    ("apnea_hypopnea", ""): (
        "Apnea or hypopnea",
        "apnea_hypopnea",
        _RESPIRATORY,
        "Apnea or hypopnea|Apnea or hypopnea",
    ),
    ("desaturation", ""): (
        "Oxygen desaturation",
        "desat",
        _RESPIRATORY,
        "SpO2 desaturation|SpO2 desaturation",
    ),
    ("rera", ""): ("RERA", "RERA", _RESPIRATORY, "Respiratory effort related arousal|RERA"),
    ("arousal", ""): ("EEG arousal", "arousal", _AROUSALS, "ASDA arousal|Arousal (ASDA)"),
    ("arousal", "spontaneous"): (
        "Spontaneous arousal",
        "arousal:spontaneous",
        _AROUSALS,
        "Spontaneous arousal|Arousal (ARO SPONT)",
    ),
    ("arousal", "respiratory"): (
        "Respiratory arousal",
        "arousal:respiratory",
        _AROUSALS,
        f"{_RESULTING} respiratory effort|Arousal (ARO RES)",
    ),
    ("arousal", "leg_movement"): (
        "Limb movement arousal",
        "arousal:lm",
        _AROUSALS,
        f"{_RESULTING} limb movement|Arousal (ARO Limb)",
    ),
    ("leg_movement", ""): ("Limb movement", "LM", _LIMBS, "Limb movement|Limb Movement"),
    ("lights_off", ""): ("Lights off", "lights_off", _NOTES, "Lights Off"),
    ("lights_on", ""): ("Lights on", "lights_on", _NOTES, "Lights On"),
}
_EVENTS |= {
    ("position", value): (
        f"Position {value}",
        f"position:{value}",
        "Body Position|Body Position",
        f"Body position change to {value}|POSITION-{value.upper()}",
    )
    for value in ("supine", "prone", "left", "right", "upright")
}

EPOCH = "epoch"
"""Value of an event of which only the 30-s epoch is known; a word of its own beside the event's."""


def _row(event: Event):
    value = "" if event.value == EPOCH else event.value
    return _EVENTS.get((event.kind, value)) or _EVENTS.get((event.kind, ""))


def edf_text(event: Event) -> str | None:
    """Return the text of an event in EDF+ annotations and BIDS events, None if it has none."""
    row = _row(event)
    return None if row is None else row[0] + f" ({EPOCH})" * (event.value == EPOCH)


def luna_class(event: Event) -> tuple[str, str] | None:
    """Return class and instance of an event in Luna's `.annot`."""
    row = _row(event)
    return None if row is None else (row[1], EPOCH if event.value == EPOCH else ".")


def nsrr_concept(event: Event) -> tuple[str, str] | None:
    """Return EventType and EventConcept of an event in NSRR's XML."""
    row = _row(event)
    return None if row is None else (row[2], row[3] + f" ({EPOCH})" * (event.value == EPOCH))


def events_mark(scoring: Scoring, *, empty: bool = False) -> str | None:
    """Return the row that says whether events were scored, None where a reader knows it without.

    `empty` as in `unknown_words.Unknown.events_scored`, which reads the row.
    """
    met = any(event.kind not in NOT_SCORED for event in scoring.events)
    if scoring.events_scored == (met or empty):
        return None
    if isinstance(scoring.events_scored, bool):
        return "Events scored" if scoring.events_scored else "Events not scored"
    return f"Events scored: {', '.join(scoring.events_scored)}"


def stage_runs(stages: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (onset in s, duration in s, stage) of successive equal epochs."""
    edges = [0, *(np.flatnonzero(np.diff(stages)) + 1).tolist(), len(stages)]
    for first, stop in zip(edges, edges[1:]):
        if stop > first:
            yield first * EPOCH_S, (stop - first) * EPOCH_S, int(stages[first])
