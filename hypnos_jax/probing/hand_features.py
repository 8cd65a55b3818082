"""Hand-crafted baseline features per 30-s epoch, and per recording.

Per 30-s epoch: band powers of EEG and EOG, tone of the chin, breathing of the belts, beats of the
ECG; each beside its mean over the past five minutes, because an embedding has a past too. Per
recording: how irregular the beats are (``heartbeats.rhythm_features``) and the means over the
night. Stored signals have lost their absolute scale to the rolling z-score; the stored tracks give
it back. Channels that a night lacks are NaN. The choice of features is ours.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy

from data_pipelines.channels.table import CHANNELS
from data_pipelines.recipes.hypnos import EIGHT
from data_pipelines.signals.heartbeats import RHYTHM_NAMES, find_r_peaks, intervals, rhythm_features
from data_pipelines.store import EPOCH_S, NightEntry, NightStore

BANDS_HZ = {
    "slow": (0.5, 1.5),
    "delta": (1.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "sigma": (12.0, 16.0),
    "beta": (16.0, 30.0),
    "gamma": (30.0, 45.0),
}
PAST_EPOCHS = 10
FEWEST_VALID = 0.5  # share of an epoch's seconds below which its features are missing
TINY = 1e-10
SPECTRUM_NAMES = (*BANDS_HZ, "slow_over_fast", "mobility", "kurtosis", "log_std", "log_std_spread")
BREATH_NAMES = (
    "rate",
    "regularity",
    "log_amplitude",
    "amplitude_over_past",
    "shallowest_over_past",
)
BEAT_NAMES = ("mean_rr", "log_sdnn", "log_rmssd", "pnn50", "rr_spread")


def epoch_features(store: NightStore, night: NightEntry) -> tuple[np.ndarray, list[str]]:
    """Compute the features of every 30-s epoch of a night.

    Args:
        store: a store of signals.
        night: one of its nights.

    Returns:
        float32 [E, F], NaN where a channel is absent or mostly invalid, and the F names; both in
        the same order for every night.
    """
    epochs = night.duration_s // EPOCH_S
    columns, names = [], []
    for channel in EIGHT:
        own = OWN[CHANNELS[channel].signal_type]
        if channel in night.channels:
            seconds = epochs * EPOCH_S
            rate = store.rate_hz(channel)
            signal = store.signal(night, channel, 0, seconds).reshape(epochs, EPOCH_S * rate)
            tracks = store.tracks(night, channel, 0, seconds).reshape(epochs, EPOCH_S, 2)
            valid = store.valid(night, channel, 0, seconds).reshape(epochs, EPOCH_S)
            found = own[0](signal, rate, tracks, valid)
            found[valid.mean(axis=1) < FEWEST_VALID] = np.nan
        else:
            found = np.full((epochs, len(own[1])), np.nan)
        columns.append(found)
        names += [f"{channel}/{name}" for name in own[1]]
    columns.append(_together(store, night, epochs))
    names += ["eog_e1/eog_e2/correlation", "resp_abd/resp_thx/correlation"]
    now = np.concatenate(columns, axis=1)
    names += [f"{name}/past" for name in names]
    return np.concatenate([now, past_mean(now)], axis=1).astype(np.float32), names


def record_features(store: NightStore, night: NightEntry) -> tuple[np.ndarray, list[str]]:
    """Compute the features of a whole recording: the rhythm of its beats.

    Args:
        store: a store of signals.
        night: one of its nights.

    Returns:
        float32 [F], NaN without an ECG of some beats, and the F names.
    """
    found = np.full(len(RHYTHM_NAMES), np.nan)
    if "ecg" in night.channels:
        signal = store.signal(night, "ecg", 0, night.duration_s)
        found = rhythm_features(find_r_peaks(signal, store.rate_hz("ecg")))
    return found.astype(np.float32), [f"ecg/{name}" for name in RHYTHM_NAMES]


def past_mean(rows: np.ndarray, count: int = PAST_EPOCHS) -> np.ndarray:
    """Return [E, F]: the mean of each row and the ``count - 1`` before it, NaN left out."""
    there = np.isfinite(rows)
    total = np.cumsum(np.where(there, rows, 0.0), axis=0)
    number = np.cumsum(there, axis=0)
    total[count:] -= total[:-count].copy()
    number[count:] -= number[:-count].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, total / number, np.nan)


def _spectrum(signal, rate, tracks, valid):
    """[E, T] -> the features named ``SPECTRUM_NAMES``, float64 [E, F]."""
    width = min(4 * rate, signal.shape[1])
    hz, power = scipy.signal.welch(signal, rate, nperseg=width, axis=1)
    bands = [power[:, (hz >= low) & (hz < high)].sum(axis=1) for low, high in BANDS_HZ.values()]
    bands = np.stack(bands, axis=1) + TINY
    shares = np.log(bands / bands.sum(axis=1, keepdims=True))
    fast = np.log(bands[:, :3].sum(axis=1)) - np.log(bands[:, 3:].sum(axis=1))
    spread = signal.std(axis=1) + TINY
    mobility = np.log((np.diff(signal, axis=1).std(axis=1) + TINY) / spread)
    centred = signal - signal.mean(axis=1, keepdims=True)
    kurtosis = np.log(np.mean(centred**4, axis=1) / spread**4 + TINY)
    level, level_spread = _level(tracks, valid)
    more = np.stack([fast, mobility, kurtosis, level, level_spread], axis=1)
    return np.concatenate([shares, more], axis=1).astype(np.float64)


def _level(tracks, valid):
    """Mean and spread over an epoch's valid seconds of the log standard deviation."""
    weight = valid / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    mean = (tracks[..., 1] * weight).sum(axis=1)
    spread = np.sqrt((((tracks[..., 1] - mean[:, None]) ** 2) * weight).sum(axis=1))
    return mean, spread


