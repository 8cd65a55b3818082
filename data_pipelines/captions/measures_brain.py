"""What EEG and EOG tell of an epoch: shares of the power of bands, movements of the eyes.

Bands and gates are ours, after the captions of SleepLM (Xu et al. 2026), whose own are not
published. An epoch of EEG counts where at least half of its seconds were measured, move by more
than 0.5 uV and span no more than 500 uV; windows that touch another second are left out.
"""

from __future__ import annotations

import numpy as np
import scipy

from data_pipelines.captions.epoch_signals import (
    EpochSignal,
    NightSignals,
    band_pass,
    band_power,
    welch,
)
from data_pipelines.store import EPOCH_S

EEG_BANDS = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "sigma": (12.0, 16.0),
    "beta": (16.0, 30.0),
}
EEG_WHOLE = (0.5, 31.0)
EEG_WINDOW_S = 4
EOG_BANDS = {"slow": (0.3, 1.0), "saccadic": (1.0, 5.0)}
EOG_WHOLE = (0.3, 10.0)
EOG_WINDOW_S = 8
FLAT_UV, SPAN_UV = 0.5, 500.0
SACCADE_MADS, SACCADE_APART_S = 4.0, 0.2


def measure(signals: NightSignals) -> dict[str, np.ndarray]:
    """Return slot -> float [E], NaN where a gate fails."""
    found = {}
    for name in ("eeg_c3", "eeg_c4"):
        signal = signals.get(name)
        if signal is not None:
            found |= shares(name, signal, EEG_BANDS, EEG_WHOLE, EEG_WINDOW_S)
    eyes = [signals.get(name) for name in ("eog_e1", "eog_e2")]
    for name, signal in zip(("eog_e1", "eog_e2"), eyes, strict=True):
        if signal is not None:
            found |= shares(name, signal, EOG_BANDS, EOG_WHOLE, EOG_WINDOW_S)
    if None not in eyes:
        found |= movements(*eyes)
    return found


def shares(
    name: str, signal: EpochSignal, bands: dict, whole: tuple[float, float], window_s: int
) -> dict[str, np.ndarray]:
    """Return ``name.band`` -> per cent of the power of ``whole`` that the band has, [E]."""
    good = clean(signal)
    density, frequencies = welch(signal.samples, signal.rate_hz, window_s, good)
    total = band_power(density, frequencies, *whole)
    enough = (good.mean(axis=1) >= 0.5) & (total > 0)
    found = {}
    for band, edges in bands.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            share = 100 * band_power(density, frequencies, *edges) / total
        found[f"{name}.{band}"] = np.where(enough, share, np.nan)
    return found


def clean(signal: EpochSignal) -> np.ndarray:
    """Bool [E, 30]: seconds of a voltage that were measured, and are neither flat nor too wide."""
    seconds = signal.by_second()
    return signal.good & (seconds.std(axis=2) >= FLAT_UV) & (np.ptp(seconds, axis=2) <= SPAN_UV)


def movements(left: EpochSignal, right: EpochSignal) -> dict[str, np.ndarray]:
    """Return the number of saccades of each epoch, and how the eyes' signals correlate.

    A saccade is a peak of the speed of left minus right (0.3-10 Hz) over four times its median of
    the night, where left and right go opposite ways, as those of slow waves do not. The eyes move
    together where the correlation is below -0.5.
    """
    rate, epochs = left.rate_hz, len(left.samples)
    good = clean(left) & clean(right)
    usable = good.mean(axis=1) >= 0.5
    of_left, of_right = (np.gradient(band_pass(x.flat, rate, EOG_WHOLE)) for x in (left, right))
    speed, known = np.abs(of_left - of_right), np.repeat(good.reshape(-1), rate)
    measured = speed[known]
    speed[~known | (of_left * of_right >= 0)] = 0
    count = np.zeros(epochs)
    if len(measured):
        least = SACCADE_MADS * np.median(measured)
        apart = round(SACCADE_APART_S * rate)
        peaks, _ = scipy.signal.find_peaks(speed, height=max(least, 1e-12), distance=apart)
        count = np.bincount(peaks // (rate * EPOCH_S), minlength=epochs).astype(float)
    a, b = (x.samples - x.samples.mean(axis=1, keepdims=True) for x in (left, right))
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (a * b).sum(axis=1) / size
    return {
        "eog.saccades": np.where(usable, count, np.nan),
        "eog.correlation": np.where(usable & (size > 0), correlation, np.nan),
    }
