"""R peaks of an ECG and what the intervals between them tell of the rhythm.

Detection follows Pan and Tompkins (IEEE Trans. Biomed. Eng. 32, 1985): band-pass, slope, square,
moving sum, threshold that follows the beats; here with filters of zero phase and a threshold from
the local strength of beats. It needs no polarity.

sleepecg's detector, a causal threshold over the same idea, is 15 times as fast and is not used: of
80,511 annotated beats as prepared nights have them (MIT-BIH, 35 records) ours finds 99.61 % at
99.29 % precision, sleepecg 0.6.0 99.14 % at 98.83 %, and features of its beats tell atrial
fibrillation from sinus rhythm less well (AUROC 0.974 against 0.991, CinC 2017); see
``benchmarks/r_peaks.py``.

Irregularity: RMSSD, SDNN, pNN50, normalised
absolute deviation (Langley et al., Comput. Cardiol. 2012), coefficient of sample entropy (Lake and
Moorman, Am. J. Physiol. Heart 300, 2011), turning points, histogram of successive differences.
"""

from __future__ import annotations

import numpy as np
import scipy

BAND_HZ = (5.0, 20.0)
REFRACTORY_S = 0.25
SHORTEST_S, LONGEST_S = 0.25, 2.5  # of an interval between beats
DIFFERENCE_EDGES = (-np.inf, -0.3, -0.15, -0.075, -0.025, 0.025, 0.075, 0.15, 0.3, np.inf)
RHYTHM_NAMES = (
    "mean_rr",
    "log_sdnn",
    "log_rmssd",
    "relative_rmssd",
    "pnn50",
    "absolute_deviation",
    "sample_entropy",
    "turning_points",
    "longest_rr",
    "shortest_rr",
    *(f"difference_{i}" for i in range(len(DIFFERENCE_EDGES) - 1)),
)


def find_r_peaks(signal: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return the times of the R peaks, float64 [N] in seconds, ascending.

    Args:
        signal: [T] ECG of any scale and polarity, zeros where it is missing.
        rate_hz: at least 60.

    Raises:
        ValueError: the rate is too low to hold the peaks.
    """
    if rate_hz < 60:
        raise ValueError(f"rate_hz={rate_hz}: R peaks need 60 Hz or more")
    signal = np.asarray(signal, np.float64)
    if len(signal) < 2 * rate_hz:
        return np.zeros(0)
    sections = scipy.signal.butter(2, BAND_HZ, "bandpass", fs=rate_hz, output="sos")
    band = scipy.signal.sosfiltfilt(sections, signal)
    slope = np.gradient(band) ** 2
    width = max(3, round(0.12 * rate_hz)) | 1
    # The running sum of the filter may end a rounding below zero.
    energy = np.sqrt(np.maximum(scipy.ndimage.uniform_filter1d(slope, width), 0.0))
    # A beat every 2 s at least: the largest value within 2 s is a beat's, artifacts apart; the
    # median of it over 10 s forgets a single artifact.
    near = scipy.ndimage.maximum_filter1d(energy, 2 * rate_hz + 1)
    step = max(1, rate_hz // 4)
    coarse = scipy.ndimage.median_filter(near[::step], 41, mode="nearest")
    # A stretch without any beat must not lower the threshold to its noise.
    coarse = np.maximum(coarse, 0.6 * np.median(coarse))
    level = np.interp(np.arange(len(energy)), np.arange(len(coarse)) * step, coarse)
    peaks, _ = scipy.signal.find_peaks(energy, distance=max(1, round(REFRACTORY_S * rate_hz)))
    peaks = peaks[energy[peaks] > np.maximum(0.35 * level[peaks], 1e-12)]
    reach = round(0.08 * rate_hz)
    found = []
    for peak in peaks:
        low = max(peak - reach, 1)
        at = low + int(np.argmax(np.abs(band[low : min(peak + reach + 1, len(band) - 1)])))
        left, top, right = np.abs(band[at - 1 : at + 2])
        bend = left - 2 * top + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        found.append((at + np.clip(shift, -0.5, 0.5)) / rate_hz)
    found = np.unique(np.asarray(found))
    if len(found) < 2:
        return found
    keep = np.concatenate([[True], np.diff(found) > 0.5 * REFRACTORY_S])
    return found[keep]


def intervals(peaks_s: np.ndarray) -> np.ndarray:
    """Return the plausible intervals between successive beats, float64 [N] in seconds."""
    rr = np.diff(peaks_s)
    return rr[(rr >= SHORTEST_S) & (rr <= LONGEST_S)]


def rhythm_features(peaks_s: np.ndarray) -> np.ndarray:
    """Return how irregular a stretch of beats is, float64 [F] named ``RHYTHM_NAMES``.

    Args:
        peaks_s: [N] times of beats; fewer than five give NaN.
    """
    rr = intervals(peaks_s)
    if len(rr) < 4:
        return np.full(len(RHYTHM_NAMES), np.nan)
    mean, steps = rr.mean(), np.diff(rr)
    rmssd = np.sqrt(np.mean(steps**2))
    counts, _ = np.histogram(steps / mean, DIFFERENCE_EDGES)
    turns = np.mean(steps[1:] * steps[:-1] < 0) if len(steps) > 1 else 0.0
    return np.array(
        [
            mean,
            np.log(max(rr.std(), 1e-3)),
            np.log(max(rmssd, 1e-3)),
            rmssd / mean,
            np.mean(np.abs(steps) > 0.05),
            np.median(np.abs(rr - np.median(rr))) / np.median(rr),
            sample_entropy(rr),
            turns,
            np.max(rr) / np.median(rr),
            np.min(rr) / np.median(rr),
            *(counts / len(steps)),
        ]
    )


def irregularity(peaks_s: np.ndarray) -> float:
    """Return the median step between successive intervals over the median interval.

    Args:
        peaks_s: [N] times of beats; fewer than five give NaN.
    """
    rr = intervals(peaks_s)
    return float(np.median(np.abs(np.diff(rr))) / np.median(rr)) if len(rr) >= 4 else float("nan")


def sample_entropy(rr: np.ndarray, *, tolerance_s: float = 0.03) -> float:
    """Return the coefficient of sample entropy of intervals [N], for templates of one beat.

    ``-ln(A / B) + ln(2 r) - ln(mean)`` with B the pairs of beats alike within r = ``tolerance_s``,
    A those of them whose next beats are alike too. A count of zero is taken as one half, so that
    short records have a value.
    """
    close = np.abs(rr[:, None] - rr[None]) <= tolerance_s
    np.fill_diagonal(close, False)
    first = close[:-1, :-1].sum() / 2
    both = (close[:-1, :-1] & close[1:, 1:]).sum() / 2
    entropy = -np.log(max(both, 0.5) / max(first, 0.5))
    return float(entropy + np.log(2 * tolerance_s) - np.log(rr.mean()))
