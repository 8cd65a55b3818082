"""A recording's channels at their own rates -> modalities of several channels, scaled per night.

After sleep2vec, whose official preprocessing is private: everything here is inferred from its
inputs' names and rates (arXiv 2602.13857; ``normalisation: robust_z/1``). The ways to make one:

- waveforms: polyphase resampling, zero-phase Butterworth band-pass, robust z-score of the night
  (median; interquartile range x 0.7413), clipped at 20;
- ``ibi``: intervals between R peaks in seconds, interpolated to 4 Hz, as
  ``(interval - median of the night) / 0.1 s``, clipped at 20;
- ``resp``: a belt or a flow at 4 Hz, 0.05-0.7 Hz; without any, the height of the R peaks;
- ``level``: readings of oxygen or of the heart rate; one out of ``LEVELS``' bounds takes the value
  before it; ``(x - 95) / 5`` in per cent, ``(x - 65) / 15`` in beats a minute;
- ``code``: the position of the body as its place in ``table.POSITIONS``, held; -1 where the sensor
  says nothing, or what the site's table of codes does not know;
- ``actigraphy``: the length of the acceleration's vector;
- ``fir``: the zero-phase FIR of :mod:`.fir` on the whole signal at its own rate, which is over at
  half of the row's rate, then polyphase resampling;
- ``fir_epochwise``: FFT resampling of every epoch for itself, then the FIR on every epoch for
  itself, as the official code of SynthSleepNet does; what is left of the last epoch is not valid.

Rows of ``scaling`` ``robust_iqr`` are ``(x - median) / interquartile range``, those of ``z`` are
``(x - mean) / standard deviation``; clipped at 20 too. What was subtracted and what was divided by
is kept under ``scaling`` in ``qc``, so that units can be had back.

Gaps are bridged for the filters; a second is 0 and not valid where half of it or more is missing,
where the sensor gave one constant value, or where a derived number has nothing near to stand on.
"""

from __future__ import annotations

import dataclasses
import fractions
import functools
from collections.abc import Callable

import numpy as np
import scipy

from data_pipelines.channels.table import POSITIONS
from data_pipelines.findings import Finding
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import read_channel
from data_pipelines.signals import causal
from data_pipelines.signals.causal import UnusableSignal
from data_pipelines.signals.fir import filter_fir
from data_pipelines.signals.heartbeats import LONGEST_S, SHORTEST_S, find_r_peaks
from data_pipelines.signals.resampling import resample
from data_pipelines.store import EPOCH_S, ChannelSignal

CLIP = 20.0
IQR_TO_STD = 0.7413
# Scaling of a row -> what its interquartile range is divided into.
IQRS = {"robust_z": IQR_TO_STD, "robust_iqr": 1.0}
FILTER_ORDER = 4  # ours, as everywhere here; it acts twice
BEAT_RATE_HZ = 128  # R peaks are as exact at 128 Hz as at 360 (0.8 ms)
LONGEST_BEATLESS_S = 5  # ours: between two intervals with nothing to interpolate from
LONGEST_HELD_S = 30  # ours: how long a reading stands for those that are missing
UNKNOWN_CODE = -1
CODE_TOLERANCE = 0.25  # ours: of a code that a converter's steps moved
# One constant value, by what a row's name begins with; else 60 s.
FLAT_S = {"eeg": 5, "eog": 5, "emg": 5, "ecg": 5, "ppg": 5}
# Channel -> plausible readings, centre, scale.
LEVELS = {"spo2": ((50.0, 100.0), 95.0, 5.0), "heart_rate": ((30.0, 220.0), 65.0, 15.0)}
IBI_SCALE_S = 0.1
BEAT_BAND_HZ = (0.5, 40.0)  # of the ECG whose R peaks are measured

# Canonical channel -> (signal [T] in its unit with NaN in gaps, samples per second).
Read = Callable[[str], tuple[np.ndarray, fractions.Fraction]]


@dataclasses.dataclass(frozen=True)
class Made:
    """A modality of a night, and the canonical channels it was made of.

    Attributes:
        signal: of the night, scaled.
        channels: canonical names.
        centre, scale: ``samples * scale + centre`` is in the channel's unit, where not clipped.
        findings: what a user should look at.
    """

    signal: ChannelSignal
    channels: tuple[str, ...] = ()
    centre: float = 0.0
    scale: float = 1.0
    findings: tuple[Finding, ...] = ()


