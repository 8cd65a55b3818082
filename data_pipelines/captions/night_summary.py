"""A night in numbers: sleep, breathing, oxygen, heart and position, each with its rule.

Indices are per hour of sleep. An event counts where the middle of it lies in an epoch of sleep.
What was not scored or not measured is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines import labels
from data_pipelines.captions.facts import POSITIONS, STAGES
from data_pipelines.captions.measures import NightFacts
from data_pipelines.scoring import Event
from data_pipelines.store import EPOCH_S, Night, NightEntry, NightStore

AFTER_S, BEFORE_S = 30, 5  # ours: where the fall of oxygen of a hypopnea is looked for
NEAR_AROUSAL_S = 5  # ours: an arousal that ends a hypopnea starts so near to its end
LOW_OXYGEN = 90.0
SPO2_BOUNDS = (50.0, 100.0)


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of a night; None where it is not known.

    Attributes:
        value: in ``unit``.
        unit: "min", "%", "1/h" or "bpm".
        rule: how it is counted.
    """

    value: float | None
    unit: str
    rule: str


def summarise_stored(store: NightStore, night: NightEntry, facts: NightFacts) -> dict[str, Number]:
    """Return the numbers of a night of a store."""
    spo2 = store.channel(night, "spo2") if "spo2" in night.channels else None
    return _summarise(night, facts, store.events(night), spo2)


def summarise(night: Night, facts: NightFacts) -> dict[str, Number]:
    """Return the numbers of a night in memory."""
    return _summarise(night, facts, night.events, night.channels.get("spo2"))


def _summarise(night, facts, events, spo2):
    found = _sleep(facts.stage, events)
    asleep = facts.stage > 0
    hours = asleep.sum() * EPOCH_S / 3600
    track = _oxygen(spo2, night, facts.epochs)
    found |= _indices(night, events, asleep, hours, track)
    found |= _levels(track, np.repeat(asleep, EPOCH_S))
    rate = facts.numbers.get("heart_rate.mean")
    for code, stage in enumerate(STAGES):
        of_stage = np.zeros(0) if rate is None else rate[facts.stage == code]
        known = of_stage[np.isfinite(of_stage)]
        value = float(known.mean()) if len(known) else None
        rule = "mean of the epochs of the stage"
        found[f"heart_rate_{stage.lower()}"] = Number(value, "bpm", rule)
    lying = facts.position[asleep & (facts.position >= 0)]
    share = 100 * float(np.mean(lying == POSITIONS.index("supine"))) if len(lying) else None
    rule = "of the epochs of sleep whose position is known"
    return found | {"supine": Number(share, "%", rule)}


def _sleep(stage, events: Sequence[Event]) -> dict[str, Number]:
    scored = np.flatnonzero(stage >= 0)
    names = {
        "total_sleep_time": ("min", "epochs of N1, N2, N3 and R"),
        "sleep_efficiency": ("%", "sleep in the time from lights off to lights on, else scored"),
        "sleep_latency": ("min", "from lights off, else the first scored epoch, to sleep"),
        "rem_latency": ("min", "from the first epoch of sleep to the first of R"),
        "wake_after_sleep_onset": ("min", "wake after the first epoch of sleep, to lights on"),
        **{f"share_{name.lower()}": ("%", "of the epochs of sleep") for name in STAGES[1:]},
    }
    values = dict.fromkeys(names)
    if len(scored):
        lights = {event.kind: event.onset_s / EPOCH_S for event in events}
        first = int(max(lights.get("lights_off", scored[0]), 0))
        stop = min(int(np.ceil(lights.get("lights_on", scored[-1] + 1))), len(stage))
        in_bed = stage[first:stop]
        sleep = np.flatnonzero(in_bed > 0)
        minutes = EPOCH_S / 60
        values["total_sleep_time"] = len(sleep) * minutes
        if len(in_bed):
            values["sleep_efficiency"] = 100 * len(sleep) / len(in_bed)
        if len(sleep):
            values["sleep_latency"] = int(sleep[0]) * minutes
            values["wake_after_sleep_onset"] = int((in_bed[sleep[0] :] == 0).sum()) * minutes
            for code, name in enumerate(STAGES[1:], 1):
                share = 100 * float(np.mean(in_bed[sleep] == code))
                values[f"share_{name.lower()}"] = share
            rem = np.flatnonzero(in_bed == STAGES.index("R"))
            if len(rem):
                values["rem_latency"] = int(rem[0] - sleep[0]) * minutes
    return {name: Number(values[name], *told) for name, told in names.items()}


