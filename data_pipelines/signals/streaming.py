"""One channel as it arrives -> prepared seconds, equal to ``preprocess.preprocess_channel``.

Each second is made as soon as the resampler has heard what it looks ahead: 10 samples of the slower
of the two rates (80 ms from 256 to 128 Hz, 0.3 s to the 32 Hz of the belts). The first seconds wait
until there are 60 of them, from whose mean and variance the rolling z-score starts, and then come
all at once; with the averages of an earlier recording nothing waits.

Of a signal without gaps the samples are those of the whole recording at once, but for the rounding
of float32. What needs the future cannot be the same:

- A missing sample repeats the last one there was, where offline a line is drawn to the next one;
  the filters ring for a second or two (EEG) to a minute (belts) after a gap.
- A flat stretch is invalid once it has lasted as long as a lost sensor's (5 s, belts 60 s);
  offline its beginning is too, and here where it still waits for the averages.
- The filters of a sensor that begins late start where it does; offline they start with the
  recording, and of a resampled channel its edge still rings in them. Felt in ECG alone: with an
  offset of 3 mV, 10 s late, by 2 standard deviations at first, by 0.3 after a minute.
- Gaps within the first 60 s leave fewer seconds to start the averages from; offline they start
  from 60 valid ones.
- Whether a channel's unit is so large that the variance floor would be felt is judged by the first
  60 s, not by the whole.
"""

import dataclasses
import fractions

import numpy as np
import scipy

from data_pipelines.signals import causal
from data_pipelines.signals.causal import SMALL_STD
from data_pipelines.signals.resampling import resampling_ratio, resampling_taps
from data_pipelines.signals.rolling_scale import TAU_S, RunningScale
from data_pipelines.store import ChannelSignal

FLAT_STD = 1e-9  # ours: what is below this is the rounding of a constant, and no scale


