"""Recordings of any kind behind one face: open, list the labels, read one channel at a time.

``open_recording(path)`` takes EDF, EDF+C, EDF+D, BDF, WFDB records, ``mne.io.Raw`` objects, and
arrays.
Patient, recording and device fields, dates and comments are dropped where a file is parsed: they
are in no attribute and in no error message. The start time of day is kept.
"""

import abc
import math
import pathlib
import sys
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import scipy.signal

# Factors to microvolts; every other unit is passed through as the file declares it.
MICROVOLTS_PER = {
    "v": 1e6,
    "volt": 1e6,
    "volts": 1e6,
    "mv": 1e3,
    "millivolt": 1e3,
    "uv": 1.0,
    "µv": 1.0,
    "microvolt": 1.0,
    "microvolts": 1.0,
    "nv": 1e-3,
}
SUFFIXES = (".edf", ".bdf", ".rec", ".hea", ".dat", ".mat")
LONGEST_READ = 2**27  # samples of one call to read: 9 h at 4 kHz, 1 GiB
LONGEST_DURATION_S = 14 * 86_400


class RecordingError(ValueError):
    """The file is not a recording that can be read; the message says what is wrong with it."""


class Recording(abc.ABC):
    """A recording: channels by index, each at its own rate, on one time axis that starts at 0.

    Attributes:
        name: File stem, or ``"raw"``.
        path: The file, or None for a recording in memory.
        duration_s: Length of the time axis, gaps included.
        start_of_day_s: Seconds from midnight to time 0, or None where unknown.
        labels: Label of each channel as the file spells it.
        annotations: ``[(onset_s, duration_s or None, text)]`` in order of onset.
        notes: What was odd about the file and how it was taken.
    """

    name: str
    path: pathlib.Path | None
    duration_s: float
    start_of_day_s: float | None
    labels: list[str]
    notes: list[str]

    @abc.abstractmethod
    def sfreq_hz(self, index: int) -> Fraction:
        """The native rate of a channel, exact. Raises RecordingError if it has none."""

    @abc.abstractmethod
    def unit(self, index: int) -> str:
        """The unit of :meth:`read`: ``uV`` for anything in volts, else as declared, else ``""``."""

    @abc.abstractmethod
    def read(self, index: int, start_s: float = 0, stop_s: float | None = None) -> np.ndarray:
        """Read the samples of a channel whose time lies in ``[start_s, stop_s)``.

        Returns:
            float64 ``[T]`` in :meth:`unit`; sample n of the channel is at time ``n / sfreq_hz``.
            Gaps of the recording are NaN. Times outside the recording are left out.

        Raises:
            RecordingError: The channel cannot be read (see :meth:`problem`).
        """

    @property
    def annotations(self) -> list[tuple[float, float | None, str]]:
        return []

    @property
    def unreadable(self) -> dict[int, str]:
        """The channels that cannot be read, with the reason, as ``resolve`` takes them."""
        problems = {i: self.problem(i) for i in range(len(self.labels))}
        return {i: problem for i, problem in problems.items() if problem is not None}

    def problem(self, index: int) -> str | None:
        """Why a channel cannot be read, or None."""
        return None

    def declared_unit(self, index: int) -> str:
        """The unit that the file declares, before conversion to microvolts."""
        return self.unit(index)

    def num_samples(self, index: int) -> int:
        """Samples of a channel on the time axis of the recording, gaps included."""
        return round(Fraction(self.duration_s) * self.sfreq_hz(index))

    def to_raw(self, sfreq_hz: Fraction | float | None = None):
        """Return the channels of one rate as ``mne.io.RawArray``, gaps marked ``BAD_gap``.

        An ``mne.io.Raw`` has one rate for all channels, so this takes those that share
        ``sfreq_hz`` (the highest by default) instead of resampling the others behind your back.
        All of them are loaded.

        Raises:
            RecordingError: No readable channel has that rate.
        """
        import mne  # optional extra, and slow to import

        readable = [i for i in range(len(self.labels)) if self.problem(i) is None]
        rates = {i: self.sfreq_hz(i) for i in readable}
        wanted = max(rates.values(), default=None) if sfreq_hz is None else Fraction(sfreq_hz)
        picked = [i for i in readable if rates[i] == wanted]
        if not picked:
            found = sorted({float(rate) for rate in rates.values()})
            raise RecordingError(f"{self.name}: no channel at {sfreq_hz} Hz; there are {found}")
        data = np.stack([self.read(i) for i in picked])
        volts = np.array([self.unit(i) == "uV" for i in picked])
        data[volts] *= 1e-6
        names = _unique([self.labels[i] for i in picked])
        kinds = ["eeg" if is_volts else "misc" for is_volts in volts]
        info = mne.create_info(names, float(wanted), kinds)
        raw = mne.io.RawArray(data, info, verbose="error")
        notes = [(onset, duration or 0.0, text) for onset, duration, text in self.annotations]
        gap = np.isnan(data).all(axis=0).astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], gap, [0]])))
        for start, stop in edges.reshape(-1, 2):
            notes.append((start / float(wanted), (stop - start) / float(wanted), "BAD_gap"))
        if notes:
            raw.set_annotations(mne.Annotations(*map(list, zip(*notes))), verbose="error")
        return raw


