"""Recordings as read here: channels by index, each at its own rate, on one time axis.

Patient, recording and device fields, dates and comments are dropped where a file is parsed: they
are in no attribute and in no error message. The start time of day is kept.
"""

import abc
import math
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from data_pipelines.findings import Finding

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
        start_is_filler: Whether that only fills the header of an anonymised file.
        first_onset_s: How much later time 0 is than the start in the header, in s.
        labels: Label of each channel as the file spells it.
        annotations: ``[(onset_s, duration_s or None, text)]`` in order of onset.
        notes: What was odd about the file and how it was taken.
        findings: What was odd enough that a user should look at it.
    """

    name: str
    path: pathlib.Path | None
    duration_s: float
    start_of_day_s: float | None
    start_is_filler: bool = False
    first_onset_s: float = 0.0
    labels: list[str]
    notes: list[str]
    findings: Sequence[Finding] = ()

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
    def gaps(self) -> list[tuple[float, float]]:
        """Start and stop in s of what the recording's time axis holds no samples of."""
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


def is_filler_start(date: tuple[int, int, int] | None, second_of_day: float) -> bool:
    """Whether a start says no time of day, because an anonymiser has filled it in.

    Anonymisers set the first of January of some year (EDF's 1985, 1900, 1970, 2000) and midnight,
    a few of them noon. Nobody's recording starts at that very second on such a day but by a rare
    accident.

    Args:
        date: (day, month, year), or None where there is none or it is no date.
        second_of_day: Seconds from midnight.
    """
    if second_of_day not in (0, 43_200):
        return False
    # 30 December 1899 is the zero of spreadsheets and of Delphi.
    return (
        date is None or date[:2] in ((0, 0), (1, 1)) or (*date[:2], date[2] % 100) == (30, 12, 99)
    )


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


def _unique(names: list[str]) -> list[str]:
    """Number repeated names, because mne refuses duplicates."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return unique
