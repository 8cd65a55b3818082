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

Recipes for signals that the paper does not use (PPG's band is in its release; airflow, snore,
oximetry, heart rate, position are ours) are in :data:`RECIPES`.
"""

import dataclasses
import fractions
import functools
import math

import numpy as np
import scipy.signal

from data_pipelines.store import ChannelSignal

TAU_S = 60
CLIP_SIGMA = 6.0
VARIANCE_FLOOR = 1e-6
KNEE = 8.0
KNEE_SCALE = 2.0
NOTCH_QUALITY = 30.0
FILTER_ORDER = 4
SMALL_STD = 0.1  # ours: below this the variance floor would be felt
BLOCK = 30_720  # ours: samples in hand at once, so that a chain of steps stays in the cache
# OpenBLAS wakes its threads for a product of more multiplications than this; channels and nights
# are spread over the cores instead.
PRODUCT = 2**18
SCALE_S = 10  # ours: seconds whose scale is that of the end
LONGEST_BRIDGE_S = 10  # ours: longest gap of a slow number (SpO2, heart rate) to interpolate


class UnusableSignal(ValueError):
    """The channel holds no signal: flat, empty or all missing. It is absent from the night."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one kind of signal is preprocessed.

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


RECIPES = {
    "eeg": Recipe(0.5, 45.0, notch=True, flat_s=5),
    "eog": Recipe(0.5, 45.0, notch=True, flat_s=5),
    "emg": Recipe(0.5, 45.0, notch=True, flat_s=5),
    "ecg": Recipe(0.05, 45.0, notch=True, flat_s=5),
    "respiratory": Recipe(0.05, None, flat_s=60),
    "ppg": Recipe(0.1, 30.0, flat_s=5),
    # Ours from here on. Snore sensors are microphones, piezos or envelopes: all but drift is kept.
    "snore": Recipe(0.5, None, flat_s=60),
    "spo2": Recipe(level=True, centre=95.0, scale=5.0, bounds=(40.0, 100.5)),
    "heart_rate": Recipe(level=True, centre=65.0, scale=15.0, bounds=(20.0, 250.0)),
    "position": Recipe(level=True, step=True, bounds=(-1e4, 1e4)),
}


def preprocess_channel(
    signal: np.ndarray, sfreq: fractions.Fraction, channel, *, mains_hz: int | None
) -> ChannelSignal:
    """Bring one channel to the rate and scale that the models read.

    Args:
        signal: ``[T]`` in the channel's unit (electrical channels in uV); NaN where missing.
        sfreq: Samples per second of ``signal``.
        channel: A :class:`~data_pipelines.channels.resolve.Channel`: ``rate_hz`` and ``preprocess``
            (key of :data:`RECIPES`; where None the channel's name is the key) are used.
        mains_hz: 50 or 60, notched where the recipe says so; None leaves the notch out.

    Returns:
        The channel over the whole seconds that ``signal`` covers.

    Raises:
        UnusableSignal: Shorter than one second, or no valid second, or flat.
        ValueError: ``mains_hz``, ``sfreq`` or the channel's recipe is none of the above.
    """
    if mains_hz not in (None, 50, 60):
        raise ValueError(f"mains_hz is {mains_hz!r}; must be 50, 60 or None")
    key = channel.preprocess or channel.name
    if key not in RECIPES:
        raise ValueError(f"channel {channel.name}: no recipe {key!r} among {[*RECIPES]}")
    recipe = RECIPES[key]
    sfreq = fractions.Fraction(sfreq)
    if sfreq <= 0:
        raise ValueError(f"channel {channel.name}: sampling rate {sfreq} Hz; must be above 0")
    signal = np.asarray(signal, np.float64)
    if signal.ndim != 1:
        raise ValueError(f"channel {channel.name}: shape {signal.shape}; must be one channel [T]")
    seconds = int(len(signal) / sfreq)
    if seconds == 0:
        raise UnusableSignal(f"{channel.name} is shorter than one second")
    if recipe.level:
        return _level(signal, sfreq, seconds, channel, recipe)
    return _waveform(signal, sfreq, seconds, channel, recipe, mains_hz)


