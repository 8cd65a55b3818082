"""The facts of a night: numbers by slot, trends, positions, stages and events of every epoch.

``night_facts`` measures a night of a store, ``facts_of`` one in memory, from the rows of the recipe
``sleeplm`` that it has. Whatever a gate takes is NaN; see the parts (``measures_brain``,
``measures_heart``, ``measures_breathing``, ``measures_muscle``, ``trends``) for the gates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import labels
from data_pipelines.captions import (
    measures_brain,
    measures_breathing,
    measures_heart,
    measures_muscle,
    micro_events,
    trends,
)
from data_pipelines.captions.epoch_signals import NightSignals
from data_pipelines.captions.facts import (
    EVENTS,
    POSITIONS,
    SLOTS,
    STAGES,
    Facts,
    Interval,
    PositionChange,
)
from data_pipelines.scoring import Event
from data_pipelines.store import EPOCH_S, Night, NightEntry, NightStore, StoreError

VERSION = 1  # another number where the same night gives other facts
LEAST_OVERLAP_S = 0.1
CHANNELS = tuple(dict.fromkeys([*(slot.channel for slot in SLOTS.values()), "position"]))
_WORDS = {kind: word for word, kinds in EVENTS.items() for kind in kinds}


@dataclasses.dataclass(frozen=True)
class NightFacts:
    """What may be said of each of the E epochs of a night.

    Attributes:
        numbers: name in ``SLOTS`` -> float32 [E], NaN where a gate took it. Slots of channels that
            the night lacks are not there.
        trends: name in ``TRACKS`` -> the trends of each epoch.
        stage: int8 [E], a place in ``STAGES``, -1 unknown.
        position: int8 [E], a place in ``POSITIONS`` where the epoch begins, -1 unknown.
        position_changes: of each epoch.
        events: of each epoch; None where nobody looked.
    """

    numbers: Mapping[str, np.ndarray]
    trends: Mapping[str, Sequence[tuple[Interval, ...]]]
    stage: np.ndarray
    position: np.ndarray
    position_changes: Sequence[tuple[PositionChange, ...]]
    events: Sequence[tuple[Interval, ...] | None]

    @property
    def epochs(self) -> int:
        """Whole epochs of the night."""
        return len(self.stage)

    def epoch(self, at: int) -> Facts:
        """Return the facts of one epoch."""
        values = {name: float(column[at]) for name, column in self.numbers.items()}
        return Facts(
            numbers={name: value for name, value in values.items() if np.isfinite(value)},
            trends={name: track[at] for name, track in self.trends.items() if track[at]},
            position=POSITIONS[self.position[at]] if self.position[at] >= 0 else None,
            position_changes=self.position_changes[at],
            stage=STAGES[self.stage[at]] if self.stage[at] >= 0 else None,
            events=self.events[at],
        )


def night_facts(
    store: NightStore, night: NightEntry, *, with_micro_events: bool = False
) -> NightFacts:
    """Measure a night of a store.

    Args:
        store, night: what is measured.
        with_micro_events: spindles and slow waves too, which needs YASA.

    Raises:
        StoreError: the store does not say what scaled its rows, or a record is damaged.
    """
    scaling = night.qc.get("scaling")
    if scaling is None:
        raise StoreError(
            f"{store.path}: night {night.recording!r} does not say what scaled its signals; prepare"
            " the recordings anew: python -m launch.prepare_nights --recipe=sleeplm"
            " --channels=twelve"
        )
    signals = NightSignals(
        epochs=night.duration_s // EPOCH_S,
        read=lambda name: store.channel(night, name),
        names=night.channels,
        scaling=scaling,
    )
    stages = labels.stages(store, night)
    return _measure(signals, stages, store.events(night), night, with_micro_events)


def facts_of(night: Night, *, with_micro_events: bool = False) -> NightFacts:
    """Measure a night in memory; see ``night_facts``."""
    epochs = night.duration_s // EPOCH_S
    stages = np.full(epochs, labels.UNKNOWN, np.int8)
    stages[: len(night.stages)] = night.stages[:epochs]
    names = tuple(night.channels)
    signals = NightSignals(epochs, night.channels.__getitem__, names, night.qc["scaling"])
    return _measure(signals, stages, night.events, night, with_micro_events)


def _measure(signals, stages, events, night, with_micro_events):
    numbers = measures_brain.measure(signals)
    of_heart, tracks = measures_heart.measure(signals)
    numbers |= of_heart
    numbers |= measures_breathing.measure(signals)
    numbers |= measures_muscle.measure(signals)
    if with_micro_events:
        numbers |= micro_events.measure(signals, stages)
    position, changes = measures_muscle.find_positions(_codes(signals, events))
    return NightFacts(
        numbers={name: numbers[name].astype(np.float32) for name in SLOTS if name in numbers},
        trends={
            name: trends.find_trends(track, trends.RULES[name]) for name, track in tracks.items()
        },
        stage=stages,
        position=position,
        position_changes=changes,
        events=_clipped(events, signals.epochs, night),
    )


def _codes(signals, events):
    """Place in ``POSITIONS`` of every second, [E, 30]: of the sensor, else of the scoring."""
    sensor = signals.get("position")
    if sensor is not None:
        return np.rint(sensor.samples[:, :: sensor.rate_hz])
    codes = np.full(signals.epochs * EPOCH_S, measures_muscle.UNKNOWN)
    for event in events:
        if event.kind == "position" and event.value in POSITIONS:
            first, last = max(event.onset_s, 0.0), max(event.onset_s + event.duration_s, 0.0)
            codes[round(first) : round(last)] = POSITIONS.index(event.value)
    return codes.reshape(signals.epochs, EPOCH_S)


def _clipped(events: Sequence[Event], epochs, night):
    """The events of each epoch, by start; None where nobody looked.

    Who looked for some kinds alone did not say that there is none of the others; and an event of
    which only the epoch is known has no times.
    """
    if not night.metadata.get("events_scored"):
        return [None] * epochs
    looked = labels.scored(night, (*labels.BREATHING, *labels.AROUSALS))
    found: list[list[Interval]] = [[] for _ in range(epochs)]
    without_times = set()
    for event in events:
        word = _WORDS.get(event.kind)
        if word is None:
            continue
        start, stop = event.onset_s, event.onset_s + event.duration_s
        first, last = max(int(start // EPOCH_S), 0), min(int(stop // EPOCH_S), epochs - 1)
        for epoch in range(first, last + 1):
            from_s, to_s = start - epoch * EPOCH_S, stop - epoch * EPOCH_S
            low, high = max(from_s, 0.0), min(to_s, float(EPOCH_S))
            if high - low < LEAST_OVERLAP_S - 1e-6:
                continue
            if event.value == "epoch":
                without_times.add(epoch)
            else:
                cut = {"before": bool(from_s < 0), "after": bool(to_s > EPOCH_S)}
                found[epoch].append(Interval(float(low), float(high), word, **cut))
    return [
        tuple(sorted(own)) if own or (looked and epoch not in without_times) else None
        for epoch, own in enumerate(found)
    ]
