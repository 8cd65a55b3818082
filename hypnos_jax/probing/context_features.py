"""Hand-made features of an epoch with those around it: what a probe without a network can be given.

Rows of an epoch (band powers, or any few numbers), their neighbours, weighted means over longer
spans of the night, and the time of night. Many numbers, such as the rows of a model, are first made
few by their principal components.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import scipy

from data_pipelines.store import NightEntry, NightStore
from hypnos_jax.probing import hand_features

NEIGHBOURS = (-2, -1, 1, 2)  # epochs
SPANS = (15, 61)  # ours: epochs of the triangular means, 7.5 and 30.5 min
COMPONENTS = 16  # ours: of a model's rows that context is made of
MOST_VALUES = 64  # ours: samples of a token up to which they are features and not a waveform


def with_context(rows: np.ndarray) -> np.ndarray:
    """Return float32 [E, 7 F + 3] of rows [E, F], NaN where nothing is known.

    The rows, those of the neighbours (the night's first and last stand for what is beyond), two
    triangular means of what is known, and the time of night: hours from its start, the share that
    has passed and its square.
    """
    rows = np.asarray(rows, np.float32)
    count = len(rows)
    places = np.arange(count)
    parts = [rows, *(rows[np.clip(places + shift, 0, count - 1)] for shift in NEIGHBOURS)]
    known = np.isfinite(rows).astype(np.float32)
    filled = np.nan_to_num(rows)
    for span in SPANS:
        triangle = np.bartlett(span + 2)[1:-1].astype(np.float32)
        total, weight = (
            scipy.ndimage.correlate1d(x, triangle, axis=0, mode="constant") for x in (filled, known)
        )
        parts.append(np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), np.nan))
    share = places / max(count - 1, 1)
    parts.append(np.stack([places / 120, share, share**2], axis=1))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def principal_components(
    rows: Mapping[str, np.ndarray], learnt_from: Collection[str], most: int = COMPONENTS
) -> dict[str, np.ndarray]:
    """Return recording -> float32 [E, K], the first components of standardised rows [E, F].

    Args:
        rows: recording -> float [E, F]; an epoch with NaN stays NaN.
        learnt_from: recordings whose epochs, without labels, give the components.
        most: K is this, or F where that is less.
    """
    known = np.concatenate([np.asarray(rows[name], np.float64) for name in learnt_from])
    known = known[np.isfinite(known).all(1)]
    mean, spread = known.mean(0), np.maximum(known.std(0), 1e-6)
    _, axes = np.linalg.eigh(np.atleast_2d(np.cov((known - mean) / spread, rowvar=False)))
    axes = axes[:, ::-1][:, :most]
    return {name: ((x - mean) / spread @ axes).astype(np.float32) for name, x in rows.items()}


def with_night(rows: np.ndarray) -> np.ndarray:
    """Return float32 [E, 3 F] of rows [E, F]: themselves, and their mean and spread in the night.

    What is not known is left out of these; NaN where nothing is known of the night.
    """
    rows = np.asarray(rows, np.float32)
    known = np.isfinite(rows)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, rows, 0).sum(0) / count
    spread = np.sqrt(np.where(known, (rows - mean) ** 2, 0).sum(0) / count)
    night = np.where(known.any(0), [mean, spread], np.nan).reshape(-1)
    return np.concatenate([rows, np.tile(night, (len(rows), 1))], axis=1, dtype=np.float32)


def inputs_of(store: NightStore, night: NightEntry) -> np.ndarray:
    """Return float32 [E, F]: what a night's epochs are described by without any network.

    Of a store whose tokens are few numbers, such as band powers, these numbers, channel beside
    channel, NaN where a channel is unknown. Of waveforms, ``hand_features.epoch_features``.

    Raises:
        ValueError: the store has neither.
    """
    from data_pipelines.recipes import recipe_of_store
    from data_pipelines.windows import fill

    rows = [row for row in recipe_of_store(store).rows.values() if row.frames <= MOST_VALUES]
    there = {row["name"] for row in store.manifest["channels"]}
    rows = [row for row in rows if row.name in there]
    if not rows:
        return hand_features.epoch_features(store, night)[0]
    count, parts = night.duration_s // 30, []
    for row in rows:
        samples, valid = np.zeros((count, row.frames), np.int16), np.zeros(count, bool)
        scale = fill(store, night, row, 0, count, samples, valid)
        parts.append(np.where(valid[:, None], samples * scale, np.nan))
    return np.concatenate(parts, axis=1, dtype=np.float32)
