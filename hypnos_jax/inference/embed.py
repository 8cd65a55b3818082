"""Recordings to embeddings: one vector a token and modality, and one per 30-s epoch.

``embed_recording`` takes a file, an ``mne.io.Raw`` or arrays; ``embed_raw`` gives one array for it,
with times. ``open_embedder`` opens any model, for many recordings: ``Embedder`` those of tokens
(timing: see its module), ``WindowEmbedder`` all others. ``Stream`` embeds what is still coming.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.builders.recording_night import Pending
from hypnos_jax.export.model import LoadedModel, ModelError, load_model
from hypnos_jax.inference.embedding import RecordingEmbedding as RecordingEmbedding  # for users
from hypnos_jax.inference.embedding import epoch_means as epoch_means
from hypnos_jax.inference.read_window import read_window as read_window
from hypnos_jax.inference.stream import Stream as Stream
from hypnos_jax.inference.token_embedder import Embedder as Embedder
from hypnos_jax.inference.window_embedder import WindowEmbedder as WindowEmbedder
from hypnos_jax.models.token_chunks import CHUNK_S
from hypnos_jax.objectives import EmbedsInPieces


def open_embedder(
    model: str | os.PathLike | LoadedModel | Embedder | WindowEmbedder,
    *,
    chunk_s: int = CHUNK_S,
    lag: bool | None = None,
    dtype: str | None = None,
    surprise: bool = False,
) -> Embedder | WindowEmbedder:
    """Return what embeds recordings with a model; an embedder is returned as it is.

    Args:
        model: what ``export.load_model`` takes.
        chunk_s, lag: for models of tokens; see ``Embedder``.
        dtype: of the products; None is what the model was trained in.
        surprise: tell also how unexpected each token was; see ``Embedder``.

    Returns:
        An ``Embedder`` or a ``WindowEmbedder``: both have ``names``, ``prepare``,
        ``embed_signals``, ``embed_night``, ``checksum`` and ``dtype``.

    Raises:
        ModelError: no model, or one whose embeddings are not for users; or it cannot tell the
            surprise that is asked for.
    """
    if not isinstance(model, Embedder | WindowEmbedder):
        model = load_model(model)
        if isinstance(model.objective, EmbedsInPieces):
            options = {"chunk_s": chunk_s, "lag": lag, "dtype": dtype, "surprise": surprise}
            return Embedder(model, generates=False, **options)
        model = WindowEmbedder(model, dtype=dtype)
    if surprise and not getattr(model, "tells_surprise", False):
        what = type(model.model.objective).__name__
        raise ModelError(f"{what}, as it was opened, cannot tell the surprise of tokens")
    return model


def name_of(recording, otherwise: str = "raw") -> str:
    """Return a recording's name: of its file, or what it calls itself."""
    if isinstance(recording, str | os.PathLike):
        return pathlib.Path(recording).stem
    return getattr(recording, "name", None) or otherwise


def embed_raw(model, raw, *, unit: str = "epoch", **options) -> tuple[np.ndarray, np.ndarray]:
    """Embed an ``mne.io.Raw`` as one array with times.

    Args:
        model: as for ``embed_recording``.
        raw: the recording.
        unit: ``"epoch"``, ``"row"`` or ``"recording"``; see ``RecordingEmbedding.table``.
        options: of ``embed_recording``.

    Returns:
        float32 [N, D], the mean over the modalities, and float32 [N], when each row begins, in
        seconds on the axis of ``raw.times``.

    Raises:
        What ``embed_recording`` raises.
    """
    return embed_recording(model, raw, **options).table(unit)


def embed_recording(
    model,
    recording,
    modalities: Sequence[str] | None = None,
    *,
    mains_hz: int | None = None,
    aliases: dict[str, list] | None = None,
    chunk_s: int = CHUNK_S,
    lag: bool | None = None,
    dtype: str | None = None,
    surprise: bool = False,
) -> RecordingEmbedding:
    """Embed one recording from its raw signals.

    Args:
        model: what ``export.load_model`` takes, or (to compile once for many) what
            ``open_embedder`` returns, which then decides ``chunk_s``, ``lag`` and ``dtype``, and
            must tell the surprise that is asked for.
        recording: path of an EDF, BDF or WFDB file, an ``mne.io.Raw``, or arrays as
            ``data_pipelines.recordings.opening.open_recording`` takes them.
        modalities: only these, those of them that the recording has; all by default.
        mains_hz: 50 or 60; None infers it from the spectrum.
        aliases: further channel labels, as ``channels.load_aliases`` returns them.
        chunk_s, lag, dtype, surprise: see ``Embedder``.

    Raises:
        RecordingError: not a recording, or it has none of the modalities.
        ModelError: no model, or one that does not fit.
        ValueError: a modality that the model does not have.
    """
    model = open_embedder(model, chunk_s=chunk_s, lag=lag, dtype=dtype, surprise=surprise)
    prepare = model.prepare(model.names(modalities), mains_hz=mains_hz, aliases=aliases)
    name = name_of(recording)
    night = prepare(Pending(name=name, path=recording, scoring=False))
    return model.embed_signals(night.channels, recording=name)
