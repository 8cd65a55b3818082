"""Recordings in memory: an ``mne.io.Raw``, and arrays."""

import pathlib
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from data_pipelines.recordings.base import (
    Recording,
    RecordingError,
    is_filler_start,
    sample_range,
)


class RawRecording(Recording):
    """An ``mne.io.Raw`` as a recording. Anything mne holds in volts is read in microvolts."""

    def __init__(self, raw):
        import mne

        self._raw = raw
        files = [pathlib.Path(name) for name in raw.filenames if name is not None]
        self.path = files[0] if files else None
        self.name = self.path.stem if self.path else "raw"
        self.labels = list(raw.ch_names)
        self.notes = []
        # mne keeps rates as floats; 256/3 comes back exact through a bounded denominator.
        self._sfreq = Fraction(raw.info["sfreq"]).limit_denominator(10_000)
        self.duration_s = float(raw.n_times / self._sfreq)
        date = raw.info["meas_date"]
        self.start_of_day_s = None
        if date is not None:
            seconds = date.hour * 3600 + date.minute * 60 + date.second + date.microsecond / 1e6
            self.start_of_day_s = (seconds + raw.first_time) % 86_400
            self.start_is_filler = is_filler_start((date.day, date.month, date.year), seconds)
        volt = mne.io.constants.FIFF.FIFF_UNIT_V
        self._volts = [channel["unit"] == volt for channel in raw.info["chs"]]

    @property
    def annotations(self):
        shift = self._raw.first_time if self._raw.annotations.orig_time is not None else 0.0
        return [
            (float(note["onset"]) - shift, float(note["duration"]), str(note["description"]))
            for note in self._raw.annotations
        ]

    def sfreq_hz(self, index):
        return self._sfreq

    def unit(self, index):
        return "uV" if self._volts[index] else ""

    def declared_unit(self, index):
        return "V" if self._volts[index] else ""

    def num_samples(self, index):
        return self._raw.n_times

    def read(self, index, start_s=0, stop_s=None):
        start, stop = sample_range(start_s, stop_s, self._sfreq, self._raw.n_times)
        data = self._raw.get_data(picks=[index], start=start, stop=stop, verbose="error")[0]
        data = data * (1e6 if self._volts[index] else 1.0)
        for onset, duration, text in self.annotations:
            if text.upper().startswith(("BAD_GAP", "BAD_ACQ_SKIP")):
                a, b = (round(float(t * self._sfreq)) - start for t in (onset, onset + duration))
                data[max(a, 0) : max(b, 0)] = np.nan
        return data

    def to_raw(self, sfreq_hz=None):
        """Return the ``mne.io.Raw`` that this was opened from."""
        return self._raw


class ArrayRecording(Recording):
    """Arrays in memory as a recording: voltages in microvolts, NaN where samples are missing."""

    def __init__(self, channels: Mapping, *, name: str = "arrays"):
        """Take them as they are.

        Args:
            channels: Label, or name of a canonical channel, -> (array ``[T]``, rate in Hz). All
                start at time 0.
            name: Of the recording.

        Raises:
            RecordingError: Not one channel, an array that is not of one axis, or a rate that is
                not a positive number.
        """
        self.name, self.path, self.start_of_day_s, self.notes = name, None, None, []
        self.labels, self._signals, self._rates = [], [], []
        for label, given in channels.items():
            try:
                signal, rate_hz = given
                signal = np.asarray(signal, np.float64)
                rate = Fraction(rate_hz).limit_denominator(10_000)
            except (TypeError, ValueError, OverflowError) as error:
                raise RecordingError(
                    f"{name}: {label!r} is no (array, rate in Hz): {error}"
                ) from None
            if signal.ndim != 1 or not len(signal) or rate <= 0:
                raise RecordingError(
                    f"{name}: {label!r} is {signal.shape} at {rate_hz} Hz; give samples along one"
                    " axis, and a positive rate"
                )
            self.labels.append(str(label))
            self._signals.append(signal)
            self._rates.append(rate)
        if not self.labels:
            raise RecordingError(f"{name}: no channel is given")
        lengths = [len(x) / rate for x, rate in zip(self._signals, self._rates)]
        self.duration_s = float(max(lengths))

    def sfreq_hz(self, index):
        return self._rates[index]

    def unit(self, index):
        return "uV"

    def num_samples(self, index):
        return len(self._signals[index])

    def read(self, index, start_s=0, stop_s=None):
        signal = self._signals[index]
        start, stop = sample_range(start_s, stop_s, self._rates[index], len(signal))
        return signal[start:stop].copy()
