"""One channel at its native rate -> the model's rate, filtered, z-scored and compressed.

The causal path of Hypnos (arXiv 2606.09605; its released preprocessing), step by step:

1. polyphase resampling to the modality's rate, here by the exact rational ratio (the release
   truncates the file's rate to an integer); zero-phase, so it sees a few input samples ahead;
2. forward-only Butterworth filter of order 4 from the steady state of the first sample:
   0.5-45 Hz for EEG, EOG and EMG, 0.05-45 Hz for ECG, high-pass 0.05 Hz for respiration;
3. forward-only notch (quality 30) at the recording's mains frequency, never for respiration;
4. rolling z-score with exponential averages of 60 s, the variance in two passes;
5. compression of amplitudes beyond 8 to a logarithm.

Differs from the release: gaps (NaN) are bridged for the filters, freeze the running statistics
and come out as zeros with ``valid`` false; a channel whose filtered standard deviation is below
0.1 units is brought to 1 first, because the floor of the variance (1e-6) is not relative.

The z-score forgets absolute amplitude, so mean and log standard deviation per second of what
enters step 4 are kept beside the signal, in the channel's physical unit.

Which signal takes which corners is said in :mod:`data_pipelines.recipes.hypnos`.
"""

import dataclasses
import fractions
import functools
import math

import numpy as np
import scipy

from data_pipelines.signals.resampling import resample
from data_pipelines.signals.rolling_scale import BLOCK, normalize
from data_pipelines.store import ChannelSignal

NOTCH_QUALITY = 30.0
FILTER_ORDER = 4
SMALL_STD = 0.1  # ours: below this the variance floor would be felt
LONGEST_BRIDGE_S = 10  # ours: longest gap of a slow number (SpO2, heart rate) to interpolate


class UnusableSignal(ValueError):
    """The channel holds no signal: flat, empty or all missing. It is absent from the night."""


@dataclasses.dataclass(frozen=True)
class CausalPath:
    """Preprocessing of one kind of signal.

    Attributes:
        high_pass_hz, low_pass_hz: Corners of the Butterworth filter; None leaves that side open.
        notch: Whether the mains frequency is notched out.
        flat_s: A run of that many seconds of one constant value is a lost sensor; None: constancy
            is normal.
        level: A slow number and not a waveform: no filter and no z-score, but
            ``(value - centre) / scale``, and values outside ``bounds`` are missing.
        step: A code that must not be interpolated (body position).
    """

    high_pass_hz: float | None = None
    low_pass_hz: float | None = None
    notch: bool = False
    flat_s: int | None = None
    level: bool = False
    step: bool = False
    centre: float = 0.0
    scale: float = 1.0
    bounds: tuple[float, float] = (-math.inf, math.inf)


def preprocess_channel(
    signal: np.ndarray, sfreq: fractions.Fraction, row, *, mains_hz: int | None
) -> ChannelSignal:
    """Bring one channel to the rate and scale that the models read.

    Args:
        signal: ``[T]`` in the channel's unit (electrical channels in uV); NaN where missing.
        sfreq: Samples per second of ``signal``.
        row: A :class:`~data_pipelines.recipes.hypnos.CausalRow`.
        mains_hz: 50 or 60, notched where the path says so; None leaves the notch out.

    Returns:
        The channel over the whole seconds that ``signal`` covers.

    Raises:
        UnusableSignal: Shorter than one second, or no valid second, or flat.
        ValueError: ``mains_hz``, ``sfreq`` is none of the above.
    """
    if mains_hz not in (None, 50, 60):
        raise ValueError(f"mains_hz is {mains_hz!r}; must be 50, 60 or None")
    sfreq = fractions.Fraction(sfreq)
    if sfreq <= 0:
        raise ValueError(f"channel {row.name}: sampling rate {sfreq} Hz; must be above 0")
    signal = np.asarray(signal, np.float64)
    if signal.ndim != 1:
        raise ValueError(f"channel {row.name}: shape {signal.shape}; must be one channel [T]")
    seconds = int(len(signal) / sfreq)
    if seconds == 0:
        raise UnusableSignal(f"{row.name} is shorter than one second")
    if row.path.level:
        return _level(signal, sfreq, seconds, row)
    return _waveform(signal, sfreq, seconds, row, mains_hz)


