"""Scoring files as different laboratories keep them, for simulated recordings."""

import pathlib
from xml.sax.saxutils import escape

from data_pipelines.files import atomic_write
from data_pipelines.scoring import EPOCH_S, write_edf_annotations

_NSRR_STAGES = ("Wake|0", "Stage 1 sleep|1", "Stage 2 sleep|2", "Stage 3 sleep|3", "REM sleep|5")
_NSRR_EVENTS = {
    "apnea_obstructive": ("Respiratory|Respiratory", "Obstructive apnea|Obstructive Apnea"),
    "apnea_central": ("Respiratory|Respiratory", "Central apnea|Central Apnea"),
    "apnea_mixed": ("Respiratory|Respiratory", "Mixed apnea|Mixed Apnea"),
    "hypopnea": ("Respiratory|Respiratory", "Hypopnea|Hypopnea"),
    "rera": ("Respiratory|Respiratory", "Respiratory effort related arousal|RERA"),
    "desaturation": ("Respiratory|Respiratory", "SpO2 desaturation|SpO2 desaturation"),
    "arousal": ("Arousals|Arousals", "Arousal|Arousal (ASDA)"),
    "leg_movement": ("Limb Movement|Limb Movement", "PLM (Left)|PLM (Left)"),
}
_LUNA_STAGES = ("W", "N1", "N2", "N3", "R")
_LUNA_EVENTS = {
    "apnea_obstructive": "apnea_obstructive",
    "apnea_central": "apnea_central",
    "apnea_mixed": "apnea_mixed",
    "hypopnea": "hypopnea",
    "rera": "RERA",
    "desaturation": "desat",
    "arousal": "arousal",
    "leg_movement": "PLM",
    "lights_off": "lights_off",
    "lights_on": "lights_on",
}
SUFFIXES = {"edf": "-Hypnogram.edf", "nsrr": "-nsrr.xml", "luna": ".annot"}


def write_scoring(recording_path, scoring, form: str, start) -> pathlib.Path:
    """Write a scoring beside a recording; complete or absent.

    Args:
        recording_path: The EDF file it belongs to.
        scoring: Stages and events.
        form: "edf" (annotations in EDF+, all events), "nsrr" (NSRR's XML: no positions or
            lights) or "luna" (Luna's .annot: no positions).
        start: Start of the recording.

    Returns:
        The file written.

    Raises:
        ValueError: Another form.
    """
    if form not in SUFFIXES:
        raise ValueError(f"no form of scoring {form!r}; there are {sorted(SUFFIXES)}")
    recording_path = pathlib.Path(recording_path)
    path = recording_path.with_name(recording_path.stem + SUFFIXES[form])
    with atomic_write(path) as file:
        if form == "edf":
            write_edf_annotations(file.name, scoring, start=start)
        else:
            text = (_nsrr if form == "nsrr" else _luna)(scoring, start)
            file.write(text.encode())
    return path


def _runs(stages):
    """Yield (onset_s, duration_s, stage) of successive equal epochs."""
    first = 0
    for index in range(1, len(stages) + 1):
        if index == len(stages) or stages[index] != stages[first]:
            yield first * EPOCH_S, (index - first) * EPOCH_S, int(stages[first])
            first = index


def _nsrr(scoring, start):
    rows = []

    def add(kind, concept, onset, duration, more=""):
        rows.append(
            f"<ScoredEvent>\n<EventType>{kind}</EventType>\n"
            f"<EventConcept>{escape(concept)}</EventConcept>\n<Start>{onset:.1f}</Start>\n"
            f"<Duration>{duration:.1f}</Duration>\n{more}</ScoredEvent>\n"
        )

    clock = f"<ClockTime>00.00.00 {start:%H.%M.%S}</ClockTime>\n"
    length = len(scoring.stages) * EPOCH_S
    add("", "Recording Start Time", 0, length, clock)
    for event in scoring.events:
        if event.kind in _NSRR_EVENTS:
            add(*_NSRR_EVENTS[event.kind], event.onset_s, event.duration_s)
    for onset, duration, stage in _runs(scoring.stages):
        concept = _NSRR_STAGES[stage] if stage >= 0 else "Unscored|9"
        add("Stages|Stages", concept, onset, duration)
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<PSGAnnotation>\n'
        "<SoftwareVersion>Compumedics</SoftwareVersion>\n<EpochLength>30</EpochLength>\n"
        f"<ScoredEvents>\n{''.join(rows)}</ScoredEvents>\n</PSGAnnotation>\n"
    )


def _luna(scoring, start):
    del start  # times in the file are seconds from the start of the recording
    rows = []
    for onset, duration, stage in _runs(scoring.stages):
        name = _LUNA_STAGES[stage] if stage >= 0 else "?"
        rows += [
            (float(at), float(at + EPOCH_S), name) for at in range(onset, onset + duration, EPOCH_S)
        ]
    for event in scoring.events:
        if event.kind in _LUNA_EVENTS:
            stop = event.onset_s + event.duration_s
            rows.append((event.onset_s, stop, _LUNA_EVENTS[event.kind]))
    rows.sort()
    lines = [f"{name}\t.\t.\t{at:.2f}\t{stop:.2f}\t.\n" for at, stop, name in rows]
    return "class\tinstance\tchannel\tstart\tstop\tmeta\n" + "".join(lines)
