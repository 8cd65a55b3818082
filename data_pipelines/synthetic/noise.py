"""Signals from numbers: noise of a given spectrum, and templates added at given times."""

import numpy as np
import scipy

HOP_S = 2
WINDOW_S = 2 * HOP_S
LATENT_HZ = 4


def window_count(duration_s: int) -> int:
    """Windows of 4 s, half overlapping, that cover a night with one hop to spare at both ends."""
    return -(-duration_s // HOP_S) + 1


def window_times(duration_s: int) -> np.ndarray:
    """Centres of the windows in s."""
    return np.arange(window_count(duration_s)) * HOP_S * 1.0


def gaussian_coefficients(rng, windows: int, bins: int) -> np.ndarray:
    """Complex64 ``[windows, bins]`` with unit variance: noise that is white over frequency."""
    pairs = rng.standard_normal((windows, bins, 2), np.float32)
    return pairs.view(np.complex64)[..., 0] * np.float32(np.sqrt(0.5))


def bins_below(limit_hz: float, rate_hz: int) -> int:
    """Frequency bins of 0.25 Hz up to a limit or just below the Nyquist frequency."""
    return int(min(limit_hz, rate_hz / 2 - 0.25) * WINDOW_S) + 1


def bin_frequencies(bins: int) -> np.ndarray:
    """The frequencies of the first bins in Hz."""
    return np.arange(bins) / WINDOW_S


def noise_from(coefficients, density, rate_hz: int, duration_s: int) -> np.ndarray:
    """Overlap-add noise with a spectrum that changes from window to window.

    Args:
        coefficients: Complex ``[windows, bins]`` of unit variance.
        density: One-sided power spectral density per window and bin, unit^2/Hz, or its broadcast.
        rate_hz: Samples per second.
        duration_s: Seconds; ``windows`` is ``window_count(duration_s)``.

    Returns:
        float32 ``[duration_s * rate_hz]``.
    """
    size = WINDOW_S * rate_hz
    # Parseval for irfft: x = irfft(X) has PSD 2 |X|^2 / (N rate).
    scale = np.sqrt(np.asarray(density, np.float32) * np.float32(size * rate_hz / 2))
    shaped = coefficients * scale
    shaped[:, 0] = 0
    shape = np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size)
    blocks = scipy.fft.irfft(shaped, n=size, axis=1) * shape
    half = size // 2
    halves = blocks[:, half:].copy()
    halves[:-1] += blocks[1:, :half]
    return halves.reshape(-1)[: duration_s * rate_hz]


def at_rate(values, from_hz: float, rate_hz: int, duration_s: int) -> np.ndarray:
    """Interpolate a latent track linearly to samples; float32 ``[duration_s * rate_hz]``."""
    times = np.arange(duration_s * rate_hz) * (from_hz / rate_hz)
    return np.interp(times, np.arange(len(values)), values).astype(np.float32)


def add_templates(signal, onsets_s, rate_hz, lengths_s, make, block=4096):
    """Add one waveform per event, in place.

    Args:
        signal: ``[T]``.
        onsets_s: ``[N]`` starts.
        rate_hz: Samples per second.
        lengths_s: ``[N]`` lengths.
        make: Function of (times ``[n, L]`` from the onset in s, index ``[n]`` of the events) that
            returns the waveforms ``[n, L]``; what lies beyond an event's length is cut.
        block: Events in hand at once.
    """
    onsets_s, lengths_s = np.asarray(onsets_s, float), np.asarray(lengths_s, float)
    for low in range(0, len(onsets_s), block):
        index = np.arange(low, min(low + block, len(onsets_s)))
        first = np.ceil(onsets_s[index] * rate_hz).astype(np.int64)
        count = int(np.ceil(lengths_s[index].max() * rate_hz)) + 1
        at = first[:, None] + np.arange(count)
        times = at / rate_hz - onsets_s[index][:, None]
        waves = make(times.astype(np.float32), index)
        keep = (at >= 0) & (at < len(signal)) & (times <= lengths_s[index][:, None])
        np.add.at(signal, at[keep], waves[keep].astype(np.float32))


def bumps(duration_s: int, onsets_s, rise_s, fall_s, heights) -> np.ndarray:
    """Sum of pulses on the latent grid: each rises and falls exponentially.

    Returns:
        float64 ``[duration_s * 4 + 1]`` at 4 Hz.
    """
    track = np.zeros(duration_s * LATENT_HZ + 1)
    heights = np.broadcast_to(np.asarray(heights, float), np.shape(onsets_s))
    length = int(8 * max(rise_s, fall_s) * LATENT_HZ)
    shape = np.arange(length) / LATENT_HZ
    shape = (1 - np.exp(-shape / rise_s)) * np.exp(-shape / fall_s)
    shape /= shape.max()
    for onset, height in zip(onsets_s, heights, strict=True):
        first = int(round(onset * LATENT_HZ))
        stop = min(first + length, len(track))
        if 0 <= first < stop:
            track[first:stop] += height * shape[: stop - first]
    return track
