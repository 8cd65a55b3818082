"""Batches for training and evaluation: pure functions of (seed, step), read from a store of nights.

A ``Source`` cuts every night into slots and numbers them; an epoch visits each slot once, in an
order that the seed and the epoch's number decide, and within its slot a crop starts at a random
second that the example's number decides. The global batch at a step is examples ``step x B`` to
``step x B + B - 1``, whatever the number of hosts and threads: a run resumes from its step alone.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

import grain
import numpy as np

from data_pipelines.store import NightEntry, NightStore, sha256

Example = dict[str, np.ndarray]
PREFETCHED_BATCHES = 4


class PipelineError(ValueError):
    """The store does not hold what the config asks for."""


class EmptySplitError(PipelineError):
    """No night of the split holds what is asked for, as happens in small cohorts."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A stretch of one night that a crop is taken from.

    Attributes:
        night: the night.
        channel: its channel, or None for all modalities together.
        first, last: the seconds between which a training crop starts, last included.
        start: where the evaluation's crop starts.
    """

    night: NightEntry
    channel: str | None
    first: int
    last: int
    start: int


def cut_night(night: NightEntry, channel: str | None, crop_s: int) -> list[Slot]:
    """Cut a night into slots of about ``crop_s``; one slot where the night is shorter.

    Training starts cover every second from which a whole crop fits, once over all slots;
    evaluation starts are ``crop_s`` apart and leave out what is left at the end.
    """
    count = max(1, night.duration_s // crop_s)
    starts = max(1, night.duration_s - crop_s + 1)
    edges = [starts * i // count for i in range(count + 1)]
    return [
        Slot(night, channel, edges[i], max(edges[i], edges[i + 1] - 1), i * crop_s)
        for i in range(count)
    ]


class Source:
    """Examples cut from a store, as batches of numpy arrays.

    Attributes:
        store: the ``NightStore``.
        num_examples: examples of one epoch.
        examples: shuffled and repeated ``grain.MapDataset``; example i is a function of
            (seed, i).
    """

    def __init__(
        self,
        store: NightStore,
        slots: list[Slot],
        read: Callable[[Slot, int], Example],
        description: dict,
        *,
        seed: int,
        threads: int | None = None,
    ):
        """Take slots and a function that reads one.

        Args:
            store: where the slots are.
            slots: what an epoch visits.
            read: (slot, start second) -> example.
            description: what ``describe`` says of the data beside their origin.
            seed: of order and crops.
            threads: readers; as many as cores by default.
        """
        self.store, self.num_examples = store, len(slots)
        self._slots, self._read, self._description = slots, read, description
        self._threads = threads or os.cpu_count() or 1

        def crop(slot: Slot, rng: np.random.Generator) -> Example:
            return read(slot, int(rng.integers(slot.first, slot.last + 1)))

        self.examples = grain.MapDataset.source(slots).seed(seed).shuffle().repeat()
        self.examples = self.examples.random_map(crop)

    def batches(self, batch_size: int, lo: int, hi: int, start_step: int) -> Iterator[Example]:
        """Return an endless iterator over one host's rows of the batches from a step on.

        Args:
            batch_size: rows of the global batch.
            lo, hi: this host's rows, ``lo`` included.
            start_step: the first batch's step.

        Returns:
            An iterator of name -> array [hi - lo, ...]; ``close()`` ends its threads.
        """
        rows = hi - lo

        def pick(j: int) -> Example:
            return self.examples[(start_step + j // rows) * batch_size + lo + j % rows]

        feed = grain.MapDataset.range(2**62 // batch_size).map(pick).batch(rows)
        options = grain.ReadOptions(self._threads, max(self._threads, PREFETCHED_BATCHES))
        return iter(feed.to_iter_dataset(options))

    def evaluation_batches(self, batch_size: int, limit: int | None = None) -> Iterator[Example]:
        """Yield the examples in the store's order, each once, from fixed seconds.

        Args:
            batch_size: rows; the last batch is filled up with rows of zeros (``weight`` 0).
            limit: at most this many batches, of examples spread evenly over the nights.
        """
        count = self.num_examples if limit is None else min(self.num_examples, limit * batch_size)
        chosen = np.arange(count) * self.num_examples // count
        examples = grain.MapDataset.source(chosen).map(
            lambda i: self._read(self._slots[i], self._slots[i].start)
        )
        options = grain.ReadOptions(self._threads, max(self._threads, 2 * batch_size))
        rows = []
        for example in examples.to_iter_dataset(options):
            rows.append(example)
            if len(rows) == batch_size:
                yield _stack(rows)
                rows = []
        if rows:
            empty = {name: np.zeros_like(value) for name, value in rows[0].items()}
            yield _stack(rows + [empty] * (batch_size - len(rows)))

    def describe(self) -> dict:
        """Return what is known of the data, as JSON values: for configs, manifests and logs."""
        return {
            **self._description,
            "num_examples": self.num_examples,
            "manifest_sha256": sha256(pathlib.Path(self.store.path) / "manifest.json"),
        }


def signal_crops(
    store: NightStore,
    *,
    split: str,
    seed: int,
    signal_type: str,
    crop_s: int = 30,
    channels: tuple[str, ...] = (),
    threads: int | None = None,
) -> Source:
    """Crops of single channels of one signal type.

    Examples: ``signal`` float32 [T] (0 where invalid), ``valid`` bool [S], ``channel_id`` int32,
    ``weight`` float32 (0 where no second is valid).

    Args:
        store: a store of signals.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order and crops.
        signal_type: ``"eeg"``, ``"eog"``, ``"emg"``, ``"ecg"`` or ``"resp"``.
        crop_s: seconds of a crop.
        channels: only these; all of the type by default.
        threads: readers.

    Raises:
        PipelineError: the store holds tokens, or no such channel in that split.
    """
    _require_kind(store, "signals", "signal_crops")
    types = {row["name"]: _channel(row["name"]).signal_type for row in store.manifest["channels"]}
    wanted = [
        name for name, kind in types.items() if kind == signal_type and name in (channels or types)
    ]
    slots = [
        slot
        for name in wanted
        for night in store.select(split, name)
        for slot in cut_night(night, name, crop_s)
    ]
    if not slots:
        raise EmptySplitError(
            f"{store.path} has no {signal_type} channel"
            + (f" among {list(channels)}" if channels else "")
            + f" in split {split!r}; it holds {_contents(store)} with {types}"
        )
    rates = {store.rate_hz(name) for name in wanted}
    if len(rates) > 1:
        raise PipelineError(f"{store.path}: {signal_type} channels at several rates, {rates} Hz")

    def read(slot: Slot, start: int) -> Example:
        stop = start + crop_s
        valid = store.valid(slot.night, slot.channel, start, stop)
        return {
            "signal": store.signal(slot.night, slot.channel, start, stop),
            "valid": valid,
            "channel_id": np.int32(_channel_id(slot.channel)),
            "weight": np.float32(valid.any()),
        }

    description = {"signal_type": signal_type, "channels": wanted, "rate_hz": rates.pop()}
    return Source(store, slots, read, description, seed=seed, threads=threads)


def token_windows(
    store: NightStore,
    *,
    split: str,
    seed: int,
    window_s: int = 512,
    modalities: tuple[str, ...] = (),
    threads: int | None = None,
) -> Source:
    """Windows of all modalities of a night as tokens.

    Examples: ``codes`` int32 [S, sumK], ``present`` bool [M], ``channel_ids`` int32 [M], ``valid``
    bool [S, M] (False where the night is over), ``tracks`` float32 [S, M, 2], ``weight`` float32.

    Args:
        store: a store of tokens.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order and crops.
        window_s: seconds of a window.
        modalities: only these, in the store's order; all by default.
        threads: readers.

    Raises:
        PipelineError: the store holds signals, lacks a modality, or has no night in that split.
    """
    _require_kind(store, "tokens", "token_windows")
    names = [modality["name"] for modality in store.modalities]
    unknown = [name for name in modalities if name not in names]
    if unknown:
        raise PipelineError(f"{store.path} has no modality {unknown[0]!r}; it has {names}")
    keep = [i for i, name in enumerate(names) if name in (modalities or names)]
    levels = [modality["levels"] for modality in store.modalities]
    firsts = np.cumsum([0, *levels])
    columns = np.concatenate([np.arange(firsts[i], firsts[i + 1]) for i in keep])
    channel_ids = np.array([store.modalities[i]["channel_id"] for i in keep], np.int32)
    slots = [slot for night in store.select(split) for slot in cut_night(night, None, window_s)]
    if not slots:
        raise EmptySplitError(f"{store.path} has no night in split {split!r}: {_contents(store)}")

    def read(slot: Slot, start: int) -> Example:
        stop = start + window_s
        present = store.present(slot.night)[keep]
        valid = store.token_valid(slot.night, start, stop)[:, keep] & present
        return {
            "codes": store.codes(slot.night, start, stop)[:, columns].astype(np.int32),
            "present": present,
            "channel_ids": channel_ids,
            "valid": valid,
            "tracks": store.token_tracks(slot.night, start, stop)[:, keep],
            "weight": np.float32(valid.any()),
        }

    kept = [
        {
            "name": names[i],
            "levels": levels[i],
            "codes": store.modalities[i]["codes"],
            "channel_id": store.modalities[i]["channel_id"],
            "group": store.modalities[i]["signal_type"],
        }
        for i in keep
    ]
    description = {"modalities": kept, "window_s": window_s}
    return Source(store, slots, read, description, seed=seed, threads=threads)


SOURCES = {"signal_crops": signal_crops, "token_windows": token_windows}


def load(name: str, *, path: str | os.PathLike, split: str, seed: int, **options) -> Source:
    """Open a source by name.

    Args:
        name: ``"signal_crops"`` or ``"token_windows"``.
        path: a store of nights.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order and crops.
        options: the source's own.

    Raises:
        PipelineError: an unknown name, or the store does not fit.
        StoreError: ``path`` is not a store.
    """
    if name not in SOURCES:
        raise PipelineError(f"no data source named {name!r}; there are {sorted(SOURCES)}")
    return SOURCES[name](NightStore(path), split=split, seed=seed, **options)


def write_synthetic(name: str, folder: str | os.PathLike, seed: int) -> None:
    """Write the tiny store that a source can be tried on: some seconds' work.

    A folder that exists is complete.

    Args:
        name: the source.
        folder: where; must not exist.
        seed: of the synthetic nights.
    """
    from data_pipelines import synthetic  # only where no data are given

    if name not in SOURCES:
        raise PipelineError(f"no data source named {name!r}; there are {sorted(SOURCES)}")
    kind = "tokens" if name == "token_windows" else "nights"
    folder = pathlib.Path(folder)
    partial = folder.with_name(folder.name + f".partial-{os.getpid()}")
    getattr(synthetic, f"write_tiny_{kind}")(partial, seed=seed)
    partial.rename(folder)


def _channel(name: str):
    from data_pipelines.channels import CHANNELS

    return CHANNELS[name]


def _channel_id(name: str) -> int:
    identity = _channel(name).id
    return -1 if identity is None else identity


def _contents(store: NightStore) -> dict[str, int]:
    """Return split -> number of nights."""
    return {
        split: len(store.select(split)) for split in sorted({night.split for night in store.nights})
    }


def _require_kind(store: NightStore, kind: str, name: str) -> None:
    if store.kind != kind:
        raise PipelineError(f"{name} reads a store of {kind}; {store.path} holds {store.kind}")


def _stack(rows: list[Example]) -> Example:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
