"""Captions of facts: sentences of ``wording``, chosen by a hash of what is described.

The same facts, recording, epoch, modality and variant give the same bytes on every machine: choices
are numbers of a counter under the hash as the key (SplitMix64's finalizer), not Python's ``hash``.
The scheme is after the captions of SleepLM (Xu et al. 2026); the wording and the draws are ours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from data_pipelines.captions import wording
from data_pipelines.captions.facts import (
    EPOCH_S,
    EVENTS,
    MODALITIES,
    POSITIONS,
    SLOTS,
    STAGES,
    TRACKS,
    Facts,
    Interval,
)
from data_pipelines.shuffle import mix

MODES = ("reference", "train")
GLOBAL_WORDS = 90  # a global caption is no longer
KEEP = 0.8  # probability that a statistic is said in a training caption, of which two are at least
MOST_TRENDS = 2  # of a track in a training caption
HEDGE = 0.25  # probability that a value of a training caption is a rounded integer
HEDGED = ("brain", "heart")  # modalities with such values
_LARGEST = 999.99  # number that captions have digits for
_LOW_SATURATION = 90.0  # %: below, the lowest saturation is what is worth saying of a heart

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption in whole sentences; ``str`` joins them by spaces."""

    clauses: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.clauses)


def render(
    facts: Facts,
    modality: str,
    *,
    recording: str,
    epoch: int,
    variant: int = 0,
    mode: str = "reference",
    held_out: Sequence[str] = (),
) -> Caption:
    """Say the facts of an epoch in words.

    A number that cannot be printed (negative, not finite, 1,000 or more, above 100 %) and an
    interval whose printed times are equal are left out.

    Args:
        facts: of the epoch; what the modality does not say is passed over.
        modality: one of ``MODALITIES``; or "global": stage, events and one fact of each other
            modality in at most 90 words.
        recording: what names the recording; it decides the words, and is never said.
        epoch: number of the epoch within it.
        variant: number of the wording.
        mode: "reference": all is said, in a fixed order. "train": sentences in any order (events
            stay by time), some of the statistics, at most two trends of a track, and some values
            as rounded integers ("about 39%").
        held_out: concepts that are not said: a statistic ("alpha"), a number ("eeg_c3.alpha"), a
            channel ("spo2"), an event ("Snore"), a position ("prone") or a stage ("N1").

    Raises:
        ValueError: a modality, a mode or a concept that is not known.
    """
    if modality not in (*MODALITIES, "global"):
        raise ValueError(f"modality is one of {', '.join(MODALITIES)}, global; got {modality!r}")
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}; got {mode!r}")
    facts = _sayable(_without(facts, held_out).printed())
    writer = _Writer(_Draws(recording, epoch, modality, variant), train=mode == "train")
    if modality == "global":
        clauses = _global(facts, writer)
    else:
        clauses = writer.clauses(facts, modality)
    return Caption(tuple(map(wording.sentence, clauses or [wording.EMPTY[modality]])))


class _Draws:
    """Numbers that a key decides: the n-th is a function of the key and of n alone."""

    def __init__(self, recording: str, epoch: int, modality: str, variant: int) -> None:
        name = "\n".join((recording, str(int(epoch)), modality, str(int(variant))))
        digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
        self._key = np.uint64(int.from_bytes(digest, "little"))
        self._count = 0
        self._block: list[int] = []

    def number(self) -> int:
        """Return the next number of 64 bits."""
        place = self._count % 128
        if not place:
            self._block = mix(self._key + np.arange(self._count, self._count + 128, dtype="u8"))
            self._block = self._block.tolist()
        self._count += 1
        return self._block[place]

    def choose(self, items: Sequence[Item]) -> Item:
        return items[self.number() % len(items)]

    def happens(self, probability: float) -> bool:
        return (self.number() >> 11) * 2.0**-53 < probability

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        ranks = [self.number() for _ in items]
        return [items[place] for place in sorted(range(len(items)), key=lambda n: (ranks[n], n))]


