"""What the chin and the position sensor tell of an epoch: tone, bursts, and how the body lies.

The EMG is that of 10-31 Hz; its envelope is the absolute value below 2 Hz, at 8 Hz. Ours.
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
from data_pipelines.captions.facts import POSITIONS, PositionChange
from data_pipelines.store import EPOCH_S

BAND_HZ = (10.0, 31.0)
WINDOW_S = 4
ENVELOPE_HZ, ENVELOPE_RATE_HZ, BURST_HZ = 2.0, 8, (0.1, 2.0)
LEAST_S = 3  # that a position is kept
UNKNOWN = -1


def measure(signals: NightSignals) -> dict[str, np.ndarray]:
    """Return slot -> float [E], NaN where less than half of the epoch was measured."""
    chin = signals.get("emg_chin")
    return {} if chin is None else of_chin(chin)


def of_chin(chin: EpochSignal) -> dict[str, np.ndarray]:
    """Return the median frequency, and how strong and how fast bursts are, [E]."""
    rate, epochs = chin.rate_hz, len(chin.samples)
    density, frequencies = welch(chin.samples, rate, WINDOW_S, chin.good)
    envelope = band_pass(np.abs(band_pass(chin.flat, rate, BAND_HZ)), rate, (None, ENVELOPE_HZ))
    envelope = envelope[:: rate // ENVELOPE_RATE_HZ].reshape(epochs, -1)
    half, top = np.percentile(envelope, (50, 95), axis=1)
    centred = envelope - envelope.mean(axis=1, keepdims=True)
    taper = scipy.signal.get_window("hann", envelope.shape[1])
    modulation = np.abs(np.fft.rfft(centred * taper)) ** 2
    slow = np.fft.rfftfreq(envelope.shape[1], 1 / ENVELOPE_RATE_HZ)
    power = band_power(modulation, slow, *BURST_HZ)
    fine = chin.usable & (half > 0) & (power > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "emg_chin.median_frequency": _median_frequency(density, frequencies),
            "emg_chin.burst_ratio": top / half,
            "emg_chin.burst_rate": band_power(modulation * slow, slow, *BURST_HZ) / power,
        }
    return {name: np.where(fine, values, np.nan) for name, values in found.items()}


def _median_frequency(density, frequencies):
    """Below which half of the power of the band lies, [E]."""
    inside = (frequencies >= BAND_HZ[0]) & (frequencies <= BAND_HZ[1])
    hz, power = frequencies[inside], density[:, inside]
    steps = (power[:, 1:] + power[:, :-1]) / 2 * np.diff(hz)
    so_far = np.concatenate([np.zeros((len(power), 1)), np.cumsum(steps, axis=1)], axis=1)
    half = so_far[:, -1:] / 2
    at = np.clip((so_far < half).sum(axis=1), 1, len(hz) - 1)
    rows = np.arange(len(power))
    below, above = so_far[rows, at - 1], so_far[rows, at]
    return hz[at - 1] + (half[:, 0] - below) / (above - below) * (hz[at] - hz[at - 1])


def find_positions(codes: np.ndarray) -> tuple[np.ndarray, list[tuple[PositionChange, ...]]]:
    """Return the position where each epoch begins, int8 [E] with -1 unknown, and its changes.

    Args:
        codes: [E, 30], a place in ``POSITIONS`` each second, -1 unknown. A position that is kept
            for less than 3 s is passed over.
    """
    first, changes = np.full(len(codes), UNKNOWN, np.int8), [()] * len(codes)
    for epoch, row in enumerate(codes.astype(int)):
        runs = _runs(row)
        kept = [(at, code) for at, code, lasts in runs if code != UNKNOWN and lasts >= LEAST_S]
        if not kept:
            known = row[row != UNKNOWN]
            if len(known) >= EPOCH_S / 2:
                first[epoch] = np.bincount(known).argmax()
            continue
        first[epoch] = last = kept[0][1]
        found = []
        for at, code in kept[1:]:
            if code != last:
                found.append(PositionChange(float(at), POSITIONS[code]))
                last = code
        changes[epoch] = tuple(found)
    return first, changes


def _runs(row):
    """Where each run of one code begins, the code, and its seconds."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(row)) + 1])
    lengths = np.diff([*starts, len(row)])
    return [(int(a), int(row[a]), int(n)) for a, n in zip(starts, lengths, strict=True)]