def sample_range(
    start_s: float, stop_s: float | None, sfreq_hz: Fraction, num_samples: int
) -> tuple[int, int]:
    """Indices of the samples whose time is in ``[start_s, stop_s)``, cut to the recording.

    Raises:
        RecordingError: The stretch is too long for one call.
    """
    begin, end = _first_sample(start_s, sfreq_hz), num_samples
    if stop_s is not None:
        end = min(end, _first_sample(stop_s, sfreq_hz))
    begin = min(max(begin, 0), num_samples)
    if end - begin > LONGEST_READ:
        raise RecordingError(
            f"{end - begin} samples asked for at once; read at most {LONGEST_READ} per call"
        )
    return begin, max(begin, end)


def _first_sample(time_s: float, sfreq_hz: Fraction) -> int:
    """Index of the first sample at or after a time."""
    # 1.3 as a float is a little more than 13/10, which would skip the sample at 13/10.
    return math.ceil(Fraction(time_s).limit_denominator(10**6) * sfreq_hz)


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


def open_recording(source) -> Recording:
    """Open a recording; only headers are read.

    Args:
        source: Path of an EDF/EDF+/BDF file, of a WFDB header (``.hea``) or of its ``.dat`` or
            ``.mat``; or an ``mne.io.Raw``; or label -> (array, rate) as :class:`ArrayRecording`
            takes them; or a recording, which is returned as it is.

    Raises:
        RecordingError: It is not a file, cannot be read, or is not a recording.
    """
    # The readers build on this module, so they are imported here.
    from data_pipelines.recordings.edf import EdfRecording

    if isinstance(source, Recording):
        return source
    if isinstance(source, Mapping):
        return ArrayRecording(source)
    if "mne" in sys.modules:
        import mne

        if isinstance(source, mne.io.BaseRaw):
            return RawRecording(source)
    path = pathlib.Path(source)
    try:
        if path.is_dir():
            raise RecordingError(f"{path}: is a folder; a recording is one file")
        if not path.exists():
            raise RecordingError(f"{path}: no such file")
        if not path.is_file():
            # Opening a pipe would wait for whoever writes into it, perhaps for ever.
            raise RecordingError(f"{path}: is not a plain file")
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    suffix = path.suffix.lower()
    if suffix in (".edf", ".bdf", ".rec"):
        return EdfRecording(path)
    if suffix in (".hea", ".dat", ".mat"):
        from data_pipelines.recordings.wfdb import open_wfdb

        return open_wfdb(path)
    raise RecordingError(
        f"{path}: {suffix or 'no suffix'} is not a known kind of recording; "
        f"there are {', '.join(SUFFIXES)}"
    )


def read_channel(
    recording: Recording, binding, start_s: float = 0, stop_s: float | None = None
) -> tuple[np.ndarray, Fraction]:
    """Read a channel as its binding says: minus its reference, times its scale.

    Args:
        recording: The recording that the binding was resolved for.
        binding: A :class:`data_pipelines.channels.resolve.Binding`.
        start_s, stop_s: The stretch to read, by default all of it.

    Returns:
        float64 ``[T]`` in the channel's unit with NaN in gaps, and its native rate. A reference of
        another rate is resampled to that of the electrode; both are cut to the shorter one.

    Raises:
        RecordingError: The channel or its reference cannot be read, or their units differ.
    """
    signal = recording.read(binding.index, start_s, stop_s)
    sfreq_hz = recording.sfreq_hz(binding.index)
    if binding.reference is not None:
        units = recording.unit(binding.index), recording.unit(binding.reference)
        if units[0] != units[1]:
            raise RecordingError(
                f"{recording.name}: {binding.label!r} is in {units[0] or 'no unit'} and its "
                f"reference {binding.reference_label!r} in {units[1] or 'no unit'}"
            )
        reference = recording.read(binding.reference, start_s, stop_s)
        ratio = sfreq_hz / recording.sfreq_hz(binding.reference)
        if ratio != 1:
            reference = _resample(reference, ratio)
        length = min(len(signal), len(reference))
        signal = signal[:length] - reference[:length]
    if binding.scale != 1:
        signal = signal * binding.scale
    return signal, sfreq_hz


def _resample(signal: np.ndarray, ratio: Fraction) -> np.ndarray:
    """Polyphase resampling that keeps NaN where its input was NaN."""
    gaps = np.isnan(signal)
    filled = np.where(gaps, 0.0, signal)
    resampled = scipy.signal.resample_poly(filled, ratio.numerator, ratio.denominator)
    if gaps.any():
        source = np.arange(len(resampled)) * ratio.denominator // ratio.numerator
        resampled[gaps[np.minimum(source, len(gaps) - 1)]] = np.nan
    return resampled


def _unique(names: list[str]) -> list[str]:
    """Number repeated names, because mne refuses duplicates."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return unique