def _waveform(signal, sfreq, seconds, row, mains_hz):
    missing = ~np.isfinite(signal)
    gaps = bool(missing.any())
    valid = covered(missing, sfreq, seconds) if gaps else np.ones(seconds, bool)
    if not valid.any():
        raise UnusableSignal(f"{row.name} has no second of signal")
    if gaps:
        signal = bridge(signal, missing)
    valid &= ~flat_seconds(signal, sfreq, seconds, row.path.flat_s)
    if not valid.any():
        raise UnusableSignal(f"{row.name} is flat")
    rate = row.rate_hz
    signal = resample(signal, sfreq, rate)[: seconds * rate]
    signal = filter_forward(signal, row.path, rate, mains_hz)
    by_second = signal.reshape(seconds, rate)
    whole = valid.all()
    tracks, std = amplitude_tracks(by_second, valid)
    if not std > 0:
        raise UnusableSignal(f"{row.name} is flat")
    measured = signal if whole else by_second[valid].reshape(-1)
    if std < SMALL_STD:
        measured = measured / std
    samples = normalize(measured, rate)
    if not whole:
        spread = np.zeros((seconds, rate), np.float32)
        spread[valid] = samples.reshape(-1, rate)
        samples = spread.reshape(-1)
    return ChannelSignal(row.name, rate, samples, valid, tracks)


def _level(signal, sfreq, seconds, row):
    path = row.path
    low, high = path.bounds
    with np.errstate(invalid="ignore"):
        missing = ~((signal >= low) & (signal <= high))
    rate = row.rate_hz
    if path.step:
        # The last value before each output sample: a code has no value in between.
        index = np.minimum(
            np.array([int(i * sfreq / rate) for i in range(rate)])[None, :]
            + np.array([int(s * sfreq) for s in range(seconds)])[:, None],
            len(signal) - 1,
        )
        values, lost = signal[index], missing[index]
    else:
        values, lost = bin_means(signal, missing, sfreq / rate, seconds * rate)
        values, lost = values.reshape(seconds, rate), lost.reshape(seconds, rate)
    values = np.where(lost, 0.0, values)
    valid = lost.mean(axis=1) < 0.5
    if not valid.any():
        raise UnusableSignal(f"{row.name} has no second within {low:g} to {high:g}")
    if lost.any() and not path.step:
        values, valid = _bridge_level(values, lost, valid)
    tracks, _ = amplitude_tracks(values, valid)
    samples = (values - path.centre) / path.scale
    samples[~valid] = 0
    return ChannelSignal(row.name, rate, samples.reshape(-1).astype(np.float32), valid, tracks)


