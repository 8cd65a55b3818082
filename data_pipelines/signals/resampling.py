"""Polyphase resampling at exact rational ratios, as ``scipy.signal.resample_poly`` does it."""

import fractions
import functools

import numpy as np
import scipy

# OpenBLAS wakes its threads for a product of more multiplications than this; channels and nights
# are spread over the cores instead.
PRODUCT = 2**18


def resampling_ratio(sfreq: fractions.Fraction, rate_hz: int) -> fractions.Fraction:
    """Return ``rate_hz / sfreq``, where its terms exceed 100,000 one of smaller terms within 1e-8.

    That is 0.3 ms in 8 h.

    Raises:
        ValueError: No ratio of moderate terms is near enough.
    """
    ratio = fractions.Fraction(rate_hz) / sfreq
    if max(ratio.numerator, ratio.denominator) > 100_000:
        near = ratio.limit_denominator(100_000)
        if (
            near == 0
            or near.numerator > 100_000
            or abs(near / ratio - 1) > fractions.Fraction(1, 10**8)
        ):
            raise ValueError(f"cannot resample {float(sfreq):.9g} Hz to {rate_hz} Hz")
        ratio = near
    return ratio


def resample(signal: np.ndarray, sfreq: fractions.Fraction, rate_hz: int) -> np.ndarray:
    """Resample ``[T]`` to ``rate_hz`` by a polyphase filter at the exact rational ratio.

    Raises:
        ValueError: See :func:`resampling_ratio`.
    """
    ratio = resampling_ratio(sfreq, rate_hz)
    if ratio == 1:
        return signal
    # The release stores the resampled signal as float32; the filters then run in float64.
    return _polyphase(signal, ratio.numerator, ratio.denominator)


def _polyphase(signal, up, down):
    """``scipy.signal.resample_poly`` of ``[T]`` as float32, in a quarter of its time.

    The same taps, laid out as one matrix from a stretch of input to some 32 samples of output, so
    that a matrix product does the work; scipy takes over where that matrix would be large.
    """
    if max(up, down) > 512:
        return scipy.signal.resample_poly(signal, up, down).astype(np.float32)
    taps, left = _resampling_matrix(up, down)
    length, width = taps.shape
    step = width * down // up
    count = -(-len(signal) * up // down)
    blocks = -(-count // width)
    out = np.empty((blocks, width), np.float32)
    together = max(1, PRODUCT // taps.size)
    window = np.lib.stride_tricks.sliding_window_view
    inner = window(signal, length) if len(signal) >= length else ()
    buffer = np.empty((together, length))  # BLAS takes no overlapping rows
    for at in range(0, blocks, together):
        stretches = buffer[: blocks - at]
        first, last = at * step - left, (at + len(stretches) - 1) * step - left + 1
        if first >= 0 and last <= len(inner):
            stretches[...] = inner[first:last:step]
        else:  # zeros outside the recording, as scipy has them
            stop = last + length - 1
            piece = np.pad(
                signal[max(first, 0) : max(stop, 0)],
                (max(-first, 0), max(stop - len(signal), 0)),
            )
            stretches[...] = window(piece, length)[::step]
        np.matmul(stretches, taps, out=out[at : at + together], casting="unsafe")
    return out.reshape(-1)[:count]


def resampling_taps(up: int, down: int) -> np.ndarray:
    """Return the filter of the polyphase resampler at ``up`` times the input's rate."""
    if up == down == 1:
        return np.ones(1)
    half = 10 * max(up, down)
    return up * scipy.signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))


@functools.lru_cache(maxsize=32)
def _resampling_matrix(up, down):
    """Weights ``[inputs, outputs]`` of one stretch, and how many inputs lie before its start."""
    taps = resampling_taps(up, down)
    half = len(taps) // 2
    width = up * max(1, round(32 / up))
    left = half // up
    length = left + (half + (width - 1) * down) // up + 1
    tap = half + np.arange(width) * down - (np.arange(length)[:, None] - left) * up
    within = (tap >= 0) & (tap < len(taps))
    return np.where(within, taps[np.clip(tap, 0, len(taps) - 1)], 0.0), left
