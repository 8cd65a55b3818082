"""The signals of a night in their units, cut into epochs, and spectra of epochs.

All arrays have a row an epoch of 30 s; only whole epochs count.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import scipy

from data_pipelines.store import EPOCH_S, ChannelSignal


@dataclasses.dataclass(frozen=True)
class EpochSignal:
    """A channel of a night.

    Attributes:
        samples: float64 [E, 30 * rate] in the channel's unit.
        good: bool [E, 30], the seconds that were measured.
        rate_hz: samples per second.
    """

    samples: np.ndarray
    good: np.ndarray
    rate_hz: int

    @property
    def flat(self) -> np.ndarray:
        """The samples in a row, [E * 30 * rate]."""
        return self.samples.reshape(-1)

    @property
    def usable(self) -> np.ndarray:
        """Bool [E]: half of the epoch or more was measured."""
        return self.good.mean(axis=1) >= 0.5

    def by_second(self) -> np.ndarray:
        """The samples as [E, 30, rate]."""
        return self.samples.reshape(*self.good.shape, self.rate_hz)


@dataclasses.dataclass(frozen=True)
class NightSignals:
    """What the measures read of a night.

    Attributes:
        epochs: whole epochs of the night.
        read: name of a row -> its signal as prepared.
        names: of the rows that the night has.
        scaling: name -> (centre, scale): ``samples * scale + centre`` is in the row's unit.
    """

    epochs: int
    read: Callable[[str], ChannelSignal]
    names: tuple[str, ...]
    scaling: Mapping[str, tuple[float, float]]

    def get(self, name: str) -> EpochSignal | None:
        """Return a row in its unit; None where the night has none."""
        if name not in self.names:
            return None
        signal = self.read(name)
        centre, scale = self.scaling[name]
        seconds, rate = self.epochs * EPOCH_S, signal.rate_hz
        samples = np.full(seconds * rate, centre)
        given = signal.samples[: seconds * rate].astype(np.float64)
        samples[: len(given)] += given * scale
        good = np.zeros(seconds, bool)
        good[: len(signal.valid)] = signal.valid[:seconds]
        samples = samples.reshape(seconds, rate)
        samples[~good] = centre
        shape = (self.epochs, EPOCH_S)
        return EpochSignal(samples.reshape(self.epochs, -1), good.reshape(shape), rate)


def welch(
    signal: np.ndarray, rate_hz: int, window_s: int, good: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the spectral density of every epoch, [E, F], and the frequencies in Hz, [F].

    Windows of Hann overlap by half, without their means.

    Args:
        signal: [E, 30 * rate].
        rate_hz: samples per second.
        window_s: seconds of a window, an even number.
        good: bool [E, 30]; windows with another second are left out. NaN where none is left.
    """
    length, step_s = window_s * rate_hz, window_s // 2
    windows = np.lib.stride_tricks.sliding_window_view(signal, length, axis=1)
    windows = windows[:, :: step_s * rate_hz]
    taper = scipy.signal.get_window("hann", length)
    total = np.zeros((len(signal), length // 2 + 1))
    count = np.zeros(len(signal))
    if good is None:
        good = np.ones((len(signal), signal.shape[1] // rate_hz), bool)
    for at in range(windows.shape[1]):
        piece = windows[:, at]
        power = np.abs(np.fft.rfft((piece - piece.mean(axis=1, keepdims=True)) * taper)) ** 2
        whole = good[:, at * step_s : at * step_s + window_s].all(axis=1)
        total += np.where(whole[:, None], power, 0.0)
        count += whole
    with np.errstate(invalid="ignore", divide="ignore"):
        density = total / count[:, None] / (rate_hz * np.sum(taper**2) / 2)
    return density, np.fft.rfftfreq(length, 1 / rate_hz)


def band_power(density: np.ndarray, frequencies: np.ndarray, low: float, high: float) -> np.ndarray:
    """Integrate spectral densities [..., F] from ``low`` to ``high`` Hz by trapezoids."""
    return density @ _trapezoids(tuple(frequencies), low, high)


@functools.lru_cache
def _trapezoids(frequencies, low, high):
    """Weights [F] of an integral of what is linear between frequencies."""
    frequencies = np.array(frequencies)
    left, right = frequencies[:-1], frequencies[1:]
    from_hz, to_hz = np.clip(left, low, high), np.clip(right, low, high)
    middle = ((from_hz + to_hz) / 2 - left) / (right - left)
    weights = np.zeros(len(frequencies))
    weights[:-1] += (to_hz - from_hz) * (1 - middle)
    weights[1:] += (to_hz - from_hz) * middle
    return weights


def band_pass(signal: np.ndarray, rate_hz: float, band_hz, order: int = 2) -> np.ndarray:
    """Filter [T] forwards and backwards; a lower edge of None makes it a low-pass."""
    kind = "lowpass" if band_hz[0] is None else "bandpass"
    corners = band_hz[1] if band_hz[0] is None else band_hz
    sections = scipy.signal.butter(order, corners, kind, fs=rate_hz, output="sos")
    return scipy.signal.sosfiltfilt(sections, signal)


def slower(signal: np.ndarray, rate_hz: int, to_hz: int) -> np.ndarray:
    """Average [T] down to a rate that divides its own."""
    return signal.reshape(-1, rate_hz // to_hz).mean(axis=1)


def refined(signal: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Places of peaks between samples, by the parabola through each and its neighbours."""
    peaks = peaks[(peaks > 0) & (peaks < len(signal) - 1)]
    left, top, right = signal[peaks - 1], signal[peaks], signal[peaks + 1]
    bend = left - 2 * top + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend < 0, 0.5 * (left - right) / bend, 0.0)
    return peaks + np.clip(shift, -0.5, 0.5)


def by_epoch(times_s: np.ndarray, epochs: int) -> list[np.ndarray]:
    """Split ascending times of a night, [N] s, into those of each epoch."""
    edges = np.searchsorted(times_s, np.arange(epochs + 1) * EPOCH_S)
    return [times_s[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