def bin_means(
    signal: np.ndarray, missing: np.ndarray, step: fractions.Fraction, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of what is present within each output sample, and where nothing is.

    Interpolated where the input has the lower rate.

    Args:
        signal, missing: ``[T]``.
        step: input samples per output sample.
        count: of output samples.
    """
    if step < 1:
        at = np.arange(count) * float(step)
        left = np.minimum(at.astype(int), len(signal) - 1)
        right = np.minimum(left + 1, len(signal) - 1)
        part = at - left
        right = np.where(missing[right], left, right)
        values = signal[left] * (1 - part) + signal[right] * part
        return values, missing[left]
    edges = np.array([math.ceil(i * step) for i in range(count + 1)])
    edges = np.minimum(edges, len(signal))
    totals = np.concatenate([[0.0], np.cumsum(np.where(missing, 0.0, signal))])
    counts = np.concatenate([[0], np.cumsum(~missing)])
    present = counts[edges[1:]] - counts[edges[:-1]]
    sums = totals[edges[1:]] - totals[edges[:-1]]
    return sums / np.maximum(present, 1), present == 0


def _bridge_level(values, lost, valid):
    """Interpolate gaps of up to LONGEST_BRIDGE_S; longer ones stay invalid."""
    rate = values.shape[1]
    flat, lost = values.reshape(-1), lost.reshape(-1)
    flat = np.interp(np.arange(len(flat)), np.flatnonzero(~lost), flat[~lost])
    long = np.zeros_like(lost)
    for start, stop in _runs(lost):
        if stop - start > LONGEST_BRIDGE_S * rate or start == 0 or stop == len(lost):
            long[start:stop] = True
    valid = long.reshape(-1, rate).mean(axis=1) < 0.5
    return flat.reshape(-1, rate), valid


def filter_forward(signal, path: CausalPath, rate_hz: int, mains_hz: int | None) -> np.ndarray:
    """Filter and notch ``[T]`` from the steady state of its first sample, in one pass."""
    sections, state = sections_of(path, rate_hz, mains_hz)
    if sections is None:
        return signal
    state = state * float(signal[0])
    out = np.empty(len(signal))
    for at in range(0, len(signal), 4 * BLOCK):
        piece = signal[at : at + 4 * BLOCK]
        out[at : at + 4 * BLOCK], state = scipy.signal.sosfilt(sections, piece, zi=state)
    return out


@functools.lru_cache
def sections_of(path: CausalPath, rate: int, mains_hz: int | None):
    """Second-order sections of filter and notch, and their state for a constant input of 1."""
    low, high = path.high_pass_hz, path.low_pass_hz
    if high is not None and high >= rate / 2:
        high = None
    sections = []
    if low is not None and high is not None:
        sections.append(
            scipy.signal.butter(FILTER_ORDER, [low, high], "bandpass", fs=rate, output="sos")
        )
    elif low is not None:
        sections.append(scipy.signal.butter(FILTER_ORDER, low, "highpass", fs=rate, output="sos"))
    if path.notch and mains_hz is not None and mains_hz < rate / 2:
        sections.append(
            scipy.signal.tf2sos(*scipy.signal.iirnotch(mains_hz, NOTCH_QUALITY, fs=rate))
        )
    if not sections:
        return None, None
    sections = np.concatenate(sections)
    return sections, scipy.signal.sosfilt_zi(sections)


def amplitude_tracks(by_second: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    """Return mean and log standard deviation per second, and the standard deviation of all.

    Args:
        by_second: ``[S, rate]``.
        valid: ``[S]`` bool; the others count for nothing.
    """
    seconds, rate = by_second.shape
    mean, variance = np.empty(seconds), np.empty(seconds)
    for at in range(0, seconds, BLOCK // rate):
        piece = by_second[at : at + BLOCK // rate]
        mean[at : at + len(piece)] = piece.mean(axis=1)
        piece = piece - mean[at : at + len(piece), None]
        variance[at : at + len(piece)] = np.einsum("st,st->s", piece, piece) / rate
    # The floor keeps the logarithm of a constant second finite.
    tracks = np.stack([mean, 0.5 * np.log(np.maximum(variance, 1e-12))], axis=1)
    tracks[~valid] = 0
    whole = math.sqrt(float(variance[valid].mean() + mean[valid].var()))
    return tracks.astype(np.float32), whole


def _edges(sfreq, seconds):
    """Index of the first sample of each second, and of the one after the last."""
    return -(-np.arange(seconds + 1) * sfreq.numerator // sfreq.denominator)


def covered(missing: np.ndarray, sfreq: fractions.Fraction, seconds: int) -> np.ndarray:
    """Return bool ``[seconds]``: seconds of which more than half is there."""
    counts = np.concatenate([[0], np.cumsum(missing)])
    edges = _edges(sfreq, seconds)
    lost = counts[edges[1:]] - counts[edges[:-1]]
    return lost * 2 < edges[1:] - edges[:-1]


def bridge(signal: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Interpolate ``[T]`` over its gaps, from edge to edge."""
    present = np.flatnonzero(~missing)
    return np.interp(np.arange(len(signal)), present, signal[present])


def flat_seconds(
    signal: np.ndarray, sfreq: fractions.Fraction, seconds: int, flat_s: int | None
) -> np.ndarray:
    """Return bool ``[seconds]``: seconds within a run of ``flat_s`` s or more of one value.

    None finds nothing.
    """
    flat = np.zeros(seconds, bool)
    if flat_s is None:
        return flat
    same = np.empty(len(signal), bool)
    same[0] = False
    np.equal(signal[1:], signal[:-1], out=same[1:])
    # A long run covers a whole block of half its length; most channels have no such block.
    block = max(1, int(flat_s * sfreq / 2))
    if not same[: len(same) // block * block].reshape(-1, block).all(axis=1).any():
        return flat
    edges = _edges(sfreq, seconds)
    for start, stop in _runs(same):
        if stop - start >= flat_s * sfreq:
            first = np.searchsorted(edges, start - 1)
            last = np.searchsorted(edges, stop, side="right") - 1
            flat[first:last] = True
    return flat


def _runs(mask):
    """Half-open index ranges over which a mask is true."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return change.reshape(-1, 2)