def make_modalities(rows, recording, quality, mains_hz):
    """Make the modalities of a recording: the ``make`` of a recipe, see ``recipes.Recipe``."""
    del mains_hz  # every band ends below it, but for sleep2vec's chin
    usable = [name for name, checked in quality.channels.items() if checked.status != "refused"]

    # An ECG is read for three modalities that follow one another but for two.
    @functools.lru_cache(maxsize=3)
    def read(name):
        return read_channel(recording, quality.channels[name].binding)

    codes = {name: quality.channels[name].binding.codes for name in usable}
    signals, made_of, scaling, findings, refused = {}, {}, {}, [], {}
    for row in rows:
        try:
            made = make_modality(row, read, usable, codes)
        except (RecordingError, UnusableSignal) as error:
            refused[row.name] = str(error)
            continue
        if made is not None:
            signals[row.name], made_of[row.name] = made.signal, list(made.channels)
            scaling[row.name] = [float(made.centre), float(made.scale)]
            findings += made.findings
    found = {
        name: quality.channels[name].to_json()
        for name in dict.fromkeys(channel for of in made_of.values() for channel in of)
    }
    for name, checked in quality.channels.items():
        if checked.status == "refused":
            refused[name] = "; ".join(checked.notes)
    told = {"channels": found, "made_of": made_of, "scaling": scaling, "findings": findings}
    return signals, told, refused


def make_modality(modality, read: Read, usable: list[str], codes=None) -> Made | None:
    """Make one modality of a recording.

    Args:
        modality: a ``recipes.Row``; its ``made`` is a key of ``MAKERS``, or ``magnitude``.
        read: canonical channel -> its whole signal and native rate.
        usable: canonical channels that can be read.
        codes: canonical channel -> what its codes mean, see ``resolve.Binding``.

    Returns:
        The modality over the whole seconds of its signal; None where no channel serves.

    Raises:
        UnusableSignal: the channels that serve hold no signal; says why.
    """
    there = [channel for channel in modality.made_of if channel in usable]
    reasons = []
    if modality.made == "magnitude" and there:
        made = _magnitude(modality, [read(channel) for channel in there])
        return dataclasses.replace(made, channels=tuple(there))
    for channel in there:
        try:
            if modality.made == "code":
                made = _code(modality, channel, *read(channel), (codes or {}).get(channel))
            else:
                made = MAKERS[modality.made](modality, channel, *read(channel))
            return dataclasses.replace(made, channels=(channel,))
        except UnusableSignal as error:
            reasons.append(str(error))
    if reasons:
        raise UnusableSignal("; ".join(reasons))
    return None


def _flat_s(modality):
    return FLAT_S.get(modality.name.partition("_")[0], 60)


def _waveform(modality, channel, signal, sfreq):
    bridged, valid = _bridged(channel, signal, sfreq, _flat_s(modality))
    rate = modality.rate_hz
    signal = _resampled(bridged, sfreq, rate, len(valid))
    return _scaled(modality, band_pass(signal, rate, modality.band_hz), valid)


def _fir(modality, channel, signal, sfreq):
    bridged, valid = _bridged(channel, signal, sfreq, _flat_s(modality))
    rate = modality.rate_hz
    filtered = _filtered(modality, channel, bridged, sfreq)
    return _scaled(modality, _resampled(filtered, sfreq, rate, len(valid)), valid)


def _fir_epochwise(modality, channel, signal, sfreq):
    bridged, valid = _bridged(channel, signal, sfreq, _flat_s(modality))
    length, epochs = EPOCH_S * fractions.Fraction(sfreq), len(valid) // EPOCH_S
    if length.denominator != 1:
        raise UnusableSignal(f"{channel}: {float(length):g} samples an epoch are no whole number")
    valid[epochs * EPOCH_S :] = False
    if not valid.any():
        raise UnusableSignal(f"{channel} has no whole epoch of signal")
    by_epoch = bridged[: epochs * int(length)].reshape(epochs, -1)
    by_epoch = scipy.signal.resample(by_epoch, modality.frames, axis=-1)
    by_epoch = _filtered(modality, channel, by_epoch, modality.rate_hz)
    whole = np.zeros(len(valid) * modality.rate_hz)
    whole[: by_epoch.size] = by_epoch.reshape(-1)
    return _scaled(modality, whole, valid)


def _filtered(modality, channel, signal, sfreq):
    try:
        return filter_fir(signal, float(sfreq), modality.band_hz, modality.rate_hz / 2)
    except ValueError as error:
        raise UnusableSignal(f"{channel}: {error}") from error


