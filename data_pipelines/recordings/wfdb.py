"""PhysioNet records: a text header (``.hea``) beside signal files (``.dat``, ``.mat``).

Signals in packed formats (212, 310, 80 ...) are decoded by the ``wfdb`` library, in pieces and
expanded, so that several samples per frame are never averaged. Format 16, which the MATLAB files of
PhysioNet challenges use after a short preamble, is read here: their headers carry dates that the
library does not parse. Dates and comments (age, sex, diagnoses) of a header are dropped.
"""

import math
import os
import pathlib
import re
from fractions import Fraction

import numpy as np

from data_pipelines.recordings.base import (
    LONGEST_DURATION_S,
    MICROVOLTS_PER,
    Recording,
    RecordingError,
    is_filler_start,
    sample_range,
)

_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_RECORD_LINE = re.compile(
    rf"(?P<name>[\w-]+)(?P<segments>/\d+)?\s+(?P<signals>\d{{1,5}})"
    rf"(?:\s+(?P<rate>{_NUMBER})(?:/\S+)?(?:\s+(?P<length>\d{{1,12}})"
    r"(?:\s+(?P<clock>\d{1,2}:\d{1,2}:\d{1,2}(?:\.\d+)?|[\d/-]+\s+\d\d:\d\d:\d\d))?)?)?(?:\s.*)?"
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>[\w./\\~-]+)\s+(?P<format>\d{1,3})(?:x(?P<frame>\d{1,6}))?(?::\d{1,9})?(?:\+(?P<offset>\d{1,9}))?"
    r"(?:\s+(?P<gain>[+-]?\d{1,12}(?:\.\d{1,12})?(?:[eE][+-]?\d{1,2})?)"
    r"(?:\((?P<baseline>[+-]?\d{1,10})\))?(?:/(?P<unit>\S{1,16}))?)?"
    r"(?:\s+[+-]?\d{1,10}(?:\s+(?P<zero>[+-]?\d{1,10})(?:\s+[+-]?\d{1,10}){0,3})?)?"
    r"(?:\s+(?P<label>\S.*))?"
)
# Bytes per sample of each format, to check a header against the files before reading.
_SAMPLE_BYTES = {
    "8": Fraction(1),
    "16": Fraction(2),
    "24": Fraction(3),
    "32": Fraction(4),
    "61": Fraction(2),
    "80": Fraction(1),
    "160": Fraction(2),
    "212": Fraction(3, 2),
    "310": Fraction(4, 3),
    "311": Fraction(4, 3),
}
_LARGEST_HEADER = 1 << 20
_CHUNK_SAMPLES = 1 << 21
_INVALID_16 = -32768


def open_wfdb(path: pathlib.Path) -> "WfdbRecording":
    """Open a record by its header or by a signal file of the same stem."""
    return WfdbRecording(path.with_suffix(".hea"))


