"""Codes of what happens within a second: beats, breaths and bursts, made causally from signals.

A code of a waveform says what a second looks like and hides when things happen in it: of RVQ codes
of one second the rhythm of a heart is hardly learnt, of codes that name intervals it is. A *timing*
makes a few such codes for each second of a prepared channel; they stand beside the codes of its
tokenizer as further levels (``hypnos_jax.models.code_axis``). All of it is ours: no paper has it.

ECG and breathing: the last complete interval between beats (breaths), the interval before it, and
the time since the last one, as they are known at the second's last sample. The threshold of a peak
follows the peaks of the seconds before, and a peak counts when nothing higher has followed for a
while. EEG, EOG and EMG: the strength of one band in quarters of the second.

Code 0 says unknown: before the first beat, in seconds without signal, and across them. A stream
makes the same codes in pieces of any length, to the last bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import scipy

INTERVAL_BINS = 40
SLOT_LEVELS = 16


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Intervals between peaks of a filtered signal: three codes of 1 + 40 values.

    Attributes:
        name, version: of the timing; the version rises where the same signal gives other codes.
        levels: names of its codes.
        band_hz: corners of a Butterworth filter of order 2; no lower one is a low-pass.
        smooth_hz: low-pass of the filtered signal's absolute value; None takes the signal itself.
        fraction: a peak is higher than this times the median, over the last ``memory_s`` windows of
            ``window_s``, of the highest value.
        apart_s: shortest interval.
        settle_s: a peak counts when nothing higher has followed for so long.
        delay_s: how much later a peak is in the filtered signal than in the channel.
        shortest_s, longest_s: of the 40 logarithmic bins of intervals; what is beyond is in the
            outermost. Times since the last peak have 40 equal bins from 0 to ``longest_s``.
    """

    name: str
    version: int
    levels: tuple[str, str, str]
    band_hz: tuple[float | None, float]
    smooth_hz: float | None
    fraction: float
    window_s: int
    memory_s: int
    apart_s: float
    settle_s: float
    delay_s: float
    shortest_s: float
    longest_s: float

    codes = 1 + INTERVAL_BINS

    def begin(self, rate_hz: int) -> dict[str, np.ndarray]:
        """Return the state before the first second."""
        sections = [s for s in self._sections(rate_hz) if s is not None]
        return {
            "second": np.int64(0),
            "filters": np.zeros((2, max(len(s) for s in sections), 2)),
            "maxima": np.full(self.memory_s + self.window_s - 1, np.nan),  # of the seconds before
            "tail": np.zeros(2),  # of the filtered signal, and the threshold there
            "tail_threshold": np.full(2, np.inf),
            "candidate": np.full(2, np.nan),  # number of its sample, height
            "peaks": np.full(3, np.nan),  # numbers of the samples of the last ones
            "floor": np.int64(0),  # first sample after the last second without signal
        }

    def advance(
        self, state: dict[str, np.ndarray], samples: np.ndarray, valid: np.ndarray, rate_hz: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the codes, int [n, 3], of the next seconds, and the state after them."""
        count, first = len(valid), int(state["second"])
        strength, filters = self._strength(samples, state["filters"], rate_hz)
        highest = np.where(valid, strength.reshape(count, rate_hz).max(axis=1), np.nan)
        history = np.concatenate([state["maxima"], highest])
        threshold = np.where(valid, self._threshold(history[:-1]), np.inf)

        strength = np.concatenate([state["tail"], strength])
        limits = np.concatenate([state["tail_threshold"], np.repeat(threshold, rate_hz)])
        found, known, candidate = self._peaks(
            strength, limits, first * rate_hz - 2, state["candidate"], state["peaks"][-1], rate_hz
        )
        peaks = np.concatenate([state["peaks"], found])
        known = np.concatenate([np.full(3, -np.inf), known])

        stops = (first + 1 + np.arange(count)) * rate_hz
        floor = np.maximum.accumulate(np.where(valid, state["floor"], stops))
        # Of the last three peaks known at a second's last sample, the newest last.
        place = np.searchsorted(known, stops - 1, side="right")
        last = peaks[place[:, None] - np.array([3, 2, 1])]
        last = np.where(last >= floor[:, None], last, np.nan)
        since = (stops - 1 - last[:, 2]) / rate_hz + self.delay_s
        before, newest = np.diff(last, axis=1).T / rate_hz
        codes = np.stack([self._interval(newest), self._interval(before), self._since(since)], 1)
        state = {
            "second": np.int64(first + count),
            "filters": filters,
            "maxima": history[count:],
            "tail": strength[-2:],
            "tail_threshold": limits[-2:],
            "candidate": candidate,
            "peaks": peaks[-3:],
            "floor": np.int64(floor[-1]),
        }
        return np.where(valid[:, None], codes, 0), state

    def _sections(self, rate_hz):
        smooth = None if self.smooth_hz is None else _sections(None, self.smooth_hz, rate_hz)
        return _sections(*self.band_hz, rate_hz), smooth

    def _strength(self, samples, filters, rate_hz):
        band, smooth = self._sections(rate_hz)
        filters = filters.copy()
        out, filters[0, : len(band)] = scipy.signal.sosfilt(
            band, samples, zi=filters[0, : len(band)]
        )
        if smooth is not None:
            out, filters[1, : len(smooth)] = scipy.signal.sosfilt(
                smooth, np.abs(out), zi=filters[1, : len(smooth)]
            )
        return out, filters

    def _threshold(self, history):
        """Of each second, by the highest values of the seconds before; infinite without any."""
        windows = np.lib.stride_tricks.sliding_window_view(history, self.window_s).max(axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(windows, self.memory_s)
        windows = np.sort(windows, axis=1)  # NaN of seconds without signal come last
        known = np.isfinite(windows).sum(axis=1)
        middle = windows[np.arange(len(windows)), np.maximum((known - 1) // 2, 0)]
        return np.where(known, np.maximum(self.fraction * middle, 1e-6), np.inf)

    def _peaks(self, strength, limits, start, candidate, last, rate_hz):
        """Samples of new peaks, when each is known, and the peak that may still be outdone."""
        inner = strength[1:-1]
        tops = (inner > strength[:-2]) & (inner >= strength[2:]) & (inner > limits[1:-1])
        places = np.flatnonzero(tops)
        apart, settle = round(self.apart_s * rate_hz), round(self.settle_s * rate_hz)
        best, height = candidate.tolist()
        found, known = [], []
        for place, top in zip((places + start + 1).tolist(), inner[places].tolist()):
            if place - best >= settle:
                found.append(best)
                known.append(best + settle)
                last, best = best, np.nan
            if place - last < apart:
                continue
            if not height >= top or best != best:
                best, height = float(place), top
        if start + len(strength) - 1 - best >= settle:
            found.append(best)
            known.append(best + settle)
            best = np.nan
        return np.array(found), np.array(known), np.array([best, height])

    def _interval(self, seconds):
        edges = _edges(self.shortest_s, self.longest_s, INTERVAL_BINS)
        return np.where(np.isnan(seconds), 0, 1 + np.searchsorted(edges, seconds, side="right"))

    def _since(self, seconds):
        bins = np.floor(np.nan_to_num(seconds) * (INTERVAL_BINS / self.longest_s)).astype(int)
        return np.where(np.isnan(seconds), 0, 1 + np.minimum(bins, INTERVAL_BINS - 1))


@dataclasses.dataclass(frozen=True)
class Slots:
    """The strength of a band in each quarter of a second: four codes of 1 + 16 values.

    Attributes:
        name, version: as of ``Peaks``.
        band_hz: corners of a Butterworth filter of order 2.
        lowest, highest: root mean square, in the channel's rolling standard deviations, between
            which the 16 levels lie in equal steps of the logarithm.
    """

    name: str
    version: int
    band_hz: tuple[float, float]
    lowest: float
    highest: float

    levels = ("slot_0", "slot_1", "slot_2", "slot_3")
    codes = 1 + SLOT_LEVELS

    def begin(self, rate_hz: int) -> dict[str, np.ndarray]:
        """Return the state before the first second."""
        return {"filter": np.zeros((len(_sections(*self.band_hz, rate_hz)), 2))}

    def advance(
        self, state: dict[str, np.ndarray], samples: np.ndarray, valid: np.ndarray, rate_hz: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the codes, int [n, 4], of the next seconds, and the state after them."""
        band = _sections(*self.band_hz, rate_hz)
        out, after = scipy.signal.sosfilt(band, samples, zi=state["filter"])
        power = np.square(out).reshape(len(valid), len(self.levels), -1).mean(axis=2)
        edges = _edges(self.lowest, self.highest, SLOT_LEVELS)
        codes = 1 + np.searchsorted(edges, np.sqrt(power), side="right")
        return np.where(valid[:, None], codes, 0), {"filter": after}


@functools.cache
def _sections(low, high, rate_hz):
    """Second-order sections of a Butterworth filter of order 2; ``low`` None is a low-pass."""
    kind, corners = ("lowpass", high) if low is None else ("bandpass", (low, high))
    return scipy.signal.butter(2, corners, kind, fs=rate_hz, output="sos")


@functools.cache
def _edges(low, high, bins):
    """The borders between logarithmic bins."""
    return np.geomspace(low, high, bins + 1)[1:-1]


# Signal type -> its timing. The numbers of beats and breaths: see docs/learning.md.
TIMINGS: dict[str, Peaks | Slots] = {
    "ecg": Peaks(
        name="beats",
        version=1,
        levels=("last_interval", "interval_before", "since_beat"),
        band_hz=(8.0, 20.0),
        smooth_hz=8.0,
        fraction=0.35,
        window_s=2,
        memory_s=30,
        apart_s=0.25,
        settle_s=0.2,
        delay_s=0.07,
        shortest_s=0.25,
        longest_s=2.0,
    ),
    "resp": Peaks(
        name="breaths",
        version=1,
        levels=("last_interval", "interval_before", "since_breath"),
        band_hz=(None, 0.7),
        smooth_hz=None,
        fraction=0.4,
        window_s=8,
        memory_s=30,
        apart_s=1.0,
        settle_s=0.5,
        delay_s=0.3,
        shortest_s=1.0,
        longest_s=12.0,
    ),
    "eeg": Slots("sigma", 1, (11.0, 16.0), 0.02, 2.0),
    "eog": Slots("eye movements", 1, (1.0, 8.0), 0.06, 4.0),
    "emg": Slots("muscle", 1, (20.0, 45.0), 0.005, 2.0),
}


def describe(signal_type: str) -> dict:
    """Return what a modality with these levels says of them, in stores and models.

    ``timing``, the names of the last levels; ``timing_codes``, values of each; ``timing_by``, the
    name and version of what makes them.

    Raises:
        ValueError: the signal type has no timing.
    """
    if signal_type not in TIMINGS:
        raise ValueError(f"timing of {signal_type!r} is not known; there is {sorted(TIMINGS)}")
    made_by = TIMINGS[signal_type]
    return {
        "timing": list(made_by.levels),
        "timing_codes": made_by.codes,
        "timing_by": f"{made_by.name} {made_by.version}",
    }


def tokenizer_levels(modality: Mapping) -> int:
    """Return how many of a modality's levels a tokenizer makes; the others are timing levels."""
    return modality["levels"] - len(modality.get("timing", ()))


class TimingStream:
    """The timing codes of one channel, second by second."""

    def __init__(self, signal_type: str, rate_hz: int, made_by: str | None = None):
        """Begin.

        Args:
            signal_type: a key of ``TIMINGS``.
            rate_hz: samples per second.
            made_by: ``timing_by`` of the model or the store that the codes are for.

        Raises:
            ValueError: no timing of that type, or another one than ``made_by``.
        """
        here = describe(signal_type)["timing_by"]
        if made_by not in (None, here):
            raise ValueError(
                f"timing of {signal_type} is made by {here!r} here, and was by {made_by!r}: write"
                " the tokens anew (launch.tokenize_nights) and train on them"
            )
        self._timing, self._rate_hz = TIMINGS[signal_type], rate_hz
        self._state = self._timing.begin(rate_hz)

    def push(self, samples: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the codes, uint16 [n, T], of the next seconds.

        Args:
            samples: ``[n * rate_hz]`` of a prepared channel (``store.ChannelSignal``).
            valid: bool ``[n]``, whether a second holds signal.
        """
        samples = np.asarray(samples, np.float64)
        if not len(samples):
            return np.zeros((0, len(self._timing.levels)), np.uint16)
        codes, self._state = self._timing.advance(
            self._state, samples, np.asarray(valid, bool), self._rate_hz
        )
        return codes.astype(np.uint16)

    def state(self) -> dict[str, np.ndarray]:
        """Return all that the next codes depend on."""
        return dict(self._state)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on where a stream with this state stopped."""
        self._state = {name: np.asarray(state[name])[()] for name in self._state}