def _breathing(modality, channel, signal, sfreq):
    """A belt or flow as it is; of an ECG, the height of its R peaks, which breathing moves."""
    if channel != "ecg":
        return _waveform(modality, channel, signal, sfreq)
    ecg, valid, peaks = _beats(channel, signal, sfreq)
    ecg = band_pass(ecg, BEAT_RATE_HZ, BEAT_BAND_HZ)
    at = np.clip(np.rint(peaks * BEAT_RATE_HZ).astype(int), 0, len(ecg) - 1)
    heights, valid = _interpolate(modality, peaks, ecg[at], valid)
    return _scaled(modality, band_pass(heights, modality.rate_hz, modality.band_hz), valid)


def _interbeat(modality, channel, signal, sfreq):
    _, valid, peaks = _beats(channel, signal, sfreq)
    intervals = np.diff(peaks)
    plausible = (intervals >= SHORTEST_S) & (intervals <= LONGEST_S)
    values, valid = _interpolate(modality, peaks[1:][plausible], intervals[plausible], valid)
    by_second = values.reshape(len(valid), -1)
    tracks, _ = causal.amplitude_tracks(by_second, valid)
    return _signal(modality, values, valid, tracks, np.median(by_second[valid]), IBI_SCALE_S)


def _beats(channel, signal, sfreq):
    """ECG at ``BEAT_RATE_HZ``, its valid seconds, and the times of its R peaks in them."""
    bridged, valid = _bridged(channel, signal, sfreq, FLAT_S["ecg"])
    ecg = _resampled(bridged, sfreq, BEAT_RATE_HZ, len(valid))
    peaks = find_r_peaks(np.where(np.repeat(valid, BEAT_RATE_HZ), ecg, 0.0), BEAT_RATE_HZ)
    peaks = peaks[valid[np.minimum(peaks.astype(int), len(valid) - 1)]]
    if len(peaks) < 3:
        raise UnusableSignal(f"{channel} has no heart beats")
    return ecg, valid, peaks


def _interpolate(modality, times, values, valid):
    """Values at uneven times -> an even rate; a second with none near is not valid."""
    if len(times) < 2:
        raise UnusableSignal(f"{modality.name}: too few heart beats follow one another")
    seconds, rate = len(valid), modality.rate_hz
    at = np.arange(seconds * rate) / rate
    after = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
    gap = times[after] - times[after - 1]
    outside = np.maximum(times[0] - at, at - times[-1])
    near = (gap <= LONGEST_BEATLESS_S) & (outside <= LONGEST_BEATLESS_S)
    valid = valid & near.reshape(seconds, rate).all(axis=1)
    if not valid.any():
        raise UnusableSignal(f"{modality.name}: no second with heart beats")
    return np.interp(at, times, values), valid


def _level(modality, channel, signal, sfreq):
    seconds = _seconds(channel, signal, sfreq)
    (low, high), centre, scale = LEVELS[channel]
    with np.errstate(invalid="ignore"):
        missing = ~((signal >= low) & (signal <= high))
    rate = modality.rate_hz
    values, lost = causal.bin_means(signal, missing, sfreq / rate, seconds * rate)
    if lost.all():
        raise UnusableSignal(f"{channel} has no reading from {low:g} to {high:g}")
    places = np.arange(len(values))
    last = np.maximum.accumulate(np.where(lost, -1, places))
    # Before the first reading there is nothing to hold, and the first one is not valid there.
    values = values[np.where(last < 0, np.argmax(~lost), last)]
    held = np.where(last < 0, np.inf, places - last) / rate
    valid = (held <= LONGEST_HELD_S).reshape(seconds, rate).mean(axis=1) > 0.5
    if not valid.any():
        raise UnusableSignal(f"{channel} has no second from {low:g} to {high:g}")
    tracks, _ = causal.amplitude_tracks(values.reshape(seconds, rate), valid)
    return _signal(modality, values, valid, tracks, centre, scale)


def _code(modality, channel, signal, sfreq, codes):
    """Places in ``POSITIONS``; -1 where the reading is none, or one that the site does not know."""
    if codes is None:
        raise UnusableSignal(
            f"{channel}: what its codes mean is not known; name the cohort, or give the channel"
            " `codes` in an alias file"
        )
    seconds, rate = _seconds(channel, signal, sfreq), modality.rate_hz
    at = np.array([int(i * fractions.Fraction(sfreq) / rate) for i in range(seconds * rate)])
    readings = np.asarray(signal, np.float64)[at]
    values = np.full(len(readings), float(UNKNOWN_CODE))
    for code, position in codes:
        near = np.abs(readings - code) <= CODE_TOLERANCE  # NaN is near nothing
        values[near] = POSITIONS.index(position)
    unknown = np.isfinite(readings) & (values == UNKNOWN_CODE)
    if (values == UNKNOWN_CODE).all():
        raise UnusableSignal(f"{channel} has no code that the site's table knows")
    findings = []
    for code in np.unique(np.rint(readings[unknown])):
        lasts = float((np.rint(readings[unknown]) == code).sum()) / rate
        note = f"{channel}: code {code:g} is no known position, for {lasts:g} s"
        findings.append(Finding("position_code", f"{code:g}", note, seconds=lasts))
    # Unknown is a code of its own: every second has one.
    valid = np.ones(seconds, bool)
    tracks, _ = causal.amplitude_tracks(values.reshape(seconds, rate), valid)
    made = _signal(modality, values, valid, tracks)
    return dataclasses.replace(made, findings=tuple(findings))


