"""What belts and flow tell of an epoch: rate, regularity, size, shape of a breath, paradox.

Breaths are peaks of 0.08-0.7 Hz, at least 1.4 s apart and as prominent as 0.3 of the epoch's
interquartile range. Nothing is said of an epoch where less than 40 % of the power of 0.03-2 Hz is
breathing, or whose breathing is less than a twentieth of the night's usual (an apnea: no rate is
better than that of noise). All of it is ours.

The flow's polarity is taken as AASM montages have it: inspiration is up.
"""

from __future__ import annotations

import numpy as np
import scipy

from data_pipelines.captions.epoch_signals import (
    EpochSignal,
    NightSignals,
    band_pass,
    band_power,
    by_epoch,
    refined,
    slower,
)
from data_pipelines.store import EPOCH_S

RATE_HZ = 16
BAND_HZ, WHOLE_HZ, BREATHING_SHARE = (0.08, 0.7), (0.03, 2.0), 0.4
NOISE_FLOOR = 0.05  # of the night's median standard deviation
PROMINENCE_IQRS, APART_S = 0.3, 1.4
FEWEST_FOR_RATE, FEWEST_FOR_VARIABILITY = 3, 4
BEFORE_EPOCHS = 4  # 2 min, whose median is the usual size
SHORTEST_BREATH_S, LONGEST_BREATH_S = 0.4, 6.0  # of an inspiration


def measure(signals: NightSignals) -> dict[str, np.ndarray]:
    """Return slot -> float [E], NaN where a gate fails."""
    found, breathing = {}, {}
    for name in ("resp_abd", "resp_thx", "airflow"):
        signal = signals.get(name)
        if signal is None:
            continue
        slow = slower(signal.flat, signal.rate_hz, RATE_HZ)
        band = band_pass(slow, RATE_HZ, BAND_HZ).reshape(signals.epochs, -1)
        size, enough = sizes(slow.reshape(band.shape), band, signal)
        breathing[name] = band, enough
        rate, variability = of_breaths(band, enough)
        found |= {f"{name}.rate": rate, f"{name}.amplitude_ratio": size}
        if name == "airflow":
            found["airflow.flatness"] = flatness(slow, enough)
        else:
            found[f"{name}.variability"] = variability
    if {"resp_abd", "resp_thx"} <= set(breathing):
        found["resp.phase"] = phase(*breathing["resp_thx"], *breathing["resp_abd"])
    return found


def sizes(slow: np.ndarray, band: np.ndarray, signal: EpochSignal) -> tuple[np.ndarray, np.ndarray]:
    """Return the size of breathing in that of the 2 min before, and which epochs breathe, [E]."""
    taper = scipy.signal.get_window("hann", slow.shape[1])
    centred = slow - slow.mean(axis=1, keepdims=True)
    density = np.abs(np.fft.rfft(centred * taper)) ** 2
    frequencies = np.fft.rfftfreq(slow.shape[1], 1 / RATE_HZ)
    whole = band_power(density, frequencies, *WHOLE_HZ)
    share = band_power(density, frequencies, *BAND_HZ) / np.where(whole > 0, whole, 1.0)
    size = np.where(signal.usable, band.std(axis=1), np.nan)
    usual = np.nanmedian(size) if np.isfinite(size).any() else np.nan
    enough = signal.usable & (share >= BREATHING_SHARE) & (size > NOISE_FLOOR * usual)
    ratio = np.full(len(size), np.nan)
    for epoch in range(1, len(size)):
        before = size[max(epoch - BEFORE_EPOCHS, 0) : epoch]
        before = before[np.isfinite(before)]
        if len(before) and np.median(before) > 0:
            ratio[epoch] = size[epoch] / np.median(before)
    return ratio, enough


def of_breaths(band: np.ndarray, enough: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return breaths a minute, and the standard deviation of their intervals in s, [E]."""
    epochs, length = band.shape
    lower, upper = np.percentile(band, (25, 75), axis=1)
    flat = band.reshape(-1)
    peaks, _ = scipy.signal.find_peaks(
        flat,
        distance=round(APART_S * RATE_HZ),
        prominence=np.repeat(np.maximum(PROMINENCE_IQRS * (upper - lower), 1e-12), length),
        wlen=2 * length,
    )
    rate, variability = np.full(epochs, np.nan), np.full(epochs, np.nan)
    times = refined(flat, peaks) / RATE_HZ
    for epoch, own in enumerate(by_epoch(times, epochs)):
        if enough[epoch] and len(own) >= FEWEST_FOR_RATE:
            intervals = np.diff(own)
            rate[epoch] = 60 / intervals.mean()
            if len(own) >= FEWEST_FOR_VARIABILITY:
                variability[epoch] = intervals.std()
    return rate, variability


def flatness(flow: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """Return the mean over an epoch's inspirations of mean flow / peak flow, [E].

    A sine has 2 / pi, a flat top 1. Inspirations lie between zero crossings: what is breathed in is
    breathed out, so that the flow above 0.05 Hz, as prepared, has its zero where air stands still.
    (A running median of 10 s would follow a slow breath, and a sine had 0.5.)

    Args:
        flow: [T] at ``RATE_HZ``.
        enough: bool [E], the epochs to look at.
    """
    up = flow > 0
    starts = np.flatnonzero(~up[:-1] & up[1:])
    stops = np.flatnonzero(up[:-1] & ~up[1:])
    found = np.full(len(enough), np.nan)
    if not len(starts) or not len(stops):
        return found
    stops = stops[stops > starts[0]]
    starts = starts[: len(stops)]
    # Where the line between two samples is zero.
    begins, ends = (x + flow[x] / (flow[x] - flow[x + 1]) for x in (starts, stops))
    area = np.concatenate([[0.0], np.cumsum((flow[1:] + flow[:-1]) / 2)])
    area = area[stops] - area[starts + 1]
    area += flow[starts + 1] * (starts + 1 - begins) / 2 + flow[stops] * (ends - stops) / 2
    peak = np.maximum.reduceat(flow, np.stack([starts, stops], axis=1).reshape(-1))[::2]
    lasts = ends - begins
    fine = (lasts >= SHORTEST_BREATH_S * RATE_HZ) & (lasts <= LONGEST_BREATH_S * RATE_HZ)
    ratio, epoch = (area / lasts / peak)[fine], starts[fine] // (RATE_HZ * EPOCH_S)
    count = np.bincount(epoch, minlength=len(enough))
    total = np.bincount(epoch, ratio, minlength=len(enough))
    there = enough & (count >= FEWEST_FOR_RATE)
    found[there] = total[there] / count[there]
    return found


def phase(
    chest: np.ndarray, chest_enough: np.ndarray, belly: np.ndarray, belly_enough: np.ndarray
) -> np.ndarray:
    """Return the angle between chest and belly, 0 to 180 degrees, [E]; over 90 they oppose."""
    taper = scipy.signal.get_window("hann", chest.shape[1])
    a, b = (np.fft.rfft((x - x.mean(axis=1, keepdims=True)) * taper) for x in (chest, belly))
    angle = np.abs(np.degrees(np.angle((a * b.conj()).sum(axis=1))))
    return np.where(chest_enough & belly_enough, angle, np.nan)
