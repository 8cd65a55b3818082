"""What a model sees in a recording, and the file that holds it."""

from __future__ import annotations

import dataclasses
import os
import zipfile

import numpy as np

from data_pipelines.files import atomic_write
from data_pipelines.store import EPOCH_S

UNITS = ("epoch", "row", "recording")


@dataclasses.dataclass(frozen=True)
class RecordingEmbedding:
    """What a model sees in one recording.

    Attributes:
        recording: its name.
        times_s: float32 [S], seconds from the recording's start to the second of each row.
        modalities: those present, name -> float16 [S, D].
        epochs: float16 [E, D], means over whole 30-s epochs and over the modalities.
        model: checksum of the model.
    """

    recording: str
    times_s: np.ndarray
    modalities: dict[str, np.ndarray]
    epochs: np.ndarray
    model: str

    def table(self, unit: str = "epoch") -> tuple[np.ndarray, np.ndarray]:
        """Return one array over all modalities, and the time of each row.

        Args:
            unit: ``"epoch"``: a row per 30 s; ``"row"``: one per row of the model, which is a
                second for models of tokens; ``"recording"``: one row, the mean of the epochs, but
                for those in which towers saw no signal (rows of zeros).

        Returns:
            float32 [N, D], and float32 [N], seconds from the recording's start.

        Raises:
            ValueError: another unit; or no whole epoch with signal to take the mean of.
        """
        if unit not in UNITS:
            raise ValueError(f"unit={unit!r} is not one of {list(UNITS)}")
        # Rows of towers are epochs, and their mean knows which modalities held signal.
        if unit == "row" and len(self.times_s) != len(self.epochs):
            return mean_over_modalities(self.modalities), self.times_s
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

        A reader never sees half a file.

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
            )
            with zipfile.ZipFile(file, "a") as archive:
                archive.comment = comment.encode()


def mean_over_modalities(modalities: dict[str, np.ndarray]) -> np.ndarray:
    """Return float32 [S, D], the unweighted mean of name -> [S, D]."""
    return np.mean([x.astype(np.float32) for x in modalities.values()], axis=0)


def epoch_means(rows: np.ndarray) -> np.ndarray:
    """Return [E, D], the mean of every 30 rows of [S, D]; a part of an epoch at the end is cut."""
    epochs = len(rows) // EPOCH_S
    return rows[: epochs * EPOCH_S].reshape(epochs, EPOCH_S, rows.shape[-1]).mean(axis=1)
