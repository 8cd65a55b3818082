"""Measures of a few minutes of a channel: amplitude, dropouts, heart beats, breaths, line hum.

Every function takes ``pieces``: float64 ``[N, T]``, N stretches of a channel with NaN in gaps.
Thresholds that turn these numbers into decisions are in :mod:`data_pipelines.channels.quality`.
"""

import numpy as np
import scipy

_EPS = 1e-30


def windows(pieces: np.ndarray, length: int) -> np.ndarray:
    """Cut pieces into ``[W, length]`` windows without NaN; what does not fill one is dropped."""
    length = max(1, length)
    per_piece = pieces.shape[1] // length
    cut = pieces[:, : per_piece * length].reshape(-1, length)
    return cut[~np.isnan(cut).any(axis=1)]


def amplitude(pieces: np.ndarray, sfreq_hz: float, window_s: float = 1.0) -> float | None:
    """Median standard deviation of the windows that are not flat; None where all are."""
    cut = windows(pieces, round(window_s * sfreq_hz))
    spread = cut.std(axis=1)
    moving = spread > 1e-9 * np.abs(cut).max(axis=1, initial=0)
    return float(np.median(spread[moving])) if moving.any() else None


def flat_share(pieces: np.ndarray, sfreq_hz: float, window_s: float) -> float:
    """Share of windows in which no sample differs from the others."""
    cut = windows(pieces, max(2, round(window_s * sfreq_hz)))
    if not len(cut):
        return 0.0
    return float(np.mean(np.ptp(cut, axis=1) <= 1e-9 * np.abs(cut).max(axis=1)))


def clipped_share(pieces: np.ndarray, sfreq_hz: float) -> float:
    """Share of samples on a plateau of 3 or more at the highest or lowest value of all pieces.

    Windows of one second that do not move at all count as flat, not as clipped.
    """
    cut = windows(pieces, round(max(sfreq_hz, 8)))
    cut = cut[np.ptp(cut, axis=1) > 0] if len(cut) else cut
    if not len(cut):
        return 0.0
    at_end = (cut == cut.max()) | (cut == cut.min())
    run = scipy.ndimage.binary_opening(at_end, structure=np.ones((1, 3)))
    return float(run.mean())


def beat_score(pieces: np.ndarray, sfreq_hz: float) -> float:
    """How heart-like the rhythm is: 0 (none) to 1 (a metronome of sharp peaks).

    The envelope of the 5-25 Hz slope, smoothed over 0.1 s, is correlated with itself at lags of
    0.35-1.5 s; the highest local maximum is taken, and the median over pieces.
    """
    if sfreq_hz < 50:
        return 0.0
    sos = scipy.signal.butter(2, [5, min(25, 0.45 * sfreq_hz)], "band", fs=sfreq_hz, output="sos")
    low, high = round(0.35 * sfreq_hz), round(1.5 * sfreq_hz)
    whole = _whole(pieces)
    length = whole.shape[1]
    if not len(whole) or length < 3 * high:
        return 0.0
    slope = np.abs(np.gradient(scipy.signal.sosfiltfilt(sos, whole), axis=1))
    envelope = scipy.ndimage.uniform_filter1d(slope, max(1, round(0.1 * sfreq_hz)), axis=1)
    # One electrode pop must not hide the beats around it.
    envelope = np.minimum(envelope, 4 * np.percentile(envelope, 90, axis=1, keepdims=True))
    envelope -= envelope.mean(axis=1, keepdims=True)
    padded = scipy.fft.next_fast_len(length + high + 2, real=True)
    spectrum = np.abs(scipy.fft.rfft(envelope, padded)) ** 2
    correlation = scipy.fft.irfft(spectrum, padded)[:, : high + 2]
    correlation /= np.maximum(correlation[:, :1], _EPS)
    scores = []
    for row in correlation[:, low : high + 2]:
        peaks, _ = scipy.signal.find_peaks(row)
        scores.append(row[peaks].max(initial=0.0))
    return float(np.median(scores))


