"""What ECG, heart rate and oxygen tell of an epoch: beats, levels, and the tracks of trends.

R peaks are those of ``signals.heartbeats``. The rate is of the median interval between beats; RMSSD
is of intervals from 0.33 to 2 s that are within 25 % of the running median of five. Gates: 5 beats
for the rate; 10 beats, and 80 % of the intervals, for RMSSD; neither where the rate is more than
25 % from a recorded heart rate; 80 % of the seconds for levels. All are ours.
"""

from __future__ import annotations

import numpy as np
import scipy

from data_pipelines.captions.epoch_signals import EpochSignal, NightSignals
from data_pipelines.signals.heartbeats import find_r_peaks
from data_pipelines.store import EPOCH_S

SHORTEST_S, LONGEST_S = 0.33, 2.0
STEP_SHARE = 0.25  # of an interval from the median of its neighbours
FEWEST_BEATS, FEWEST_FOR_RMSSD, VALID_SHARE = 5, 10, 0.8
DISAGREEMENT = 0.25  # of the rates of ECG and track
# Level -> plausible values and the numbers that are said of it.
LEVELS = {
    "heart_rate": ((30.0, 220.0), ("min", "max", "mean")),
    "spo2": ((50.0, 100.0), ("min", "mean")),
}
BEAT_TRACK_HZ = 4


def measure(signals: NightSignals) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return slot -> float [E] with NaN where a gate fails, and level -> its track [E, F].

    A heart rate that was not recorded is that of the ECG's beats, at 4 Hz.
    """
    found, tracks = {}, {}
    ecg = signals.get("ecg")
    rates = None
    if ecg is not None:
        beats = find_beats(ecg)
        rates = of_beats(beats, signals.epochs)
    for name, (bounds, statistics) in LEVELS.items():
        level = signals.get(name)
        if level is not None:
            values = np.where(np.repeat(level.good, level.rate_hz, axis=1), level.samples, np.nan)
        elif name == "heart_rate" and ecg is not None:
            values = rate_track(beats, signals.epochs)
        else:
            continue
        with np.errstate(invalid="ignore"):
            values = np.where((values >= bounds[0]) & (values <= bounds[1]), values, np.nan)
        enough = np.isfinite(values).mean(axis=1) >= VALID_SHARE
        values[~enough] = np.nan
        tracks[name] = values
        for statistic in statistics:
            column = np.full(signals.epochs, np.nan)
            column[enough] = getattr(np, f"nan{statistic}")(values[enough], axis=1)
            found[f"{name}.{statistic}"] = column
    if rates is not None:
        rate, rmssd = rates
        if "heart_rate" in signals.names:
            with np.errstate(invalid="ignore"):
                recorded = found["heart_rate.mean"]
                wrong = np.abs(rate - recorded) > DISAGREEMENT * recorded
            rate[wrong] = rmssd[wrong] = np.nan
        found |= {"ecg.rate": rate, "ecg.rmssd": rmssd}
    return found, tracks


def find_beats(ecg: EpochSignal) -> np.ndarray:
    """Return the times of R peaks in measured seconds, [N] s of the night."""
    good = ecg.good.reshape(-1)
    centred = ecg.samples - np.median(ecg.samples)
    centred = np.where(np.repeat(good, ecg.rate_hz), centred.reshape(-1), 0.0)
    beats = find_r_peaks(centred, ecg.rate_hz)
    return beats[good[np.minimum(beats.astype(int), len(good) - 1)]]


def of_beats(beats: np.ndarray, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rate in beats a minute and RMSSD in ms of each epoch, [E]."""
    rate, rmssd = np.full(epochs, np.nan), np.full(epochs, np.nan)
    if len(beats) < FEWEST_BEATS:
        return rate, rmssd
    intervals, regular = _intervals(beats)
    edges = np.searchsorted(beats, np.arange(epochs + 1) * EPOCH_S)
    for epoch, (first, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        if stop - first < FEWEST_BEATS:
            continue
        own, fine = intervals[first : stop - 1], regular[first : stop - 1]
        rate[epoch] = 60 / np.median(own)
        if stop - first < FEWEST_FOR_RMSSD or fine.mean() < VALID_SHARE:
            continue
        steps = np.diff(own)[fine[1:] & fine[:-1]]
        if len(steps):
            rmssd[epoch] = 1000 * np.sqrt(np.mean(steps**2))
    return rate, rmssd


def _intervals(beats):
    """Intervals between beats in s, and which of them are plausible."""
    intervals = np.diff(beats)
    if not len(intervals):
        return intervals, np.zeros(0, bool)
    usual = scipy.ndimage.median_filter(intervals, 5, mode="nearest")
    regular = (intervals >= SHORTEST_S) & (intervals <= LONGEST_S)
    return intervals, regular & (np.abs(intervals - usual) < STEP_SHARE * usual)


def rate_track(beats: np.ndarray, epochs: int) -> np.ndarray:
    """Return the rate of the plausible intervals, [E, 120] at 4 Hz; NaN where none is near."""
    at = np.arange(epochs * EPOCH_S * BEAT_TRACK_HZ) / BEAT_TRACK_HZ
    values = np.full(len(at), np.nan)
    intervals, plausible = _intervals(beats)
    times = beats[1:][plausible]
    if len(times) > 1:
        values = np.interp(at, times, 60 / intervals[plausible], left=np.nan, right=np.nan)
        after = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
        values[times[after] - times[after - 1] > 2 * LONGEST_S] = np.nan
    return values.reshape(epochs, -1)