class WfdbRecording(Recording):
    """A single-segment WFDB record. See :class:`data_pipelines.recordings.base.Recording`.

    Args:
        header: The ``.hea`` file.

    Raises:
        RecordingError: The header cannot be read or parsed, names several segments or an unknown
            format, or a signal file is missing or holds no whole frame.
    """

    def __init__(self, header):
        self.path = pathlib.Path(header)
        self.name = self.path.stem
        self.notes: list[str] = []
        record, lines = self._read_header()
        if record["segments"]:
            raise self._error("a record of several segments; open its segments one by one")
        # 250 Hz is what the format says where a header is silent.
        self._frame_hz = Fraction(record["rate"] or 250)
        if self._frame_hz <= 0:
            raise self._error("its rate is 0 Hz")
        self._signals = [self._parse_signal(line) for line in lines]
        if len(lines) != int(record["signals"]) or not lines:
            raise self._error(f"{record['signals']} signals declared, {len(lines)} described")
        self.labels = [signal["label"] or f"signal {i}" for i, signal in enumerate(self._signals)]
        self._frames = self._count_frames(int(record["length"] or 0))
        if self._frames / self._frame_hz > LONGEST_DURATION_S:
            raise self._error(f"longer than {LONGEST_DURATION_S // 86_400} days: a wrong header")
        self.duration_s = float(self._frames / self._frame_hz)
        self.start_of_day_s = _clock(record["clock"])
        # A header may do without a date; midnight to the second without one is a default.
        dated = re.search(r"\d+[/-]\d+[/-]\d+", record[0][len(record["name"]) :])
        date = tuple(map(int, re.split("[/-]", dated[0]))) if dated else None
        self.start_is_filler = self.start_of_day_s == 0 and is_filler_start(date, 0)

    def _error(self, message: str) -> RecordingError:
        return RecordingError(f"{self.path}: {message}")

    def _read_header(self) -> tuple[re.Match, list[str]]:
        try:
            with open(self.path, "rb") as file:
                text = file.read(_LARGEST_HEADER + 1)
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        if len(text) > _LARGEST_HEADER:
            raise self._error(f"longer than {_LARGEST_HEADER} bytes, so not a WFDB header")
        lines = [line.strip() for line in text.decode("latin-1").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        record = _RECORD_LINE.fullmatch(lines[0]) if lines else None
        if record is None:
            raise self._error("its first line is not that of a WFDB header")
        return record, lines[1:]

    def _parse_signal(self, line: str) -> dict:
        match = _SIGNAL_LINE.fullmatch(line)
        if match is None:
            raise self._error("a line of its header does not describe a signal")
        signal = match.groupdict()
        if signal["format"] not in _SAMPLE_BYTES:
            raise self._error(f"signal format {signal['format']} is not supported")
        # A name with a folder could point anywhere on the disk.
        if pathlib.PurePath(signal["file"]).name != signal["file"]:
            raise self._error("a signal file must lie beside its header")
        signal["file"] = self.path.parent / signal["file"]
        signal["frame"] = int(signal["frame"] or 1)
        signal["offset"] = int(signal["offset"] or 0)
        if signal["frame"] < 1:
            raise self._error("a signal has 0 samples per frame")
        # 200 units per mV is what the format says where gain is absent or 0.
        signal["gain"] = float(signal["gain"] or 0) or 200.0
        baseline = signal["baseline"] if signal["baseline"] is not None else signal["zero"]
        signal["baseline"] = int(baseline or 0)
        declared = signal["unit"] or "mV"
        factor = MICROVOLTS_PER.get(declared.casefold().replace("μ", "µ"))
        signal["declared_unit"] = declared
        signal["unit"] = declared if factor is None else "uV"
        signal["factor"] = 1.0 if factor is None else factor
        signal["label"] = (signal["label"] or "").strip()
        return signal

    def _count_frames(self, declared: int) -> int:
        """Whole frames that every signal file holds, at most as many as declared."""
        files: dict[pathlib.Path, list[dict]] = {}
        for signal in self._signals:
            files.setdefault(signal["file"], []).append(signal)
        frames = []
        for file, signals in files.items():
            if len({(signal["format"], signal["offset"]) for signal in signals}) > 1:
                raise self._error(f"{file.name} is described in two formats")
            if not file.is_file():
                raise self._error(f"its signal file {file.name} is missing")
            size = file.stat().st_size
            per_frame = sum(s["frame"] for s in signals) * _SAMPLE_BYTES[signals[0]["format"]]
            frames.append(int((size - signals[0]["offset"]) // per_frame))
        available = min(frames)
        if available < 1:
            raise self._error("its signal file holds no whole frame")
        if declared > available:
            self.notes.append(f"truncated: {available} whole frames of {declared} declared")
        return min(declared, available) if declared else available

    def sfreq_hz(self, index):
        return self._frame_hz * self._signals[index]["frame"]

    def unit(self, index):
        return self._signals[index]["unit"]

    def declared_unit(self, index):
        return self._signals[index]["declared_unit"]

    def num_samples(self, index):
        return self._frames * self._signals[index]["frame"]

    def read(self, index, start_s=0, stop_s=None):
        signal = self._signals[index]
        per_frame = signal["frame"]
        begin, end = sample_range(start_s, stop_s, self.sfreq_hz(index), self.num_samples(index))
        if begin == end:
            return np.empty(0)
        first, last = begin // per_frame, -(-end // per_frame)
        beside = [s for s in self._signals if s["file"] == signal["file"]]
        step = max(1, _CHUNK_SAMPLES // sum(s["frame"] for s in self._signals))
        decode = self._read_16 if signal["format"] == "16" else self._read_packed
        pieces = [
            decode(index, beside, at, min(at + step, last)) for at in range(first, last, step)
        ]
        digital = np.concatenate(pieces)[begin - first * per_frame : end - first * per_frame]
        return (digital - signal["baseline"]) / signal["gain"] * signal["factor"]

    def _read_16(self, index: int, beside: list[dict], first: int, last: int) -> np.ndarray:
        """Frames ``[first, last)`` of one signal of a format-16 file; invalid samples are NaN."""
        signal = self._signals[index]
        width = sum(s["frame"] for s in beside)
        at = 0
        for other in beside:
            if other is signal:
                break
            at += other["frame"]
        try:
            with open(signal["file"], "rb") as file:
                size = (last - first) * width * 2
                block = os.pread(file.fileno(), size, signal["offset"] + first * width * 2)
        except OSError as error:
            raise self._error(f"{signal['file'].name} cannot be read ({error.strerror})") from error
        if len(block) != size:
            raise self._error(f"{signal['file'].name} became shorter while it was read")
        table = np.frombuffer(block, "<i2").reshape(last - first, width)
        digital = table[:, at : at + signal["frame"]].astype(np.float64).ravel()
        digital[digital == _INVALID_16] = np.nan
        return digital

    def _read_packed(self, index: int, beside: list[dict], first: int, last: int) -> np.ndarray:
        try:
            import wfdb  # optional extra, and slow to import
        except ImportError as error:
            raise self._error(
                "packed PhysioNet signals need the wfdb package (pip install wfdb)"
            ) from error
        try:
            record = wfdb.rdrecord(
                str(self.path.with_suffix("")),
                sampfrom=first,
                sampto=last,
                channels=[index],
                physical=False,
                smooth_frames=False,
            )
            digital = np.asarray(record.e_d_signal[0])
        except Exception as error:  # the library raises whatever its parsing runs into
            # Its message may quote the header, so only its kind is passed on.
            raise self._error(f"the wfdb library fails on it ({type(error).__name__})") from None
        bits = int(math.ceil(8 * _SAMPLE_BYTES[self._signals[index]["format"]]))
        bits = 10 if self._signals[index]["format"] in ("310", "311") else bits
        digital = digital.astype(np.float64)
        if self._signals[index]["format"] not in ("8", "80", "160"):
            digital[digital == -(2 ** (bits - 1))] = np.nan
        return digital


def _clock(text: str | None) -> float | None:
    if text is None:
        return None
    hours, minutes, seconds = (float(part) for part in text.split()[-1].split(":"))
    if hours >= 24 or minutes >= 60 or seconds >= 60:
        return None
    return hours * 3600 + minutes * 60 + seconds