def peakedness(pieces: np.ndarray, sfreq_hz: float) -> tuple[float, float]:
    """Of the 1-40 Hz signal: which way its sharp peaks point, and how sharp they are.

    Returns:
        ``log2`` of the median over 1.5-s windows of (highest / -lowest), so above 0 for peaks that
        point up, and the median over pieces of the excess kurtosis.
    """
    top = min(40, 0.45 * sfreq_hz)
    sos = scipy.signal.butter(2, [1, top], "band", fs=sfreq_hz, output="sos")
    whole = _whole(pieces)
    if not len(whole) or whole.shape[1] < 3 * sfreq_hz:
        return 0.0, 0.0
    filtered = scipy.signal.sosfiltfilt(sos, whole)
    cut = windows(filtered, round(1.5 * sfreq_hz))
    cut = cut - np.median(cut, axis=1, keepdims=True)
    ratios = np.log2((cut.max(axis=1) + _EPS) / (_EPS - cut.min(axis=1)))
    deviation = filtered - filtered.mean(axis=1, keepdims=True)
    variance = np.maximum(np.mean(deviation**2, axis=1), _EPS)
    kurtosis = np.mean(deviation**4, axis=1) / variance**2 - 3
    return float(np.median(ratios)), float(np.median(kurtosis))


def breath_share(pieces: np.ndarray, sfreq_hz: float) -> float:
    """Share of the power between 0.05 and 2 Hz (or Nyquist) that lies at 0.1-0.6 Hz."""
    whole = _whole(pieces)
    if not len(whole):
        return 0.0
    freqs, power = scipy.signal.periodogram(whole, sfreq_hz, window="hann", detrend="linear")
    total = power[:, (freqs >= 0.05) & (freqs <= 2)].sum(axis=1)
    breath = power[:, (freqs >= 0.1) & (freqs <= 0.6)].sum(axis=1)
    return float(np.median(breath / np.maximum(total, _EPS)))


def spectrum(pieces: np.ndarray, sfreq_hz: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Frequencies in Hz and the median of the pieces' power; None where no piece has 4 s.

    Welch's method, 4-s windows.
    """
    whole = _whole(pieces)
    if not len(whole) or whole.shape[1] < 4 * sfreq_hz:
        return None
    freqs, spectra = scipy.signal.welch(whole, sfreq_hz, nperseg=int(4 * sfreq_hz))
    return freqs, np.median(spectra, axis=0)


def line_hum_db(freqs: np.ndarray, power: np.ndarray) -> dict[int, float]:
    """Height of the spectrum at 50 and at 60 Hz over its surroundings, in dB.

    A frequency is left out where it is not safely below Nyquist.
    """
    found: dict[int, float] = {}
    for line in (50, 60):
        if line + 1.5 > freqs[-1]:
            continue
        at = power[np.abs(freqs - line) <= 0.6].max()
        near = (np.abs(freqs - line) >= 2) & (np.abs(freqs - line) <= 5)
        around = np.median(power[near])
        if at > 0 and around > 0:
            found[line] = float(10 * np.log10(at / around))
    return found


def hum_share(freqs: np.ndarray, power: np.ndarray) -> tuple[float, int]:
    """Share of the power above 1 Hz that is hum, and of which mains frequency.

    Hum is what lies within 0.6 Hz of 50 or 60 Hz, of their multiples below Nyquist, and of where
    the line itself appears when it was sampled too slowly (60 Hz at 100 Hz looks like 40 Hz); an
    apparent frequency below 15 Hz is not told from the brain's.
    """
    sfreq_hz = 2 * freqs[-1]
    total = power[freqs >= 1].sum()
    shares = {}
    for line in (50, 60):
        apparent = abs(line - round(line / sfreq_hz) * sfreq_hz)
        places = [apparent, *(x for x in range(2 * line, int(freqs[-1]) + 1, line))]
        near = [np.abs(freqs - place) <= 0.6 for place in places if place >= 15]
        shares[line] = float(power[np.any(near, axis=0)].sum()) if near else 0.0
    line = max(shares, key=shares.get)
    return (shares[line] / float(total), line) if total > 0 else (0.0, line)


def _whole(pieces: np.ndarray) -> np.ndarray:
    """Pieces with few gaps, those filled by straight lines, less their means; no flat ones."""
    pieces = pieces[np.isnan(pieces).mean(axis=1) <= 0.2]
    at = np.arange(pieces.shape[1])
    for row in np.flatnonzero(np.isnan(pieces).any(axis=1)):
        gaps = np.isnan(pieces[row])
        pieces[row, gaps] = np.interp(at[gaps], at[~gaps], pieces[row, ~gaps])
    pieces = pieces[np.ptp(pieces, axis=1) > 0]
    return pieces - pieces.mean(axis=1, keepdims=True)