class _Writer:
    """Sentences of facts that are printed already, in the words that the draws choose."""

    def __init__(self, draws: _Draws, *, train: bool) -> None:
        self.draws, self.train = draws, train

    def clauses(self, facts: Facts, modality: str) -> list[str]:
        """Return the sentences of a modality, without capitals and full stops."""
        if modality == "stage_event":
            return self._stage_and_events(facts)
        channels: dict[str, list[str]] = {}
        for name, slot in SLOTS.items():  # their order is that of captions
            if slot.modality == modality and name in facts.numbers:
                channels.setdefault(slot.channel, []).append(name)
        clauses = []
        for channel in dict.fromkeys(slot.channel for slot in SLOTS.values()):
            if channel in channels:
                clauses.append(self._numbers(channel, channels[channel], facts.numbers))
            if modality == "heart" and facts.trends.get(channel):
                clauses.append(self._trends(channel, facts.trends[channel]))
        if modality == "position_muscle" and (facts.position or facts.position_changes):
            clauses.append(self._position(facts))
        return self.draws.shuffled(clauses) if self.train else clauses

    def _stage_and_events(self, facts: Facts) -> list[str]:
        clauses = [self.event(event) for event in facts.events or ()]
        if facts.events == ():
            clauses.append(self.draws.choose(_no_event_sentences(facts.stage)))
        if facts.stage:
            place = self.draws.number() % (len(clauses) + 1) if self.train else 0
            clauses.insert(place, self.stage(facts.stage))
        return clauses

    def stage(self, stage: str) -> str:
        name = self.draws.choose(wording.STAGES[stage])
        return self.draws.choose(wording.STAGE_SENTENCES).replace("{stage}", name)

    def event(self, event: Interval) -> str:
        name = wording.EVENTS[event.kind]
        words = self.draws.choose(wording.EVENT_SENTENCES)
        words = words.replace("{event}", name).replace("{an event}", wording.with_article(name))
        flags = [self.draws.choose(wording.BEFORE)] if event.before else []
        flags += [self.draws.choose(wording.AFTER)] if event.after else []
        return _with_times(words, event) + (f", {' and '.join(flags)}" if flags else "")

    def _numbers(self, channel: str, names: list[str], numbers: Mapping[str, float]) -> str:
        if self.train:
            kept = [self.draws.happens(KEEP) for _ in names]
            for place in self.draws.shuffled(range(len(names))):
                kept[place] |= sum(kept) < 2
            names = [name for name, keep in zip(names, kept, strict=True) if keep]
        lead = self.draws.choose(wording.CHANNEL_LEADS)
        words = lead.replace("{channel}", self.draws.choose(wording.CHANNELS[channel]))
        for place, name in enumerate(names):
            joint = self.draws.choose(wording.JOINTS) if place else ""
            words = _join(words, joint, self._statistic(name, numbers[name]))
        return words

    def _statistic(self, name: str, value: float) -> str:
        slot = SLOTS[name]
        label = self.draws.choose(wording.statistic_labels(name))
        relation = self.draws.choose(wording.RELATIONS)
        hedged = self.train and slot.modality in HEDGED and self.draws.happens(HEDGE)
        if hedged and round(value) <= _LARGEST:
            text = f"{self.draws.choose(wording.HEDGES)} {round(value)}"
        else:
            text = f"{abs(value):.{slot.decimals}f}"
        unit = slot.unit if slot.unit in ("", "%") else f" {slot.unit}"
        return f"{label} {relation} {text}{unit}"

    def _trends(self, track: str, trends: Sequence[Interval]) -> str:
        if self.train and len(trends) > MOST_TRENDS:
            places = self.draws.shuffled(range(len(trends)))[:MOST_TRENDS]
            trends = [trends[place] for place in sorted(places)]
        lead = self.draws.choose(wording.TREND_LEADS)
        words = lead.replace("{channel}", self.draws.choose(wording.CHANNELS[track]))
        for place, trend in enumerate(trends):
            direction = self.draws.choose(wording.DIRECTIONS[trend.kind])
            noun = self.draws.choose(wording.TREND_NOUNS)
            item = f"{direction} {noun} {_with_times(wording.TREND_TIMES, trend)}"
            words = _join(words, self.draws.choose(wording.TREND_JOINTS) if place else "", item)
        return words

    def _position(self, facts: Facts) -> str:
        words = self.draws.choose(wording.POSITION_SENTENCES)
        words = words.replace("{position}", self._position_name(facts.position))
        for change in facts.position_changes:
            more = self.draws.choose(wording.POSITION_CHANGES)
            more = more.replace("{position}", self._position_name(change.position))
            words += more.replace("{at}", f"{change.at_s:.1f}")
        return words

    def _position_name(self, position: str | None) -> str:
        return self.draws.choose(wording.POSITIONS[position])


def _global(facts: Facts, writer: _Writer) -> list[str]:
    """Return stage, one fact of each modality, and as many events as 90 words leave room for."""
    stage = [writer.stage(facts.stage)] if facts.stage else []
    others = []
    for modality in ("brain", "heart", "respiratory", "position_muscle"):
        others += writer.clauses(_salient(facts, modality), modality)
    events = [writer.event(event) for event in facts.events or ()]
    if facts.events == ():
        events = [writer.draws.choose(_no_event_sentences(facts.stage))]
    room = GLOBAL_WORDS - sum(len(clause.split()) for clause in stage + others)
    said = []
    for event in events:
        room -= len(event.split())
        if room < 0:
            break
        said.append(event)
    return stage + said + others


