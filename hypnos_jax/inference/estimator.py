"""A model as a transformer of scikit-learn: recordings or arrays in, rows of an embedding out."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from absl import logging
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from data_pipelines.recordings.memory import ArrayRecording
from hypnos_jax.export.model import ModelError
from hypnos_jax.inference.embed import embed_recording, name_of, open_embedder
from hypnos_jax.inference.embedding import UNITS, RecordingEmbedding
from hypnos_jax.inference.surprise import STATISTICS, column_names

FEATURES = ("embedding", "surprise", "both")
OPEN = 2  # models kept open in a process: clones and folds share one


class SleepEmbedder(TransformerMixin, BaseEstimator):
    """Embed recordings with a frozen model; fitting learns nothing.

    What is given is a sequence, each item of which is a path (EDF, BDF, WFDB), an ``mne.io.Raw``, a
    ``data_pipelines`` recording, or a dict ``{label: (array, rate_hz)}`` of microvolts; or an array
    [n, channels, samples] of microvolts with ``channels`` and ``sfreq_hz``. Labels are resolved and
    signals judged and preprocessed as by every other command.

    Args:
        model: path of an export or a run, or of a published file.
        unit: ``"recording"``: a row per item, the mean of its epochs, which pipelines and
            cross-validation want; ``"epoch"``: the epochs of 30 s of all items one after the other;
            ``"row"``: as finely as the model has it, a second for models of tokens. ``rows`` tells
            whose and when.
        features: ``"embedding"``; of models that predict tokens also ``"surprise"``, how unexpected
            the tokens of each modality were, side by side, NaN where one is absent (by second as
            it is, else as statistics of it; see ``inference/surprise.py``), or ``"both"``.
        modalities: only these; all that an item has by default.
        channels: names or labels of the second axis of an array, ``"eeg_c3"`` or ``"C3-M2"``.
        sfreq_hz: rate of an array.
        mains_hz: 50 or 60; None infers it from each recording.
        aliases: further labels, as ``data_pipelines.channels.resolve.load_aliases`` returns them.
        on_error: ``"raise"``, or ``"nan"``: an item that cannot be embedded is logged and gets a
            row of NaN.

    Attributes:
        n_features_out_: D; this and the next of a fitted one.
        checksum_: of the model.
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        unit: str = "recording",
        features: str = "embedding",
        modalities: Sequence[str] | None = None,
        channels: Sequence[str] | None = None,
        sfreq_hz: float | None = None,
        mains_hz: int | None = None,
        aliases: dict | None = None,
        on_error: str = "raise",
    ):
        self.model = model
        self.unit = unit
        self.features = features
        self.modalities = modalities
        self.channels = channels
        self.sfreq_hz = sfreq_hz
        self.mains_hz = mains_hz
        self.aliases = aliases
        self.on_error = on_error

    def fit(self, X, y=None) -> SleepEmbedder:
        """Check the parameters, the model and the form of ``X``; read no recording.

        Args:
            X: see the class.
            y: not looked at.

        Raises:
            ValueError: a parameter that is not known, or an ``X`` that is none of the above.
            ModelError: no model, or one that cannot tell the surprise that is asked for.
        """
        for name, value, known in (
            ("unit", self.unit, UNITS),
            ("features", self.features, FEATURES),
            ("on_error", self.on_error, ("raise", "nan")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {list(known)}")
        embedder = self._embedder()
        names = embedder.names(self.modalities)
        self._items(X)
        self.n_features_out_ = 0
        if self.features != "surprise":
            self.n_features_out_ += int(embedder.width)
        if self.features != "embedding":
            own = column_names(embedder.objective.level_groups)
            each = 1 if self.unit == "row" else len(STATISTICS)
            self.n_features_out_ += len(names) * len(own) * each
        self.checksum_ = embedder.checksum
        return self

    def transform(self, X) -> np.ndarray:
        """Return float32 [n, D], or of all epochs or rows; see ``rows``."""
        return self.rows(X)[0]

    def rows(self, X) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows, whose they are, and when.

        Returns:
            float32 [N, D]; int [N], the place of each row's item in ``X`` (``groups`` for
            cross-validation); float32 [N], when it begins, in seconds from its recording's start.

        Raises:
            ValueError: an item that cannot be embedded, by its place and name, unless
                ``on_error="nan"``.
        """
        check_is_fitted(self)
        tables = [self._table(i, item) for i, item in enumerate(self._items(X))]
        places = np.repeat(np.arange(len(tables)), [len(rows) for rows, _ in tables])
        rows = [rows for rows, _ in tables] or [np.empty((0, self.n_features_out_), np.float32)]
        times = [times for _, times in tables] or [np.empty(0, np.float32)]
        return np.concatenate(rows), places, np.concatenate(times)

    def embed(self, item) -> RecordingEmbedding:
        """Return the whole embedding of one item of ``X``, each modality for itself."""
        options = {"mains_hz": self.mains_hz, "aliases": self.aliases}
        options["surprise"] = self.features != "embedding"
        return embed_recording(self._embedder(), item, self.modalities, **options)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return ``sleepembedder0`` and so on, as scikit-learn names what is made of all inputs."""
        check_is_fitted(self)
        return np.array([f"sleepembedder{i}" for i in range(self.n_features_out_)], dtype=object)

    def _table(self, place, item):
        try:
            found = self.embed(item)
            rows, times = found.table(self.unit)
            if self.features == "embedding":
                return rows, times
            names = self._embedder().names(self.modalities)
            told = found.surprise.table(self.unit, names)
            return (told if self.features == "surprise" else np.hstack([rows, told])), times
        except ModelError:  # of no one item
            raise
        except (ValueError, OSError) as error:
            what = f"X[{place}] ({name_of(item, type(item).__name__)}) cannot be embedded: {error}"
            if self.on_error == "raise":
                raise ValueError(what) from error
            logging.warning("%s", what)
            return np.full((1, self.n_features_out_), np.nan, np.float32), np.zeros(1, np.float32)

    def _items(self, X) -> list:
        """The items of X.

        Raises:
            ValueError: it is none of what the class takes.
        """
        if isinstance(X, str | os.PathLike | Mapping) or not isinstance(X, Iterable):
            raise ValueError(
                f"X is one {type(X).__name__}; give a sequence, also of one: paths, mne.io.Raw or"
                " dicts {label: (array, rate_hz)}"
            )
        if getattr(X, "ndim", 1) == 1:
            return list(X)
        if X.ndim == 2 and X.shape[1] == 1:  # a column of paths, as tables give them
            return list(np.asarray(X)[:, 0])
        if X.ndim != 3:
            raise ValueError(f"X is {X.shape}; an array is [n, channels, samples]")
        if self.channels is None or self.sfreq_hz is None:
            raise ValueError(f"X is an array {X.shape}; give channels= and sfreq_hz= with it")
        if len(self.channels) != X.shape[1]:
            raise ValueError(
                f"X is {X.shape} and channels={list(self.channels)}: as many as axis 1"
            )
        return [
            ArrayRecording({c: (row, self.sfreq_hz) for c, row in zip(self.channels, rows)})
            for rows in np.asarray(X)
        ]

    def _embedder(self):
        if self.model is None:
            raise ValueError("model=None; give the path of an export, a run or a published file")
        path = pathlib.Path(self.model)
        parts = (path / "config.json", path / "checkpoints")  # of an export; of a run that goes on
        written = tuple(part.stat().st_mtime_ns for part in parts if part.exists())
        return _open(str(self.model), written, self.features != "embedding")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.no_validation = True
        return tags


@functools.lru_cache(maxsize=OPEN)
def _open(path: str, written: tuple[int, ...], surprise: bool):
    """An embedder, anew where the files were."""
    del written
    return open_embedder(path, surprise=surprise)