def _magnitude(modality, readings):
    seconds = min(_seconds(modality.name, *reading) for reading in readings)
    rate, total, valid = modality.rate_hz, 0.0, np.ones(seconds, bool)
    for signal, sfreq in readings:
        bridged, there = _bridged(modality.name, signal, sfreq, None)
        axis = _resampled(bridged, sfreq, rate, seconds)
        total, valid = total + np.square(axis), valid & there[:seconds]
    return _scaled(modality, np.sqrt(total), valid)


MAKERS = {
    "waveform": _waveform,
    "fir": _fir,
    "fir_epochwise": _fir_epochwise,
    "breathing": _breathing,
    "interbeat": _interbeat,
    "level": _level,
}


def _seconds(channel, signal, sfreq):
    seconds = int(len(signal) / fractions.Fraction(sfreq))
    if seconds == 0:
        raise UnusableSignal(f"{channel} is shorter than one second")
    return seconds


def _bridged(channel, signal, sfreq, flat_s):
    """The signal with its gaps interpolated, and which of its seconds are measured."""
    signal, sfreq = np.asarray(signal, np.float64), fractions.Fraction(sfreq)
    seconds = _seconds(channel, signal, sfreq)
    missing = ~np.isfinite(signal)
    valid = causal.covered(missing, sfreq, seconds)
    if not valid.any():
        raise UnusableSignal(f"{channel} has no second of signal")
    signal = causal.bridge(signal, missing)
    valid &= ~causal.flat_seconds(signal, sfreq, seconds, flat_s)
    if not valid.any():
        raise UnusableSignal(f"{channel} is flat")
    return signal, valid


def _resampled(signal, sfreq, rate_hz, seconds):
    """Resample around the median: outside the recording, the resampler takes zeros."""
    centre = np.median(signal)
    around = resample(signal - centre, fractions.Fraction(sfreq), rate_hz)
    return around[: seconds * rate_hz] + centre


@functools.lru_cache
def _sections(rate_hz, band_hz):
    low, high = band_hz
    if high is not None and high >= rate_hz / 2:
        high = None
    if low is None and high is None:
        return None
    if low is None or high is None:
        kind, corners = ("highpass", low) if high is None else ("lowpass", high)
    else:
        kind, corners = "bandpass", (low, high)
    return scipy.signal.butter(FILTER_ORDER, corners, kind, fs=rate_hz, output="sos")


def band_pass(
    signal: np.ndarray, rate_hz: int, band_hz: tuple[float | None, float | None]
) -> np.ndarray:
    """Filter ``[T]`` forwards and backwards; None leaves that side open."""
    sections = _sections(rate_hz, band_hz)
    if sections is None:
        return signal
    # A filter of long memory starts from what the signal, mirrored, was before.
    pad = min(len(signal) - 1, round(3 * rate_hz / (band_hz[0] or 1.0)))
    return scipy.signal.sosfiltfilt(sections, signal, padlen=pad)


def _scaled(modality, signal, valid):
    """The signal by the row's scaling of its valid seconds, clipped."""
    by_second = signal.reshape(len(valid), modality.rate_hz)
    tracks, std = causal.amplitude_tracks(by_second, valid)
    if modality.scaling == "z":
        centre, scale = by_second[valid].mean(), std
    else:
        lower, centre, upper = np.percentile(by_second[valid], (25, 50, 75))
        # Half of the samples may be one value, in a sensor that rests; its swings are the scale.
        scale = IQRS[modality.scaling] * (upper - lower) or std
    if not scale > 0:
        raise UnusableSignal(f"{modality.name} is flat")
    return _signal(modality, signal, valid, tracks, centre, scale)


def _signal(modality, values, valid, tracks, centre=0.0, scale=1.0):
    samples = np.clip((values - centre) / scale, -CLIP, CLIP).astype(np.float32)
    samples *= np.repeat(valid, modality.rate_hz)
    signal = ChannelSignal(modality.name, modality.rate_hz, samples, valid, tracks)
    return Made(signal, centre=centre, scale=scale)
