"""Indices of a night from what is said of its epochs: events an hour of sleep, and sleep itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.captions.facts import EPOCH_S, EVENTS, STAGES, Facts, Interval
from data_pipelines.captions.prompts import QUESTIONS
from data_pipelines.scoring import Event
from hypnos_jax.probing import task_metrics

JOIN_S = 1.0  # gap at the edge of an epoch that parts no event
INDICES = {
    "ahi": QUESTIONS["apnea_or_hypopnea"],
    "odi": QUESTIONS["desaturation"],
    "arousal_index": QUESTIONS["arousal"],
}
# Agreement of ten human scorers on the AHI of 70 nights, ICC by the rule for hypopneas (Kuna et
# al. 2013).
HUMAN_ICC = {"recommended rule": 0.984, "alternate rule": 0.947, "Chicago rule": 0.800}
_WORDS = {kind: word for word, kinds in EVENTS.items() for kind in kinds}


def merged(epochs: Sequence[Sequence[Interval] | None]) -> list[Interval]:
    """Return the events of a night, in seconds of it, of what its epochs have.

    An event that ends at the edge of an epoch goes on where one of its kind begins at the start of
    the next: where ``JOIN_S`` or less lies between them.

    Args:
        epochs: of each epoch its events, in seconds of the epoch; None where none are known.
    """
    found: list[Interval] = []
    before: dict[str, int] = {}  # kind -> its last event of the epoch before, by place in found
    for number, events in enumerate(epochs):
        first, own = number * EPOCH_S, {}
        for event in sorted(events or (), key=lambda event: event.start_s):
            start, stop = first + event.start_s, first + event.stop_s
            last = before.pop(event.kind, None)  # one event goes on once
            if last is not None and start - found[last].stop_s <= JOIN_S:
                found[last] = Interval(found[last].start_s, stop, event.kind)
                own[event.kind] = last
            else:
                found.append(Interval(start, stop, event.kind))
                own[event.kind] = len(found) - 1
        before = own
    return sorted(found)


def night_of(epochs: Mapping[int, Facts], length: int) -> tuple[np.ndarray, list[Interval]]:
    """Return the stages int [length] (-1 unknown) and the events of a night.

    Args:
        epochs: number of an epoch -> what is said of it; unsaid epochs have no event.
        length: epochs of the night.
    """
    stages = np.full(length, -1)
    for at, facts in epochs.items():
        stages[at] = STAGES.index(facts.stage) if facts.stage else -1
    return stages, merged([epochs[at].events if at in epochs else None for at in range(length)])


def scored_events(events: Sequence[Event]) -> list[Interval]:
    """Return the events of a scoring of which captions have words."""
    return sorted(
        Interval(event.onset_s, event.onset_s + event.duration_s, _WORDS[event.kind])
        for event in events
        if event.kind in _WORDS
    )


def indices(stages: np.ndarray, events: Sequence[Interval]) -> dict[str, float]:
    """Return the indices of a night.

    Args:
        stages: int [E], 0 for wake, negative where unknown.
        events: in seconds of the night.

    Returns:
        ``tst_h``, hours of sleep; ``ahi``, ``odi`` and ``arousal_index``, events an hour of sleep
        that touch sleep; NaN without sleep.
    """
    asleep = np.concatenate([[0], np.cumsum(stages > 0)])
    hours, found = asleep[-1] * EPOCH_S / 3600, {}
    for name, kinds in INDICES.items():
        count = 0
        for event in events:
            first = int(np.clip(event.start_s // EPOCH_S, 0, len(stages)))
            last = int(np.clip(-(-event.stop_s // EPOCH_S), first, len(stages)))
            count += event.kind in kinds and asleep[last] > asleep[first]
        found[name] = count / hours if hours else math.nan
    return {"tst_h": float(hours), **found}


def agreement(truth: Sequence[dict], said: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Return name of an index -> ``icc`` (2,1), ``pearson``, ``mae``, ``bias``, ``nights``.

    Args:
        truth, said: ``indices`` of each night; those without a number in one are left out.
    """
    found = {}
    for name in ("tst_h", *INDICES):
        pairs = np.array([(a[name], b[name]) for a, b in zip(truth, said, strict=True)])
        x, y = pairs.reshape(-1, 2)[np.isfinite(pairs.reshape(-1, 2)).all(1)].T
        error = y - x
        found[name] = {
            "icc": task_metrics.icc(x, y) if len(x) else math.nan,
            "pearson": task_metrics.pearson(x, y),
            "mae": float(np.mean(np.abs(error))) if len(x) else math.nan,
            "bias": float(np.mean(error)) if len(x) else math.nan,
            "nights": len(x),
        }
    return found
