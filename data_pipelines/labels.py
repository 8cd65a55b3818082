"""A night's scoring as arrays: stages by epoch, and events on a grid of seconds or of epochs.

This is the one place where events become labels. A named question (``EVENT_LABELS``) says which
events of which epochs count, a named rule (``RULES``) when a cell of the grid counts as in one:

- ``overlap``: an event has 5 s in the cell, or half of the event where that is less (ours);
- ``overlap_10s``: the same with 10 s;
- ``midpoint``: an event covers the middle of the cell. Edges are rounded to the nearest cell, ties
  to even cells, as in the code of SynthSleepNet (epochs) and sleep2vec (seconds, where it says that
  half of the second or more is in the event). On a grid of epochs, short events can get lost;
- ``more_than_10s``, ``more_than_3s``: the events together fill more than that of the cell, as the
  NeuroAtlas benchmark labels apneas and arousals.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.store import EPOCH_S, NightEntry, NightStore

if typing.TYPE_CHECKING:  # as in the store: no scoring parsers
    from data_pipelines.scoring import Event

UNKNOWN = -1
APNEAS = ("apnea_obstructive", "apnea_central", "apnea_mixed")
HYPOPNEAS = ("hypopnea",)
APNEA_OR_HYPOPNEA = "apnea_hypopnea"  # one of these, not told which
BREATHING = (*APNEAS, *HYPOPNEAS, APNEA_OR_HYPOPNEA)
AROUSALS = ("arousal",)
AROUSAL_CAUSES = ("respiratory", "spontaneous", "leg_movement", "periodic_leg_movement")


def stages(store: NightStore, night: NightEntry) -> np.ndarray:
    """Return the stage of each whole epoch, int8 [E]: 0 W, 1 N1, 2 N2, 3 N3, 4 R, -1 unknown."""
    labels = np.full(night.duration_s // EPOCH_S, UNKNOWN, np.int8)
    scored = store.stages(night)[: len(labels)]
    labels[: len(scored)] = scored
    return labels


def events(
    store: NightStore,
    night: NightEntry,
    kinds: Sequence[str],
    rule: str = "overlap",
    grid_s: int = EPOCH_S,
    cause: str | None = None,
) -> np.ndarray:
    """Return which cells of a grid are in an event of some kinds.

    Args:
        store: the night's.
        night: which.
        kinds: of events, such as ``BREATHING``.
        rule: a name in ``RULES``.
        grid_s: length of a cell: ``EPOCH_S``, or 1 for seconds.
        cause: only arousals of this one of ``AROUSAL_CAUSES``; those of an untold cause count too.

    Returns:
        int8 [N], the whole cells of the night: 1, 0, or -1 where it is unknown: where nobody looked
        for these events (``scored``); where all that is known of a cell shorter than an epoch is
        that the epoch has an event; and where an event is an apnea or a hypopnea, not told which,
        and one of both is asked for.

    Raises:
        ValueError: there is no such rule, or no cell of this grid can fulfil it.
    """
    return _label(store.events(night), night, kinds, rule, grid_s, cause)


@dataclasses.dataclass(frozen=True)
class EventLabel:
    """Whether an epoch has an event of some kinds.

    Attributes:
        kinds: of the events.
        rule: a name in ``RULES``.
        asleep: only epochs of sleep count; else all, whatever their stage.
        without: an epoch with events of these kinds and none of ``kinds`` is unknown, not 0.
    """

    kinds: tuple[str, ...]
    rule: str
    asleep: bool = True
    without: tuple[str, ...] = ()

    def of(self, store: NightStore, night: NightEntry) -> np.ndarray:
        """Return int8 [E], the whole epochs of a night: 1, 0, -1 unknown."""
        found = events(store, night, self.kinds, self.rule)
        if self.without:
            others = events(store, night, self.without, self.rule)
            found = np.where((found == 0) & (others != 0), np.int8(UNKNOWN), found)
        if self.asleep:
            found = np.where(stages(store, night) > 0, found, np.int8(UNKNOWN))
        return found


# An epoch of apnea alone is a negative of hypopnea, as in SynthSleepNet's code, and the other way
# round; in ``hypopnea_only_without_apnea`` it is unknown. That code counts all epochs, of wake too,
# by ``midpoint``, and so do ours in ``_official``; in all others only epochs of sleep count.
EVENT_LABELS: dict[str, EventLabel] = {
    "apnea": EventLabel(BREATHING, "overlap"),  # with hypopneas
    "apnea_unstaged": EventLabel(BREATHING, "overlap", asleep=False),  # nobody scored stages
    "apnea_more_than_10s": EventLabel(BREATHING, "more_than_10s"),  # as NeuroAtlas asks it
    "arousal": EventLabel(AROUSALS, "overlap"),
    "arousal_more_than_3s": EventLabel(AROUSALS, "more_than_3s"),  # as NeuroAtlas asks it
    **{
        f"{name}_only{suffix}": EventLabel(kinds, rule, asleep)
        for suffix, rule, asleep in (
            ("", "overlap_10s", True),
            ("_midpoint", "midpoint", True),
            ("_more_than_10s", "more_than_10s", True),
            ("_official", "midpoint", False),
        )
        for name, kinds in (("apnea", APNEAS), ("hypopnea", HYPOPNEAS))
    },
    "hypopnea_only_without_apnea": EventLabel(HYPOPNEAS, "overlap_10s", without=APNEAS),
}


def rhythm(store: NightStore, night: NightEntry) -> np.ndarray:
    """Return int8 [1]: 1 atrial fibrillation, 0 normal; -1 any other rhythm, or none given."""
    return np.array([{"N": 0, "A": 1}.get(night.labels.get("rhythm"), UNKNOWN)], np.int8)


def scored(night: NightEntry, kinds: Iterable[str]) -> bool:
    """Return whether somebody looked for events of all these kinds.

    ``metadata["events_scored"]`` says so: True, or a list of kinds; ``"apnea"`` stands for all of
    ``BREATHING``.
    """
    told = night.metadata.get("events_scored") or ()
    return told is True or all(("apnea" if k in BREATHING else k) in told for k in kinds)


@dataclasses.dataclass(frozen=True)
class TokenLabels:
    """Labels of the whole tokens of a night, in the layout of sleep2vec's code (2602.13857).

    Attributes:
        stage: int8 ``[N]``, see ``stages``.
        apnea: int8 ``[N, 30]``, whether a second is in an apnea or hypopnea, by ``midpoint``.
        arousal: int8 ``[N, 30, 4]``, likewise for arousals by their cause (``AROUSAL_CAUSES``).
    """

    stage: np.ndarray
    apnea: np.ndarray
    arousal: np.ndarray

    @classmethod
    def of(cls, store: NightStore, night: NightEntry) -> TokenLabels:
        """Read the labels of a night."""
        stage, found = stages(store, night), store.events(night)

        def by_second(kinds, cause=None):
            labels = _label(found, night, kinds, "midpoint", 1, cause)
            return labels[: len(stage) * EPOCH_S].reshape(len(stage), EPOCH_S)

        arousal = [by_second(AROUSALS, cause) for cause in AROUSAL_CAUSES]
        return cls(stage, by_second(BREATHING), np.stack(arousal, axis=-1))


def _label(found: Iterable[Event], night, kinds, rule, grid_s, cause) -> np.ndarray:
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r} for labels of events; there are {sorted(RULES)}")
    cells = night.duration_s // grid_s
    if not scored(night, kinds):
        return np.full(cells, UNKNOWN, np.int8)
    spans = {UNKNOWN: [], 1: []}  # what is known of a cell outweighs what is not: it comes last
    other_causes = {*AROUSAL_CAUSES} - {cause} if cause else ()
    for event in found:
        asked = event.kind in kinds
        one_of_them = event.kind == APNEA_OR_HYPOPNEA and not set(kinds).isdisjoint(BREATHING)
        if not (asked or one_of_them) or event.value in other_causes:
            continue
        known = asked and (event.value != "epoch" or grid_s >= EPOCH_S)
        spans[1 if known else UNKNOWN].append((event.onset_s, event.duration_s))
    labels = np.zeros(cells, np.int8)
    for label, rows in spans.items():
        if rows:
            labels[RULES[rule](*np.array(rows, np.float64).T, cells, grid_s)] = label
    return labels


def _overlapping(onset_s, duration_s, cells, grid_s, *, least_s) -> np.ndarray:
    if least_s > grid_s:
        raise ValueError(f"no cell of {grid_s} s can overlap an event by {least_s} s")
    needed, stop_s = np.minimum(least_s, duration_s / 2), onset_s + duration_s
    # Cells in the middle of an event are full, so only its first and last may have too little.
    first, last = onset_s // grid_s, stop_s // grid_s
    within_first = np.minimum(stop_s, (first + 1) * grid_s) - onset_s
    within_last = stop_s - np.maximum(onset_s, last * grid_s)
    return _between(first + (within_first < needed), last + (within_last >= needed), cells)


def _over_midpoint(onset_s, duration_s, cells, grid_s) -> np.ndarray:
    edges = np.stack([onset_s, onset_s + duration_s]) / grid_s
    return _between(*np.rint(edges), cells)


def _filled(onset_s, duration_s, cells, grid_s, *, more_than_s) -> np.ndarray:
    order = np.argsort(onset_s)
    start, stop = onset_s[order], np.maximum.accumulate((onset_s + duration_s)[order])
    start[1:] = np.maximum(start[1:], stop[:-1])  # no second counts twice
    after = np.cumsum(stop - start)
    before = after - (stop - start)
    at, seconds = (np.stack(pair, axis=1).ravel() for pair in ((start, stop), (before, after)))
    filled = np.diff(np.interp(np.arange(cells + 1) * grid_s, at, seconds))
    return filled > more_than_s + 1e-6  # sums of times in tenths of a second are not exact


def _between(low, high, cells) -> np.ndarray:
    """Whether a cell is in one of the half-open ranges, bool [cells]."""
    change = np.zeros(cells + 1, np.int64)
    np.add.at(change, np.clip(low, 0, cells).astype(np.int64), 1)
    np.subtract.at(change, np.clip(high, 0, cells).astype(np.int64), 1)
    return np.cumsum(change[:cells]) > 0


# (onset and duration of events [K] in s, number of cells, their length in s) -> bool [cells]
RULES = {
    "overlap": functools.partial(_overlapping, least_s=5),
    "overlap_10s": functools.partial(_overlapping, least_s=10),
    "midpoint": _over_midpoint,
    "more_than_10s": functools.partial(_filled, more_than_s=10),
    "more_than_3s": functools.partial(_filled, more_than_s=3),
}
