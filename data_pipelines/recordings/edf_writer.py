"""EDF+C files with signals of different rates (Kemp and Olivan 2003, European data format 'plus').

The header names nobody: patient and recording fields are the standard's ``X``.
"""

import dataclasses
import datetime

import numpy as np

from data_pipelines.files import atomic_write

DIGITAL_PEAK = 32767
_MONTHS = "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"
_TAL_BYTES = 16  # time keeping of a record: "+28800" and two separators fit


@dataclasses.dataclass(frozen=True)
class EdfSignal:
    """One signal as it is written.

    Attributes:
        label: At most 16 ASCII characters.
        unit: Physical dimension, at most 8 characters.
        rate_hz: Whole samples per second.
        samples: ``[T]`` in that unit; what lies beyond the physical range is clipped.
        physical_min, physical_max: Of the digital range -32767..32767. Rounded to the 8
            characters of the header, and the rounded numbers are the ones used.
        transducer, prefilter: Free text.
    """

    label: str
    unit: str
    rate_hz: int
    samples: np.ndarray
    physical_min: float
    physical_max: float
    transducer: str = ""
    prefilter: str = ""


def write_edf(path, signals: list[EdfSignal], start: datetime.datetime) -> None:
    """Write an EDF+C file with records of 1 s; complete or absent, whatever happens.

    Args:
        path: The file; replaced where it exists.
        signals: All cover the same whole number of seconds.
        start: Date and time in the header.

    Raises:
        ValueError: The signals differ in length, or a field does not fit the header.
    """
    seconds = sorted({len(s.samples) / s.rate_hz for s in signals})
    if len(seconds) != 1 or not seconds[0].is_integer() or seconds[0] < 1:
        raise ValueError(f"{path}: signals of {seconds} s; all must be as long, in whole s")
    duration = int(seconds[0])
    limits = [(_field8(s.physical_min), _field8(s.physical_max)) for s in signals]
    header = _header(signals, limits, start, duration)
    with atomic_write(path) as file:
        file.write(header)
        block_s = 300
        for low in range(0, duration, block_s):
            high = min(low + block_s, duration)
            parts = [
                _digital(s, float(a), float(b), low, high)
                for s, (a, b) in zip(signals, limits, strict=True)
            ]
            parts.append(_time_keeping(low, high))
            file.write(np.concatenate(parts, axis=1).tobytes())


def _digital(signal, low_unit, high_unit, start_s, stop_s):
    rate = signal.rate_hz
    samples = np.asarray(signal.samples[start_s * rate : stop_s * rate], np.float64)
    gain = 2 * DIGITAL_PEAK / (high_unit - low_unit)
    digital = np.rint((samples - low_unit) * gain) - DIGITAL_PEAK
    digital = np.clip(digital, -DIGITAL_PEAK, DIGITAL_PEAK)
    return digital.astype("<i2").reshape(stop_s - start_s, rate)


def _time_keeping(start_s, stop_s):
    records = [
        f"+{second}\x14\x14".encode().ljust(_TAL_BYTES, b"\0") for second in range(start_s, stop_s)
    ]
    return np.frombuffer(b"".join(records), "<i2").reshape(stop_s - start_s, _TAL_BYTES // 2)


def _field8(value: float) -> str:
    for digits in range(8, 0, -1):
        text = f"{value:.{digits}g}"
        if "e" not in text and len(text) <= 8:
            return text
    raise ValueError(f"{value} does not fit the 8 characters of an EDF field")


def _header(signals, limits, start, duration):
    count = len(signals) + 1
    rows = {
        16: [s.label for s in signals] + ["EDF Annotations"],
        80: [s.transducer for s in signals] + [""],
    }
    columns = [
        (16, rows[16]),
        (80, rows[80]),
        (8, [s.unit for s in signals] + [""]),
        (8, [low for low, _ in limits] + ["-1"]),
        (8, [high for _, high in limits] + ["1"]),
        (8, [str(-DIGITAL_PEAK)] * len(signals) + ["-32768"]),
        (8, [str(DIGITAL_PEAK)] * len(signals) + ["32767"]),
        (80, [s.prefilter for s in signals] + [""]),
        (8, [str(s.rate_hz) for s in signals] + [str(_TAL_BYTES // 2)]),
        (32, [""] * count),
    ]
    month = _MONTHS[3 * (start.month - 1) :][:3]
    head = [
        (8, "0"),
        (80, "X X X X"),
        (80, f"Startdate {start:%d}-{month}-{start:%Y} X X X"),
        (8, f"{start:%d.%m.%y}"),
        (8, f"{start:%H.%M.%S}"),
        (8, str(256 * (count + 1))),
        (44, "EDF+C"),
        (8, str(duration)),
        (8, "1"),
        (4, str(count)),
    ]
    fields = head + [(width, text) for width, texts in columns for text in texts]
    for width, text in fields:
        if len(text) > width or not text.isascii():
            raise ValueError(f"{text!r} does not fit a header field of {width} ASCII characters")
    return "".join(text.ljust(width) for width, text in fields).encode("ascii")
