"""Zero-phase FIR filters with MNE's defaults, as the official code of SynthSleepNet has them.

Differences of Hamming-windowed low-passes (``firwin``), each as long as its transition wants: 3.3
periods of the transition's width, which is a quarter of the corner's frequency, at least 2 Hz, and
no more than there is up to 0 Hz or the Nyquist frequency. Outside of the signal stands its point
reflection, then zeros. MNE itself is not needed; tests hold these filters against it.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy

LENGTH = 3.3  # of a Hamming window, in periods of the transition's width
NARROWEST = 0.02  # ours: an upper corner nearer to the Nyquist frequency, relative, is left open


def filter_fir(
    signal: np.ndarray,
    rate_hz: float,
    band_hz: tuple[float | None, float | None],
    nyquist_hz: float,
) -> np.ndarray:
    """Filter along the last axis, float64 ``[..., T]``.

    Args:
        signal: ``[..., T]`` without gaps.
        rate_hz: Samples per second.
        band_hz: Corners, which pass; None leaves that side open, and so does an upper one that the
            rate does not hold.
        nyquist_hz: By this frequency at the latest the upper transition is over: half of the rate
            that the signal is brought to afterwards.

    Raises:
        ValueError: The rate holds nothing of the band.
    """
    taps = fir_taps(float(rate_hz), tuple(band_hz), float(nyquist_hz))
    if len(taps) == 1:
        return np.asarray(signal, np.float64)
    padded = _reflected(np.asarray(signal, np.float64), len(taps) // 2)
    taps = taps.reshape([1] * (padded.ndim - 1) + [-1])
    return scipy.signal.oaconvolve(padded, taps, mode="valid", axes=-1)


@functools.lru_cache(maxsize=32)
def fir_taps(
    rate_hz: float, band_hz: tuple[float | None, float | None], nyquist_hz: float
) -> np.ndarray:
    """Return the taps of a filter, an odd number; see :func:`filter_fir`."""
    (low, high), half = band_hz, rate_hz / 2
    if low is not None and low >= half:
        raise ValueError(f"{rate_hz:g} Hz holds nothing of {low:g} Hz and above")
    end = min(half, nyquist_hz)
    if high is not None and end - high < NARROWEST * high:
        high = None
    edges = []
    if low is not None:
        width = min(max(0.25 * low, 2.0), low)
        edges.append((-1, low - width / 2, width))
    if high is not None:
        width = min(max(0.25 * high, 2.0), end - high)
        edges.append((1, high + width / 2, width))
    counts = [round(LENGTH / width * rate_hz) | 1 for _, _, width in edges]
    taps = np.zeros(max(counts, default=1))
    if high is None:
        taps[len(taps) // 2] = 1.0
    for (sign, middle, _), count in zip(edges, counts, strict=True):
        at = (len(taps) - count) // 2
        taps[at : at + count] += sign * scipy.signal.firwin(count, middle, fs=rate_hz)
    return taps


def _reflected(signal, count):
    """``signal`` with ``count`` samples of its point reflection on both sides, zeros beyond."""
    there = min(count, signal.shape[-1] - 1)
    first, last = signal[..., :1], signal[..., -1:]
    before = 2 * first - signal[..., there:0:-1]
    after = 2 * last - signal[..., -2 : -there - 2 : -1]
    zeros = np.zeros((*signal.shape[:-1], count - there))
    return np.concatenate([zeros, before, signal, after, zeros], axis=-1)