def _oxygen(spo2, night, epochs) -> np.ndarray | None:
    """Oxygen saturation in per cent of each second, NaN where it is not known."""
    if spo2 is None:
        return None
    centre, scale = night.qc["scaling"]["spo2"]
    by_second = spo2.samples.reshape(-1, spo2.rate_hz).mean(axis=1) * scale + centre
    fine = spo2.valid & (by_second >= SPO2_BOUNDS[0] - 0.01) & (by_second <= SPO2_BOUNDS[1] + 0.01)
    track = np.full(epochs * EPOCH_S, np.nan)
    values = np.where(fine, by_second, np.nan)[: len(track)]
    track[: len(values)] = values
    return track


def _indices(night, events, asleep, hours, track) -> dict[str, Number]:
    def in_sleep(event):
        middle = int((event.onset_s + event.duration_s / 2) // EPOCH_S)
        return 0 <= middle < len(asleep) and bool(asleep[middle])

    def per_hour(kinds, keep=lambda event: True):
        if not hours or not labels.scored(night, kinds):
            return None
        found = [e for e in events if e.kind in kinds and e.value != "epoch" and in_sleep(e)]
        return len([e for e in found if keep(e)]) / hours

    arousals = np.array([e.onset_s for e in events if e.kind == "arousal"])
    known = track is not None and bool(np.isfinite(track).any())

    def fell(event, least):
        return event.kind not in labels.HYPOPNEAS or _fall(track, event) >= least

    def woke(event):
        end = event.onset_s + event.duration_s
        return bool((np.abs(arousals - end) <= NEAR_AROUSAL_S).any())

    rules = {
        "ahi": ("apneas and hypopneas as scored", labels.BREATHING, None),
        "ahi_3": (
            "apneas, and scored hypopneas with a fall of oxygen of 3 points or an arousal",
            labels.BREATHING,
            lambda e: fell(e, 3) or woke(e),
        ),
        "ahi_4": (
            "apneas, and scored hypopneas with a fall of oxygen of 4 points",
            labels.BREATHING,
            lambda e: fell(e, 4),
        ),
        "odi": ("desaturations as scored", ("desaturation",), None),
        "arousal_index": ("arousals as scored", labels.AROUSALS, None),
    }
    found = {}
    for name, (rule, kinds, keep) in rules.items():
        value = per_hour(kinds, keep or (lambda event: True)) if keep is None or known else None
        found[name] = Number(value, "1/h", rule)
    return found


def _fall(track, event) -> float:
    """How far oxygen falls around an event, in points; 0 where it is not known."""
    start, stop = int(event.onset_s), int(event.onset_s + event.duration_s) + 1
    before = track[max(start - BEFORE_S, 0) : max(stop, 0)]
    after = track[max(start, 0) : max(stop + AFTER_S, 0)]
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    return float(before.max() - after.min()) if len(before) and len(after) else 0.0


def _levels(track, asleep) -> dict[str, Number]:
    lowest = low = None
    if track is not None:
        known = track[asleep & np.isfinite(track)]
        if len(known):
            lowest, low = float(known.min()), 100 * float(np.mean(known < LOW_OXYGEN))
    return {
        "spo2_min": Number(lowest, "%", "lowest second of sleep"),
        "t90": Number(low, "%", "of the seconds of sleep with oxygen below 90 %"),
    }