def _waveform(signal, sfreq, seconds, channel, recipe, mains_hz):
    missing = ~np.isfinite(signal)
    gaps = bool(missing.any())
    valid = covered(missing, sfreq, seconds) if gaps else np.ones(seconds, bool)
    if not valid.any():
        raise UnusableSignal(f"{channel.name} has no second of signal")
    if gaps:
        signal = bridge(signal, missing)
    valid &= ~flat_seconds(signal, sfreq, seconds, recipe.flat_s)
    if not valid.any():
        raise UnusableSignal(f"{channel.name} is flat")
    rate = channel.rate_hz
    signal = resample(signal, sfreq, rate)[: seconds * rate]
    signal = filter_forward(signal, recipe, rate, mains_hz)
    by_second = signal.reshape(seconds, rate)
    whole = valid.all()
    tracks, std = amplitude_tracks(by_second, valid)
    if not std > 0:
        raise UnusableSignal(f"{channel.name} is flat")
    measured = signal if whole else by_second[valid].reshape(-1)
    if std < SMALL_STD:
        measured = measured / std
    samples = normalize(measured, rate)
    if not whole:
        spread = np.zeros((seconds, rate), np.float32)
        spread[valid] = samples.reshape(-1, rate)
        samples = spread.reshape(-1)
    return ChannelSignal(channel.name, rate, samples, valid, tracks)


def _level(signal, sfreq, seconds, channel, recipe):
    low, high = recipe.bounds
    with np.errstate(invalid="ignore"):
        missing = ~((signal >= low) & (signal <= high))
    rate = channel.rate_hz
    if recipe.step:
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
        raise UnusableSignal(f"{channel.name} has no second within {low:g} to {high:g}")
    if lost.any() and not recipe.step:
        values, valid = _bridge_level(values, lost, valid)
    tracks, _ = amplitude_tracks(values, valid)
    samples = (values - recipe.centre) / recipe.scale
    samples[~valid] = 0
    return ChannelSignal(channel.name, rate, samples.reshape(-1).astype(np.float32), valid, tracks)


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


def resampling_ratio(sfreq: fractions.Fraction, rate_hz: int) -> fractions.Fraction:
    """Return ``rate_hz / sfreq``, where its terms exceed 100,000 one of smaller terms within 1e-8.

    That is 0.3 ms in 8 h.

    Raises:
        ValueError: No ratio of moderate terms is near enough.
    """
    ratio = fractions.Fraction(rate_hz) / sfreq
    if max(ratio.numerator, ratio.denominator) > 100_000:
        near = ratio.limit_denominator(100_000)
        if (
            near == 0
            or near.numerator > 100_000
            or abs(near / ratio - 1) > fractions.Fraction(1, 10**8)
        ):
            raise ValueError(f"cannot resample {float(sfreq):.9g} Hz to {rate_hz} Hz")
        ratio = near
    return ratio


def resample(signal: np.ndarray, sfreq: fractions.Fraction, rate_hz: int) -> np.ndarray:
    """Resample ``[T]`` to ``rate_hz`` by a polyphase filter at the exact rational ratio.

    Raises:
        ValueError: See :func:`resampling_ratio`.
    """
    ratio = resampling_ratio(sfreq, rate_hz)
    if ratio == 1:
        return signal
    # The release stores the resampled signal as float32; the filters then run in float64.
    return _polyphase(signal, ratio.numerator, ratio.denominator)


