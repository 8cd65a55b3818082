"""Facts beside a store of nights: ``facts/<digest of the recording's name>.facts``, one a night.

A file is a line with the format, the version of the measures, what found spindles and slow waves
(null: nothing did), the night that was measured and the SHA-256 of the rest; then an ``.npz`` of
arrays without objects. It is written whole or not at all, so that a killed run goes on with the
nights that lack one. The store's manifest does not name these files, and stays valid. A night that
was prepared anew, or measured by another version, counts as one without facts.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import zipfile

import numpy as np

from data_pipelines.builders.pending_nights import file_name
from data_pipelines.captions import measures
from data_pipelines.captions.facts import (
    DIRECTIONS,
    EVENTS,
    POSITIONS,
    SLOTS,
    TRACKS,
    Facts,
    Interval,
    PositionChange,
)
from data_pipelines.captions.measures import NightFacts
from data_pipelines.files import atomic_write
from data_pipelines.store import (
    READING_HEADERS,
    DamagedRecordError,
    NightEntry,
    NightStore,
    StoreError,
)

FOLDER = "facts"
FORMAT = "hypnos_jax.facts/1"
NIGHTS_KEPT = 4096  # ours: each takes some 0.15 MB
LONGEST_HEADER = 10_000  # bytes
_EVENTS = tuple(EVENTS)
_INTERVALS = np.dtype(
    [
        ("epoch", np.int32),
        ("track", np.int8),  # a place in TRACKS; -1: an event
        ("kind", np.int8),
        ("start_s", np.float64),
        ("stop_s", np.float64),
        ("before", np.bool_),
        ("after", np.bool_),
    ]
)
_CHANGES = np.dtype([("epoch", np.int32), ("at_s", np.float64), ("position", np.int8)])


class DamagedFactsError(DamagedRecordError):
    """A file of facts that is not what was written."""


def write(
    store: NightStore, night: NightEntry, facts: NightFacts, *, micro_events: str | None = None
) -> pathlib.Path:
    """Write the facts of a night beside its store, and return the file.

    Args:
        store, night: what was measured.
        facts: of it.
        micro_events: what found spindles and slow waves (``micro_events.version``), if anything.
    """
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **_to_arrays(facts))
    data = file.getvalue()
    header = {
        "format": FORMAT,
        "version": measures.VERSION,
        "micro_events": micro_events,
        "night": _identity(store, night),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    path = _path(store, night)
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as out:
        out.write(json.dumps(header, sort_keys=True).encode() + b"\n" + data)
    return path


class FactsFile:
    """The facts beside a store. Safe to share between threads, and picklable.

    Args:
        store: of the nights.
    """

    def __init__(self, store: NightStore):
        self.store = store
        self._kept: dict[str, NightFacts] = {}

    def __getstate__(self):
        return {"store": self.store}

    def __setstate__(self, state):
        self.__init__(state["store"])

    @property
    def folder(self) -> pathlib.Path:
        """Where the files are."""
        return self.store.path / FOLDER

    def remove_others(self) -> None:
        """Remove files of nights that the store holds no more."""
        named = {_path(self.store, night) for night in self.store.nights}
        for path in self.folder.glob("*.facts"):
            if path not in named:
                path.unlink()

    def has(self, night: NightEntry, *, micro_events: str | None = None) -> bool:
        """Return whether the night has facts of this version; a damaged file counts as none.

        Args:
            night: whose facts.
            micro_events: with spindles and slow waves found by this; None for with or without.
        """
        try:
            found = _data_of(self.store, night)
        except DamagedFactsError:
            return False
        return found is not None and micro_events in (None, found[1])

    def night(self, night: NightEntry) -> NightFacts:
        """Return the facts of a night; those of the first nights asked for stay in memory.

        Raises:
            DamagedFactsError: the file is not what was written.
            StoreError: the night has none, or none of this version; says the command that makes
                them.
        """
        if night.recording in self._kept:
            return self._kept[night.recording]
        found = _data_of(self.store, night)
        if found is None:
            raise StoreError(
                f"{self.store.path}: night {night.recording!r} has no facts of version"
                f" {measures.VERSION}: python -m launch.caption_nights --nights={self.store.path}"
            )
        facts = _from_arrays(found[0], _path(self.store, night))
        if len(self._kept) < NIGHTS_KEPT:
            self._kept[night.recording] = facts
        return facts

    def facts(self, night: NightEntry, epoch: int) -> Facts:
        """Return the facts of one epoch of a night; raises as :meth:`night` does."""
        return self.night(night).epoch(epoch)


def _path(store, night):
    return store.path / FOLDER / f"{file_name(night.recording)}.facts"


def _identity(store, night):
    """A digest of what the facts of a night are made of: its scoring and what scaled its rows."""
    said = [
        store.recipe,
        night.recording,
        night.duration_s,
        night.channels,
        night.qc.get("scaling"),
        night.metadata.get("events_scored"),
        store.scoring_line(night),
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _data_of(store, night) -> tuple[bytes, str | None] | None:
    """The arrays of a night's file, and what found micro-events; None where there is none of this
    version and night."""
    path = _path(store, night)
    try:
        with open(path, "rb") as file:
            line, data = file.readline(LONGEST_HEADER), file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFactsError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header = json.loads(line)
        said = [header[key] for key in ("format", "version", "night")]
        digest = header["sha256"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    if digest != hashlib.sha256(data).hexdigest():
        raise _damaged(path)
    if said != [FORMAT, measures.VERSION, _identity(store, night)]:
        return None
    return data, header.get("micro_events")


def _damaged(path):
    return DamagedFactsError(
        f"{path} is damaged; delete it and run python -m launch.caption_nights again"
    )


def _to_arrays(facts: NightFacts) -> dict[str, np.ndarray]:
    intervals = [
        (epoch, track, kinds.index(x.kind), x.start_s, x.stop_s, x.before, x.after)
        for track, kinds, rows in (
            (-1, _EVENTS, facts.events),
            *((TRACKS.index(name), DIRECTIONS, rows) for name, rows in facts.trends.items()),
        )
        for epoch, own in enumerate(rows)
        for x in own or ()
    ]
    changes = [
        (epoch, change.at_s, POSITIONS.index(change.position))
        for epoch, own in enumerate(facts.position_changes)
        for change in own
    ]
    return {
        "slots": np.array([list(SLOTS).index(name) for name in facts.numbers], np.int16),
        "numbers": np.array([*facts.numbers.values()], np.float32).reshape(-1, facts.epochs),
        "tracks": np.array([TRACKS.index(name) for name in facts.trends], np.int8),
        "stage": facts.stage.astype(np.int8),
        "position": facts.position.astype(np.int8),
        "looked": np.array([own is not None for own in facts.events], bool),
        "intervals": np.array(intervals, _INTERVALS),
        "changes": np.array(changes, _CHANGES),
    }


def _from_arrays(data: bytes, path) -> NightFacts:
    try:
        with READING_HEADERS, np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        names = [list(SLOTS)[slot] for slot in found["slots"].tolist()]
        epochs = len(found["stage"])
        trends = {TRACKS[i]: [[] for _ in range(epochs)] for i in found["tracks"].tolist()}
        events = [[] if looked else None for looked in found["looked"].tolist()]
        for epoch, track, kind, *times in found["intervals"].tolist():
            rows, kinds = (events, _EVENTS) if track < 0 else (trends[TRACKS[track]], DIRECTIONS)
            start_s, stop_s, before, after = times
            rows[epoch].append(Interval(start_s, stop_s, kinds[kind], before, after))
        changes = [[] for _ in range(epochs)]
        for epoch, at_s, position in found["changes"].tolist():
            changes[epoch].append(PositionChange(at_s, POSITIONS[position]))
    except (ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile):
        raise _damaged(path) from None
    return NightFacts(
        numbers=dict(zip(names, found["numbers"], strict=True)),
        trends={name: [tuple(own) for own in rows] for name, rows in trends.items()},
        stage=found["stage"],
        position=found["position"],
        position_changes=[tuple(own) for own in changes],
        events=[None if own is None else tuple(own) for own in events],
    )
