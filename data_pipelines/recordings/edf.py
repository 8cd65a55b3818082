"""EDF, EDF+C, EDF+D and BDF files, read channel by channel at native rates.

Why not the library edfio: it takes EDF+D as contiguous, so all that follows a gap would lie too
early, beside the wrong stages. The records' own times are looked at in EDF+C too.

Every number of the header is checked against the size of the file before anything is allocated.
A channel that makes no sense is refused alone; the file is refused only where its records cannot be
found. Sources: Kemp et al. 1992 (EDF), Kemp and Olivan 2003 (EDF+), the BioSemi BDF description.
"""

import os
import pathlib
import re
from fractions import Fraction

import numpy as np

from data_pipelines.findings import Finding
from data_pipelines.recordings.annotation_lists import only_time, read_lists, record_time
from data_pipelines.recordings.base import (
    LONGEST_DURATION_S,
    MICROVOLTS_PER,
    Recording,
    RecordingError,
    is_filler_start,
    sample_range,
)
from data_pipelines.recordings.record_times import (
    CONTIGUOUS_S,
    LONGEST_GAPS_S,
    runs_of_continuous,
)

# Widths of the fields of a signal, in the order of the header.
_SIGNAL_FIELDS = {
    "label": 16,
    "transducer": 80,
    "unit": 8,
    "physical_min": 8,
    "physical_max": 8,
    "digital_min": 8,
    "digital_max": 8,
    "prefilter": 80,
    "samples": 8,
    "reserved": 32,
}
_ANNOTATION_LABEL = re.compile(r"[EB]DF\W?[ _-]?annotations?\W*\d*", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?")
_CHUNK_BYTES = 1 << 20  # read at once: what is decoded from it is still in the cache
_SPARSE_BYTES = (
    16 << 10
)  # beyond this distance, one read per record beats reading what lies between


class EdfRecording(Recording):
    """An EDF or BDF file. See :class:`data_pipelines.recordings.base.Recording`.

    Args:
        path: The file; it is opened for each reading and not kept open.

    Raises:
        RecordingError: It cannot be opened, is not EDF or BDF, holds no whole record, or is EDF+D
            with record times that are unreadable or run backwards.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.name = self.path.stem
        self.notes: list[str] = []
        self.findings: list[Finding] = []
        self._annotations = None
        self._placed: dict[int, list[tuple[int, int, int, int]]] = {}
        try:
            size = self.path.stat().st_size
            with open(self.path, "rb") as file:
                self._parse(file, size)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be read ({error.strerror})") from error

    # --- header -----------------------------------------------------------------------------------

    def _parse(self, file, size: int) -> None:
        head = file.read(256)
        if len(head) < 256:
            raise self._error(f"{len(head)} bytes, shorter than the 256 of an EDF header")
        if head[:8] == b"\xffBIOSEMI":
            self._width = 3
        elif head[:8].strip() == b"0":
            self._width = 2
        else:
            raise self._error("neither EDF nor BDF: the first 8 bytes are not a known version")
        num_signals = self._integer(head[252:256], "number of signals")
        if num_signals < 1:
            raise self._error(f"number of signals is {num_signals}; at least 1 is needed")
        self._data_start = 256 * (num_signals + 1)
        if size < self._data_start:
            raise self._error(
                f"{size} bytes, but a header of {num_signals} signals takes {self._data_start}"
            )
        if _number(head[184:192]) != self._data_start:
            self.notes.append("header length field is wrong; taken from the number of signals")
        fields = {}
        for field, width in _SIGNAL_FIELDS.items():
            block = file.read(width * num_signals)
            fields[field] = [block[i * width : (i + 1) * width] for i in range(num_signals)]

        duration = _number(head[244:252])
        if duration is None or duration < 0:
            raise self._error("record duration is not a number of seconds")
        self._record_s = duration
        samples = [self._integer(field, "samples per record") for field in fields["samples"]]
        if min(samples) < 0:
            raise self._error(f"samples per record is {min(samples)}; it cannot be negative")
        self._record_bytes = sum(samples) * self._width
        if self._record_bytes == 0:
            raise self._error("records of 0 bytes: no signal has samples")
        self._count_records(_number(head[236:244]), size)

        reserved = head[192:236].replace(b" ", b"").upper()
        self._discontinuous = reserved.startswith((b"EDF+D", b"BDF+D"))
        starts = np.cumsum([0, *samples]) * self._width
        self._signals = []
        self._annotation_signals = []
        for i in range(num_signals):
            label = _text(fields["label"][i])
            if _ANNOTATION_LABEL.fullmatch(label):
                self._annotation_signals.append((int(starts[i]), samples[i] * self._width))
                continue
            limits = [_number(fields[f][i]) for f in list(_SIGNAL_FIELDS)[3:7]]
            self._signals.append(
                _Signal(label, _text(fields["unit"][i]), limits, int(starts[i]), samples[i])
            )
        for signal in self._signals:
            if signal.problem is None and self._record_s == 0:
                signal.problem = "record duration is 0, so its rate is unknown"
        self.labels = [signal.label for signal in self._signals]
        self._place_records(file)
        self._place_start(head)

    def _count_records(self, declared: Fraction | None, size: int) -> None:
        available, rest = divmod(size - self._data_start, self._record_bytes)
        if declared is None or declared != int(declared) or declared < 1:
            self.notes.append(
                f"number of records is not given; {available} by the size of the file"
            )
            self._num_records = available
        elif declared > available:
            self.notes.append(f"truncated: {available} whole records of {declared} declared")
            self._num_records = available
        else:
            self._num_records = int(declared)
            if available > declared or rest:
                self.notes.append(f"bytes after the {declared} declared records are ignored")
        if self._num_records == 0:
            raise self._error(f"no whole record of {self._record_bytes} bytes follows the header")
        if self._num_records * self._record_s > LONGEST_DURATION_S:
            raise self._error(f"longer than {LONGEST_DURATION_S // 86_400} days: a wrong header")

    def _place_start(self, head: bytes) -> None:
        """Take the time of day from the header, and of the first record how much later it is."""
        clock = _clock(head[176:184])
        self.first_onset_s = float(self._first_onset)
        if clock is not None and clock > 60 and abs(self.first_onset_s - clock) < 1:
            self._tell("the times of its records count from midnight, not from the header's start")
            self.first_onset_s -= clock
        elif abs(self.first_onset_s) > LONGEST_DURATION_S:
            self._tell("its first record has a time of its own that cannot be: not heeded")
            self.first_onset_s = 0.0
        self.start_of_day_s = None if clock is None else (clock + self.first_onset_s) % 86_400
        self.start_is_filler = clock is not None and is_filler_start(_date(head[168:176]), clock)

    def _tell(self, note: str) -> None:
        self.findings.append(Finding("time_axis", "times of records against the header", note))

    def _place_records(self, file) -> None:
        """Find runs of contiguous records and where each begins on the time axis."""
        self._first_onset = Fraction(0)
        self._runs = [(0, self._num_records, Fraction(0))]  # first record, records, start in s
        self._timekeeper = 0
        for channel in range(len(self._annotation_signals)):
            first = record_time(self._annotation_bytes(file, 0, channel))
            if first is not None:
                self._first_onset, self._timekeeper = first, channel
                break
        if self._discontinuous and self._signals:
            self._runs = self._find_runs(file)
        elif self._annotation_signals and self._signals and self._record_s:
            self._runs, findings = runs_of_continuous(
                lambda record: self._time_of(file, record), self._num_records, self._record_s
            )
            self.findings += findings
        start, stop, onset = self._runs[-1]
        end = onset + (stop - start) * self._record_s
        gaps = end - self._num_records * self._record_s
        if gaps > LONGEST_GAPS_S:
            raise self._error(
                f"{float(gaps):.0f} s of gaps (EDF+D), more than {LONGEST_GAPS_S} s: these are "
                "several recordings in one file"
            )
        self.duration_s = float(end)

    def _find_runs(self, file) -> list[tuple[int, int, Fraction]]:
        if not self._annotation_signals:
            raise self._error("discontinuous (EDF+D) but without the channel of record times")
        runs, first = [], None
        for record in range(self._num_records):
            onset = self._time_of(file, record)
            if onset is None:
                raise self._error(f"discontinuous (EDF+D), and record {record} has no start time")
            first = onset if first is None else first
            onset -= first
            if runs:
                start, _, origin = runs[-1]
                lag = onset - (origin + (record - start) * self._record_s)
                if lag < -CONTIGUOUS_S:
                    raise self._error(f"record {record} starts before the one before it ends")
                if lag <= CONTIGUOUS_S:
                    runs[-1] = (start, record + 1, origin)
                    continue
            runs.append((record, record + 1, onset))
        if len(runs) > 1:
            self.notes.append(f"{len(runs) - 1} gaps (EDF+D): filled with NaN")
        else:
            self.notes.append("marked discontinuous (EDF+D) but without gaps")
        return runs

    def _time_of(self, file, record: int) -> Fraction | None:
        return record_time(self._annotation_bytes(file, record, self._timekeeper))

    def _error(self, message: str) -> RecordingError:
        return RecordingError(f"{self.path}: {message}")

    def _integer(self, field: bytes, what: str) -> int:
        value = _number(field)
        if value is None or value.denominator != 1:
            # The field itself is not shown: in a shifted header it can hold part of a name.
            raise self._error(f"{what} is not an integer")
        return int(value)

    # --- channels ---------------------------------------------------------------------------------

    @property
    def gaps(self):
        ends = [onset + (stop - start) * self._record_s for start, stop, onset in self._runs]
        starts = [onset for _, _, onset in self._runs[1:]]
        return [(float(end), float(start)) for end, start in zip(ends, starts)]

    def problem(self, index):
        return self._signals[index].problem

    def sfreq_hz(self, index):
        signal = self._signals[index]
        if self._record_s == 0 or signal.samples == 0:
            raise self._error(f"{signal.label!r} has no rate: {signal.problem}")
        return signal.samples / self._record_s

    def unit(self, index):
        return self._signals[index].unit

    def declared_unit(self, index):
        return self._signals[index].declared_unit

    def num_samples(self, index):
        return self._placed_runs(index)[-1][-1]

    def _placed_runs(self, index) -> list[tuple[int, int, int, int]]:
        """Runs of records as ``(first, stop, first sample, stop sample)`` of the time axis.

        A run begins at the nearest sample, or after the run before it where rounding would make
        the two overlap.
        """
        rate = self.sfreq_hz(index)
        if index in self._placed:  # a file can have thousands of gaps, and is read in many pieces
            return self._placed[index]
        per_record = self._signals[index].samples
        placed, end = [], 0
        for start, stop, onset in self._runs:
            at = max(end, int(onset * rate + Fraction(1, 2)))
            end = at + (stop - start) * per_record
            placed.append((start, stop, at, end))
        self._placed[index] = placed
        return placed

    def read(self, index, start_s=0, stop_s=None):
        signal = self._signals[index]
        if signal.problem:
            raise self._error(f"{signal.label!r} cannot be read: {signal.problem}")
        rate = self.sfreq_hz(index)
        runs = self._placed_runs(index)
        begin, end = sample_range(start_s, stop_s, rate, runs[-1][-1])
        values = np.empty(end - begin)
        if len(runs) > 1:
            values.fill(np.nan)
        try:
            with open(self.path, "rb") as file:
                for start, _, at, run_end in runs:
                    a, b = max(begin, at), min(end, run_end)
                    if a < b:
                        offset = start * signal.samples - at
                        self._digital(file, signal, a + offset, b + offset, values[a - begin :])
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        return values

    def _digital(self, file, signal, begin: int, end: int, out: np.ndarray) -> None:
        """Write samples ``[begin, end)`` of the file's own count to out, in the signal's unit."""
        size = signal.samples * self._width
        written = 0
        record, last = begin // signal.samples, (end - 1) // signal.samples
        sparse = self._record_bytes - size > _SPARSE_BYTES
        row_bytes, first_byte = (size, 0) if sparse else (self._record_bytes, signal.start)
        step = max(1, _CHUNK_BYTES // row_bytes)
        buffer = np.empty((min(step, last + 1 - record), row_bytes), np.uint8)
        while record <= last:
            rows = buffer[: last + 1 - record]
            start = self._data_start + record * self._record_bytes
            if sparse:  # one position per record
                start += signal.start
                read = sum(
                    os.preadv(file.fileno(), [row], start + i * self._record_bytes)
                    for i, row in enumerate(rows)
                )
            else:
                read = os.preadv(file.fileno(), [rows], start)
            if read != rows.nbytes:
                raise self._error("became shorter while it was read")
            samples = _decode(rows[:, first_byte : first_byte + size], self._width)
            skip = max(0, begin - record * signal.samples)
            samples = samples[skip : end - record * signal.samples]
            values = out[written : written + len(samples)]
            values[...] = samples
            values *= signal.gain
            values += signal.offset
            written += len(samples)
            record += len(rows)

    # --- annotations ------------------------------------------------------------------------------

    @property
    def annotations(self):
        if self._annotations is None:
            try:
                with open(self.path, "rb") as file:
                    found, unread = self._read_annotations(file)
            except OSError as error:
                raise self._error(f"cannot be read ({error.strerror})") from error
            self._annotations = sorted(found, key=lambda note: note[0])
            if unread:
                note = f"{unread} annotations whose onset or duration is malformed: not read"
                what = "onsets or durations that are no numbers"
                self.findings.append(Finding("unread_annotation", what, note, count=unread))
        return list(self._annotations)

    def _read_annotations(self, file) -> tuple[list[tuple[float, float | None, str]], int]:
        found, unread = [], 0
        for record in range(self._num_records):
            for channel in range(len(self._annotation_signals)):
                block = self._annotation_bytes(file, record, channel)
                if only_time(block):
                    continue
                lists, missed = read_lists(block)
                unread += missed
                for one in lists:
                    onset = float(one.onset_s - self._first_onset)
                    duration = None if one.duration_s is None else float(one.duration_s)
                    found += [(onset, duration, _decode_text(x).strip()) for x in one.texts]
        return found, unread

    def _annotation_bytes(self, file, record: int, channel: int) -> bytes:
        start, size = self._annotation_signals[channel]
        at = self._data_start + record * self._record_bytes + start
        return os.pread(file.fileno(), size, at)


class _Signal:
    """One channel as the header describes it; ``problem`` says why it cannot be read."""

    def __init__(self, label, declared_unit, limits, start, samples):
        self.label = label
        self.declared_unit = declared_unit
        self.start = start
        self.samples = samples
        self.gain, self.offset = 1.0, 0.0
        factor = MICROVOLTS_PER.get(declared_unit.casefold().replace("μ", "µ"))
        self.unit = declared_unit if factor is None else "uV"
        self.problem = None
        physical_min, physical_max, digital_min, digital_max = limits
        if samples == 0:
            self.problem = "it has 0 samples per record"
        elif None in limits:
            self.problem = "its physical or digital range is not a number"
        elif digital_min == digital_max:
            self.problem = f"its digital minimum and maximum are both {digital_min}"
        elif physical_min == physical_max:
            self.problem = f"its physical minimum and maximum are both {float(physical_min):g}"
        else:
            gain = (physical_max - physical_min) / (digital_max - digital_min)
            factor = 1.0 if factor is None else factor
            self.gain = float(gain) * factor
            self.offset = float(physical_min - gain * digital_min) * factor


def _decode(rows: np.ndarray, width: int) -> np.ndarray:
    """Little-endian two's-complement samples of 2 or 3 bytes, ``[T]`` from bytes ``[N, T/N]``."""
    if width == 2:
        return np.ascontiguousarray(rows).view("<i2").reshape(-1)
    parts = rows.reshape(-1, 3)
    padded = np.zeros((len(parts), 4), np.uint8)
    padded[:, 1:] = parts
    return padded.view("<i4")[:, 0] >> 8


def _number(field: bytes) -> Fraction | None:
    """The exact number in a header field, or None. Decimal commas are met and accepted."""
    text = field.strip(b" \x00").decode("latin-1").replace(",", ".")
    return Fraction(text) if _NUMBER.fullmatch(text) else None


def _decode_text(field: bytes) -> str:
    try:
        return field.decode("utf-8")
    except UnicodeDecodeError:
        return field.decode("latin-1")


def _text(field: bytes) -> str:
    """A label or unit: UTF-8 where it is valid, else latin-1; without control characters."""
    text = "".join(c for c in _decode_text(field) if c.isprintable())
    return text.strip()


def _date(field: bytes) -> tuple[int, int, int] | None:
    """Day, month and year as the header has them, for comparison only; None if it is no date."""
    match = re.fullmatch(rb"(\d\d?)\D(\d\d?)\D(\d{2,4})", field.strip())
    return None if match is None else tuple(map(int, match.groups()))


def _clock(field: bytes) -> int | None:
    match = re.fullmatch(rb"(\d\d?)[.:](\d\d)[.:](\d\d)", field.strip())
    if match is None:
        return None
    hours, minutes, seconds = map(int, match.groups())
    return hours * 3600 + minutes * 60 + seconds if hours < 24 and minutes < 60 else None