def _polyphase(signal, up, down):
    """``scipy.signal.resample_poly`` of ``[T]`` as float32, in a quarter of its time.

    The same taps, laid out as one matrix from a stretch of input to some 32 samples of output, so
    that a matrix product does the work; scipy takes over where that matrix would be large.
    """
    if max(up, down) > 512:
        return scipy.signal.resample_poly(signal, up, down).astype(np.float32)
    taps, left = _resampling_matrix(up, down)
    length, width = taps.shape
    step = width * down // up
    count = -(-len(signal) * up // down)
    blocks = -(-count // width)
    out = np.empty((blocks, width), np.float32)
    together = max(1, PRODUCT // taps.size)
    window = np.lib.stride_tricks.sliding_window_view
    inner = window(signal, length) if len(signal) >= length else ()
    buffer = np.empty((together, length))  # BLAS takes no overlapping rows
    for at in range(0, blocks, together):
        stretches = buffer[: blocks - at]
        first, last = at * step - left, (at + len(stretches) - 1) * step - left + 1
        if first >= 0 and last <= len(inner):
            stretches[...] = inner[first:last:step]
        else:  # zeros outside the recording, as scipy has them
            stop = last + length - 1
            piece = np.pad(
                signal[max(first, 0) : max(stop, 0)],
                (max(-first, 0), max(stop - len(signal), 0)),
            )
            stretches[...] = window(piece, length)[::step]
        np.matmul(stretches, taps, out=out[at : at + together], casting="unsafe")
    return out.reshape(-1)[:count]


def resampling_taps(up: int, down: int) -> np.ndarray:
    """Return the filter of the polyphase resampler at ``up`` times the input's rate."""
    if up == down == 1:
        return np.ones(1)
    half = 10 * max(up, down)
    return up * scipy.signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))


@functools.lru_cache(maxsize=32)
def _resampling_matrix(up, down):
    """Weights ``[inputs, outputs]`` of one stretch, and how many inputs lie before its start."""
    taps = resampling_taps(up, down)
    half = len(taps) // 2
    width = up * max(1, round(32 / up))
    left = half // up
    length = left + (half + (width - 1) * down) // up + 1
    tap = half + np.arange(width) * down - (np.arange(length)[:, None] - left) * up
    within = (tap >= 0) & (tap < len(taps))
    return np.where(within, taps[np.clip(tap, 0, len(taps) - 1)], 0.0), left


def normalize(signal: np.ndarray, rate_hz: int) -> np.ndarray:
    """Z-score ``[T]`` by exponential averages of its past 60 s, and compress; float32 ``[T]``.

    ``mu_t = a mu_(t-1) + (1-a) x_t`` with ``a = exp(-1 / (60 rate))``, its virtual past the mean of
    the first 60 s; the variance averages ``(x_t - mu_t)^2`` alike, first as it is, then clipped to
    36 times (6 sigma) the first result.
    """
    running = RunningScale.of(signal[: TAU_S * rate_hz])
    normal = np.empty(len(signal), np.float32)
    for at in range(0, len(signal), BLOCK):
        normal[at : at + BLOCK] = running.normalize(signal[at : at + BLOCK], rate_hz)
    return normal


@dataclasses.dataclass
class RunningScale:
    """The averages of :func:`normalize` between two pieces of a signal.

    Attributes:
        centre: A constant that is taken off first, so that float32 can hold the rest.
        mean: Average of that rest.
        first, second: Average squared deviation, as it is and clipped.
    """

    centre: float
    mean: float
    first: float
    second: float

    @classmethod
    def of(cls, head: np.ndarray) -> "RunningScale":
        """Start from the first 60 s."""
        variance = max(float(np.var(head)), VARIANCE_FLOOR)
        return cls(float(np.mean(head)), 0.0, variance, variance)

    def normalize(self, signal: np.ndarray, rate_hz: int) -> np.ndarray:
        """Z-score and compress the next samples ``[T]``; float32 ``[T]``."""
        decay = math.exp(-1.0 / (TAU_S * rate_hz))
        x = np.subtract(signal, self.centre, dtype=np.float32, casting="unsafe")
        x = x.reshape(-1, math.gcd(len(x), 16))
        mean, self.mean = _average(x, self.mean, decay)
        x -= mean
        square = np.square(x, out=mean)
        ceiling, self.first = _average(square, self.first, decay)
        np.maximum(ceiling, VARIANCE_FLOOR, out=ceiling)
        ceiling *= CLIP_SIGMA**2
        np.minimum(square, ceiling, out=square)
        variance, self.second = _average(square, self.second, decay)
        np.maximum(variance, VARIANCE_FLOOR, out=variance)
        x /= np.sqrt(variance, out=variance)
        return compress(x.reshape(-1))


def _average(pieces, before, decay):
    """Exponential average ``y_t = decay y_(t-1) + (1 - decay) x_t``, and its last value.

    Within each row of ``pieces`` ``[N, W]``, which follow one another, by a matrix product; from
    row to row by a recursive filter: the same sums as that filter alone, whose time is the latency
    of one addition after the other, in a third of it.
    """
    within = _average_matrix(pieces.shape[1], decay)
    fall = decay ** pieces.shape[1]
    carry, _ = scipy.signal.lfilter([1.0], [1.0, -fall], pieces @ within[:, -1], zi=[fall * before])
    # What came before a row enters it as a part of its first sample.
    pieces = pieces.copy()
    pieces[0, 0] += before * decay / (1.0 - decay)
    pieces[1:, 0] += carry[:-1] * (decay / (1.0 - decay))
    return pieces @ within, float(carry[-1])


@functools.lru_cache(maxsize=32)
def _average_matrix(width, decay):
    """Weights ``[inputs, outputs]`` of the samples of a row, float32."""
    lag = np.arange(width)[None, :] - np.arange(width)[:, None]
    within = np.where(lag >= 0, (1.0 - decay) * decay ** np.maximum(lag, 0), 0.0)
    return within.astype(np.float32)


def compress(signal: np.ndarray) -> np.ndarray:
    """Keep ``|x| <= 8``; beyond, ``sign(x) (8 + 2 ln(1 + (|x| - 8) / 2))``: smooth, unbounded."""
    if len(signal) == 0 or max(np.max(signal), -np.min(signal)) <= KNEE:
        return signal
    beyond = np.flatnonzero(np.abs(signal) > KNEE)
    excess = np.abs(signal[beyond]) - KNEE
    out = signal.copy()
    out[beyond] = np.sign(signal[beyond]) * (KNEE + KNEE_SCALE * np.log1p(excess / KNEE_SCALE))
    return out


def expand(signal: np.ndarray) -> np.ndarray:
    """Undo :func:`compress`."""
    excess = np.maximum(np.abs(signal) - KNEE, 0.0)
    beyond = KNEE + KNEE_SCALE * np.expm1(excess / KNEE_SCALE)
    return np.where(excess > 0, np.sign(signal) * beyond, signal)


def last_scale(channel: ChannelSignal) -> tuple[float, float] | None:
    """Return the rolling mean and standard deviation at the end of a channel, in its unit.

    The tracks say what the seconds were before the z-score, the samples what they became; the
    medians over the last valid seconds serve, as the averages of 60 s hardly move in that time.

    Returns:
        ``(mean, std)`` with which ``mean + std * expand(samples)`` is the filtered signal; None
        where no second has any spread.
    """
    seconds = np.flatnonzero(channel.valid)[-SCALE_S:]
    normal = expand(channel.samples.reshape(-1, channel.rate_hz)[seconds].astype(np.float64))
    spread = normal.std(axis=1)
    seconds, normal, spread = (x[spread > 0] for x in (seconds, normal, spread))
    if not len(seconds):
        return None
    mean, log_std = channel.tracks[seconds].astype(np.float64).T
    stds = np.exp(log_std) / spread
    return float(np.median(mean - stds * normal.mean(axis=1))), float(np.median(stds))


def filter_forward(signal, recipe: Recipe, rate_hz: int, mains_hz: int | None) -> np.ndarray:
    """Filter and notch ``[T]`` from the steady state of its first sample, in one pass."""
    sections, state = sections_of(recipe, rate_hz, mains_hz)
    if sections is None:
        return signal
    state = state * float(signal[0])
    out = np.empty(len(signal))
    for at in range(0, len(signal), 4 * BLOCK):
        piece = signal[at : at + 4 * BLOCK]
        out[at : at + 4 * BLOCK], state = scipy.signal.sosfilt(sections, piece, zi=state)
    return out


@functools.lru_cache
def sections_of(recipe: Recipe, rate: int, mains_hz: int | None):
    """Second-order sections of filter and notch, and their state for a constant input of 1."""
    low, high = recipe.high_pass_hz, recipe.low_pass_hz
    if high is not None and high >= rate / 2:
        high = None
    sections = []
    if low is not None and high is not None:
        sections.append(
            scipy.signal.butter(FILTER_ORDER, [low, high], "bandpass", fs=rate, output="sos")
        )
    elif low is not None:
        sections.append(scipy.signal.butter(FILTER_ORDER, low, "highpass", fs=rate, output="sos"))
    if recipe.notch and mains_hz is not None and mains_hz < rate / 2:
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
