"""Recordings of any kind behind one face: open, list the labels, read one channel at a time.

``open_recording(path)`` takes EDF, EDF+C, EDF+D, BDF, WFDB records, ``mne.io.Raw`` objects, and
arrays.
"""

import pathlib
import sys
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import scipy

from data_pipelines.recordings.base import Recording, RecordingError
from data_pipelines.recordings.edf import EdfRecording
from data_pipelines.recordings.memory import ArrayRecording, RawRecording
from data_pipelines.recordings.wfdb import open_wfdb

SUFFIXES = (".edf", ".bdf", ".rec", ".hea", ".dat", ".mat")


def open_recording(source) -> Recording:
    """Open a recording; only headers are read.

    Args:
        source: Path of an EDF/EDF+/BDF file, of a WFDB header (``.hea``) or of its ``.dat`` or
            ``.mat``; or an ``mne.io.Raw``; or label -> (array, rate) as :class:`ArrayRecording`
            takes them; or a recording, which is returned as it is.

    Raises:
        RecordingError: It is not a file, cannot be read, or is not a recording.
    """
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
            if path.is_symlink():
                raise RecordingError(
                    f"{path}: no such file: a link to a file that is not there; where git-annex or "
                    "DataLad keeps it, get it first (datalad get)"
                )
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
        RecordingError: The channel or its reference cannot be read, or their units differ and the
            binding does not say how to reconcile them.
    """
    signal = recording.read(binding.index, start_s, stop_s)
    sfreq_hz = recording.sfreq_hz(binding.index)
    if binding.reference is not None:
        units = recording.unit(binding.index), recording.unit(binding.reference)
        if units[0] != units[1] and binding.reference_scale is None:
            raise RecordingError(
                f"{recording.name}: {binding.label!r} is in {units[0] or 'no unit'} and its "
                f"reference {binding.reference_label!r} in {units[1] or 'no unit'}"
            )
        reference = recording.read(binding.reference, start_s, stop_s)
        ratio = sfreq_hz / recording.sfreq_hz(binding.reference)
        if ratio != 1:
            reference = _resample(reference, ratio)
        if binding.reference_scale not in (None, 1):
            reference = reference * binding.reference_scale
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