class ChannelStream:
    """Prepare one channel second by second, in constant memory."""

    def __init__(
        self,
        row,
        sfreq: fractions.Fraction | float,
        *,
        mains_hz: int | None,
        running: tuple[float, float] | None = None,
    ):
        """Begin.

        Args:
            row: what is heard, a :class:`~data_pipelines.recipes.hypnos.CausalRow`; a waveform, not
                a slow number.
            sfreq: samples per second that will be pushed.
            mains_hz: 50 or 60, notched where the channel's path says so; None: no notch.
            running: ``self.running`` of an earlier recording by the same sensor; None waits 60 s.

        Raises:
            ValueError: the channel is no waveform, or a value above is none of these.
        """
        if row.path.level:
            raise ValueError(f"{row.name} is no waveform that can be prepared as it arrives")
        if mains_hz not in (None, 50, 60):
            raise ValueError(f"mains_hz is {mains_hz!r}; must be 50, 60 or None")
        self.row = row
        self.sfreq = fractions.Fraction(sfreq)
        if self.sfreq <= 0:
            raise ValueError(f"{row.name}: {sfreq} samples per second; must be above 0")
        ratio = resampling_ratio(self.sfreq, row.rate_hz)
        self._up, self._down = ratio.numerator, ratio.denominator
        self._taps = resampling_taps(self._up, self._down)
        self._flat_s = row.path.flat_s
        self._sections, self._steady = causal.sections_of(row.path, row.rate_hz, mains_hz)
        # All that changes: arrays alone, so that they can be kept in a file.
        reach = len(self._taps) // self._up + 1
        self._state = {
            "samples": np.zeros(reach),  # from number `start` on; zeros before the recording
            "missing": np.zeros(reach, bool),
            "start": np.int64(-reach),
            "second": np.int64(0),  # to be made next
            "constant": np.int64(0),  # number of the sample since which nothing has changed
            "begun": np.False_,  # whether any sample was not missing
            "filter": np.zeros((0, 2)),
            "waiting": np.zeros((0, row.rate_hz)),  # filtered, until the averages start
            "waiting_valid": np.zeros(0, bool),
            "factor": np.float64(0),  # of the z-score's input; 0: still waiting
            "averages": np.zeros(4),
        }
        if running is not None:
            mean, std = running
            if not std > 0:
                raise ValueError(f"{row.name}: a running standard deviation of {std}")
            factor = _factor(std)
            variance = (std * factor) ** 2
            self._set_scale(RunningScale(mean * factor, 0.0, variance, variance), factor)

    @property
    def running(self) -> tuple[float, float] | None:
        """Rolling mean and standard deviation now, in the channel's unit; None while waiting."""
        factor, scale = self._state["factor"], self._scale()
        if not factor:
            return None
        return (scale.centre + scale.mean) / factor, np.sqrt(scale.second) / factor

    def push(self, samples: np.ndarray) -> ChannelSignal:
        """Take the next samples, and return the seconds that they complete.

        Args:
            samples: ``[T]`` in the channel's unit (electrical channels in uV, already referenced),
                any T; NaN where missing.

        Raises:
            ValueError: not ``[T]``.
        """
        samples = np.asarray(samples, np.float64)
        if samples.ndim != 1:
            raise ValueError(f"{self.row.name}: shape {samples.shape}; push one channel [T]")
        made = []
        if not self._state["begun"]:
            # What lies in front of the first sample is made without it, however blocks are cut.
            lead = np.append(np.flatnonzero(np.isfinite(samples)), len(samples))[0]
            self._take(samples[:lead])
            made, samples = self._ready(), samples[lead:]
        self._take(samples)
        return self._signal(made + self._ready())

    def close(self) -> ChannelSignal:
        """Return what is left of the whole seconds heard; the stream has then ended."""
        state = self._state
        heard = int(state["start"]) + len(state["samples"])
        # As offline: after the last sample come zeros.
        beyond = len(self._taps) // self._up + 1
        state["samples"] = np.append(state["samples"], np.zeros(beyond))
        state["missing"] = np.append(state["missing"], np.zeros(beyond, bool))
        made = self._ready(until=int(heard / self.sfreq))
        if len(state["waiting"]):
            made += self._start_scale()
        return self._signal(made)

    def state(self) -> dict[str, np.ndarray]:
        """Return all that the next seconds depend on."""
        return dict(self._state)

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on where a stream with this state stopped."""
        self._state = {name: np.asarray(state[name])[()] for name in self._state}

    def _take(self, samples):
        state = self._state
        missing = ~np.isfinite(samples)
        before = state["samples"][-1]
        if not state["begun"] and not missing.all():
            # In front of the first sample of all stands its own value, so no filter sees a step.
            before = samples[~missing][0]
            heard = np.arange(len(state["samples"])) + state["start"] >= 0
            state["samples"] = np.where(heard, before, state["samples"])
            state["begun"] = np.True_
        if missing.any():
            last = np.maximum.accumulate(np.where(missing, -1, np.arange(len(samples))))
            samples = np.where(last < 0, before, samples[np.maximum(last, 0)])
        state["samples"] = np.append(state["samples"], samples)
        state["missing"] = np.append(state["missing"], missing)

    def _ready(self, until=None):
        """Make all seconds whose samples have been heard: a list of (samples, valid, tracks)."""
        state, rate, made = self._state, self.row.rate_hz, []
        half = len(self._taps) // 2
        while until is None or state["second"] < until:
            second = int(state["second"])
            # Output j lies at input j down / up and sees half / up inputs on either side.
            centre = half + np.arange(second * rate, (second + 1) * rate) * self._down
            newest = centre // self._up - int(state["start"])
            if newest[-1] >= len(state["samples"]):
                break
            back = np.arange(len(self._taps) // self._up + 1)
            tap = (centre % self._up)[:, None] + back * self._up
            inside = tap < len(self._taps)
            weights = np.where(inside, self._taps[np.where(inside, tap, 0)], 0.0)
            place = newest[:, None] - back
            signal = np.einsum("tk,tk->t", weights, state["samples"][np.maximum(place, 0)])
            if len(self._taps) > 1:
                signal = signal.astype(np.float32)  # as offline
            made += self._scaled(self._filtered(signal), self._is_valid(second))
            state["second"] = np.int64(second + 1)
            # Keep what the next second sees, and where it begins.
            drop = int(((second + 1) * rate * self._down - half) // self._up - 1 - state["start"])
            drop = max(0, drop)
            state["samples"], state["missing"] = state["samples"][drop:], state["missing"][drop:]
            state["start"] += drop
        return made

    def _is_valid(self, second):
        """More than half of the second is there, and it does not lie in a flat stretch."""
        state = self._state
        if not state["begun"]:
            return False
        first, stop = self._edge(second), self._edge(second + 1)
        start = int(state["start"])
        own = slice(first - start, stop - start)
        samples = state["samples"][first - start - (first > 0) : stop - start]
        changes = np.flatnonzero(np.diff(samples)) + stop - len(samples)
        last = changes[0] if len(changes) else stop - 1  # of the constant stretch
        if self._flat_s is not None and last - state["constant"] >= self._flat_s * self.sfreq:
            waiting = range(second - len(state["waiting"]), second)
            before = np.array([self._edge(s) < state["constant"] for s in waiting], bool)
            state["waiting_valid"] = state["waiting_valid"] & before
            if not len(changes):
                return False
        if len(changes):
            state["constant"] = np.int64(changes[-1] + 1)
        return bool(state["missing"][own].sum() * 2 < stop - first)

    def _edge(self, second):
        """Number of the first sample of a second."""
        return -(-second * self.sfreq.numerator // self.sfreq.denominator)

    def _filtered(self, signal):
        state = self._state
        if self._sections is None:
            return signal.astype(np.float64)
        if not len(state["filter"]):
            if not state["begun"]:
                return np.zeros(len(signal))
            state["filter"] = self._steady * float(signal[0])
        out, state["filter"] = scipy.signal.sosfilt(self._sections, signal, zi=state["filter"])
        return out

    def _scaled(self, filtered, valid):
        state = self._state
        if state["factor"]:
            return [self._normal(filtered, valid)]
        state["waiting"] = np.concatenate([state["waiting"], filtered[None]])
        state["waiting_valid"] = np.append(state["waiting_valid"], valid)
        # Seconds in front of the first valid one are zeros, whatever comes.
        lead = np.append(np.flatnonzero(state["waiting_valid"]), len(state["waiting"]))[0]
        made = [self._normal(zeros, False) for zeros in state["waiting"][:lead]]
        state["waiting"] = state["waiting"][lead:]
        state["waiting_valid"] = state["waiting_valid"][lead:]
        count = len(state["waiting"])
        # A belt's minute of one constant may still turn out to be flat.
        if count < TAU_S or self._edge(int(state["second"]) + 1 - count) >= state["constant"]:
            return made
        return made + self._start_scale()

    def _start_scale(self):
        state = self._state
        waiting, valid = state["waiting"], state["waiting_valid"]
        head = waiting[valid].reshape(-1)
        factor = _factor(float(head.std()))
        self._set_scale(RunningScale.of(head * factor), factor)
        state["waiting"], state["waiting_valid"] = waiting[:0], valid[:0]
        return [self._normal(*second) for second in zip(waiting, valid)]

    def _scale(self):
        return RunningScale(*self._state["averages"].tolist())

    def _set_scale(self, scale, factor):
        self._state["factor"] = np.float64(factor)
        self._state["averages"] = np.array(dataclasses.astuple(scale))

    def _normal(self, filtered, valid):
        if not valid:
            return np.zeros(len(filtered), np.float32), False, np.zeros(2, np.float32)
        tracks, _ = causal.amplitude_tracks(filtered[None], np.ones(1, bool))
        scale, factor = self._scale(), self._state["factor"]
        samples = scale.normalize(filtered * factor, self.row.rate_hz)
        self._set_scale(scale, factor)
        return samples, True, tracks[0]

    def _signal(self, made):
        rate = self.row.rate_hz
        samples, valid, tracks = zip(*made) if made else ((), (), ())
        return ChannelSignal(
            self.row.name,
            rate,
            np.concatenate(samples) if made else np.zeros(0, np.float32),
            np.array(valid, bool),
            np.stack(tracks) if made else np.zeros((0, 2), np.float32),
        )


def _factor(std):
    """What a signal is multiplied by so that the variance floor is not felt."""
    return 1 / std if FLAT_STD < std < SMALL_STD else 1.0
