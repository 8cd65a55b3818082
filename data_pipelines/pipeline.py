"""Batches for training and evaluation: pure functions of (seed, step), read from a store of nights.

A ``Source`` cuts every night into slots and numbers them; an epoch visits each slot once, in an
order that the seed and the epoch's number decide, and within its slot a crop starts at a random
second that the example's number decides. The global batch at a step is examples ``step x B`` to
``step x B + B - 1``, whatever the number of hosts and threads: a run resumes from its step alone.
Slots are counted, never listed: a store of any size takes two numbers a channel of a night.

A corrupt record is skipped, and logged with its night's name (``DamagePolicy``): its examples keep
their places in the order, with weight 0 and no valid second.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import threading
import types
from collections.abc import Callable, Iterator, Mapping

import grain
import numpy as np
from absl import logging

from data_pipelines import plugins
from data_pipelines.shuffle import mix, permute
from data_pipelines.store import (
    DamagedRecordError,
    NightEntry,
    NightStore,
    StoreError,
    sha256,
)

Batch = dict[str, np.ndarray]
PREFETCHED_BATCHES = 4
READERS = 2  # one waits for the disk while the other works; more would wait for each other
PAGE = 4096  # examples drawn at once; changes no draw


class PipelineError(ValueError):
    """The store does not hold what the config asks for."""


class EmptySplitError(PipelineError):
    """No night of the split holds what is asked for, as happens in small cohorts."""


class DamagePolicy:
    """Damaged records of a store: tolerates one, or a share of all, then raises.

    Each is an error in the log, once. More than the share is no accident of one recording.
    """

    def __init__(self, store: NightStore, stretches: int, share: float):
        """Take how many stretches there are, and which share of them may be damaged."""
        self.store, self.found, self._lock = store, set(), threading.Lock()
        self.stretches, self.allowed = stretches, max(1, int(share * stretches)) if share else 0

    def leave_out(self, error: DamagedRecordError) -> None:
        """Log a record that is left out.

        Raises:
            StoreError: there are too many of them.
        """
        with self._lock:
            if str(error) in self.found:
                return
            self.found.add(str(error))
        if len(self.found) > self.allowed:
            raise StoreError(
                f"{self.store.path}: {len(self.found)} of {self.stretches} records that are read"
                f" here are damaged, and config.data.max_damaged allows {self.allowed}. The last:"
                f" {error}"
            ) from error
        logging.error("left out from here on: %s", error)


class Source:
    """Examples cut from a store, as batches of numpy arrays.

    A stretch is what slots are cut from: one channel of a night, or all modalities of one. It is
    cut into slots of about ``crop_s``, one where it is shorter. Training starts cover every second
    from which a whole crop fits, once over all slots; evaluation starts are ``crop_s`` apart and
    leave out what is left at the end.

    Attributes:
        store: the ``NightStore``.
        num_examples: examples of one epoch.
        token_s: seconds that one entry of ``valid`` stands for.
    """

    token_s = 1

    def __init__(
        self,
        store: NightStore,
        seconds: list[int],
        crop_s: int,
        read: Callable[[np.ndarray, np.ndarray], Batch],
        description: dict,
        *,
        seed: int,
        threads: int | None = None,
        read_training: Callable[[np.ndarray, np.ndarray, np.ndarray], Batch] | None = None,
    ):
        """Take stretches and a function that reads crops of them.

        Args:
            store: where the stretches are.
            seconds: the length of each.
            crop_s: of a crop.
            read: (stretches [R], start seconds [R]) -> batch of R rows.
            description: what ``describe`` says of the data beside their origin.
            seed: of order and crops.
            threads: readers; 2 by default.
            read_training: (stretches, start seconds, examples' numbers) -> batch, for sources that
                read something else at each visit in training; ``read`` by default.
        """
        seconds = np.asarray(seconds, np.int64)
        self._slots = np.maximum(1, seconds // crop_s)
        self._starts = np.maximum(1, seconds - crop_s + 1)
        self._ends = np.cumsum(self._slots)
        self.store, self.num_examples = store, int(self._ends[-1])
        self._crop_s, self._read, self._description, self._seed = crop_s, read, description, seed
        self._threads, self._read_training = threads or READERS, read_training
        self._page = functools.lru_cache(2 * self._threads + PREFETCHED_BATCHES)(self._draw)

    def draws(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stretches and start seconds of training examples ``first`` to ``stop - 1``."""
        pages = range(first // PAGE, -(-stop // PAGE))
        whole = np.concatenate([self._page(page) for page in pages], axis=1)
        return tuple(whole[:, first - pages[0] * PAGE : stop - pages[0] * PAGE])

    def examples(self, first: int, stop: int) -> Batch:
        """Return training examples ``first`` to ``stop - 1``, each a function of (seed, number)."""
        drawn = self.draws(first, stop)
        if self._read_training is None:
            return self._read(*drawn)
        return self._read_training(*drawn, np.arange(first, stop))

    def _draw(self, page):
        numbers = np.arange(page * PAGE, (page + 1) * PAGE)
        epochs, places = np.divmod(numbers, self.num_examples)
        stretch, slot = self._locate(
            permute(places, self.num_examples, mix(mix(self._seed) + epochs.astype(np.uint64)))
        )
        starts, slots = self._starts[stretch], self._slots[stretch]
        low = starts * slot // slots
        span = np.maximum(1, starts * (slot + 1) // slots - low)
        drawn = mix(mix(self._seed + 1) + numbers.astype(np.uint64)) % span.astype(np.uint64)
        return np.stack([stretch, low + drawn.astype(np.int64)])

    def _locate(self, slots):
        """Stretch of each slot, and which of the stretch's slots it is."""
        stretch = np.searchsorted(self._ends, slots, side="right")
        return stretch, slots - (self._ends - self._slots)[stretch]

    def batches(self, batch_size: int, lo: int, hi: int, start_step: int) -> Iterator[Batch]:
        """Return an endless iterator over one host's rows of the batches from a step on.

        Args:
            batch_size: rows of the global batch.
            lo, hi: this host's rows, ``lo`` included.
            start_step: the first batch's step.

        Returns:
            An iterator of name -> array [hi - lo, ...]; ``close()`` ends its threads.
        """

        return self._iterate(
            2**62 // batch_size - start_step,
            lambda ahead: self.rows(start_step + ahead, batch_size, lo, hi),
        )

    def rows(self, step: int, batch_size: int, lo: int, hi: int) -> Batch:
        """Return rows ``lo`` to ``hi - 1`` of the global batch of a step."""
        first = step * batch_size
        return self.examples(first + lo, first + hi)

    def evaluation_batches(self, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the examples in the store's order, each once, from fixed seconds.

        Args:
            batch_size: rows; the last batch is filled up with rows of zeros (``weight`` 0).
            limit: at most this many batches, of examples spread evenly over the nights.
        """
        count = self.num_examples if limit is None else min(self.num_examples, limit * batch_size)

        def batch(index: int) -> Batch:
            rows = np.arange(index * batch_size, min(count, (index + 1) * batch_size))
            stretch, slot = self._locate(rows * self.num_examples // count)
            return filled_up(self._read(stretch, slot * self._crop_s), batch_size)

        yield from self._iterate(-(-count // batch_size), batch)

    def _iterate(self, count, batch):
        options = grain.ReadOptions(self._threads, max(self._threads, PREFETCHED_BATCHES))
        return iter(grain.MapDataset.range(count).map(batch).to_iter_dataset(options))

    def describe(self) -> dict:
        """Return what is known of the data, as JSON values: for configs, manifests and logs."""
        return {
            "recipe": self.store.recipe,
            **self._description,
            "num_examples": self.num_examples,
            "manifest_sha256": sha256(pathlib.Path(self.store.path) / "manifest.json"),
        }


def source_names() -> list[str]:
    """Return the names of the sources: the files of ``data_pipelines/sources``."""
    return plugins.names("data_pipelines.sources")


def find_source(name: str) -> types.ModuleType:
    """Return a source's module (contract: ``data_pipelines/sources/__init__.py``).

    Args:
        name: one of ``source_names()``, or the dotted name of a module that the user allowed; see
            ``data_pipelines.plugins``.

    Raises:
        PipelineError: no such source.
    """
    try:
        return plugins.find("data_pipelines.sources", name)
    except ValueError as error:
        raise PipelineError(str(error)) from error


def load(name: str, *, path: str | os.PathLike, split: str, seed: int, **options) -> Source:
    """Open a source by name.

    Args:
        name: as ``find_source`` takes it.
        path: a store of nights.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        seed: of order and crops.
        options: the source's own.

    Raises:
        PipelineError: an unknown name, or the store does not fit.
        StoreError: ``path`` is not a store.
    """
    return find_source(name).open_source(NightStore(path), split=split, seed=seed, **options)


def recipe_option(data: Mapping) -> dict:
    """Return ``recipe`` of ``config.data`` as a keyword argument; none where it names none."""
    return {"recipe": data["recipe"]} if data.get("recipe") else {}


def write_synthetic(name: str, folder: str | os.PathLike, seed: int, **recipe) -> None:
    """Write the tiny store that a source can be tried on: some seconds' work.

    A folder that exists is complete.

    Args:
        name: the source.
        folder: where; must not exist.
        seed: of the synthetic nights.
        recipe: as ``recipe_option`` gives it.
    """
    write_tiny = find_source(name).write_tiny
    folder = pathlib.Path(folder)
    partial = folder.with_name(folder.name + f".partial-{os.getpid()}")
    write_tiny(partial, seed, **recipe)
    partial.rename(folder)


def contents(store: NightStore) -> dict[str, int]:
    """Return split -> number of nights."""
    return {
        split: len(store.select(split)) for split in sorted({night.split for night in store.nights})
    }


def keep_some(nights: list[NightEntry], count: int, store: NightStore) -> list[NightEntry]:
    """Return ``count`` of the nights, in their order; 0 keeps all.

    Chosen by the SHA-256 of their names, so that fewer nights are a part of more, and neither sites
    nor subjects are taken in turn.

    Raises:
        PipelineError: more than there are.
    """
    if not 0 <= count <= len(nights):
        raise PipelineError(
            f"config.data.nights={count}: {store.path} has {len(nights)} such nights; 0 takes all"
        )
    order = sorted(nights, key=lambda night: hashlib.sha256(night.recording.encode()).digest())
    chosen = {night.recording for night in order[: count or None]}
    return [night for night in nights if night.recording in chosen]


def require_kind(store: NightStore, kind: str, name: str) -> None:
    """Raise PipelineError where a store holds the other kind of nights."""
    if store.kind != kind:
        raise PipelineError(f"{name} reads a store of {kind}; {store.path} holds {store.kind}")


def filled_up(batch: Batch, rows: int) -> Batch:
    """Return the batch with rows of zeros (``weight`` 0) after its own, as many as are missing."""
    missing = rows - len(next(iter(batch.values())))
    return {
        name: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))
        for name, value in batch.items()
    }
