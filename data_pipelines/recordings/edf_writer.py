"""EDF+C files with signals of different rates (Kemp and Olivan 2003, European data format 'plus').

The header names nobody: patient and recording fields are the standard's ``X``.
"""

import dataclasses
import datetime
from collections.abc import Iterable

import edfio
import numpy as np

from data_pipelines.files import atomic_write

DIGITAL_PEAK = 32767


@dataclasses.dataclass(frozen=True)
class EdfSignal:
    """One signal as it is written.

    Attributes:
        label: At most 16 ASCII characters.
        unit: Physical dimension, at most 8 characters.
        rate_hz: Whole samples per second.
        samples: ``[T]`` in that unit; what lies beyond the physical range is clipped.
        physical_min, physical_max: Of the digital range -32767..32767. Rounded outwards to the 8
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


def write_edf(
    path,
    signals: list[EdfSignal],
    start: datetime.datetime,
    annotations: Iterable[tuple[float, float | None, str]] = (),
) -> None:
    """Write an EDF+C file with records of 1 s; complete or absent, whatever happens.

    Args:
        path: The file; replaced where it exists.
        signals: All cover the same whole number of seconds.
        start: Date and time in the header.
        annotations: (onset in seconds from ``start``, duration in seconds or None, text).

    Raises:
        ValueError: The signals differ in length, a field does not fit the header, or an annotation
            holds control characters.
    """
    seconds = sorted({len(s.samples) / s.rate_hz for s in signals})
    if len(seconds) != 1 or not seconds[0].is_integer() or seconds[0] < 1:
        raise ValueError(f"{path}: signals of {seconds} s; all must be as long, in whole s")
    try:
        edf = edfio.Edf(
            [_signal(s) for s in signals],
            recording=edfio.Recording(startdate=start.date()),
            starttime=start.time().replace(microsecond=0),
            data_record_duration=1,
            annotations=[_annotation(*row) for row in annotations],
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with atomic_write(path) as file:
        edf.write(file)


def _annotation(onset_s: float, duration_s: float | None, text: str) -> edfio.EdfAnnotation:
    if not text.isprintable():  # EDF's separators are control characters; edfio lets them pass
        raise ValueError(f"annotation {text!r} must be printable characters")
    return edfio.EdfAnnotation(onset_s, duration_s, text)


def _signal(signal: EdfSignal) -> edfio.EdfSignal:
    low, high = signal.physical_min, signal.physical_max
    return edfio.EdfSignal(
        np.clip(signal.samples, low, high),
        signal.rate_hz,
        label=signal.label,
        transducer_type=signal.transducer,
        physical_dimension=signal.unit,
        physical_range=(low, high),
        digital_range=(-DIGITAL_PEAK, DIGITAL_PEAK),
        prefiltering=signal.prefilter,
    )
