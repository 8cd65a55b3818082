"""Numbers of a night: sleep, oxygen saturation and indices, each index beside its rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.scoring import EPOCH_S, STAGES, Event
from hypnos_jax.scored import oximetry, respiratory_rules

FORMAT = "hypnos_jax.night_summary/1"


def summarise(
    stages: np.ndarray,
    events: Sequence[Event] = (),
    spo2: tuple[np.ndarray, float] | None = None,
    *,
    events_scored: bool | Sequence[str] = True,
) -> dict:
    """Return the numbers of a night, JSON.

    Args:
        stages: int [E], one per 30 s: 0 W, 1 N1, 2 N2, 3 N3, 4 R, negative unknown.
        events: of the night; ``lights_off`` and ``lights_on`` among them bound the time in bed.
        spo2: saturation in %, [N], and its rate in Hz; None where there is none.
        events_scored: kinds that were looked for, as ``Scoring.events_scored``: of a model, the
            tasks that it answers (``apnea`` stands for apneas and hypopneas). Without them an empty
            list of events is a night without events.

    Returns:
        ``format``, ``sleep`` (see ``sleep_statistics``), ``oximetry`` (see ``oximetry.measures``;
        by sleep where any was scored) and ``indices``: records of ``ahi`` by rule, ``odi`` by drop
        and ``arousal_index``. ``sentences`` prints them.
    """
    stages = np.asarray(stages)
    saturation = oximetry.Saturation.of(*spo2) if spo2 is not None else None
    known = bool((stages >= 0).any())
    if saturation is None:
        oxygen = {"reason": "no oxygen saturation in the recording", "odi": []}
    else:
        oxygen = oximetry.measures(saturation, stages if known else None)
    return {
        "format": FORMAT,
        "sleep": sleep_statistics(stages, *bed_epochs(len(stages), events)),
        "oximetry": {name: value for name, value in oxygen.items() if name != "odi"},
        "indices": {
            "ahi": respiratory_rules.respiratory_indices(stages, events, saturation, events_scored),
            "odi": oxygen["odi"],
            "arousal_index": respiratory_rules.arousal_index(stages, events, events_scored),
        },
    }


def bed_epochs(length: int, events: Sequence[Event]) -> tuple[int, int]:
    """Return the first epoch in bed and that after the last: lights off to lights on, if marked."""

    def at(kind, missing):
        times = [event.onset_s for event in events if event.kind == kind]
        return int(np.clip(round(times[0] / EPOCH_S), 0, length)) if times else missing

    first, stop = at("lights_off", 0), at("lights_on", length)
    return (first, stop) if first < stop else (0, length)


def sleep_statistics(stages: np.ndarray, first: int = 0, stop: int | None = None) -> dict:
    """Return sleep statistics by the AASM manual's definitions, as YASA computes them.

    Args:
        stages: int [E].
        first, stop: epochs in bed; all by default.

    Returns:
        Minutes: ``tib_min`` in bed, ``spt_min`` from the first to the last sleep, ``tst_min``
        asleep, ``waso_min`` awake between those, ``sol_min`` from the first epoch in bed to sleep,
        ``latency_min`` of each stage from the same, ``rem_latency_min`` from sleep onset;
        ``stage_min``, ``unscored_min``. Shares of 1: ``efficiency`` (tst / tib), ``maintenance``
        (tst / spt), ``stage_share`` of sleep. ``awakenings``, from sleep to wake. None where there
        is no sleep, or no such stage; ``reason`` says that nothing was scored.
    """
    own = np.asarray(stages)[first:stop]
    asleep, scored = own > 0, bool((own >= 0).any())
    minutes = EPOCH_S / 60
    places = np.flatnonzero(asleep)
    spt = slice(places[0], places[-1] + 1) if len(places) else slice(0, 0)
    tst, tib = int(asleep.sum()), len(own)
    counts = {name: int((own == code).sum()) for code, name in enumerate(STAGES)}
    begins = {
        name: float(np.argmax(own == code) * minutes) if counts[name] else None
        for code, name in enumerate(STAGES)
    }
    onset = float(places[0] * minutes) if len(places) else None

    def share(part, whole):
        return float(part / whole) if whole and scored else None

    def told(count):
        return float(count * minutes) if scored else None

    return {
        "tib_min": float(tib * minutes),
        "tst_min": told(tst),
        "spt_min": told(spt.stop - spt.start),
        "waso_min": told((own[spt] == 0).sum()) if tst else None,
        "efficiency": share(tst, tib),
        "maintenance": share(tst, spt.stop - spt.start),
        "sol_min": onset,
        "rem_latency_min": begins["R"] - onset if counts["R"] else None,
        "latency_min": {name: begins[name] for name in STAGES[1:]},
        "stage_min": {name: told(count) for name, count in counts.items()},
        "stage_share": {name: share(counts[name], tst) for name in STAGES[1:]},
        "awakenings": int((asleep[:-1] & (own[1:] == 0)).sum()) if scored else None,
        "unscored_min": float((own < 0).sum() * minutes),
        "reason": None if scored else "no epoch has a stage",
    }


def sentence(record: dict) -> str:
    """Return an index in words, with its rule: ``AHI 12.3 an hour of sleep (flow only: ...)``."""
    if record["value"] is None:
        return f"{record['name']}: none ({record['words']}), because {record['reason']}"
    notes = "".join(f"; {note}" for note in record["notes"])
    hours = f"{record['hours']:.2f} h of {record['of']}"
    return f"{record['name']} {record['value']:.1f}/h ({record['words']}; {hours}{notes})"


def sentences(summary: dict) -> list[str]:
    """Return all indices of a night in words."""
    found = summary["indices"]
    return [sentence(record) for record in (*found["ahi"], *found["odi"], found["arousal_index"])]
