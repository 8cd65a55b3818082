"""The rolling z-score of the causal path, the compression of its amplitudes, and their inverse."""

import dataclasses
import functools
import math

import numpy as np
import scipy

from data_pipelines.store import ChannelSignal

TAU_S = 60
CLIP_SIGMA = 6.0
VARIANCE_FLOOR = 1e-6
KNEE = 8.0
KNEE_SCALE = 2.0
SCALE_S = 10  # ours: seconds whose scale is that of the end
BLOCK = 30_720  # ours: samples in hand at once, so that a chain of steps stays in the cache


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
