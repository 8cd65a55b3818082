"""Where a track of an epoch rises, falls or stays: pieces of lines on a grid of 30 s / 32.

The track's means in 32 bins, smoothed by the median of three, are cut into lines from the bottom
up: the two neighbours whose common line leaves the smallest residual are joined, until every joint
would leave more than a tolerance. Rule and numbers are ours; the grid is that of the captions of
SleepLM (Xu et al. 2026).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy

from data_pipelines.captions.facts import EPOCH_S, TREND_STEP_S, Interval

BINS = round(EPOCH_S / TREND_STEP_S)
MOST = 4  # trends of an epoch: the longest
STABLE_BINS = 6  # that a steady piece has at least
JOIN_AT_FIRST = 2  # bins of the first pieces


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a piece is a trend.

    Attributes:
        residual: that a line may leave.
        change: from end to end of what rises or falls; half of it is too much for a steady piece.
        slope: per second, of what rises or falls.
    """

    residual: float
    change: float
    slope: float


RULES = {"heart_rate": Rule(0.75, 1.0, 0.1), "spo2": Rule(0.4, 0.8, 0.05)}


def find_trends(track: np.ndarray, rule: Rule) -> list[tuple[Interval, ...]]:
    """Return the trends of each epoch, by time.

    Args:
        track: [E, F] at an even rate; NaN where it is not known. A row of NaN has no trends.
        rule: one of ``RULES``.
    """
    known = np.isfinite(track).any(axis=1)
    found: list[tuple[Interval, ...]] = [()] * len(track)
    if not known.any():
        return found
    bins = _median_of_three(_bin_means(track[known]))
    slopes, residuals = _lines(bins)
    for row, epoch in enumerate(np.flatnonzero(known).tolist()):
        pieces = _join(residuals[row].tolist(), rule.residual)
        trends = []
        for start, stop in pieces:
            kind = _kind(slopes[row, start, stop], stop - start, rule)
            if kind is not None:
                trends.append(Interval(start * TREND_STEP_S, stop * TREND_STEP_S, kind))
        longest = sorted(trends, key=lambda t: (t.start_s - t.stop_s, t.start_s))[:MOST]
        found[epoch] = tuple(sorted(longest))
    return found


def _kind(slope, bins, rule):
    change = abs(slope) * bins * TREND_STEP_S
    if change >= rule.change and abs(slope) >= rule.slope:
        return "increasing" if slope > 0 else "decreasing"
    if change < rule.change / 2 and bins >= STABLE_BINS:
        return "stable"
    return None


def _bin_means(track):
    """Means over the bins, [E, 32], of samples that hold until the next; NaN is bridged."""
    edges = np.linspace(0, track.shape[1], BINS + 1)
    at = np.arange(track.shape[1])
    overlap = np.minimum(edges[1:], at[:, None] + 1) - np.maximum(edges[:-1], at[:, None])
    overlap = np.maximum(overlap, 0.0)
    there = np.isfinite(track)
    weight = there @ overlap
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (np.where(there, track, 0.0) @ overlap) / weight
    for row in np.flatnonzero((weight == 0).any(axis=1)):
        known = np.flatnonzero(weight[row] > 0)
        means[row] = np.interp(np.arange(BINS), known, means[row, known])
    return means


def _median_of_three(bins):
    return scipy.ndimage.median_filter(bins, (1, 3), mode="nearest")


def _lines(bins):
    """Slope per second and largest residual of the line through bins i to j, [E, 32, 33]."""
    rows = len(bins)
    slopes, residuals = np.zeros((rows, BINS, BINS + 1)), np.zeros((rows, BINS, BINS + 1))
    for length in range(2, BINS + 1):
        at = (np.arange(length) - (length - 1) / 2) * TREND_STEP_S
        pieces = np.lib.stride_tricks.sliding_window_view(bins, length, axis=1)
        centred = pieces - pieces.mean(axis=2, keepdims=True)
        slope = centred @ (at / (at @ at))
        starts = np.arange(BINS - length + 1)
        slopes[:, starts, starts + length] = slope
        residual = np.abs(centred - slope[:, :, None] * at).max(axis=2)
        residuals[:, starts, starts + length] = residual
    return slopes, residuals


def _join(residuals, most):
    """Join neighbouring pieces of bins, the best first, while a line leaves no more than most."""
    bounds = list(range(0, BINS + 1, JOIN_AT_FIRST))
    while len(bounds) > 2:
        joints = [residuals[a][b] for a, b in zip(bounds[:-2], bounds[2:], strict=True)]
        best = min(joints)
        if best > most:
            break
        del bounds[joints.index(best) + 1]
    return list(zip(bounds[:-1], bounds[1:], strict=True))
