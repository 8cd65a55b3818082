"""Measures of a night in pieces: what its signals and embeddings are like, for the guard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_pipelines.store import EPOCH_S, ChannelSignal

PIECE_S = 900  # ours: pieces long enough to hold several stages and many breaths
SEGMENT_S = 4
BANDS = 8  # of equal width in the logarithm, from 0.5 Hz to 0.9 of half the rate
WIDTH = 2 * (BANDS + 3) + 1  # measures of a signal
LEAST_VALID = 0.2  # of the seconds of a piece; below that it has no measures

Measures = dict[str, np.ndarray]  # block -> float64 [pieces, F]; NaN rows where there is no signal


def pieces_of(duration_s: float) -> list[tuple[int, int]]:
    """Return the pieces of a night in whole epochs, (first s, stop s); one at least."""
    count = max(1, int(duration_s // PIECE_S))
    edges = np.linspace(0, duration_s // EPOCH_S, count + 1).round().astype(int) * EPOCH_S
    return [(int(a), int(b)) for a, b in zip(edges, edges[1:])]


def feature_names(block: str, rate_hz: float, width: int) -> list[str]:
    """Return a name for each of the F measures of a block."""
    if block.startswith("embedding/"):
        return [
            f"{kind} of dimension {k}" for kind in ("mean", "spread") for k in range(width // 2)
        ]
    edges = _edges(rate_hz)
    bands = [f"power from {a:.3g} to {b:.3g} Hz" for a, b in zip(edges, edges[1:])]
    own = [*bands, "amplitude", "mean level", "heaviness of tails"]
    return [*own, "the share of flat seconds", *(f"spread of {name}" for name in own)]


def measure(
    channels: Mapping[str, ChannelSignal], rows: Mapping[str, np.ndarray], token_s: float
) -> Measures:
    """Return the measures of a night, piece by piece.

    Args:
        channels: its prepared signals, name -> channel; none of a night of tokens.
        rows: its embeddings, name -> [S, D], zeros where there was no signal.
        token_s: seconds of a row.

    Returns:
        ``signal/<name>`` [pieces, 23]: of segments of 4 s the shares of power in bands, and by the
        second, in physical units, amplitude and level: medians and interquartile ranges;
        ``embedding/<name>`` [pieces, 2 D]: mean and deviation of the rows.
    """
    duration_s = min(
        [len(x.valid) for x in channels.values()] + [len(x) * token_s for x in rows.values()]
    )
    places, found = pieces_of(duration_s), {}
    for name, channel in channels.items():
        found[f"signal/{name}"] = np.stack([_signal(channel, *place) for place in places])
    for name, x in rows.items():
        own = [x[round(a / token_s) : round(b / token_s)].astype(np.float64) for a, b in places]
        found[f"embedding/{name}"] = np.stack([_embedding(part) for part in own])
    return found


def _edges(rate_hz):
    return np.geomspace(0.5, max(0.45 * rate_hz, 0.6), BANDS + 1)


def _signal(channel, first, stop):
    rate = int(channel.rate_hz)
    valid, tracks = channel.valid[first:stop], channel.tracks[first:stop].astype(np.float64)
    if valid.mean() < LEAST_VALID:
        return np.full(WIDTH, np.nan)
    count = (stop - first) // SEGMENT_S
    x = channel.samples[first * rate : (first + count * SEGMENT_S) * rate].astype(np.float64)
    x = x.reshape(count, SEGMENT_S * rate)
    x = x[valid[: count * SEGMENT_S].reshape(count, SEGMENT_S).all(1)]
    if not len(x):
        return np.full(WIDTH, np.nan)
    x = x - x.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(x * np.hanning(x.shape[1]), axis=1)) ** 2
    at = np.searchsorted(_edges(rate), np.fft.rfftfreq(x.shape[1], 1 / rate), "right") - 1
    bands = np.stack([power[:, at == k].sum(1) for k in range(BANDS)], 1)
    bands = np.log(bands / np.maximum(bands.sum(1, keepdims=True), 1e-12) + 1e-5)
    spread = np.sqrt((x**2).mean(1))
    tails = np.log((x**4).mean(1) / np.maximum(spread, 1e-6) ** 4 + 1e-3)
    level, amplitude = tracks[valid, 0], tracks[valid, 1]
    # Levels have any size: their logarithm, with the sign kept, is compared.
    by_segment = np.concatenate([bands, tails[:, None]], 1)
    by_second = np.stack([amplitude, np.arcsinh(level)], 1)
    low, middle, high = np.concatenate(
        [np.percentile(part, [25, 50, 75], axis=0) for part in (by_segment, by_second)], axis=1
    )
    order = [*range(BANDS), BANDS + 1, BANDS + 2, BANDS]  # bands, amplitude, level, tails
    flat = [(amplitude < np.median(amplitude) - 5).mean()]
    return np.concatenate([middle[order], flat, (high - low)[order]])


def _embedding(rows):
    rows = rows[rows.any(1)]
    if not len(rows):
        return np.full(2 * rows.shape[1], np.nan)
    return np.concatenate([rows.mean(0), rows.std(0)])