def _breath(signal, rate, tracks, valid):
    """[E, T] -> the features named ``BREATH_NAMES``."""
    hz, power = scipy.signal.periodogram(signal, rate, detrend="linear", axis=1)
    breathing = (hz >= 0.1) & (hz <= 0.7)
    power, hz = power[:, breathing] + TINY, hz[breathing]
    rate_hz = (power * hz).sum(axis=1) / power.sum(axis=1)
    regularity = np.log(power.max(axis=1) / power.sum(axis=1))
    # The mean of each second is sampled often enough for breaths, and has the physical scale.
    means = np.where(valid, tracks[..., 0], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # epochs without a valid second
        amplitude = np.log(np.nanstd(means, axis=1) + TINY)
        thirds = np.nanstd(means.reshape(len(means), 3, -1), axis=2).min(axis=1)
    before = past_mean(amplitude[:, None])[:, 0]
    shallow = np.log(thirds + TINY) - before
    return np.stack([rate_hz, regularity, amplitude, amplitude - before, shallow], axis=1)


def _beats(signal, rate, tracks, valid):
    """[E, T] -> the features named ``BEAT_NAMES``, from the beats within the epoch."""
    peaks = find_r_peaks(signal.reshape(-1), rate)
    epoch = (peaks // EPOCH_S).astype(int)
    found = np.full((len(signal), len(BEAT_NAMES)), np.nan)
    edges = np.searchsorted(epoch, np.arange(len(signal) + 1))
    for e, (low, high) in enumerate(zip(edges, edges[1:])):
        rr = intervals(peaks[low:high])
        if len(rr) < 4:
            continue
        steps = np.diff(rr)
        found[e] = (
            rr.mean(),
            np.log(max(rr.std(), 1e-3)),
            np.log(max(np.sqrt(np.mean(steps**2)), 1e-3)),
            np.mean(np.abs(steps) > 0.05),
            (rr.max() - rr.min()) / np.median(rr),
        )
    return found


def _together(store, night, epochs):
    """How the two eyes and the two belts move with each other, [E, 2]."""
    found = np.full((epochs, 2), np.nan)
    for column, pair in enumerate((("eog_e1", "eog_e2"), ("resp_abd", "resp_thx"))):
        if not set(pair) <= set(night.channels):
            continue
        a, b = (store.signal(night, name, 0, epochs * EPOCH_S).reshape(epochs, -1) for name in pair)
        a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
        size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        found[:, column] = (a * b).sum(axis=1) / (size + TINY)
    return found


OWN = {
    "eeg": (_spectrum, SPECTRUM_NAMES),
    "eog": (_spectrum, SPECTRUM_NAMES),
    "emg": (_spectrum, SPECTRUM_NAMES),
    "ecg": (_beats, BEAT_NAMES),
    "resp": (_breath, BREATH_NAMES),
}
