"""The embeddings of all epochs of a store in one file, and the nearest of them to a vector.

A folder ``INDEX``: ``rows.f16``, float16 [N, D], a row for each epoch of each night in the store's
order, zeros where the model had no signal; and ``index.json``, written last: the model, the state
of the store, how many rows. While it is built, ``building.json`` and ``done.txt`` stand for it, and
a killed build goes on with the nights that are not done.

The product is exact, over pieces of rows that stay in a core's cache.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import EPOCH_S, NightEntry, NightStore, StoreError, sha256
from hypnos_jax.inference.window_embedder import FUSED, WindowEmbedder

FORMAT = "hypnos_jax.epochs/1"
ROWS, HEAD, BUILDING, DONE = "rows.f16", "index.json", "building.json", "done.txt"
FOLDER = "search"  # of a store
PIECE = 2**18  # values of a piece: 1 MB as float32
# A float16 whose bits are put where a float32 has them is so much too small.
WIDENED = np.float32(2.0**112)


class IndexMismatchError(ValueError):
    """An index of another model, or of another state of the store."""


@dataclasses.dataclass(frozen=True)
class Hit:
    """An epoch that was found: its night, its number in it, and its product with the question."""

    night: NightEntry
    epoch: int
    score: float


class EpochIndex:
    """The embeddings of a store's epochs, read from the disk as they are needed.

    Attributes:
        nights: of the store, in its order.
        rows: float16 [N, D], memory-mapped.
        damaged: names of nights without rows, and why.
    """

    def __init__(self, store: NightStore, folder: pathlib.Path, rows: np.ndarray, damaged: dict):
        self.nights, self.folder, self.rows = store.nights, folder, rows
        self.damaged = damaged
        self._starts = _starts(store)

    def scores(self, vector: np.ndarray) -> np.ndarray:
        """Return the products of all rows with a vector, float32 [N]; NaN where a row is zeros."""
        return products(self.rows, vector)

    def nearest(
        self,
        vector: np.ndarray,
        count: int,
        *,
        apart: int = 1,
        without: tuple[int, int] | None = None,
    ) -> list[Hit]:
        """Return the epochs with the largest products, best first.

        Args:
            vector: float32 [D].
            count: how many, at most.
            apart: of epochs of one night that lie nearer to each other, the best is taken.
            without: (place of a night, epoch) whose neighbours within ``apart`` are left out too.
        """
        scores = self.scores(vector)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        # Each hit hides 2 (apart - 1) others at most, and so does what is left out.
        enough = min((count + 1) * (2 * apart - 1), len(scores))
        best = np.argpartition(-scores, enough - 1)[:enough] if enough else np.zeros(0, int)
        best = best[np.lexsort((best, -scores[best]))]
        taken: dict[int, list[int]] = {}
        if without is not None:
            taken[without[0]] = [without[1]]
        hits = []
        for row in best[np.isfinite(scores[best])].tolist():
            place = int(np.searchsorted(self._starts, row, "right")) - 1
            epoch = row - int(self._starts[place])
            if any(abs(epoch - other) < apart for other in taken.get(place, ())):
                continue
            taken.setdefault(place, []).append(epoch)
            hits.append(Hit(self.nights[place], epoch, float(scores[row])))
            if len(hits) == count:
                break
        return hits

    def place(self, recording: str, epoch: int) -> int:
        """Return the place of a night; raise ValueError where it has no such epoch with signal."""
        names = [night.recording for night in self.nights]
        if recording not in names:
            raise ValueError(f"the store has no night {recording!r}")
        place = names.index(recording)
        count = int(self._starts[place + 1] - self._starts[place])
        if not 0 <= epoch < count:
            raise ValueError(f"{recording!r} has the epochs 0 to {count - 1}, not {epoch}")
        if not self.row(place, epoch).any():
            raise ValueError(f"{recording!r} has no signal in epoch {epoch}")
        return place

    def row(self, place: int, epoch: int) -> np.ndarray:
        """Return the embedding of an epoch of the night at a place, float32 [D]."""
        return self.rows[self._starts[place] + epoch].astype(np.float32)


def open_index(
    embedder: WindowEmbedder,
    store: NightStore,
    folder: str | os.PathLike | None = None,
    *,
    finished: Callable[[str], None] = lambda name: None,
) -> EpochIndex:
    """Open the index of a model and a store, or build it, or go on building it.

    Args:
        embedder: of the model; it fuses the channels and has a row for each epoch.
        store: of nights that it can embed.
        folder: of the index; by default in the store, named by the model and the store's state.
        finished: called with the name of each night that was embedded.

    Raises:
        IndexMismatchError: the folder has the index of another model or store.
        ValueError: the model has no row for each epoch; the folder is something else; the file of
            rows is not whole.
        OSError: the folder cannot be written.
    """
    objective = embedder.model.objective
    if objective.token_s != EPOCH_S or not getattr(objective, "fused", False):
        raise ValueError(
            f"a {type(objective).__name__} has no single row for an epoch of {EPOCH_S} s: its"
            " epochs cannot be searched"
        )
    starts = _starts(store)
    head = {
        "format": FORMAT,
        "model": embedder.checksum,
        "dtype": embedder.dtype,
        "manifest_sha256": sha256(store.path / "manifest.json"),
        "epochs": int(starts[-1]),
        "width": int(embedder.width),
    }
    if folder is None:
        name = f"{embedder.checksum[:16]}-{head['manifest_sha256'][:16]}"
        folder = store.path / FOLDER / name
    folder = pathlib.Path(folder)
    there = _read(folder / HEAD) or _read(folder / BUILDING)
    if there is None and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than an index; give a new folder")
    if there is not None and {key: there.get(key) for key in head} != head:
        odd = next(key for key in head if there.get(key) != head[key])
        told = {"model": "another model", "manifest_sha256": "another store, or a former state"}
        raise IndexMismatchError(
            f"{folder} is of {told.get(odd, f'another {odd}')}; delete it, or give another folder"
        )
    if _read(folder / HEAD) is None:
        _build(embedder, store, folder, head, finished)
    size, path = head["epochs"] * head["width"] * 2, folder / ROWS
    if not path.is_file() or path.stat().st_size != size:
        raise ValueError(f"{path} is not whole: delete {folder}, and it is built anew")
    rows = np.memmap(path, np.float16, "r", shape=(head["epochs"], head["width"]))
    return EpochIndex(store, folder, rows, _read(folder / HEAD)["damaged"])


def _build(embedder, store, folder, head, finished) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / BUILDING).is_file():
        with atomic_write(folder / BUILDING, "w") as file:
            json.dump(head, file)
    path, starts = folder / ROWS, _starts(store)
    with open(path, "a+b") as file:
        file.truncate(head["epochs"] * head["width"] * 2)  # zeros, where nothing was written
    lines = (folder / DONE).read_text().splitlines() if (folder / DONE).is_file() else []
    # The last line may be half of one; the night is then embedded again.
    done = dict(line.split(" ", 1) for line in lines if " " in line and line.endswith("."))
    with open(path, "r+b") as file, open(folder / DONE, "a") as log:
        log.write("\n")
        for place, night in enumerate(store.nights):
            if str(place) in done:
                continue
            rows, why = _embed(embedder, store, night, int(starts[place + 1] - starts[place]))
            file.seek(int(starts[place]) * head["width"] * 2)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())
            log.write(f"{place} {json.dumps(why)}.\n")
            log.flush()
            done[str(place)] = f"{json.dumps(why)}."
            finished(night.recording)
    damaged = {
        store.nights[int(place)].recording: why
        for place, line in done.items()
        if (why := json.loads(line[:-1])) is not None
    }
    if store.nights and len(damaged) == len(store.nights):
        raise StoreError(f"{store.path}: no night can be embedded: {next(iter(damaged.values()))}")
    with atomic_write(folder / HEAD, "w") as file:
        json.dump({**head, "damaged": damaged}, file)
    (folder / BUILDING).unlink(missing_ok=True)
    (folder / DONE).unlink(missing_ok=True)


def _embed(embedder, store, night, epochs) -> tuple[np.ndarray, str | None]:
    """The rows of a night, and why there are none."""
    rows = np.zeros((epochs, embedder.width), np.float16)
    try:
        found = embedder.embed_night(store, night).modalities[FUSED][:epochs]
    except (RecordingError, StoreError) as error:
        return rows, str(error)
    rows[: len(found)] = found
    return rows, None


def _starts(store) -> np.ndarray:
    """The first row of each night, and the number of all."""
    return np.array(
        [0, *itertools.accumulate(night.duration_s // EPOCH_S for night in store.nights)], np.int64
    )


def _read(path):
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def products(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return rows @ vector, float32 [N]; NaN where a row is zeros.

    NumPy turns float16 into float32 more slowly than it multiplies. A shift of the bits is the same
    number times 2^-112, also where a float16 is subnormal, and takes vector instructions.

    Args:
        rows: float16 [N, D].
        vector: float32 [D].
    """
    count, width = rows.shape
    step = max(PIECE // max(width, 1), 1)
    bits = rows.view(np.int16)
    wide, out = np.empty((step, width), np.int32), np.empty(count, np.float32)
    vector = np.asarray(vector, np.float32)
    for start in range(0, count, step):
        piece = bits[start : start + step]
        own = wide[: len(piece)]
        np.copyto(own, piece)
        own <<= 13
        own &= np.int32(-0x70002000)  # the sign, and not what it spread into
        found = out[start : start + step]
        np.matmul(own.view(np.float32), vector, out=found)
        if (found == 0).any():  # which a row with values may be too
            empty = ~(piece & 0x7FFF).any(axis=1)
            found[empty] = np.nan
    out *= WIDENED
    return out


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector [D] or vectors [N, D] at length 1; zeros stay."""
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / np.where(length > 0, length, 1)


def mean_of(vectors: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return the direction of the mean of vectors [N, D]."""
    return unit(np.mean(vectors, axis=0))
