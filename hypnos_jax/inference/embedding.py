"""Embeddings of one recording, their means by epoch, and their ``.npz`` file."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.store import EPOCH_S
from hypnos_jax.inference.surprise import RecordingSurprise

UNITS = ("epoch", "row", "recording")


@dataclasses.dataclass(frozen=True)
class RecordingEmbedding:
    """Embeddings of one recording.

    Attributes:
        recording: its name.
        times_s: float32 [S], seconds from the recording's start to the token of each row.
        modalities: those present, name -> float16 [S, D], or ``fused`` where the model fuses them;
            rows of zeros where there was no signal.
        epochs: float16 [E, D], means over whole 30-s epochs and over the modalities.
        model: checksum of the model.
        surprise: how unexpected each second was, where that was asked for.
    """

    recording: str
    times_s: np.ndarray
    modalities: dict[str, np.ndarray]
    epochs: np.ndarray
    model: str
    surprise: RecordingSurprise | None = None

    def table(self, unit: str = "epoch") -> tuple[np.ndarray, np.ndarray]:
        """Return one array over all modalities, and the time of each row.

        Args:
            unit: ``"epoch"``: a row per 30 s; ``"row"``: one per row of the model;
                ``"recording"``: one row, the mean of the epochs, but for those without signal (rows
                of zeros).

        Returns:
            float32 [N, D], and float32 [N], seconds from the recording's start.

        Raises:
            ValueError: another unit; or no whole epoch with signal to take the mean of.
        """
        if unit not in UNITS:
            raise ValueError(f"unit={unit!r} is not one of {list(UNITS)}")
        if unit == "row":
            rows = np.stack([x.astype(np.float32) for x in self.modalities.values()], axis=1)
            return mean_over_modalities(rows, rows.any(-1)), self.times_s
        epochs = self.epochs.astype(np.float32)
        times = EPOCH_S * np.arange(len(epochs), dtype=np.float32)
        if unit != "recording":
            return epochs, times
        if not len(epochs):
            raise ValueError(f"{self.recording} is shorter than an epoch of {EPOCH_S} s")
        seen = epochs.any(axis=1)
        if not seen.any():
            raise ValueError(f"{self.recording} has no epoch of {EPOCH_S} s with signal")
        return epochs[seen].mean(axis=0, keepdims=True), np.zeros(1, np.float32)

    def save(self, path: str | os.PathLike, *, comment: str = "") -> None:
        """Write ``.npz`` (no pickle): an array per modality, ``epochs``, ``times_s``, ``model``.

        With surprise also what ``RecordingSurprise.arrays`` has. A reader never sees half a file.

        Args:
            path: the file.
            comment: kept as the archive's comment, which readers of arrays do not see.
        """
        with atomic_write(path, "w+b") as file:
            np.savez(
                file,
                **self.modalities,
                epochs=self.epochs,
                times_s=self.times_s,
                model=np.array(self.model),
                **dict(self.surprise.arrays() if self.surprise else ()),
            )
            with zipfile.ZipFile(file, "a") as archive:
                archive.comment = comment.encode()


def wanted_names(modalities: Sequence[Mapping], wanted: Sequence[str] | None) -> list[str]:
    """Return the names of a model's modalities, or those of them that are wanted.

    Raises:
        ValueError: one that the model does not have.
    """
    names = [row["name"] for row in modalities]
    unknown = sorted(set(wanted or ()) - set(names))
    if unknown:
        raise ValueError(f"the model has no modality {unknown[0]!r}; it has {names}")
    return [name for name in names if wanted is None or name in wanted]


def mean_over_modalities(rows: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return [..., D], the unweighted mean over the valid ones of [..., M, D]; 0 where none is."""
    weights = valid[..., None].astype(np.float32)
    return (rows * weights).sum(-2) / np.maximum(weights.sum(-2), 1)


def epoch_means(rows: np.ndarray, token_s: float = 1) -> np.ndarray:
    """Return [E, ...], the mean over each whole 30-s epoch of [L, ...]; the rest is cut.

    Args:
        rows: one every ``token_s`` seconds.
        token_s: a part of 30 s.

    Raises:
        ValueError: tokens do not divide an epoch.
    """
    count = round(EPOCH_S / token_s)
    if abs(count * token_s - EPOCH_S) > 1e-6 * EPOCH_S:
        raise ValueError(f"tokens of {token_s:g} s do not divide an epoch of {EPOCH_S} s")
    epochs = len(rows) // count
    return rows[: epochs * count].reshape(epochs, count, *rows.shape[1:]).mean(axis=1)


def valid_epoch_means(
    rows: np.ndarray, valid: np.ndarray, token_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return [E, M, D], means over the valid tokens of each epoch, and [E, M], where there are any.

    Args:
        rows: float32 [L, M, D].
        valid: bool [L, M].
        token_s: see ``epoch_means``.
    """
    share = epoch_means(valid.astype(np.float32), token_s)
    total = epoch_means(rows * valid[..., None], token_s)
    return total / np.where(share > 0, share, 1)[..., None], share > 0