def _salient(facts: Facts, modality: str) -> Facts:
    """Return the one fact of a modality that is most worth saying, or none.

    Brain: the largest band of the first EEG. Heart: the lowest saturation where it is under 90 %,
    or else the mean rate. Respiratory: the rate of the airflow, or else of a belt. Position and
    muscle: the position, or else the EMG.
    """
    numbers = facts.numbers
    if modality == "position_muscle" and (facts.position or facts.position_changes):
        return Facts({}, {}, facts.position, facts.position_changes[:1])
    if modality == "brain":
        for channel in ("eeg_c3", "eeg_c4"):
            bands = [name for name in numbers if SLOTS[name].channel == channel]
            if bands:
                name = max(sorted(bands), key=numbers.__getitem__)
                return Facts({name: numbers[name]})
    order = {
        "brain": ("eog_e1.slow", "eog_e2.slow"),
        "heart": ("heart_rate.mean", "ecg.rate", "spo2.min"),
        "respiratory": ("airflow.rate", "resp_thx.rate", "resp_abd.rate"),
        "position_muscle": ("emg_chin.median_frequency", "emg_chin.burst_ratio"),
    }[modality]
    if modality == "heart" and numbers.get("spo2.min", 100.0) < _LOW_SATURATION:
        order = ("spo2.min",)
    rest = (name for name in SLOTS if SLOTS[name].modality == modality)
    for name in (*order, *rest):
        if name in numbers:
            return Facts({name: numbers[name]})
    return Facts()


def _no_event_sentences(stage: str | None) -> tuple[str, ...]:
    """Return the ways to say that nothing was scored, in sleep, awake, or where nobody knows."""
    if stage is None:
        return wording.NO_EVENT
    return wording.NO_EVENT + (wording.NO_EVENT_AWAKE if stage == "W" else wording.NO_EVENT_ASLEEP)


def _with_times(words: str, interval: Interval) -> str:
    words = words.replace("{a}", f"{interval.start_s:.1f}")
    return words.replace("{b}", f"{interval.stop_s:.1f}")


def _join(words: str, joint: str, item: str) -> str:
    if not joint:
        return f"{words} {item}"
    return f"{words}{joint} {item}" if joint[0] == "," else f"{words} {joint} {item}"


def _sayable(facts: Facts) -> Facts:
    """Return printed facts without what the grammar cannot print."""
    numbers = {
        name: value
        for name, value in facts.numbers.items()
        if math.isfinite(value) and 0 <= value <= (100 if SLOTS[name].unit == "%" else _LARGEST)
    }
    trends = {track: _lasting(items) for track, items in facts.trends.items()}
    changes = (change for change in facts.position_changes if 0 <= change.at_s <= EPOCH_S)
    return dataclasses.replace(
        facts,
        numbers=numbers,
        trends=trends,
        position_changes=tuple(sorted(changes, key=lambda change: change.at_s)),
        events=facts.events and (_lasting(facts.events) or None),
    )


def _lasting(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """Return the intervals that can be printed, by start."""
    lasting = (item for item in intervals if 0 <= item.start_s < item.stop_s <= EPOCH_S)
    return tuple(sorted(lasting, key=lambda item: item.start_s))


def _without(facts: Facts, held_out: Sequence[str]) -> Facts:
    """Return the facts without concepts that are held out."""
    if not held_out:
        return facts
    held = {concept.lower() for concept in held_out}
    unknown = held - _CONCEPTS
    if unknown:
        raise ValueError(
            f"held_out has {', '.join(sorted(unknown))}, which no caption says; "
            f"it may have {', '.join(sorted(_CONCEPTS))}"
        )
    numbers = {
        name: value for name, value in facts.numbers.items() if not held & _concepts_of(name)
    }
    events = facts.events
    if events:  # where all are held out, nothing is said: that there is none would be wrong
        events = tuple(event for event in events if event.kind.lower() not in held) or None
    return dataclasses.replace(
        facts,
        numbers=numbers,
        trends={track: items for track, items in facts.trends.items() if track not in held},
        position=None if facts.position in held else facts.position,
        position_changes=tuple(c for c in facts.position_changes if c.position not in held),
        stage=None if facts.stage and facts.stage.lower() in held else facts.stage,
        events=events,
    )


def _concepts_of(slot: str) -> set[str]:
    return {slot, SLOTS[slot].channel, slot.rpartition(".")[2]}


_CONCEPTS = {
    *(concept for slot in SLOTS if SLOTS[slot].printed for concept in _concepts_of(slot)),
    *TRACKS,
    *POSITIONS,
    *(event.lower() for event in EVENTS),
    *(stage.lower() for stage in STAGES),
}
