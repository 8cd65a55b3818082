"""Respiratory indices of a night under named rules; an index never stands without its rule.

The rules say which scored hypopneas count; apneas count under each. "AASM" is the AASM Manual for
the Scoring of Sleep and Associated Events: its recommended rule (1A) wants a desaturation of 3 % or
an arousal, its acceptable one (1B) a desaturation of 4 %. An event counts where it lasts 10 s or
more and touches an epoch of sleep. What the scorer's own rule left out cannot come back here: an
index under a looser rule than the scorer's is a lower bound, and its note says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from data_pipelines.scoring import EPOCH_S, Event
from hypnos_jax.scored.oximetry import Saturation

APNEAS = ("apnea_obstructive", "apnea_central", "apnea_mixed")
HYPOPNEAS = ("hypopnea", "apnea_hypopnea")  # one not told which needs what a hypopnea needs
LEAST_S = 10.0
AROUSAL_S = 5.0  # ours: an arousal is an event's from its onset until so long after its end


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which hypopneas count.

    Attributes:
        words: the rule in words.
        drop: points of desaturation that a hypopnea needs; None: it needs none.
        or_arousal: an arousal does as well.
    """

    words: str
    drop: float | None = None
    or_arousal: bool = False


RULES = {
    "aasm_3pct_or_arousal": Rule(
        "AASM recommended (1A): hypopneas with 3 % desaturation or an arousal", 3, or_arousal=True
    ),
    "aasm_4pct": Rule("AASM acceptable (1B): hypopneas with 4 % desaturation", 4),
    "flow_only": Rule("flow only: all scored apneas and hypopneas, whatever came of them"),
}


def looked_for(events_scored: bool | Sequence[str], kind: str) -> bool:
    """Return whether somebody looked for ``"apnea"`` (with hypopneas) or another kind of events."""
    return events_scored is True or bool(events_scored) and kind in events_scored


def asleep_events(stages: np.ndarray, events: Sequence[Event]) -> list[Event]:
    """Return the events that touch an epoch of sleep."""
    asleep, found = np.concatenate([[0], np.cumsum(np.asarray(stages) > 0)]), []
    for event in events:
        first = int(np.clip(event.onset_s // EPOCH_S, 0, len(stages)))
        stop = math.ceil((event.onset_s + max(event.duration_s, 1e-3)) / EPOCH_S)
        if asleep[int(np.clip(stop, first, len(stages)))] > asleep[first]:
            found.append(event)
    return found


def respiratory_indices(
    stages: np.ndarray,
    events: Sequence[Event],
    saturation: Saturation | None,
    events_scored: bool | Sequence[str] = True,
) -> list[dict]:
    """Return the AHI under each rule, JSON.

    Args:
        stages: int [E], 0 wake, negative unknown.
        events: of the night.
        saturation: of the night; None where there is none.
        events_scored: as ``Scoring.events_scored``.

    Returns:
        Of each rule ``name value rule words counts hours of reason notes``: ``value`` an hour of
        sleep, None with the ``reason`` where what the rule needs is missing; ``counts`` of
        ``apneas hypopneas not_counted unjudged too_short``.
    """
    hours = float((np.asarray(stages) > 0).sum()) * EPOCH_S / 3600
    own = asleep_events(stages, [e for e in events if e.kind in APNEAS + HYPOPNEAS])
    long = [e for e in own if e.duration_s >= LEAST_S or e.value == "epoch"]
    arousals = [e for e in events if e.kind == "arousal"]
    have_arousals = looked_for(events_scored, "arousal")
    return [
        _index(
            name,
            rule,
            long,
            len(own) - len(long),
            hours,
            saturation,
            arousals if have_arousals else None,
            looked_for(events_scored, "apnea"),
        )
        for name, rule in RULES.items()
    ]


def _index(name, rule, events, short, hours, saturation, arousals, scored) -> dict:
    counts = {"apneas": 0, "hypopneas": 0, "not_counted": 0, "unjudged": 0, "too_short": short}
    hypopneas, reason, notes = 0, None, []
    for event in events:
        if event.kind in APNEAS:
            counts["apneas"] += 1
            continue
        hypopneas += 1
        counts[_verdict(rule, event, saturation, arousals)] += 1
    untold = sum(event.kind == "apnea_hypopnea" for event in events)
    if not scored:
        reason = "nobody looked for apneas and hypopneas"
    elif not hours:
        reason = "no scored sleep, so no hours to divide by"
    elif (
        rule.drop and hypopneas and saturation is None and (arousals is None or not rule.or_arousal)
    ):
        also = " and nobody looked for arousals" if rule.or_arousal else ""
        reason = f"no oxygen saturation{also}: {hypopneas} hypopneas cannot be judged"
    elif counts["unjudged"]:
        if 2 * counts["unjudged"] > hypopneas:
            reason = f"{counts['unjudged']} of {hypopneas} hypopneas cannot be judged"
        else:
            notes.append(
                f"{counts['unjudged']} of {hypopneas} hypopneas had no usable signal and do not"
                " count: a lower bound"
            )
    if untold:
        notes.append(f"{untold} events that may be apneas or hypopneas were judged as hypopneas")
    if rule.or_arousal and arousals is None and not reason:
        notes.append("nobody looked for arousals: by desaturation alone, a lower bound")
    if rule.or_arousal and saturation is None and hypopneas and not reason:
        notes.append("no oxygen saturation: by arousals alone, a lower bound")
    value = None if reason else (counts["apneas"] + counts["hypopneas"]) / hours
    return {
        "name": "AHI",
        "value": value,
        "rule": name,
        "words": rule.words,
        "counts": counts,
        "hours": hours,
        "of": "sleep",
        "reason": reason,
        "notes": notes,
    }


def _verdict(rule, event, saturation, arousals) -> str:
    if rule.drop is None:
        return "hypopneas"
    stop_s = event.onset_s + event.duration_s
    if rule.or_arousal and any(
        event.onset_s <= arousal.onset_s <= stop_s + AROUSAL_S for arousal in arousals or ()
    ):
        return "hypopneas"
    drop = saturation.drop_of(event.onset_s, stop_s) if saturation else math.nan
    if math.isnan(drop):
        return "unjudged"
    return "hypopneas" if drop >= rule.drop - 1e-6 else "not_counted"


def arousal_index(
    stages: np.ndarray, events: Sequence[Event], events_scored: bool | Sequence[str] = True
) -> dict:
    """Return the arousals that touch sleep, an hour of sleep, as a record like those of the AHI."""
    hours = float((np.asarray(stages) > 0).sum()) * EPOCH_S / 3600
    count = len(asleep_events(stages, [event for event in events if event.kind == "arousal"]))
    reason = None
    if not looked_for(events_scored, "arousal"):
        reason = "nobody looked for arousals"
    elif not hours:
        reason = "no scored sleep, so no hours to divide by"
    return {
        "name": "arousal index",
        "value": None if reason else count / hours,
        "rule": "arousals_in_sleep",
        "words": "all scored arousals that touch sleep",
        "counts": {"arousals": count},
        "hours": hours,
        "of": "sleep",
        "reason": reason,
        "notes": [],
    }
